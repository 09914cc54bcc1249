//! Closes a connection that has not said who it is in time, or whose token has expired.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use chat_core::{CloseReason, Deliver};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Connection;
use crate::deadline::Deadline;

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
