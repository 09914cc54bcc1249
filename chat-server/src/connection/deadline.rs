//! When a connection ends that has not said who it is, or whose token has run out.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use chat_core::{CloseReason, Deliver};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Connection;

/// How late a deadline may be noticed by a process that runs. One that is noticed later has passed
/// while the process was stopped, and says nothing of the client.
pub(crate) const LATEST: Duration = Duration::from_secs(1);

/// How long a client has to identify itself after a deadline that was noticed late: what it has sent
/// is read at once, and a client that was stopped as well needs another token.
const EXTENSION: Duration = Duration::from_secs(5);

/// The end of a connection, unless its client identifies itself before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    is_extended: bool,
}

impl Deadline {
    pub(super) fn new(at: Option<Instant>) -> Self {
        Self { at, is_extended: false }
    }

    /// `None` for a connection that may stay.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Whether the connection has to end. A deadline that is noticed late is extended, but once only:
    /// a process that was stopped finds in the socket what the client has sent in time, and a client
    /// whose commands keep its task busy past each deadline would stay for as long as it likes.
    pub(crate) fn has_passed(&mut self) -> bool {
        let now = Instant::now();
        let Some(at) = self.at.filter(|at| *at <= now) else { return false };
        if now.duration_since(at) > LATEST && !self.is_extended {
            *self = Self { at: Some(now + EXTENSION), is_extended: true };
            return false;
        }
        true
    }
}

impl Connection {
    /// It has said who it is, if that is needed, or its time to do so begins.
    pub(super) fn set_deadline(&mut self) {
        let config = &self.state.config;
        let at = self.access.deadline(config.auth_timeout, config.token_grace);
        self.ends = Deadline::new(at);
    }

    pub(super) fn run_out_of_time(&mut self) {
        if !self.ends.has_passed() {
            return;
        }
        self.ends = Deadline::default();
        if self.access.is_pending() {
            self.state.metrics.limited("auth_timeout");
            self.member.close(CloseReason::PolicyViolation);
        } else {
            self.member.expire();
        }
    }
}

/// What rings when a connection has run out of time; most have none.
pub(super) type Alarm = Option<Pin<Box<Sleep>>>;

pub(super) fn set(alarm: &mut Alarm, at: Option<Instant>) {
    match (alarm.as_mut(), at) {
        (Some(sleep), Some(at)) if sleep.deadline() == at => {}
        (Some(sleep), Some(at)) => sleep.as_mut().reset(at),
        (_, at) => *alarm = at.map(|at| Box::pin(sleep_until(at))),
    }
}

/// Waits for the alarm. As a function of the alarm alone, it has no place of its own in the task.
pub(super) fn ring(alarm: &mut Alarm) -> impl Future<Output = ()> {
    poll_fn(|cx| alarm.as_mut().map_or(Poll::Pending, |sleep| sleep.as_mut().poll(cx)))
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn late_deadline_is_extended_once() {
        let second = Duration::from_secs(1);
        let mut deadline = Deadline::new(Some(Instant::now() + second));
        assert!(!deadline.has_passed());
        advance(4 * second).await;
        assert!(!deadline.has_passed(), "the process was stopped");
        assert_eq!(deadline.at(), Some(Instant::now() + EXTENSION));
        advance(EXTENSION + 4 * second).await;
        assert!(deadline.has_passed());
        let mut on_time = Deadline::new(Some(Instant::now()));
        advance(LATEST).await;
        assert!(on_time.has_passed());
        assert!(!Deadline::default().has_passed());
    }
}
