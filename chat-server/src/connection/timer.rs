//! Closes a connection that has not authenticated in time, or whose token has expired.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use chat_core::{CloseReason, Deliver};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Connection;
use crate::deadline::Deadline;

impl Connection {
    /// Sets the deadline by the access of the connection: to authenticate, or the end of the token.
    pub(super) fn set_deadline(&mut self) {
        let config = &self.state.config;
        let at = self.access.deadline(config.auth_timeout, config.token_grace);
        self.deadline = Deadline::new(at);
    }

    /// Ends the connection if its deadline has passed.
    pub(super) fn on_deadline(&mut self) {
        if !self.deadline.has_passed() {
            return;
        }
        self.deadline = Deadline::default();
        if self.access.is_pending() {
            self.state.metrics.limited("auth_timeout");
            self.member.close(CloseReason::PolicyViolation);
        } else {
            self.member.expire();
        }
    }
}

/// Elapses at the deadline of a connection. `None` where there is no deadline, as for most: boxed,
/// so that those have no `Sleep` in their task.
pub(super) type Timer = Option<Pin<Box<Sleep>>>;

pub(super) fn set(timer: &mut Timer, at: Option<Instant>) {
    match (timer.as_mut(), at) {
        (Some(sleep), Some(at)) if sleep.deadline() == at => {}
        (Some(sleep), Some(at)) => sleep.as_mut().reset(at),
        (_, at) => *timer = at.map(|at| Box::pin(sleep_until(at))),
    }
}

/// Waits for the timer. The future borrows the timer and adds no state of its own to the task.
pub(super) fn elapsed(timer: &mut Timer) -> impl Future<Output = ()> {
    poll_fn(|cx| timer.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx)))
}
