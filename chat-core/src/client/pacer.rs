//! Pacing: token buckets with the rate limits of the server's `welcome`.
//!
//! The server delays reading a client that exceeds them, and then also reads its pings late. A client
//! that paces itself is never delayed, and can choose what is sent first.

use std::time::Duration;

use crate::wire::{Limits, RateLimit};

/// The part of each burst that is left unused, as its inverse: frames that the network delays
/// reach the server in bursts that the client did not send.
const MARGIN: u64 = 16;

const SECOND: u128 = 1_000_000_000;

/// The token buckets of one connection.
#[derive(Debug)]
pub(super) struct Pacer {
    frames: Option<Bucket>,
    joins: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// A token bucket, kept as the time at which it will be full (the generic cell rate algorithm
/// of ITU-T I.371).
#[derive(Debug)]
struct Bucket {
    rate: RateLimit,
    full_at: Duration,
}

impl Pacer {
    /// Full buckets, as on the server for a new connection.
    pub(super) fn new(limits: &Limits, now: Duration) -> Self {
        let bucket = |rate: Option<RateLimit>| rate.map(|rate| Bucket::new(rate, now));
        Self {
            frames: bucket(limits.frames),
            joins: bucket(limits.joins),
            bytes: bucket(limits.bytes),
        }
    }

    /// When a frame of `bytes` may be sent; `None`: at once.
    pub(super) fn ready_at(&self, bytes: usize) -> Option<Duration> {
        let frame = self.frames.as_ref().and_then(|bucket| bucket.ready_at(1));
        frame.max(self.bytes.as_ref().and_then(|bucket| bucket.ready_at(bytes as u64)))
    }

    /// When the rate of joins allows the next join; `None`: at once.
    pub(super) fn join_ready_at(&self) -> Option<Duration> {
        self.joins.as_ref().and_then(|bucket| bucket.ready_at(1))
    }

    /// A frame of `bytes` is sent, whether the rates allowed it or not.
    pub(super) fn spend(&mut self, bytes: usize, now: Duration) {
        if let Some(bucket) = &mut self.frames {
            bucket.take(1, now);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes as u64, now);
        }
    }

    /// A join is sent, in a frame that [`spend`](Self::spend) counts as well.
    pub(super) fn spend_join(&mut self, now: Duration) {
        if let Some(bucket) = &mut self.joins {
            bucket.take(1, now);
        }
    }
}

impl Bucket {
    fn new(RateLimit { per_second, burst }: RateLimit, now: Duration) -> Self {
        let rate = RateLimit::new(per_second.max(1), (burst - burst / MARGIN).max(1));
        Self { rate, full_at: now }
    }

    /// When the bucket has this many tokens, or is full if they are more than it holds.
    fn ready_at(&self, tokens: u64) -> Option<Duration> {
        let missing = self.rate.burst - tokens.min(self.rate.burst);
        self.full_at.checked_sub(self.span(missing))
    }

    fn take(&mut self, tokens: u64, now: Duration) {
        self.full_at = self.full_at.max(now).saturating_add(self.span(tokens));
    }

    /// The time in which the bucket gains this many tokens.
    fn span(&self, tokens: u64) -> Duration {
        let nanos = (u128::from(tokens) * SECOND).div_ceil(u128::from(self.rate.per_second));
        // At most 584 years: no clock overflows.
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Buckets are full at the caller's first moment too, before which there is no time.
    const START: Duration = Duration::ZERO;

    fn rate(per_second: u64, burst: u64) -> Option<RateLimit> {
        Some(RateLimit::new(per_second, burst))
    }

    fn pace(
        frames: Option<RateLimit>,
        joins: Option<RateLimit>,
        bytes: Option<RateLimit>,
    ) -> (Pacer, Duration) {
        let limits = Limits { frames, joins, bytes, ..Limits::new(1, 1) };
        (Pacer::new(&limits, START), START)
    }

    fn is_ready(ready_at: Option<Duration>, now: Duration) -> bool {
        ready_at.is_none_or(|at| at <= now)
    }

    #[test]
    fn burst_and_then_one_per_interval() {
        let (mut pace, now) = pace(rate(10, 3), None, None);
        for _ in 0..3 {
            assert!(is_ready(pace.ready_at(1_000_000), now));
            pace.spend(1_000_000, now);
        }
        assert_eq!(pace.ready_at(1), Some(now + Duration::from_millis(100)));
        assert!(is_ready(pace.join_ready_at(), now), "joins are unlimited");
    }

    #[test]
    fn part_of_a_large_burst_is_left() {
        let (mut pace, now) = pace(rate(50, 300), None, None);
        let sent = (0..300).take_while(|_| {
            let ready = is_ready(pace.ready_at(1), now);
            pace.spend(1, now);
            ready
        });
        assert_eq!(sent.count(), 300 - 300 / 16);
    }

    #[test]
    fn frame_above_the_burst_leaves_when_the_bucket_is_full() {
        let (mut pace, now) = pace(None, None, rate(100, 10));
        assert!(is_ready(pace.ready_at(50), now));
        pace.spend(50, now);
        assert_eq!(pace.ready_at(1_000), Some(now + Duration::from_millis(500)));
        assert_eq!(pace.ready_at(1), Some(now + Duration::from_millis(410)));
    }

    #[test]
    fn extreme_rates_do_not_overflow() {
        for extreme in [rate(0, 0), rate(1, u64::MAX), rate(u64::MAX, 1), rate(u64::MAX, u64::MAX)]
        {
            let (mut pace, now) = pace(extreme, extreme, extreme);
            for _ in 0..3 {
                pace.spend(usize::MAX, now);
                pace.spend_join(now);
            }
            let _ = (pace.ready_at(usize::MAX), pace.join_ready_at());
        }
    }

    proptest! {
        /// A client that waits for `ready_at` is within the server's bucket at every moment.
        #[test]
        fn pace_stays_within_the_rate(
            per_second in 1..200_u64,
            burst in 1..400_u64,
            gaps in proptest::collection::vec(0..2_000_u64, 1..200),
        ) {
            let (mut pace, start) = pace(rate(per_second, burst), None, None);
            let mut now = start;
            let mut level = burst as f64;
            let mut before = start;
            for gap in gaps {
                now += Duration::from_millis(gap);
                now = pace.ready_at(1).map_or(now, |at| now.max(at));
                pace.spend(1, now);
                level += (now - before).as_secs_f64() * per_second as f64;
                level = level.min(burst as f64) - 1.0;
                before = now;
                prop_assert!(level > -1e-6, "{level}");
            }
        }
    }
}
