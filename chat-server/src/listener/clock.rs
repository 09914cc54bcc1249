//! How long an HTTP connection may take for what it is at.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What each phase of an HTTP connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// From the first byte of a head, or from the connection, to the end of the head.
    pub(super) head: Duration,
    /// From there until the response has been written: the body, the work, and the client's reading.
    pub(super) request: Duration,
    /// From there to the first byte of the next head.
    pub(super) idle: Duration,
}

/// What an HTTP connection is at. The task that serves it reads what the other parts of the same task
/// write here: the stream and the service below and above hyper.
#[derive(Debug)]
pub(super) struct Clock {
    times: Times,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client sends a head.
    Head,
    /// The request is served.
    Request,
    /// All of the response is with hyper, which may have to wait to write it.
    Written,
    /// The client may send a further request.
    Idle,
}

impl Clock {
    /// A new connection has to send a head.
    pub(super) fn new(times: Times) -> Self {
        let state = State { phase: Phase::Head, since: Instant::now() };
        Self { times, state: Mutex::new(state) }
    }

    /// Bytes came in.
    pub(super) fn received(&self) {
        self.pass(Phase::Idle, Phase::Head);
    }

    /// A head is complete.
    pub(super) fn requested(&self) {
        *self.state() = State { phase: Phase::Request, since: Instant::now() };
    }

    /// hyper has all of the response.
    pub(super) fn responded(&self) {
        let mut state = self.state();
        if state.phase == Phase::Request {
            // The client has as long to read it as the request has.
            state.phase = Phase::Written;
        }
    }

    /// All that hyper had is with the kernel.
    pub(super) fn flushed(&self) {
        self.pass(Phase::Written, Phase::Idle);
    }

    /// The phase, and when it has taken too long.
    pub(super) fn deadline(&self) -> (Phase, Instant) {
        let state = self.state();
        let time = match state.phase {
            Phase::Head => self.times.head,
            Phase::Request | Phase::Written => self.times.request,
            Phase::Idle => self.times.idle,
        };
        (state.phase, state.since + time)
    }

    fn pass(&self, from: Phase, to: Phase) {
        let mut state = self.state();
        if state.phase == from {
            *state = State { phase: to, since: Instant::now() };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_time() {
        let seconds = Duration::from_secs;
        let times = Times { head: seconds(10), request: seconds(30), idle: seconds(150) };
        let clock = Clock::new(times);
        let left = || {
            let (phase, deadline) = clock.deadline();
            (phase, (deadline - Instant::now()).as_secs())
        };
        tokio::time::advance(seconds(4)).await;
        clock.received();
        assert_eq!(left(), (Phase::Head, 6), "a byte now and then gives no more time");
        clock.requested();
        tokio::time::advance(seconds(1)).await;
        clock.received();
        clock.flushed();
        assert_eq!(left(), (Phase::Request, 29));
        clock.responded();
        assert_eq!(left(), (Phase::Written, 29), "until the client has read it");
        clock.flushed();
        tokio::time::advance(seconds(100)).await;
        clock.flushed();
        assert_eq!(left(), (Phase::Idle, 50));
        clock.received();
        assert_eq!(left(), (Phase::Head, 10));
    }
}
