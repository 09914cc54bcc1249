//! Pauses before reconnects.

use std::time::Duration;

use super::rng::Rng;

/// The pauses before reconnects: exponential, with full jitter, so that clients which lost their
/// connections together do not return together.
#[derive(Debug)]
pub(super) struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    pub(super) fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// The next pause.
    pub(super) fn next(&mut self, rng: &mut Rng) -> Duration {
        let bound = self.bound();
        self.attempt = self.attempt.saturating_add(1);
        rng.below(bound)
    }

    /// The next pause is the first again.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The next pause is shorter.
    fn bound(&self) -> Duration {
        let factor = 1u32.checked_shl(self.attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap() {
        let mut rng = Rng::new([7; 32]);
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(20));
        let mut bounds = Vec::new();
        for _ in 0..8 {
            let bound = backoff.bound();
            assert!(backoff.next(&mut rng) < bound);
            bounds.push(bound.as_millis());
        }
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000]);
        for _ in 0..100 {
            assert!(backoff.next(&mut rng) < Duration::from_secs(20));
        }
        backoff.reset();
        assert_eq!(backoff.bound(), Duration::from_millis(500));
    }

    #[test]
    fn jitter_is_full() {
        let mut rng = Rng::new([7; 32]);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..256).map(|_| backoff.next(&mut rng)).collect();
        assert!(pauses.iter().any(|pause| *pause < Duration::from_millis(250)));
        assert!(pauses.iter().any(|pause| *pause > Duration::from_millis(750)));
    }
}
