//! `/api`: what backends ask, with a key.

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
use crate::moderation::{self, Actor, Kind, LONGEST_BAN, NO_TIME, Scope, UNSUPPORTED};
use crate::refusal::Refusal;
use crate::state::State;

/// The routes below `/api`; none where there is no key.
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
    let message = "A valid API key is needed: Authorization: Bearer …";
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

/// What the body of a request may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModerationRequest {
    user: Option<String>,
    reason: Option<String>,
    /// When a ban ends, in milliseconds since 1970.
    #[serde(default, deserialize_with = "integer")]
    until: Option<u64>,
    /// How long a ban lasts.
    #[serde(default, deserialize_with = "integer")]
    seconds: Option<u64>,
}

/// An integer in whatever form: some languages write `3600.0`.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Box<RawValue>>::deserialize(deserializer)? else { return Ok(None) };
    let value = json::integer(number.get()).and_then(|value| u64::try_from(value).ok());
    value.map(Some).ok_or_else(|| D::Error::custom("not an integer that is 0 or more"))
}

type Body = Result<Json<ModerationRequest>, JsonRejection>;
type Name = Result<Path<String>, PathRejection>;
type Answer = Result<Json<serde_json::Value>, Refusal>;

/// `POST /api/users/{id}/disconnect`: ends all connections of a user; with a time, it may not
/// connect again before.
async fn disconnect(
    Shared(state): Shared<Arc<State>>,
    user: Name,
    OptionalBody(order): OptionalBody,
) -> Answer {
    let user = user_id(&name(user)?)?;
    let reason = order.reason()?;
    let (kind, time) = match order.time()? {
        Some(time) => (Kind::Ban, time),
        None => (Kind::Kick, Duration::ZERO),
    };
    state.sanction(kind, Scope::Server, &user, time, reason).await
}

/// `POST /api/users/{id}/unban`
async fn unban(Shared(state): Shared<Arc<State>>, user: Name) -> Answer {
    state.pardon(Scope::Server, &user_id(&name(user)?)?).await
}

/// `POST /api/rooms/{room}/kick`
async fn kick(Shared(state): Shared<Arc<State>>, room: Name, order: Body) -> Answer {
    let (room, Json(order)) = (room_id(&name(room)?)?, order?);
    let (user, reason) = (order.user()?, order.reason()?);
    state.sanction(Kind::Kick, Scope::Room(&room), &user, Duration::ZERO, reason).await
}

/// `POST /api/rooms/{room}/ban`
async fn ban_from_room(Shared(state): Shared<Arc<State>>, room: Name, order: Body) -> Answer {
    let (room, Json(order)) = (room_id(&name(room)?)?, order?);
    let (user, reason) = (order.user()?, order.reason()?);
    let time = order.time()?.unwrap_or(LONGEST_BAN);
    state.sanction(Kind::Ban, Scope::Room(&room), &user, time, reason).await
}

/// `POST /api/rooms/{room}/unban`
async fn unban_from_room(Shared(state): Shared<Arc<State>>, room: Name, order: Body) -> Answer {
    let (room, Json(order)) = (room_id(&name(room)?)?, order?);
    state.pardon(Scope::Room(&room), &order.user()?).await
}

impl State {
    async fn sanction(
        &self,
        kind: Kind,
        scope: Scope<'_>,
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

    async fn pardon(&self, scope: Scope<'_>, user: &UserId) -> Answer {
        answer(moderation::unban(&**self.hub.broker(), Actor::Backend, scope, user).await)
    }
}

fn answer(done: Result<(), BrokerError>) -> Answer {
    match done {
        Ok(()) => Ok(Json(serde_json::json!({"ok": true}))),
        Err(error) => {
            tracing::debug!(%error, "the broker did not take a sanction");
            Err(match error {
                BrokerError::Refused(_) => {
                    let message = "The message bus refuses it: too many bans, or no more writes.";
                    Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "refused", message)
                }
                BrokerError::Unsupported(_) => {
                    Refusal::new(StatusCode::NOT_IMPLEMENTED, "unsupported", UNSUPPORTED)
                }
                _ => Refusal::unavailable("The message bus did not take it: try again."),
            })
        }
    }
}

/// Of a user or a room, in the path.
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
        user_id(user.ok_or_else(|| bad("missing_field", "The body needs the field \"user\"."))?)
    }

    fn reason(&self) -> Result<Option<&str>, Refusal> {
        match self.reason.as_deref() {
            Some(reason) if reason.len() > Sanction::MAX_REASON_BYTES => {
                let max = Sanction::MAX_REASON_BYTES;
                Err(bad("bad_field", format!("\"reason\" has at most {max} bytes.")))
            }
            Some(reason) if reason.contains('\0') => {
                Err(bad("bad_field", "\"reason\" holds a NUL: not every client could read it."))
            }
            reason => Ok(reason),
        }
    }

    /// How long from now on.
    fn time(&self) -> Result<Option<Duration>, Refusal> {
        match (self.until, self.seconds) {
            (Some(_), Some(_)) => Err(bad("bad_field", "\"until\" or \"seconds\", not both.")),
            (None, Some(0)) => Err(bad("bad_field", NO_TIME)),
            (None, seconds) => Ok(seconds.map(Duration::from_secs)),
            (Some(until), None) => {
                let until = UNIX_EPOCH.checked_add(Duration::from_millis(until));
                let left = until.and_then(|until| until.duration_since(SystemTime::now()).ok());
                left.map(Some).ok_or_else(|| {
                    bad("bad_field", "\"until\" has passed: milliseconds since 1970.")
                })
            }
        }
    }
}

fn bad(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, message)
}

/// A body that need not be there.
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
        let Json(order) = Json::from_request(request, state).await?;
        Ok(Self(order))
    }
}
