//! The HTTP side: the way in.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{OriginalUri, Path, Query, Request, State as Shared};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chat_core::{RoomId, UserId, UserName};
use serde::{Deserialize, Serialize};

use crate::connection::Opening;
use crate::identity::random_id;
use crate::origin::{self, Cors};
use crate::refusal::Refusal;
use crate::secret::Secret;
use crate::state::State;
use crate::upgrade::{self, Upgrade};
use crate::{api, host, operator, web};

pub(crate) fn router(state: Arc<State>) -> Router {
    let metrics = if state.config.serve_metrics { operator::metrics() } else { Router::new() };
    Router::new()
        .route("/", get(root))
        .route("/ws", get(socket))
        .route("/create-room", post(create_room).options(may_create_room))
        .route("/join-room/{room}", get(join_room))
        .merge(metrics)
        .merge(web::router())
        .merge(api::router(&state))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "not_found", "There is nothing."))
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&state), host::check))
        // Health checks use any name for the server.
        .merge(operator::health())
        .with_state(state)
}

async fn wrong_method(method: Method) -> Refusal {
    let message = format!("{method} is not for this path.");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// What the URL says of a client.
#[derive(Deserialize)]
pub(crate) struct ClientQuery {
    #[serde(rename = "userId")]
    user_id: Option<String>,
    user: Option<String>,
    username: Option<String>,
    history: Option<u32>,
    pub(crate) token: Option<String>,
}

impl ClientQuery {
    fn opening(self, state: &State, room: Option<RoomId>) -> Result<Opening, Refusal> {
        let max = state.config.limits.name_bytes;
        for name in [&self.user_id, &self.user, &self.username].into_iter().flatten() {
            check_length("userId, user or username", name, max)?;
        }
        let user_id = self.user_id.map(UserId::new).transpose();
        let name = self.user.or(self.username).map(UserName::new).transpose();
        Ok(Opening {
            user_id: user_id.map_err(|why| Refusal::name("userId", why))?,
            name: name.map_err(|why| Refusal::name("user", why))?,
            room,
            history: self.history.unwrap_or(0),
            token: self.token.map(Secret::new),
            ..Opening::default()
        })
    }
}

fn check_length(field: &str, name: &str, max: usize) -> Result<(), Refusal> {
    if name.len() <= max {
        return Ok(());
    }
    let message = format!("The value of {field} has at most {max} bytes.");
    Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_field", message))
}

type ClientAsks = Result<Query<ClientQuery>, QueryRejection>;

/// `GET /`: a connection, or the page for people.
async fn root(
    Shared(state): Shared<Arc<State>>,
    uri: OriginalUri,
    query: ClientAsks,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    if !upgrade.asked_for {
        return Ok(web::page(&uri, request.headers()));
    }
    let Query(query) = query?;
    let opening = query.opening(&state, None)?;
    upgrade.accept(state, request, opening).await
}

/// `GET /ws`: a connection.
async fn socket(
    Shared(state): Shared<Arc<State>>,
    query: ClientAsks,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    let opening = query.opening(&state, None)?;
    upgrade.accept(state, request, opening).await
}

/// `GET /join-room/{room}`: a connection that has joined, or the page in that room.
async fn join_room(
    Shared(state): Shared<Arc<State>>,
    uri: OriginalUri,
    room: Result<Path<String>, PathRejection>,
    query: ClientAsks,
    upgrade: Upgrade,
    request: Request,
) -> Result<Response, Refusal> {
    let Path(room) = room?;
    check_length("room", &room, state.config.limits.name_bytes)?;
    let room = RoomId::new(room).map_err(|why| Refusal::name("room", why))?;
    if !upgrade.asked_for {
        return Ok(web::page(&uri, request.headers()));
    }
    let Query(query) = query?;
    let opening = query.opening(&state, Some(room))?;
    upgrade.accept(state, request, opening).await
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
async fn create_room(
    Shared(state): Shared<Arc<State>>,
    query: ClientAsks,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let (headers, listed) = (&parts.headers, &state.config.allow_origin);
    let cors = Cors::of(headers, listed);
    let created = async {
        origin::check(headers, listed)?;
        let Query(query) = query?;
        let access = upgrade::access(&state, &parts, query.token.as_deref()).await?;
        if access.is_pending() {
            return Err(crate::auth::AuthError::Missing.into());
        }
        Ok(new_room(&state, headers))
    };
    // A page that may not read why it was refused would know nothing.
    let answer: Result<_, Refusal> = created.await;
    Ok(cors.apply(answer.map_or_else(Refusal::into_response, IntoResponse::into_response)))
}

fn new_room(state: &State, headers: &HeaderMap) -> impl IntoResponse + use<> {
    let room_id = random_id(ROOM_ID_LEN);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let base = match (&state.config.public_url, host) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(host)) => format!("http://{host}"),
        (None, None) => String::new(),
    };
    let url = format!("{base}/join-room/{room_id}");
    (StatusCode::CREATED, axum::Json(CreatedRoom { room_id, url }))
}

/// `OPTIONS /create-room`: a browser asks on behalf of a page elsewhere.
async fn may_create_room(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    Cors::of(&headers, &state.config.allow_origin).preflight()
}
