//! Kicks, bans and unbans, which return when the member lists of this server show them.

use std::time::Duration;

use chat_broker::Status;
use chat_core::{ErrorCode, Rejection, Sanction, Topic, UserId};
use tokio::time::timeout;

use crate::error::Error;
use crate::moderation::{self, Actor, SanctionKind, SanctionScope};
use crate::state::{LIST_TIMEOUT, State};

/// Removes a user, who may return.
pub(crate) async fn kick(
    state: &State,
    by: Actor<'_>,
    scope: SanctionScope<'_>,
    user: &UserId,
    reason: Option<&str>,
) -> Result<(), Error> {
    impose(state, by, SanctionKind::Kick, scope, user, Duration::ZERO, reason).await
}

/// Removes a user, who may not return for `time`.
pub(crate) async fn ban(
    state: &State,
    by: Actor<'_>,
    scope: SanctionScope<'_>,
    user: &UserId,
    time: Duration,
    reason: Option<&str>,
) -> Result<(), Error> {
    if time.is_zero() {
        return Err(bad("A ban lasts at least 1 second.").into());
    }
    impose(state, by, SanctionKind::Ban, scope, user, time, reason).await
}

/// Ends a ban, if there is one.
pub(crate) async fn unban(
    state: &State,
    by: Actor<'_>,
    scope: SanctionScope<'_>,
    user: &UserId,
) -> Result<(), Error> {
    moderation::unban(&**state.hub.broker(), &state.client_lines.sanctions, by, scope, user)
        .await?;
    until_shown(state, state.moderation.until_unbanned(scope, user)).await;
    Ok(())
}

async fn impose(
    state: &State,
    by: Actor<'_>,
    kind: SanctionKind,
    scope: SanctionScope<'_>,
    user: &UserId,
    time: Duration,
    reason: Option<&str>,
) -> Result<(), Error> {
    check_reason(reason)?;
    check_room_for_more(state, by)?;
    let (broker, lines) = (&**state.hub.broker(), &state.client_lines.sanctions);
    let id = moderation::impose(broker, lines, by, kind, scope, user, time, reason).await?;
    if matches!(by, Actor::Moderator { user: moderator, .. } if moderator == user) {
        // The connection of the moderator is in the room until it has returned from this call.
        return Ok(());
    }
    let evicted = async {
        state.moderation.until_applied(kind, scope, user, &id).await;
        match scope {
            SanctionScope::Room(room) => state.hub.absent(&Topic::Room(room.clone()), user).await,
            SanctionScope::Server => state.hub.absent_everywhere(user).await,
        }
    };
    until_shown(state, evicted).await;
    Ok(())
}

/// Waits until this server has applied a change. Returns at once while the broker is unavailable,
/// which cannot confirm it.
async fn until_shown(state: &State, shown: impl Future<Output = ()>) {
    if state.hub.broker().status() == Status::Ready {
        // A user that joins again at once is still listed, so this ends at the timeout.
        let _ = timeout(LIST_TIMEOUT, shown).await;
    }
}

fn check_reason(reason: Option<&str>) -> Result<(), Rejection> {
    let max = Sanction::MAX_REASON_BYTES;
    match reason {
        Some(reason) if reason.len() > max => {
            Err(bad(format!("\"reason\" has at most {max} bytes.")))
        }
        Some(reason) if reason.contains('\0') => {
            Err(bad("\"reason\" contains a NUL character, which some clients cannot read."))
        }
        _ => Ok(()),
    }
}

/// Moderators leave a part of the table to backends.
fn check_room_for_more(state: &State, by: Actor<'_>) -> Result<(), Rejection> {
    if !matches!(by, Actor::Moderator { .. }) || !state.moderation.is_nearly_full() {
        return Ok(());
    }
    state.metrics.limited("sanctions");
    let message = "There are too many active bans. Unban users, or wait until bans expire.";
    Err(Rejection::new(ErrorCode::TooManyBans, message))
}

fn bad(message: impl Into<std::borrow::Cow<'static, str>>) -> Rejection {
    Rejection::new(ErrorCode::BadField, message)
}
