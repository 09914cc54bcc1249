//! Pauses between attempts to connect.
//!
//! A connection that worked and was lost is replaced at once: each second without one costs a busy
//! room messages that its history no longer holds. Attempts that fail, and connections that break
//! before they were of any use, are repeated at growing intervals.

use std::time::Duration;

use chat_core::{Backoff, backoff};
use tokio::time::Instant;

use crate::random;

/// The longest pause after the first failure. Each further failure doubles it.
const FIRST: Duration = Duration::from_millis(50);

/// The longest pause of all.
const LAST: Duration = Duration::from_secs(2);

/// How long a connection must have lasted to count as one that worked, if nothing was done on it.
const USEFUL: Duration = Duration::from_millis(200);

/// The least time between two connections that both worked: a server that accepts, delivers a
/// message and closes is not connected to in a tight loop.
const FLOOR: Duration = Duration::from_millis(100);

/// Times the attempts to connect of one task: [`attempt`](Self::attempt), then
/// [`established`](Self::established) and [`worked`](Self::worked) if it succeeds, then
/// [`pause`](Self::pause).
#[derive(Debug)]
pub(crate) struct ReconnectTimer {
    failures: Backoff,
    began: Instant,
    established: Option<Instant>,
    has_worked: bool,
}

impl ReconnectTimer {
    pub(crate) fn new() -> Self {
        let failures = Backoff::new(FIRST, LAST);
        Self { failures, began: Instant::now(), established: None, has_worked: false }
    }

    /// An attempt starts.
    pub(crate) fn attempt(&mut self) {
        (self.began, self.established, self.has_worked) = (Instant::now(), None, false);
    }

    /// The connection may be used.
    pub(crate) fn established(&mut self) {
        self.established = Some(Instant::now());
    }

    /// The connection did what it is for.
    pub(crate) fn worked(&mut self) {
        self.has_worked = true;
    }

    /// How long to wait before the next attempt. A part of it is random, so that servers that lost
    /// their connections together do not return in step.
    pub(crate) fn pause(&mut self) -> Duration {
        let useful = self.established.filter(|at| self.has_worked || at.elapsed() >= USEFUL);
        let Some(established) = useful else {
            return self.failures.next_jittered(random::bits());
        };
        self.failures.reset();
        // Connecting may cost Redis much (every room is subscribed): at most half of the time.
        let least = (established - self.began).clamp(FLOOR, LAST);
        least.saturating_sub(established.elapsed()) + backoff::fraction(FIRST, random::bits())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// The pause after an attempt that took and lasted so many milliseconds.
    async fn pause(
        timer: &mut ReconnectTimer,
        took: u64,
        lasted: u64,
        has_worked: bool,
    ) -> Duration {
        timer.attempt();
        advance(Duration::from_millis(took)).await;
        timer.established();
        if has_worked {
            timer.worked();
        }
        advance(Duration::from_millis(lasted)).await;
        timer.pause()
    }

    fn fail(timer: &mut ReconnectTimer, times: usize) -> Duration {
        let pause = |_| {
            timer.attempt();
            timer.pause()
        };
        (0..times).map(pause).max().unwrap()
    }

    #[test]
    fn pauses_after_failures_grow_to_two_seconds() {
        let mut timer = ReconnectTimer::new();
        assert!(fail(&mut timer, 1) <= FIRST);
        let longest = fail(&mut timer, 200);
        assert!(longest <= LAST && longest > LAST / 2, "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_worked_is_replaced_at_once() {
        let mut timer = ReconnectTimer::new();
        fail(&mut timer, 9);
        assert!(pause(&mut timer, 5, 200, false).await <= FIRST, "it lasted");
        fail(&mut timer, 9);
        assert!(pause(&mut timer, 5, 100, true).await <= FIRST, "it delivered");
        assert!(fail(&mut timer, 1) <= FIRST, "the failures before are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_break_at_once_make_no_tight_loop() {
        let mut timer = ReconnectTimer::new();
        for _ in 0..20 {
            let pause = pause(&mut timer, 5, 1, true).await;
            assert!(pause >= FLOOR - Duration::from_millis(1) && pause <= FLOOR + FIRST);
        }
        let costly = pause(&mut timer, 700, 1, true).await;
        assert!(costly >= Duration::from_millis(699), "half of the time at most: {costly:?}");
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            longest = longest.max(pause(&mut timer, 5, 199, false).await);
        }
        assert!(longest > LAST / 2, "one that was of no use has failed: {longest:?}");
    }
}
