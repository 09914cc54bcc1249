//! Pauses between attempts to connect.
//!
//! A connection that worked and was lost is replaced at once: each second without one costs a busy
//! room messages that its history no longer holds. Attempts that fail, and connections that break
//! before they were of any use, are repeated at growing intervals.

use std::time::Duration;

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

/// Times the attempts of one connection: [`attempt`](Self::attempt), then
/// [`established`](Self::established) and [`worked`](Self::worked) if it succeeds, then
/// [`pause`](Self::pause).
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    began: Instant,
    established: Option<Instant>,
    has_worked: bool,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { failures: 0, began: Instant::now(), established: None, has_worked: false }
    }

    /// An attempt starts.
    pub(crate) fn attempt(&mut self) {
        *self = Self { failures: self.failures, ..Self::new() };
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
        let Some(established) = self.established else { return self.after_failure() };
        let lasted = established.elapsed();
        if self.has_worked || lasted >= USEFUL {
            self.failures = 0;
            // Connecting may cost Redis much (every room is subscribed): at most half of the time.
            let least = (established - self.began).clamp(FLOOR, LAST);
            least.saturating_sub(lasted) + random_part(FIRST)
        } else {
            self.after_failure()
        }
    }

    fn after_failure(&mut self) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.failures.min(16)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        random_part(longest)
    }
}

fn random_part(longest: Duration) -> Duration {
    longest.mul_f64(random::bits() as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// The pause after an attempt that took and lasted so many milliseconds.
    async fn pause(backoff: &mut Backoff, took: u64, lasted: u64, has_worked: bool) -> Duration {
        backoff.attempt();
        advance(Duration::from_millis(took)).await;
        backoff.established();
        if has_worked {
            backoff.worked();
        }
        advance(Duration::from_millis(lasted)).await;
        backoff.pause()
    }

    fn fail(backoff: &mut Backoff, times: usize) -> Duration {
        let pause = |_| {
            backoff.attempt();
            backoff.pause()
        };
        (0..times).map(pause).max().unwrap()
    }

    #[test]
    fn pauses_after_failures_grow_to_two_seconds() {
        let mut backoff = Backoff::new();
        assert!(fail(&mut backoff, 1) <= FIRST);
        let longest = fail(&mut backoff, 200);
        assert!(longest <= LAST && longest > LAST / 2, "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_worked_is_replaced_at_once() {
        let mut backoff = Backoff::new();
        fail(&mut backoff, 9);
        assert!(pause(&mut backoff, 5, 200, false).await <= FIRST, "it lasted");
        fail(&mut backoff, 9);
        assert!(pause(&mut backoff, 5, 100, true).await <= FIRST, "it delivered");
        assert!(fail(&mut backoff, 1) <= FIRST, "the failures before are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_break_at_once_make_no_tight_loop() {
        let mut backoff = Backoff::new();
        for _ in 0..20 {
            let pause = pause(&mut backoff, 5, 1, true).await;
            assert!(pause >= FLOOR - Duration::from_millis(1) && pause <= FLOOR + FIRST);
        }
        let costly = pause(&mut backoff, 700, 1, true).await;
        assert!(costly >= Duration::from_millis(699), "half of the time at most: {costly:?}");
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            longest = longest.max(pause(&mut backoff, 5, 199, false).await);
        }
        assert!(longest > LAST / 2, "one that was of no use has failed: {longest:?}");
    }
}
