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
use chat_broker::BrokerError;
use chat_core::{RoomId, Sanction, UserId, json};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use subtle::ConstantTimeEq;

use crate::auth::bearer;
use crate::moderation::{
    self, Actor, LONGEST_BAN, SanctionKind, SanctionScope, UNSUPPORTED, ZERO_BAN,
};
use crate::refusal::Refusal;
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
    let user = user_id(&name(user)?)?;
    let reason = request.reason()?;
    let (kind, time) = match request.time()? {
        Some(time) => (SanctionKind::Ban, time),
        None => (SanctionKind::Kick, Duration::ZERO),
    };
    state.sanction(kind, SanctionScope::Server, &user, time, reason).await
}

/// `POST /api/users/{id}/unban`
async fn unban(Shared(state): Shared<Arc<State>>, user: Name) -> Answer {
    state.unban(SanctionScope::Server, &user_id(&name(user)?)?).await
}

/// `POST /api/rooms/{room}/kick`
async fn kick(Shared(state): Shared<Arc<State>>, room: Name, request: Body) -> Answer {
    let (room, Json(request)) = (room_id(&name(room)?)?, request?);
    let (user, reason) = (request.user()?, request.reason()?);
    state
        .sanction(SanctionKind::Kick, SanctionScope::Room(&room), &user, Duration::ZERO, reason)
        .await
}

/// `POST /api/rooms/{room}/ban`
async fn ban_from_room(Shared(state): Shared<Arc<State>>, room: Name, request: Body) -> Answer {
    let (room, Json(request)) = (room_id(&name(room)?)?, request?);
    let (user, reason) = (request.user()?, request.reason()?);
    let time = request.time()?.unwrap_or(LONGEST_BAN);
    state.sanction(SanctionKind::Ban, SanctionScope::Room(&room), &user, time, reason).await
}

/// `POST /api/rooms/{room}/unban`
async fn unban_from_room(Shared(state): Shared<Arc<State>>, room: Name, request: Body) -> Answer {
    let (room, Json(request)) = (room_id(&name(room)?)?, request?);
    state.unban(SanctionScope::Room(&room), &request.user()?).await
}

impl State {
    async fn sanction(
        &self,
        kind: SanctionKind,
        scope: SanctionScope<'_>,
        user: &UserId,
        time: Duration,
        reason: Option<&str>,
    ) -> Answer {
        let (broker, by) = (&**self.hub.broker(), Actor::Backend);
        let done = moderation::impose(broker, by, kind, scope, user, time, reason).await;
        if done.is_ok() {
            self.until_evicted(scope, user).await;
        }
        answer(done)
    }

    async fn unban(&self, scope: SanctionScope<'_>, user: &UserId) -> Answer {
        answer(moderation::unban(&**self.hub.broker(), Actor::Backend, scope, user).await)
    }
}

fn answer(done: Result<(), BrokerError>) -> Answer {
    match done {
        Ok(()) => Ok(Json(serde_json::json!({"ok": true}))),
        Err(error) => {
            tracing::debug!(%error, "sanction not stored");
            Err(match error {
                BrokerError::Refused(_) => {
                    let message = "The message bus rejected the request: it has too many bans, or accepts no writes.";
                    Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "refused", message)
                }
                BrokerError::Unsupported(_) => {
                    Refusal::new(StatusCode::NOT_IMPLEMENTED, "unsupported", UNSUPPORTED)
                }
                _ => Refusal::unavailable("The message bus does not answer. Try again."),
            })
        }
    }
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

    fn reason(&self) -> Result<Option<&str>, Refusal> {
        match self.reason.as_deref() {
            Some(reason) if reason.len() > Sanction::MAX_REASON_BYTES => {
                let max = Sanction::MAX_REASON_BYTES;
                Err(bad("bad_field", format!("\"reason\" has at most {max} bytes.")))
            }
            Some(reason) if reason.contains('\0') => Err(bad(
                "bad_field",
                "\"reason\" contains a NUL character, which some clients cannot read.",
            )),
            reason => Ok(reason),
        }
    }

    /// The time of a ban from now on; `None` if the body has none.
    fn time(&self) -> Result<Option<Duration>, Refusal> {
        match (self.until, self.seconds) {
            (Some(_), Some(_)) => Err(bad(
                "bad_field",
                "The body has both \"until\" and \"seconds\". Send one of them.",
            )),
            (None, Some(0)) => Err(bad("bad_field", ZERO_BAN)),
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
