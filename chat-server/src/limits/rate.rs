//! Token buckets: a burst, and a rate per second in the long run.
//!
//! A bucket is kept as the time at which it will be full again (the generic cell rate algorithm
//! of ITU-T I.371), which is one number. A bucket may be overdrawn: a connection that takes more than
//! the bucket holds waits until it is back at 0, behind the connections that overdrew it before. The
//! `governor` crate has the same algorithm without that order: it rejects, and returns when to retry.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often an event may occur, or how much of a resource may be used: per second in the long run, and
/// at once.
///
/// ```
/// use chat_server::Rate;
///
/// let rate: Rate = "64K/1M".parse()?;
/// assert_eq!(rate, Rate::new(64 * 1024, 1024 * 1024));
/// # Ok::<(), chat_server::InvalidRate>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

const SECOND: u64 = 1_000_000_000;

impl Rate {
    /// `per_second` in the long run, and up to `burst` at once. Both are at least 1.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        const fn at_least_one(number: u32) -> u32 {
            if number == 0 { 1 } else { number }
        }
        Self { per_second: at_least_one(per_second), burst: at_least_one(burst) }
    }

    /// The rate per second in the long run.
    #[must_use]
    pub fn per_second(self) -> u32 {
        self.per_second
    }

    /// The amount that may be used at once.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// This rate and burst, multiplied by `factor`.
    pub(crate) fn times(self, factor: u32) -> Self {
        Self {
            per_second: self.per_second.saturating_mul(factor),
            burst: self.burst.saturating_mul(factor),
        }
    }

    /// Takes `cost` from a bucket that is full at `full_at`; returns when it will be full then.
    fn take(self, full_at: u64, cost: u64, now: u64) -> u64 {
        full_at.max(now).saturating_add(self.nanos(cost))
    }

    /// How long it takes until a bucket that is full at `full_at` is not overdrawn.
    fn wait(self, full_at: u64, now: u64) -> Duration {
        let covered_at = full_at.saturating_sub(self.nanos(self.burst.into()));
        Duration::from_nanos(covered_at.saturating_sub(now))
    }

    /// How long a cost is not covered by a full bucket: zero unless it is larger than the burst.
    pub(crate) fn beyond_burst(self, cost: u64) -> Duration {
        Duration::from_nanos(self.nanos(cost).saturating_sub(self.nanos(self.burst.into())))
    }

    /// When a bucket is full at this rate that is full at `full_at` at the rate `old`. It lacks as many
    /// tokens as before, and at most the burst: a debt under the old rate may be hours under the new one.
    fn convert(self, old: Self, full_at: u64, now: u64) -> u64 {
        let lacking = u128::from(full_at.saturating_sub(now)) * u128::from(old.per_second);
        let lacking = u64::try_from(lacking / u128::from(self.per_second)).unwrap_or(u64::MAX);
        now.saturating_add(lacking.min(self.nanos(self.burst.into())))
    }

    /// The time in which the bucket gains `tokens`, in nanoseconds.
    fn nanos(self, tokens: u64) -> u64 {
        tokens.saturating_mul(SECOND) / u64::from(self.per_second)
    }
}

/// `full_at` of a bucket whose rate `old` is replaced by `new`. Without a rate, nothing is taken: a bucket
/// that gets one, or loses it, is full.
fn converted(full_at: u64, old: Option<Rate>, new: Option<Rate>, now: u64) -> u64 {
    match (old, new) {
        (Some(old), Some(new)) if old == new => full_at,
        (Some(old), Some(new)) => new.convert(old, full_at, now),
        _ => 0,
    }
}

/// The bucket of one owner. All its times are since the same moment.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes `cost`, and returns how long to wait until the bucket covers it.
    pub(crate) fn take(&mut self, rate: Rate, cost: u64, now: Duration) -> Duration {
        let now = nanos(now);
        self.full_at = rate.take(self.full_at, cost, now);
        rate.wait(self.full_at, now)
    }

    /// Gives `cost` back.
    pub(crate) fn refund(&mut self, rate: Rate, cost: u64) {
        self.full_at = self.full_at.saturating_sub(rate.nanos(cost));
    }

    /// Keeps the tokens when the rate is replaced, and at least 0: `full_at` is a time at the old one.
    pub(crate) fn convert(&mut self, old: Option<Rate>, new: Option<Rate>, now: Duration) {
        self.full_at = converted(self.full_at, old, new, nanos(now));
    }
}

/// A [`Bucket`] that several owners share. Those that wait are served in the order in which they took.
#[derive(Debug, Default)]
pub(crate) struct SharedBucket {
    full_at: AtomicU64,
}

impl SharedBucket {
    /// As [`Bucket::take`].
    pub(crate) fn take(&self, rate: Rate, cost: u64, now: Duration) -> Duration {
        let now = nanos(now);
        let take = |full_at| Some(rate.take(full_at, cost, now));
        let updated = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let (Ok(before) | Err(before)) = updated;
        rate.wait(rate.take(before, cost, now), now)
    }

    /// As [`Bucket::refund`].
    pub(crate) fn refund(&self, rate: Rate, cost: u64) {
        let refund = |full_at: u64| Some(full_at.saturating_sub(rate.nanos(cost)));
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, refund);
    }

    /// As [`Bucket::convert`].
    pub(crate) fn convert(&self, old: Option<Rate>, new: Option<Rate>, now: Duration) {
        let convert = |full_at| Some(converted(full_at, old, new, nanos(now)));
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, convert);
    }

    /// Takes one, and returns how long to wait.
    ///
    /// # Errors
    /// The wait would be longer than `longest`: nothing was taken.
    pub(crate) fn take_within(
        &self,
        rate: Rate,
        now: Duration,
        longest: Duration,
    ) -> Result<Duration, Duration> {
        let now = nanos(now);
        let take = |full_at| rate.take(full_at, 1, now);
        let wait = |before| rate.wait(take(before), now);
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            (wait(full_at) <= longest).then(|| take(full_at))
        });
        taken.map(wait).map_err(wait)
    }

    /// Whether the bucket is full, as a new one is.
    pub(crate) fn is_full(&self, now: Duration) -> bool {
        self.full_at.load(Ordering::Relaxed) <= nanos(now)
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// A text that is not a [`Rate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a rate such as 50, or 50/100 (a second / at once)")]
#[non_exhaustive]
pub struct InvalidRate;

/// `50/100`: 50 a second, and 100 at once. `50`: as many at once as in a second. `64K/1M`: with
/// units of 1,024 and of 1,048,576.
impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let number = |text: &str| {
            let (digits, unit) = match text.as_bytes().last() {
                Some(b'K') => (&text[..text.len() - 1], 1024),
                Some(b'M') => (&text[..text.len() - 1], 1024 * 1024),
                _ => (text, 1),
            };
            digits.parse::<u32>().ok()?.checked_mul(unit).filter(|number| *number > 0)
        };
        let (per_second, burst) = text.split_once('/').unwrap_or((text, text));
        match (number(per_second), number(burst)) {
            (Some(per_second), Some(burst)) => Ok(Self { per_second, burst }),
            _ => Err(InvalidRate),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.per_second, self.burst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn burst_is_immediate_and_then_takers_wait() {
        let (mut bucket, rate) = (Bucket::default(), Rate::new(10, 3));
        let waits: Vec<_> = (0..6).map(|_| bucket.take(rate, 1, START)).collect();
        let zero = Duration::ZERO;
        assert_eq!(waits, [zero, zero, zero, 100 * MS, 200 * MS, 300 * MS]);
        let later = START + 10_000 * MS;
        let free = (0..10).filter(|_| bucket.take(rate, 1, later).is_zero()).count();
        assert_eq!(free, 3, "unused tokens beyond the burst are lost");
    }

    #[test]
    fn wait_ends_when_the_cost_is_covered() {
        let (bucket, rate) = (SharedBucket::default(), Rate::new(10, 3));
        assert_eq!(bucket.take(rate, 5, START), 200 * MS);
        assert_eq!(bucket.take(rate, 0, START + 200 * MS), Duration::ZERO);
        assert_eq!(bucket.take(rate, 0, START + 199 * MS), MS);
        assert!(!bucket.is_full(START + 499 * MS));
        assert!(bucket.is_full(START + 500 * MS));
    }

    #[test]
    fn replaced_rate_keeps_tokens() {
        let (slow, fast) = (Rate::new(1, 300), Rate::new(100, 300));
        let mut bucket = Bucket::default();
        bucket.take(slow, 280, START);
        bucket.convert(Some(slow), Some(fast), START);
        assert_eq!(bucket.take(fast, 20, START), Duration::ZERO, "20 were left");
        assert_eq!(bucket.take(fast, 1, START), 10 * MS);
        bucket.convert(Some(fast), Some(slow), START);
        assert_eq!(bucket.take(slow, 1, START), 1000 * MS, "a debt is forgiven");
        let smaller = Rate::new(1, 10);
        bucket.convert(Some(slow), Some(smaller), START);
        assert_eq!(bucket.take(smaller, 1, START), 1000 * MS, "a smaller burst is used up");
        bucket.convert(Some(smaller), None, START);
        assert_eq!(bucket.take(smaller, 10, START), Duration::ZERO, "a new rate has its burst");
    }

    #[test]
    fn rates_are_parsed() {
        assert_eq!("50/100".parse(), Ok(Rate::new(50, 100)));
        assert_eq!("7".parse(), Ok(Rate::new(7, 7)));
        assert_eq!("64K/2M".parse(), Ok(Rate::new(65_536, 2_097_152)));
        for wrong in ["", "0", "1/0", "/", "-1", "1.5", "1/2/3", "99999999999", "K", "4096M", "1k"]
        {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    proptest! {
        /// A client that observes the waits uses what the rate allows, not more and not less.
        #[test]
        fn long_run_is_the_rate(
            per_second in 1_u32..100_000, burst in 1_u32..100_000,
            costs in prop::collection::vec(1_u64..2000, 1..200),
        ) {
            let (mut bucket, rate) = (Bucket::default(), Rate::new(per_second, burst));
            let (mut now, mut used) = (START, 0);
            for cost in costs {
                now += bucket.take(rate, cost, now);
                used += cost;
                let earned = (now - START).as_secs_f64() * f64::from(per_second);
                let allowed = f64::from(burst) + earned;
                prop_assert!(used as f64 <= allowed * 1.001 + 1.0, "{used} of {allowed}");
                if now > START {
                    prop_assert!(used as f64 >= allowed * 0.999 - 1.0, "{used} of {allowed}");
                }
            }
        }

        /// Takers of a shared bucket are served one after another, each after its own cost.
        #[test]
        fn shared_bucket_serves_in_turn(costs in prop::collection::vec(1_u64..50, 2..50)) {
            let (bucket, rate) = (SharedBucket::default(), Rate::new(1000, 1));
            let waits: Vec<_> = costs.iter().map(|cost| bucket.take(rate, *cost, START)).collect();
            for (pair, cost) in waits.windows(2).zip(&costs[1..]) {
                prop_assert_eq!(pair[1] - pair[0], MS * *cost as u32);
            }
        }
    }
}
