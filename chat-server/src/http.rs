//! The HTTP routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, OriginalUri, Path, Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use chat_core::RoomId;
use serde::Serialize;

use crate::connection::ConnectParams;
use crate::header_list::elements;
use crate::identity::random_id;
use crate::query::{ClientQuery, check_length};
use crate::refusal::{MAX_BODY, Refusal};
use crate::routes::{allowing, check_body, mount, readable, wrong_method};
use crate::state::State;
use crate::upgrade::{self, Applicant, Upgrade};
use crate::{api, host_check, operator, web};

/// The methods of any path, as `Allow` lists them.
const ALL_METHODS: &str = "GET,HEAD,POST,OPTIONS";

/// The routes of clients.
pub(crate) fn router(state: &Arc<State>) -> Router {
    guarded(state, clients()).with_state(Arc::clone(state))
}

/// The routes of clients, with those of operators as far as the settings say, for the server's own
/// listeners.
pub(crate) fn router_with_operators(state: &Arc<State>) -> Router {
    let metrics = if state.config.serve_metrics { operator::metrics() } else { Router::new() };
    guarded(state, clients().merge(metrics))
        // Balancers use any name for the server in health checks.
        .merge(operator::health(state))
        .with_state(Arc::clone(state))
}

/// The WebSocket alone, without a fallback: it is merged with the routes of an application.
pub(crate) fn websocket(state: &Arc<State>) -> Router {
    sockets()
        .route_layer(from_fn_with_state(MAX_BODY, check_body))
        .route_layer(from_fn_with_state(Arc::clone(state), host_check::check))
        .with_state(Arc::clone(state))
}

fn sockets() -> Router<Arc<State>> {
    Router::new().route("/ws", readable(get(socket))).route("/ws/", readable(get(socket)))
}

fn clients() -> Router<Arc<State>> {
    let create_room = post(create_room).options(may_create_room);
    sockets()
        .route("/", readable(get(root)))
        .route("/create-room", create_room.clone())
        .route("/create-room/", create_room)
        .route("/join-room/{room}", readable(get(join_room)))
        .route("/join-room/{room}/", readable(get(join_room)))
        .merge(web::router())
}

/// The routes, and `/api` unless it has another address, with the answers to requests that match none
/// and the checks of all requests.
fn guarded(state: &Arc<State>, routes: Router<Arc<State>>) -> Router<Arc<State>> {
    let api = if state.config.serve_api { api::router(state) } else { Router::new() };
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(MAX_BODY, check_body))
        // Its bodies have a limit of their own.
        .merge(api)
        .layer(from_fn_with_state(Arc::clone(state), host_check::check))
}

/// Answers requests that match no route. `OPTIONS *` is about the server as a whole (RFC 9110, section 9.3.7).
async fn no_route(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS && uri.path() == "*" {
        return allowing(ALL_METHODS);
    }
    Refusal::not_found().into_response()
}

/// `GET /`: a connection, or the page for people.
async fn root(
    Shared(state): Shared<Arc<State>>,
    OriginalUri(original): OriginalUri,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    if !upgrade.asked_for {
        return Ok(page(&state, &original, &request));
    }
    connect(&state, upgrade, request, None).await
}

/// `GET /ws`: a connection.
async fn socket(
    Shared(state): Shared<Arc<State>>,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    connect(&state, upgrade, request, None).await
}

/// `GET /join-room/{room}`: a connection that has joined, or the page in that room.
async fn join_room(
    Shared(state): Shared<Arc<State>>,
    OriginalUri(original): OriginalUri,
    room: Result<Path<String>, PathRejection>,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    let room = room_id(&state, room);
    if upgrade.asked_for {
        return connect(&state, upgrade, request, Some(room)).await;
    }
    let mut page = page(&state, &original, &request);
    match room {
        Ok(_) => {}
        // A person reads on the page what is wrong with the name. A 304 stays one: it has no body.
        Err(refusal) if accepts_html(request.headers()) => {
            if page.status().is_success() {
                *page.status_mut() = refusal.status;
            }
        }
        Err(refusal) => return Err(refusal),
    }
    Ok(page)
}

/// As browsers do, and programs do not.
fn accepts_html(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    accepted.any(|line| elements(line).any(|range| range.starts_with("text/html")))
}

fn room_id(state: &State, room: Result<Path<String>, PathRejection>) -> Result<RoomId, Refusal> {
    let Path(room) = room?;
    check_length("room", &room, state.limits.config().name_bytes)?;
    RoomId::new(room).map_err(|why| Refusal::name("room", why))
}

fn page(state: &State, original: &Uri, request: &Request) -> Response {
    web::page(state, original, request.uri(), request.headers())
}

async fn connect(
    state: &Arc<State>,
    upgrade: Upgrade,
    request: Request,
    room: Option<Result<RoomId, Refusal>>,
) -> Result<Response, Refusal> {
    let address = state.proxies.client_address(request.headers(), request.extensions());
    let mut refused = Applicant::default();
    let answer = async {
        let params = connect_params(state, request.uri(), room.transpose()?)?;
        upgrade.accept(state, request, params, &mut refused).await
    };
    answer.await.inspect_err(|refusal| {
        let Applicant { user, room } = &refused;
        state.metrics.refused(refusal);
        state.client_lines.handshake_refused(refusal, user.as_ref(), room.as_ref(), address);
    })
}

fn connect_params(
    state: &State,
    uri: &Uri,
    room: Option<RoomId>,
) -> Result<ConnectParams, Refusal> {
    ClientQuery::parse(uri)?.params(state.limits.config().name_bytes, room)
}

#[derive(Serialize)]
struct CreatedRoom {
    #[serde(rename = "roomId")]
    room_id: String,
    url: String,
}

/// Characters in a room's id: 100 random bits.
const ROOM_ID_LEN: usize = 20;

/// `POST /create-room`: a random room id. The first join creates the room.
async fn create_room(
    Shared(state): Shared<Arc<State>>,
    OriginalUri(original): OriginalUri,
    parts: Parts,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let address = state.proxies.client_address(&parts.headers, &parts.extensions);
    let cors = state.origins.cors(&parts.headers, address);
    // The headers of CORS on errors as well, so that the page can read them.
    cors.apply(match may_create(&state, &parts, body).await {
        Ok(()) => new_room(&state, mount(&original, &parts.uri), &parts.headers).into_response(),
        Err(refusal) => refusal.into_response(),
    })
}

async fn may_create(
    state: &State,
    parts: &Parts,
    body: Result<Bytes, BytesRejection>,
) -> Result<(), Refusal> {
    // The body is ignored, but hyper would close the connection if it were not read.
    body?;
    state.origins.check(&parts.headers)?;
    let query = ClientQuery::parse(&parts.uri)?;
    let (access, _) = upgrade::access(state, parts, query.token()).await?;
    if access.is_pending() {
        return Err(crate::auth::AuthError::Missing.into());
    }
    Ok(())
}

fn new_room(state: &State, mount: &str, headers: &HeaderMap) -> impl IntoResponse + use<> {
    let room_id = random_id(ROOM_ID_LEN);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let base = match (&state.public_url, host) {
        (Some(url), _) => url.base(mount),
        (None, Some(host)) => format!("http://{host}{mount}"),
        (None, None) => mount.to_owned(),
    };
    let url = format!("{base}/join-room/{room_id}");
    (StatusCode::CREATED, axum::Json(CreatedRoom { room_id, url }))
}

/// `OPTIONS /create-room`: the CORS preflight of a page on another origin.
async fn may_create_room(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Response {
    let address = state.proxies.client_address(&headers, &extensions);
    state.origins.cors(&headers, address).preflight()
}
