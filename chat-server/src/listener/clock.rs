//! How long an HTTP connection may take for its current phase.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The longest timeout: a setting may exceed what an `Instant` can hold.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long each phase of an HTTP connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct PhaseTimeouts {
    pub(super) head: Duration,
    pub(super) body: Duration,
    pub(super) work: Duration,
    pub(super) response: Duration,
    pub(super) idle: Duration,
}

/// The phase of an HTTP connection. The stream below hyper and the service above it change the phase; the
/// task of both reads the deadline.
#[derive(Debug)]
pub(super) struct Clock {
    phase_timeouts: PhaseTimeouts,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client sends a head: from its first byte, or from the beginning of the connection.
    Head,
    /// The client sends a body.
    Body,
    /// The server works on the response.
    Work,
    /// The client receives the response: hyper has all of it, and may have to wait to write it.
    Response,
    /// The client may send a further request.
    Idle,
}

impl Clock {
    /// A new connection has to send a head.
    pub(super) fn new(phase_timeouts: PhaseTimeouts) -> Self {
        let state = State { phase: Phase::Head, since: Instant::now() };
        Self { phase_timeouts, state: Mutex::new(state) }
    }

    /// Bytes were received.
    pub(super) fn received(&self) {
        self.advance(Phase::Idle, Phase::Head);
    }

    /// A head is complete.
    pub(super) fn requested(&self) {
        *self.state() = State { phase: Phase::Work, since: Instant::now() };
    }

    /// The server begins to read a body.
    pub(super) fn awaits_body(&self) {
        self.advance(Phase::Work, Phase::Body);
    }

    /// The body is complete, or the server has stopped reading it.
    pub(super) fn took_body(&self) {
        self.advance(Phase::Body, Phase::Work);
    }

    /// hyper has taken a part of the response: it does so when the client has read most of the one
    /// before. A long response may take longer than a phase if each part is read in time.
    pub(super) fn sent_part(&self) {
        self.advance(Phase::Work, Phase::Work);
    }

    /// hyper has all of the response.
    pub(super) fn responded(&self) {
        self.advance(Phase::Body, Phase::Response);
        self.advance(Phase::Work, Phase::Response);
    }

    /// All that hyper had is with the kernel.
    pub(super) fn flushed(&self) {
        self.advance(Phase::Response, Phase::Idle);
    }

    /// The phase, and when it has taken too long.
    pub(super) fn deadline(&self) -> (Phase, Instant) {
        let state = self.state();
        let time = match state.phase {
            Phase::Head => self.phase_timeouts.head,
            Phase::Body => self.phase_timeouts.body,
            Phase::Work => self.phase_timeouts.work,
            Phase::Response => self.phase_timeouts.response,
            Phase::Idle => self.phase_timeouts.idle,
        };
        (state.phase, state.since + time.min(MAX_TIMEOUT))
    }

    fn advance(&self, from: Phase, to: Phase) {
        let mut state = self.state();
        if state.phase == from {
            *state = State { phase: to, since: Instant::now() };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_timeout() {
        let seconds = Duration::from_secs;
        let clock = Clock::new(PhaseTimeouts {
            head: seconds(10),
            body: seconds(20),
            work: seconds(60),
            response: seconds(30),
            idle: seconds(150),
        });
        let left = || {
            let (phase, deadline) = clock.deadline();
            (phase, (deadline - Instant::now()).as_secs())
        };
        tokio::time::advance(seconds(4)).await;
        clock.received();
        assert_eq!(left(), (Phase::Head, 6), "a further byte does not extend it");
        clock.requested();
        tokio::time::advance(seconds(5)).await;
        assert_eq!(left(), (Phase::Work, 55), "includes the wait for the request rate");
        clock.awaits_body();
        tokio::time::advance(seconds(1)).await;
        clock.received();
        clock.flushed();
        assert_eq!(left(), (Phase::Body, 19), "neither does it for a body");
        clock.took_body();
        assert_eq!(left(), (Phase::Work, 60));
        tokio::time::advance(seconds(50)).await;
        clock.sent_part();
        assert_eq!(left(), (Phase::Work, 60), "for the next part");
        clock.responded();
        tokio::time::advance(seconds(1)).await;
        clock.responded();
        assert_eq!(left(), (Phase::Response, 29), "until the client has read it");
        clock.flushed();
        tokio::time::advance(seconds(100)).await;
        clock.flushed();
        assert_eq!(left(), (Phase::Idle, 50));
        clock.received();
        assert_eq!(left(), (Phase::Head, 10));
    }

    #[test]
    fn longest_timeout_does_not_overflow() {
        let max = Duration::MAX;
        Clock::new(PhaseTimeouts { head: max, body: max, work: max, response: max, idle: max })
            .deadline();
    }
}
