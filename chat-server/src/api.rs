//! `/api`: moderation by backends, which authenticate with the API key.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{FromRequest, Path, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use chat_core::{RoomId, UserId, json};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use subtle::ConstantTimeEq;

use crate::auth::bearer;
use crate::error::Error;
use crate::moderation::{Actor, LONGEST_BAN, SanctionScope};
use crate::refusal::Refusal;
use crate::service::sanctions;
use crate::state::State;

/// The routes below `/api`; none without an API key.
pub(crate) fn router(state: &Arc<State>) -> Router<Arc<State>> {
    if state.config.api_key.is_none() {
        return Router::new();
    }
    Router::new()
        .route("/api/users/{user}/disconnect", post(disconnect))
        .route("/api/users/{user}/unban", post(unban))
        .route("/api/rooms/{room}/kick", post(kick))
        .route("/api/rooms/{room}/ban", post(ban_from_room))
        .route("/api/rooms/{room}/unban", post(unban_from_room))
        .layer(from_fn_with_state(Arc::clone(state), only_with_key))
}

async fn only_with_key(
    Shared(state): Shared<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let is_known = state.config.api_key.as_ref().is_some_and(|key| {
        given_key(request.headers()).is_some_and(|given| is_same(given, key.reveal()))
    });
    if is_known {
        return next.run(request).await;
    }
    state.metrics.limited("api_key");
    let message = "A valid API key is required: Authorization: Bearer …";
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response()
}

fn given_key(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    bearer(headers)
}

/// Compares in a time that depends on the length of the given key alone.
fn is_same(given: &str, key: &str) -> bool {
    given.as_bytes().ct_eq(key.as_bytes()).into()
}

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModerationRequest {
    user: Option<String>,
    reason: Option<String>,
    /// The end of a ban, in milliseconds since 1970.
    #[serde(default, deserialize_with = "integer")]
    until: Option<u64>,
    /// The time of a ban, in seconds.
    #[serde(default, deserialize_with = "integer")]
    seconds: Option<u64>,
}

/// An integer in any form: some languages write `3600.0`.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Box<RawValue>>::deserialize(deserializer)? else { return Ok(None) };
    let value = json::integer(number.get()).and_then(|value| u64::try_from(value).ok());
    value.map(Some).ok_or_else(|| D::Error::custom("not an integer that is 0 or more"))
}

type Body = Result<Json<ModerationRequest>, JsonRejection>;
type Name = Result<Path<String>, PathRejection>;
type Answer = Result<Json<serde_json::Value>, Refusal>;

/// `POST /api/users/{id}/disconnect`: ends all connections of a user; with a time, bans the user from
/// the server.
async fn disconnect(
    Shared(state): Shared<Arc<State>>,
    user: Name,
    OptionalBody(request): OptionalBody,
) -> Answer {
    let (user, scope) = (user_id(&name(user)?)?, SanctionScope::Server);
    let (time, reason) = (request.time()?, request.reason.as_deref());
    answer(match time {
        Some(time) => sanctions::ban(&state, Actor::Backend, scope, &user, time, reason).await,
        None => sanctions::kick(&state, Actor::Backend, scope, &user, reason).await,
    })
}

/// `POST /api/users/{id}/unban`
async fn unban(Shared(state): Shared<Arc<State>>, user: Name) -> Answer {
    let user = user_id(&name(user)?)?;
    answer(sanctions::unban(&state, Actor::Backend, SanctionScope::Server, &user).await)
}

/// `POST /api/rooms/{room}/kick`
async fn kick(Shared(state): Shared<Arc<State>>, room: Name, request: Body) -> Answer {
    let (room, Json(request)) = (room_id(&name(room)?)?, request?);
    let (user, reason) = (request.user()?, request.reason.as_deref());
    let scope = SanctionScope::Room(&room);
    answer(sanctions::kick(&state, Actor::Backend, scope, &user, reason).await)
}

/// `POST /api/rooms/{room}/ban`
async fn ban_from_room(Shared(state): Shared<Arc<State>>, room: Name, request: Body) -> Answer {
    let (room, Json(request)) = (room_id(&name(room)?)?, request?);
    let (user, reason) = (request.user()?, request.reason.as_deref());
    let (scope, time) = (SanctionScope::Room(&room), request.time()?.unwrap_or(LONGEST_BAN));
    answer(sanctions::ban(&state, Actor::Backend, scope, &user, time, reason).await)
}

/// `POST /api/rooms/{room}/unban`
async fn unban_from_room(Shared(state): Shared<Arc<State>>, room: Name, request: Body) -> Answer {
    let (room, Json(request)) = (room_id(&name(room)?)?, request?);
    let (user, scope) = (request.user()?, SanctionScope::Room(&room));
    answer(sanctions::unban(&state, Actor::Backend, scope, &user).await)
}

fn answer(done: Result<(), Error>) -> Answer {
    done?;
    Ok(Json(serde_json::json!({"ok": true})))
}

/// The user or the room in the path.
fn name(path: Name) -> Result<String, Refusal> {
    let Path(name) = path?;
    Ok(name)
}

fn user_id(name: &str) -> Result<UserId, Refusal> {
    UserId::new(name).map_err(|why| Refusal::name("user", why))
}

fn room_id(name: &str) -> Result<RoomId, Refusal> {
    RoomId::new(name).map_err(|why| Refusal::name("room", why))
}

impl ModerationRequest {
    fn user(&self) -> Result<UserId, Refusal> {
        let user = self.user.as_deref();
        user_id(user.ok_or_else(|| bad("missing_field", "The body lacks the field \"user\"."))?)
    }

    /// The time of a ban from now on; `None` if the body has none.
    fn time(&self) -> Result<Option<Duration>, Refusal> {
        match (self.until, self.seconds) {
            (Some(_), Some(_)) => Err(bad(
                "bad_field",
                "The body has both \"until\" and \"seconds\". Send one of them.",
            )),
            (None, seconds) => Ok(seconds.map(Duration::from_secs)),
            (Some(until), None) => {
                let until = UNIX_EPOCH.checked_add(Duration::from_millis(until));
                let left = until.and_then(|until| until.duration_since(SystemTime::now()).ok());
                left.map(Some).ok_or_else(|| {
                    bad("bad_field", "\"until\" is in the past. It is in milliseconds since 1970.")
                })
            }
        }
    }
}

fn bad(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, message)
}

/// A body that may be empty.
struct OptionalBody(ModerationRequest);

impl<S: Send + Sync> FromRequest<S> for OptionalBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::new(body), state).await?;
        if bytes.is_empty() {
            return Ok(Self(ModerationRequest::default()));
        }
        let request = Request::from_parts(parts, bytes.into());
        let Json(request) = Json::from_request(request, state).await?;
        Ok(Self(request))
    }
}
