//! Kicks and bans.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_broker::BrokerError;
use chat_core::{Sanction, UserId};
use serde::Deserialize;

use super::body::{Body, OptionalBody, bad_field as bad, integer, missing};
use super::names::{RoomPath, UserPath, user_id};
use crate::moderation::{
    self, Actor, LONGEST_BAN, SanctionKind, SanctionScope, UNSUPPORTED, ZERO_BAN,
};
use crate::refusal::Refusal;
use crate::state::State;

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModerationRequest {
    user: Option<String>,
    reason: Option<String>,
    /// The end of a ban, in milliseconds since 1970.
    #[serde(default, deserialize_with = "integer")]
    until: Option<u64>,
    /// The time of a ban, in seconds.
    #[serde(default, deserialize_with = "integer")]
    seconds: Option<u64>,
}
type Answer = Result<Json<serde_json::Value>, Refusal>;

pub(super) async fn disconnect(
    Shared(state): Shared<Arc<State>>,
    UserPath(user): UserPath,
    OptionalBody(request): OptionalBody<ModerationRequest>,
) -> Answer {
    let reason = request.reason()?;
    let (kind, time) = match request.time()? {
        Some(time) => (SanctionKind::Ban, time),
        None => (SanctionKind::Kick, Duration::ZERO),
    };
    state.sanction(kind, SanctionScope::Server, &user, time, reason).await
}

pub(super) async fn unban_user(
    Shared(state): Shared<Arc<State>>,
    UserPath(user): UserPath,
) -> Answer {
    state.unban(SanctionScope::Server, &user).await
}

pub(super) async fn kick(
    Shared(state): Shared<Arc<State>>,
    RoomPath(room): RoomPath,
    Body(request): Body<ModerationRequest>,
) -> Answer {
    let (user, reason) = (request.user()?, request.reason()?);
    state
        .sanction(SanctionKind::Kick, SanctionScope::Room(&room), &user, Duration::ZERO, reason)
        .await
}

pub(super) async fn ban(
    Shared(state): Shared<Arc<State>>,
    RoomPath(room): RoomPath,
    Body(request): Body<ModerationRequest>,
) -> Answer {
    let (user, reason) = (request.user()?, request.reason()?);
    let time = request.time()?.unwrap_or(LONGEST_BAN);
    state.sanction(SanctionKind::Ban, SanctionScope::Room(&room), &user, time, reason).await
}

pub(super) async fn unban(
    Shared(state): Shared<Arc<State>>,
    RoomPath(room): RoomPath,
    Body(request): Body<ModerationRequest>,
) -> Answer {
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

impl ModerationRequest {
    fn user(&self) -> Result<UserId, Refusal> {
        let user = self.user.as_deref();
        user_id(user.ok_or_else(|| missing("user"))?)
    }

    fn reason(&self) -> Result<Option<&str>, Refusal> {
        match self.reason.as_deref() {
            Some(reason) if reason.len() > Sanction::MAX_REASON_BYTES => {
                let max = Sanction::MAX_REASON_BYTES;
                Err(bad(format!("\"reason\" has at most {max} bytes.")))
            }
            Some(reason) if reason.contains('\0') => {
                Err(bad("\"reason\" contains a NUL character, which some clients cannot read."))
            }
            reason => Ok(reason),
        }
    }

    /// The time of a ban from now on; `None` if the body has none.
    fn time(&self) -> Result<Option<Duration>, Refusal> {
        match (self.until, self.seconds) {
            (Some(_), Some(_)) => {
                Err(bad("The body has both \"until\" and \"seconds\". Send one of them."))
            }
            (None, Some(0)) => Err(bad(ZERO_BAN)),
            (None, seconds) => Ok(seconds.map(Duration::from_secs)),
            (Some(until), None) => {
                let until = UNIX_EPOCH.checked_add(Duration::from_millis(until));
                let left = until.and_then(|until| until.duration_since(SystemTime::now()).ok());
                left.map(Some).ok_or_else(|| {
                    bad("\"until\" is in the past. It is in milliseconds since 1970.")
                })
            }
        }
    }
}
