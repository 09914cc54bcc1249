//! When a connection ends that has not said who it is, or whose token has run out.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use chat_core::{CloseReason, Deliver, Reply};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Connection;

/// How late a deadline may be noticed by a process that runs. One that is noticed later has passed
/// while the process was stopped, and says nothing of the client.
pub(crate) const LATEST: Duration = Duration::from_secs(1);

impl Connection {
    /// It has said who it is, if that is needed, or its time to do so begins.
    pub(super) fn set_deadline(&mut self) {
        let config = &self.state.config;
        self.ends = self.access.deadline(config.auth_timeout, config.token_grace);
    }

    pub(super) fn run_out_of_time(&mut self) {
        let now = Instant::now();
        if self.ends.is_some_and(|ends| now > ends + LATEST) {
            // The process was stopped meanwhile: what the client has said is in its socket.
            self.ends = Some(now + self.state.config.auth_timeout);
            return;
        }
        self.ends = None;
        if self.access.is_pending() {
            self.state.metrics.limited("auth_timeout");
            self.member.close(CloseReason::PolicyViolation);
        } else {
            let reason = "token_expired";
            self.member.reply(&Reply::Goodbye {
                reason,
                reconnect: false,
                after_ms: 0,
                message: None,
            });
            self.member.close(CloseReason::TokenExpired);
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
