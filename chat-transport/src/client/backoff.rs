//! Pauses: growing, and random.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// The pauses before reconnects: exponential, with full jitter, so that those who were lost
/// together do not return together.
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
    pub(super) fn next(&mut self) -> Duration {
        let most = self.most();
        self.attempt = self.attempt.saturating_add(1);
        fraction(most, random())
    }

    /// The next pause is the first again.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }

    /// What the next pause lies below.
    fn most(&self) -> Duration {
        let factor = 1u32.checked_shl(self.attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }
}

/// In a random span of one to two times `pause`.
pub(super) fn jittered(pause: Duration) -> Instant {
    later(pause.saturating_add(fraction(pause, random())))
}

/// In `pause`, or as good as never if that is beyond reckoning.
pub(super) fn later(pause: Duration) -> Instant {
    Instant::now() + pause.min(FOREVER)
}

pub(super) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A name for a message: 96 random bits.
pub(super) fn random_key() -> String {
    format!("{:016x}{:08x}", random(), random() as u32)
}

/// The part of `span` that `bits` are of 2^64.
pub(super) fn fraction(span: Duration, bits: u64) -> Duration {
    let nanos = span.as_nanos().min(u128::from(u64::MAX));
    Duration::from_nanos(((nanos * u128::from(bits)) >> 64) as u64)
}

/// Bits of a hash function whose key is random for each thread and another one each time.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(20));
        let mut most = Vec::new();
        for _ in 0..8 {
            let bound = backoff.most();
            assert!(backoff.next() < bound);
            most.push(bound.as_millis());
        }
        assert_eq!(most, [500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000]);
        for _ in 0..100 {
            assert!(backoff.next() < Duration::from_secs(20));
        }
        backoff.reset();
        assert_eq!(backoff.most(), Duration::from_millis(500));
    }

    #[test]
    fn jitter_is_full() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..256).map(|_| backoff.next()).collect();
        assert!(pauses.iter().any(|pause| *pause < Duration::from_millis(250)));
        assert!(pauses.iter().any(|pause| *pause > Duration::from_millis(750)));
    }

    #[test]
    fn fractions_stay_within() {
        let second = Duration::from_secs(1);
        assert_eq!(fraction(second, 0), Duration::ZERO);
        assert_eq!(fraction(second, 1 << 63), second / 2);
        assert!(fraction(second, u64::MAX) < second);
        assert!(fraction(Duration::MAX, u64::MAX) < Duration::MAX);
        assert!(jittered(second) >= Instant::now() + second);
        assert!(jittered(second) < Instant::now() + 2 * second);
        assert!(later(Duration::MAX) > Instant::now());
    }

    #[test]
    fn keys_differ() {
        let keys: std::collections::HashSet<String> = (0..1000).map(|_| random_key()).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().all(|key| key.len() == 24));
    }
}
