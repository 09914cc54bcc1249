//! Pauses before retries: exponential, capped, with jitter.
//!
//! Neither a clock nor a source of randomness: the caller supplies 64 random bits, measures time,
//! and decides which success resets the pauses.

use std::time::Duration;

/// The pauses between attempts that fail: each is bounded by twice the bound of the one before, up
/// to a cap.
///
/// ```
/// use std::time::Duration;
/// use chat_core::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(20));
/// let random_bits = 1 << 63;
/// assert_eq!(backoff.next_jittered(random_bits), Duration::from_millis(250));
/// assert_eq!(backoff.next_pause(), Duration::from_secs(1));
/// assert_eq!(backoff.bound(), Duration::from_secs(2));
/// backoff.reset();
/// assert_eq!(backoff.bound(), Duration::from_millis(500));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    /// Pauses since the start or the last reset.
    pauses: u32,
}

impl Backoff {
    /// Pauses that are bounded by `base` at first, and never longer than `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, pauses: 0 }
    }

    /// The next pause without jitter, which is its [bound](Self::bound): for a retry that no other
    /// process makes at the same time, such as accepting connections.
    pub fn next_pause(&mut self) -> Duration {
        let bound = self.bound();
        self.pauses = self.pauses.saturating_add(1);
        bound
    }

    /// The next pause with full jitter: a random one below its [bound](Self::bound), so that peers
    /// that lost their connections together do not reconnect together.
    pub fn next_jittered(&mut self, random_bits: u64) -> Duration {
        fraction(self.next_pause(), random_bits)
    }

    /// The upper bound of the next pause.
    #[must_use]
    pub fn bound(&self) -> Duration {
        let factor = 1u32.checked_shl(self.pauses).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// Starts over with the first pause: an attempt has succeeded.
    pub fn reset(&mut self) {
        self.pauses = 0;
    }
}

/// The part of `span` that `random_bits` is of 2⁶⁴: evenly distributed from zero to just below
/// `span`. A span of more than 584 years counts as 584 years.
///
/// ```
/// use std::time::Duration;
///
/// let second = Duration::from_secs(1);
/// assert_eq!(chat_core::backoff::fraction(second, 1 << 63), second / 2);
/// ```
#[must_use]
pub fn fraction(span: Duration, random_bits: u64) -> Duration {
    let nanos = span.as_nanos().min(u128::from(u64::MAX));
    Duration::from_nanos(((nanos * u128::from(random_bits)) >> 64) as u64)
}

/// From `pause` to just below twice as much: for a pause that the peer has requested, which must not
/// be shorter.
///
/// ```
/// use std::time::Duration;
///
/// let second = Duration::from_secs(1);
/// assert_eq!(chat_core::backoff::at_least(second, 1 << 63), second * 3 / 2);
/// ```
#[must_use]
pub fn at_least(pause: Duration, random_bits: u64) -> Duration {
    pause.saturating_add(fraction(pause, random_bits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bounds_double_up_to_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(20));
        let bounds: Vec<_> = (0..8).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 20_000, 20_000]);
        backoff.reset();
        assert_eq!(backoff.bound(), Duration::from_millis(500));
    }

    #[test]
    fn bound_stays_at_cap_after_many_failures() {
        let mut backoff = Backoff { pauses: u32::MAX - 1, ..Backoff::new(SECOND / 20, 2 * SECOND) };
        for _ in 0..3 {
            assert_eq!(backoff.next_pause(), 2 * SECOND);
        }
    }

    #[test]
    fn jitter_is_full() {
        let mut backoff = Backoff::new(SECOND, SECOND);
        assert_eq!(backoff.next_jittered(0), Duration::ZERO);
        assert_eq!(backoff.next_jittered(1 << 63), SECOND / 2);
        assert_eq!(backoff.next_jittered(u64::MAX), SECOND - Duration::from_nanos(1));
    }

    proptest! {
        #[test]
        fn pauses_stay_within_their_bounds(
            seconds in any::<u64>(), nanos in 1..1_000_000_000u32, bits in any::<u64>(),
        ) {
            let span = Duration::new(seconds, nanos);
            prop_assert!(fraction(span, bits) < span);
            prop_assert!(at_least(span, bits) >= span);
            prop_assert!(at_least(span, bits) <= span.saturating_mul(2));
        }
    }
}
