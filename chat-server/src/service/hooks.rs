//! Questions to the hooks of the application, with their timeout.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use chat_core::{ErrorCode, Rejection, RoomId, User, UserId};
use futures_util::FutureExt;
use tokio::time::timeout;

use crate::auth::Action;
use crate::hooks::{Draft, HookError, JoinAttempt};
use crate::log_budget::OncePerMinute;
use crate::state::State;

/// When a client should repeat a request that a hook did not decide on.
const RETRY_AFTER_MS: u64 = 1000;

/// Whether the hooks of a server apply to an action.
pub(crate) fn applies_to(state: &State, action: Action<'_>) -> bool {
    state.hooks.as_ref().is_some_and(|hooks| hooks.applies_to(action))
}

/// Asks before a join.
pub(crate) async fn before_join(state: &State, join: JoinAttempt<'_>) -> Result<(), Rejection> {
    let Some(hooks) = &state.hooks else { return Ok(()) };
    let question = Question::new("before_join", join.user, Some(join.room));
    let asking = async { hooks.before_join(&join).await.map(|()| false) };
    decide(state, &question, asking).await
}

/// Asks before a message to a room.
pub(crate) async fn before_send(
    state: &State,
    room: &RoomId,
    draft: &mut Draft,
) -> Result<(), Rejection> {
    let Some(hooks) = &state.hooks else { return Ok(()) };
    let question = Question::new("before_send", draft.user(), Some(room));
    let asking = async { hooks.before_send(room, draft).await.map(|()| draft.is_changed()) };
    decide(state, &question, asking).await
}

/// Asks before a direct message.
pub(crate) async fn before_direct(
    state: &State,
    to: &UserId,
    draft: &mut Draft,
) -> Result<(), Rejection> {
    let Some(hooks) = &state.hooks else { return Ok(()) };
    let question = Question::new("before_direct", draft.user(), None);
    let asking = async { hooks.before_direct(to, draft).await.map(|()| draft.is_changed()) };
    decide(state, &question, asking).await
}

/// What a hook is asked, as the log names it.
struct Question<'a> {
    hook: &'static str,
    user: UserId,
    room: Option<&'a RoomId>,
}

impl<'a> Question<'a> {
    fn new(hook: &'static str, user: &User, room: Option<&'a RoomId>) -> Self {
        Self { hook, user: user.id.clone(), room }
    }
}

/// Waits for a decision, at most for the timeout. `asking` returns whether the hook changed something.
async fn decide(
    state: &State,
    question: &Question<'_>,
    asking: impl Future<Output = Result<bool, HookError>>,
) -> Result<(), Rejection> {
    let (started, time_limit) = (Instant::now(), state.config.hook_timeout);
    let decided = timeout(time_limit, AssertUnwindSafe(asking).catch_unwind()).await;
    let (outcome, decision) = match decided {
        Ok(Ok(Ok(false))) => ("allowed", Ok(())),
        Ok(Ok(Ok(true))) => ("changed", Ok(())),
        Ok(Ok(Err(HookError::Denied(reason)))) => {
            ("denied", Err(Rejection::new(ErrorCode::Rejected, reason)))
        }
        Ok(Ok(Err(HookError::Unavailable(reason)))) => {
            ("unavailable", Err(undecided(question, &reason)))
        }
        Ok(Err(_)) => ("panicked", Err(panicked(question))),
        Err(_) => ("timeout", Err(undecided(question, "it did not decide within hook_timeout"))),
    };
    state.metrics.hook_decided(question.hook, outcome, started.elapsed());
    decision
}

fn undecided(question: &Question<'_>, reason: &str) -> Rejection {
    // Every message of every client can cause these lines.
    static WARNED: OncePerMinute = OncePerMinute::new();
    if WARNED.is_due() {
        let Question { hook, user, room } = question;
        let room = room.map(RoomId::as_str);
        tracing::warn!(
            hook,
            user = user.as_str(),
            room,
            reason,
            "hook did not decide, request rejected"
        );
    }
    let message = "The application did not decide on this request, and it was not carried out. Send it again after retry_after_ms.";
    Rejection::new(ErrorCode::HookUnavailable, message).retry_after_ms(RETRY_AFTER_MS)
}

fn panicked(question: &Question<'_>) -> Rejection {
    static LOGGED: OncePerMinute = OncePerMinute::new();
    if LOGGED.is_due() {
        let Question { hook, user, room } = question;
        let room = room.map(RoomId::as_str);
        tracing::error!(hook, user = user.as_str(), room, "hook panicked, request rejected");
    }
    Rejection::new(ErrorCode::Internal, "The application failed to decide on this request.")
}
