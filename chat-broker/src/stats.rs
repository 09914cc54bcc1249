//! Histograms of durations, and the counters of a broker.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts durations by their length, without a lock, from any number of threads. A broker of your
/// own makes its [`BrokerStats::round_trips`] with it.
///
/// ```
/// use std::time::Duration;
/// use chat_broker::Histogram;
///
/// let histogram = Histogram::new();
/// histogram.observe(Duration::from_micros(100));
/// let latencies = histogram.snapshot();
/// assert_eq!((latencies.count(), latencies.sum()), (1, Duration::from_micros(100)));
/// assert_eq!(latencies.buckets().find(|(_, count)| *count > 0), Some((0.000_128, 1)));
/// ```
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; Latencies::BUCKETS],
    sum_ns: AtomicU64,
}

/// The durations that a [`Histogram`] had counted at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latencies {
    counts: [u64; Self::BUCKETS],
    sum_ns: u64,
}

/// The counters of a broker since it was made; see [`Broker::stats`](crate::Broker::stats).
///
/// ```
/// use chat_broker::{BrokerStats, CommandRefusals};
///
/// let mut stats = BrokerStats::default();
/// stats.reconnects = 1;
/// stats.refusals.push(CommandRefusals::new("SADD", "NOPERM", 3));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BrokerStats {
    /// How long the backend took to answer: once for each pipeline, from its send to its last
    /// answer. Pipelines without an answer are not counted.
    pub round_trips: Latencies,
    /// Connections that were opened again after a loss.
    pub reconnects: u64,
    /// Messages that were skipped because this version of the broker cannot read them.
    pub unreadable: u64,
    /// Publications that were dropped because the events were not read in time.
    pub dropped: u64,
    /// Publications that wait now: for room in the queue, to be sent, or to be answered.
    pub publish_queued: usize,
    /// Whether the backend refuses [persistent](crate::PublishOptions::retention) publications
    /// because its memory is full, on all nodes alike. It accepts everything else.
    pub full: bool,
    /// Memory that the backend uses, in bytes, as of some seconds ago; 0 if unknown.
    pub memory_used: u64,
    /// Memory that the backend may use, in bytes; 0 if unlimited or unknown.
    pub memory_max: u64,
    /// Why the broker is [unavailable](crate::Status::Unavailable), as an operator reads it; `None` if it is
    /// not, and if unknown.
    pub outage: Option<String>,
    /// Which process the backend is, as Redis' `run_id`: nodes with different ones share no
    /// topics. `None` before the first connection, and if unknown.
    pub run_id: Option<String>,
    /// Commands that the backend answered with an error, by command and cause.
    pub refusals: Vec<CommandRefusals>,
}

/// How often the backend answered one kind of command with one kind of error. Both names are of
/// fixed lists, so they may be labels of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandRefusals {
    /// The command, as `SADD`; the file name of a script, as `leave.lua`; `connect` for a
    /// connection that was not accepted; `other`.
    pub command: &'static str,
    /// The code of the error, as `NOPERM`; `other`.
    pub cause: &'static str,
    /// The number of such answers since the broker was made.
    pub count: u64,
}

impl CommandRefusals {
    /// `count` answers with the error `cause` to `command`.
    #[must_use]
    pub fn new(command: &'static str, cause: &'static str, count: u64) -> Self {
        Self { command, cause, count }
    }
}

impl Histogram {
    /// A longer duration is added to the sum as this.
    const LONGEST: Duration = Duration::from_secs(60 * 60);

    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let nanos = duration.min(Self::LONGEST).as_nanos() as u64;
        self.counts[Latencies::bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The durations that were counted so far. One that is counted at the same time may be in the
    /// buckets and not in the sum, or the reverse.
    #[must_use]
    pub fn snapshot(&self) -> Latencies {
        Latencies {
            counts: self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
        }
    }
}

impl Latencies {
    /// The number of buckets. The first is up to 64 µs, each of the others up to twice the one
    /// before, the last but one up to 16.8 s; the last has no upper bound.
    pub const BUCKETS: usize = 20;

    /// The bound of the first bucket, as a power of two in microseconds.
    const FIRST: u32 = 6;

    /// Each bucket's inclusive upper bound in seconds, and the number of durations in that bucket
    /// alone. The bound of the last is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        (0..).zip(self.counts).map(|(n, count)| (Self::bound(n), count))
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    fn bound(n: usize) -> f64 {
        if n + 1 == Self::BUCKETS {
            return f64::INFINITY;
        }
        Duration::from_micros(1 << (Self::FIRST as usize + n)).as_secs_f64()
    }

    fn bucket(nanos: u64) -> usize {
        let micros = nanos.div_ceil(1000).max(1);
        let power = micros.next_power_of_two().trailing_zeros();
        (power.saturating_sub(Self::FIRST) as usize).min(Self::BUCKETS - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Where one duration is counted.
    fn bound_of(duration: Duration) -> f64 {
        let histogram = Histogram::new();
        histogram.observe(duration);
        let counted: Vec<_> =
            histogram.snapshot().buckets().filter(|(_, count)| *count > 0).collect();
        assert!(matches!(counted[..], [(_, 1)]), "{counted:?}");
        counted[0].0
    }

    #[test]
    fn each_bound_belongs_to_its_bucket_and_what_is_longer_to_the_next() {
        let bounds: Vec<f64> = Latencies::default().buckets().map(|(bound, _)| bound).collect();
        assert_eq!(bounds.len(), Latencies::BUCKETS);
        assert_eq!((bounds[0], bounds[18], bounds[19]), (0.000_064, 16.777_216, f64::INFINITY));
        assert_eq!(bound_of(Duration::ZERO), bounds[0]);
        for pair in bounds[..19].windows(2) {
            assert_eq!(pair[1], 2.0 * pair[0]);
        }
        for (n, bound) in bounds[..19].iter().enumerate() {
            let bound_ns = (bound * 1e9).round() as u64;
            assert_eq!(bound_of(Duration::from_nanos(bound_ns)), *bound);
            assert_eq!(bound_of(Duration::from_nanos(bound_ns - 1)), *bound);
            assert_eq!(bound_of(Duration::from_nanos(bound_ns + 1)), bounds[n + 1]);
        }
        assert_eq!(bound_of(Duration::MAX), f64::INFINITY);
    }

    #[test]
    fn concurrent_observations_are_all_counted() {
        const THREADS: u64 = 4;
        const EACH: u64 = 20_000;
        let histogram = Histogram::new();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    (1..=EACH).for_each(|n| histogram.observe(Duration::from_micros(n)));
                });
            }
        });
        let latencies = histogram.snapshot();
        assert_eq!(latencies.count(), THREADS * EACH);
        assert_eq!(latencies.sum(), Duration::from_micros(THREADS * EACH * (EACH + 1) / 2));
        let counts: Vec<u64> = latencies.buckets().map(|(_, count)| count).take(3).collect();
        assert_eq!(counts, [64, 64, 128].map(|n| n * THREADS));
    }
}
