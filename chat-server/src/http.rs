//! The HTTP side: the way in, and what operators ask.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, OriginalUri, Path, Query, Request, State as Shared};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use chat_core::{Dialect, InvalidName, RoomId, UserId, UserName};
use chat_transport::{Session, SharedTcp, handshake};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::connection::{self, Opening};
use crate::identity::random_id;
use crate::origin::{self, Cors};
use crate::scrape;
use crate::state::State;
use crate::web;

pub(crate) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/ws", get(socket))
        .route("/create-room", post(create_room).options(may_create_room))
        .route("/join-room/{room}", get(join_room))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .merge(web::router())
        .with_state(state)
}

/// What the URL says of a client.
#[derive(Debug, Deserialize)]
struct ClientQuery {
    #[serde(rename = "userId")]
    user_id: Option<String>,
    user: Option<String>,
    username: Option<String>,
    history: Option<u32>,
}

impl ClientQuery {
    fn opening(self, room: Option<RoomId>) -> Result<Opening, BadRequest> {
        let user_id = self.user_id.map(UserId::new).transpose();
        let name = self.user.or(self.username).map(UserName::new).transpose();
        Ok(Opening {
            native: false,
            user_id: user_id.map_err(|why| BadRequest::name("userId", why))?,
            name: name.map_err(|why| BadRequest::name("user", why))?,
            room,
            history: self.history.unwrap_or(0),
        })
    }
}

/// `GET /`: a connection, or the page for people.
async fn root(
    Shared(state): Shared<Arc<State>>,
    uri: OriginalUri,
    query: Result<Query<ClientQuery>, QueryRejection>,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, BadRequest> {
    if !upgrade.asked_for {
        return Ok(web::page(&uri, request.headers()));
    }
    let Query(query) = query?;
    Ok(upgrade.accept(state, &request, query.opening(None)?))
}

/// `GET /ws`: a connection.
async fn socket(
    Shared(state): Shared<Arc<State>>,
    query: Result<Query<ClientQuery>, QueryRejection>,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, BadRequest> {
    let Query(query) = query?;
    Ok(upgrade.accept(state, &request, query.opening(None)?))
}

/// `GET /join-room/{room}`: a connection that has joined, or the page in that room.
async fn join_room(
    Shared(state): Shared<Arc<State>>,
    uri: OriginalUri,
    room: Result<Path<String>, PathRejection>,
    query: Result<Query<ClientQuery>, QueryRejection>,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, BadRequest> {
    let Path(room) = room?;
    let room = RoomId::new(room).map_err(|why| BadRequest::name("room", why))?;
    if !upgrade.asked_for {
        return Ok(web::page(&uri, request.headers()));
    }
    let Query(query) = query?;
    Ok(upgrade.accept(state, &request, query.opening(Some(room))?))
}

#[derive(Serialize)]
struct CreatedRoom {
    #[serde(rename = "roomId")]
    room_id: String,
    url: String,
}

/// Characters in a room's id: 100 bits that nobody can guess.
const ROOM_ID_LEN: usize = 20;

/// `POST /create-room`: an id that nobody can guess. The room is made by whoever joins it.
async fn create_room(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    if !origin::is_allowed(&headers, &state.config.allow_origin) {
        return origin::refuse();
    }
    let room_id = random_id(ROOM_ID_LEN);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let base = match (&state.config.public_url, host) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(host)) => format!("http://{host}"),
        (None, None) => String::new(),
    };
    let url = format!("{base}/join-room/{room_id}");
    let created = (StatusCode::CREATED, axum::Json(CreatedRoom { room_id, url }));
    Cors::of(&headers, &state.config.allow_origin).apply(created.into_response())
}

/// `OPTIONS /create-room`: a browser asks on behalf of a page elsewhere.
async fn may_create_room(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    Cors::of(&headers, &state.config.allow_origin).preflight()
}

/// `GET /readyz`: whether a balancer should send clients here.
async fn readyz(Shared(state): Shared<Arc<State>>) -> (StatusCode, &'static str) {
    if state.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if state.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the broker does not answer\n")
    }
}

/// `GET /metrics`: Prometheus text.
async fn show_metrics(Shared(state): Shared<Arc<State>>) -> Response {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    match scrape::render(&state) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A request that may want to become a WebSocket.
struct Upgrade {
    asked_for: bool,
    on_upgrade: Option<OnUpgrade>,
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let asked_for = parts.headers.get(header::UPGRADE).is_some_and(|upgrade| {
            upgrade.as_bytes().to_ascii_lowercase().windows(9).any(|word| word == b"websocket")
        });
        Ok(Self { asked_for, on_upgrade: parts.extensions.remove::<OnUpgrade>() })
    }
}

impl Upgrade {
    /// Answers the handshake. The connection is served by a task of its own once hyper has
    /// handed the stream over, and nothing of the HTTP side stays with it.
    fn accept(self, state: Arc<State>, request: &Request, mut opening: Opening) -> Response {
        if !origin::is_allowed(request.headers(), &state.config.allow_origin) {
            return origin::refuse();
        }
        if state.is_draining() {
            return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
        }
        let response = match handshake::respond(request, &[Dialect::SUBPROTOCOL]) {
            Ok(response) => response,
            Err(refused) => return refused.response().map(Body::from).into_response(),
        };
        let Some(on_upgrade) = self.on_upgrade else {
            return (StatusCode::UPGRADE_REQUIRED, "HTTP/1.1 only\n").into_response();
        };
        opening.native = response.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        tokio::spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => serve(state, upgraded, opening),
                Err(error) => tracing::debug!(%error, "a client left during the handshake"),
            }
        });
        response.map(|()| Body::empty())
    }
}

/// Finds the TCP stream below, which can be written to directly; whatever else it is, is
/// served as it is. Either way by a task of its own, which holds nothing but the connection.
fn serve(state: Arc<State>, upgraded: Upgraded, opening: Opening) {
    let transport = Arc::clone(&state.transport);
    match tcp_below(upgraded) {
        Ok((tcp, read)) => {
            let session = Session::new(SharedTcp::new(tcp), read, transport);
            tokio::spawn(connection::serve(state, session, opening));
        }
        Err(upgraded) => {
            let session = Session::new(TokioIo::new(upgraded), Bytes::new(), transport);
            tokio::spawn(connection::serve(state, session, opening));
        }
    }
}

/// The stream, and what was read from it beyond the request: by our own listener, or by
/// axum's.
fn tcp_below(upgraded: Upgraded) -> Result<(TcpStream, Bytes), Upgraded> {
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return Ok((parts.io.into_inner(), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let parts = auto::upgrade::downcast::<TokioIo<TcpStream>>(upgraded)?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

/// A request that cannot be served, and why.
#[derive(Debug, Serialize)]
struct BadRequest {
    code: &'static str,
    message: String,
}

impl BadRequest {
    fn name(field: &str, why: InvalidName) -> Self {
        let code = if field == "room" { "room_name_invalid" } else { "bad_field" };
        Self { code, message: format!("The value of \"{field}\" {why}.") }
    }
}

impl From<QueryRejection> for BadRequest {
    fn from(rejection: QueryRejection) -> Self {
        Self { code: "bad_field", message: rejection.body_text() }
    }
}

impl From<PathRejection> for BadRequest {
    fn from(rejection: PathRejection) -> Self {
        Self { code: "room_name_invalid", message: rejection.body_text() }
    }
}

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, axum::Json(self)).into_response()
    }
}
