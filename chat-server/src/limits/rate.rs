//! Token buckets: how many at once, and how many a second in the long run.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

/// A bucket of tokens, one of which each event takes. Kept as the time at which it will be
/// full again (the generic cell rate algorithm of ITU-T I.371), which is one number.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Nanoseconds since the same moment as all times that it is asked with.
    full_at: AtomicU64,
}

const SECOND: u64 = 1_000_000_000;

impl Rate {
    /// `per_second` in the long run, and up to `burst` at once. Both are at least 1.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second: per_second.max(1), burst: burst.max(1) }
    }

    pub(crate) fn per_second(self) -> u32 {
        self.per_second
    }

    pub(crate) fn burst(self) -> u32 {
        self.burst
    }

    /// For one event, in nanoseconds.
    fn interval(self) -> u64 {
        SECOND / u64::from(self.per_second)
    }
}

impl Bucket {
    /// Takes a token; or says in how long there will be one. `now` is the time since a moment
    /// that is always the same.
    pub(crate) fn take(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = now.as_nanos() as u64;
        let interval = rate.interval();
        let capacity = interval.saturating_mul(u64::from(rate.burst));
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let after = full_at.max(now) + interval;
            (after - now <= capacity).then_some(after)
        });
        taken.map(drop).map_err(|full_at| {
            Duration::from_nanos((full_at.max(now) + interval).saturating_sub(now + capacity))
        })
    }

    /// Takes a token in advance and returns the time until it is available. If that is longer than
    /// `longest`, takes none and returns the time as an error. `now` as in [`take`](Self::take).
    pub(crate) fn reserve_slot(
        &self,
        rate: Rate,
        now: Duration,
        longest: Duration,
    ) -> Result<Duration, Duration> {
        let now = now.as_nanos() as u64;
        let interval = rate.interval();
        let capacity = interval.saturating_mul(u64::from(rate.burst));
        let wait = |full_at: u64| {
            Duration::from_nanos((full_at.max(now) + interval).saturating_sub(now + capacity))
        };
        let reserved = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            (wait(full_at) <= longest).then(|| full_at.max(now) + interval)
        });
        reserved.map(wait).map_err(wait)
    }

    /// Whether nothing is missing from it: a new one is the same.
    pub(crate) fn is_full(&self, now: Duration) -> bool {
        self.full_at.load(Ordering::Relaxed) <= now.as_nanos() as u64
    }
}

/// `50/100`: 50 a second, and 100 at once. `50`: as many at once as in a second.
impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|number: &u32| *number > 0);
        let (per_second, burst) = text.split_once('/').unwrap_or((text, text));
        match (number(per_second), number(burst)) {
            (Some(per_second), Some(burst)) => Ok(Self { per_second, burst }),
            _ => Err("expected a rate such as 50, or 50/100 (a second / at once)".to_owned()),
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
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_and_then_one_for_each_interval() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, 3));
        let start = Duration::from_secs(1000);
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, start), Ok(()));
        }
        assert_eq!(bucket.take(rate, start), Err(100 * MS));
        assert_eq!(bucket.take(rate, start + 40 * MS), Err(60 * MS), "refusals cost nothing");
        assert_eq!(bucket.take(rate, start + 100 * MS), Ok(()));
        assert_eq!(bucket.take(rate, start + 100 * MS), Err(100 * MS));
        assert!(!bucket.is_full(start + 399 * MS));
        assert!(bucket.is_full(start + 400 * MS));
        let later = start + 10_000 * MS;
        let taken = (0..10).filter(|_| bucket.take(rate, later).is_ok()).count();
        assert_eq!(taken, 3, "what was not used is not saved up");
    }

    #[test]
    fn in_the_long_run_it_is_the_rate() {
        let (bucket, rate) = (Bucket::default(), Rate::new(50, 100));
        let taken = (0..60_000).filter(|n| bucket.take(rate, MS * *n).is_ok()).count();
        assert!((3_090..=3_110).contains(&taken), "{taken} in a minute");
    }

    #[test]
    fn rates_as_settings_give_them() {
        assert_eq!("50/100".parse(), Ok(Rate::new(50, 100)));
        assert_eq!("7".parse(), Ok(Rate::new(7, 7)));
        for wrong in ["", "0", "1/0", "/", "-1", "1.5", "1/2/3", "99999999999"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
