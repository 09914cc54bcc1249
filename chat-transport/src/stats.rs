//! Sums over the outboxes of a server: bytes sent, and bytes that wait.
//!
//! Each outbox adds to one of 16 stripes. With one counter for all, each send of each thread would
//! fetch its cache line from another core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Sums over the outboxes of all sessions that were made
/// [with these statistics](crate::Session::with_stats). They are updated as they change, so that
/// reading them costs the same for any number of sessions.
#[derive(Debug, Default)]
pub struct OutboxStats {
    stripes: [Arc<Stripe>; STRIPES],
    /// The stripe of the next outbox.
    next: AtomicUsize,
    peak: Mutex<PeakWindow>,
}

/// Enough stripes for threads that write to different sessions to rarely share one.
const STRIPES: usize = 16;

/// The share of some outboxes, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Stripe {
    sent: AtomicU64,
    waiting: AtomicUsize,
    /// The most that waited in one outbox.
    peak: AtomicUsize,
}

impl OutboxStats {
    /// Statistics of no outbox yet; see [`with_stats`](crate::Session::with_stats).
    ///
    /// ```
    /// let stats = chat_transport::OutboxStats::new();
    /// assert_eq!((stats.sent_bytes(), stats.waiting_bytes()), (0, 0));
    /// assert_eq!(stats.peak_bytes(std::time::Instant::now()), 0);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that outboxes have accepted in total. They are added when the task of the session runs
    /// next: with a [heartbeat](crate::TransportConfig::heartbeat), after its
    /// interval at the latest.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.sent.load(Ordering::Relaxed)).sum()
    }

    /// Bytes that wait in outboxes.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.waiting.load(Ordering::Relaxed)).sum()
    }

    /// The most bytes that waited in one outbox at a time: in the last 15 to 30 s, or since the
    /// previous call if that was longer ago. `now` is not before that of the previous call.
    #[must_use]
    pub fn peak_bytes(&self, now: Instant) -> usize {
        let mut peak = self.peak.lock();
        if peak.is_over(now) {
            let largest = self.stripes.iter().map(|stripe| stripe.peak.swap(0, Ordering::Relaxed));
            *peak = PeakWindow { before: largest.max().unwrap_or(0), began: Some(now) };
        }
        let largest = self.stripes.iter().map(|stripe| stripe.peak.load(Ordering::Relaxed)).max();
        peak.before.max(largest.unwrap_or(0))
    }

    /// The stripe of one more outbox.
    pub(crate) fn stripe(&self) -> Arc<Stripe> {
        let nth = self.next.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&self.stripes[nth % STRIPES])
    }
}

impl Stripe {
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` more wait, in an outbox in which `usage` bytes wait in total.
    pub(crate) fn queued(&self, bytes: usize, usage: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        // Read first: a new maximum is rare, and the cache line stays shared.
        if usage > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(usage, Ordering::Relaxed);
        }
    }

    pub(crate) fn unqueued(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The window over which a peak is reported: the stripes hold the peak of the current period, this
/// that of the one before.
#[derive(Debug, Default)]
struct PeakWindow {
    before: usize,
    /// The start of the current period.
    began: Option<Instant>,
}

impl PeakWindow {
    const LENGTH: Duration = Duration::from_secs(15);

    fn is_over(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.saturating_duration_since(began) >= Self::LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_forgotten_after_half_a_minute() {
        let (stats, began) = (OutboxStats::new(), Instant::now());
        let (one, other) = (stats.stripe(), stats.stripe());
        let at = |seconds| stats.peak_bytes(began + Duration::from_secs(seconds));
        one.queued(5, 5);
        assert_eq!(at(0), 5);
        other.queued(3, 3);
        assert_eq!((at(1), at(14)), (5, 5));
        assert_eq!((at(15), at(29)), (3, 3));
        assert_eq!(at(30), 0);
        one.queued(4, 9);
        other.queued(2, 2);
        assert_eq!(at(31), 9);
        assert_eq!(at(500), 9, "not read in between");
        assert_eq!(at(515), 0);
    }

    #[test]
    fn sums_are_over_all_stripes() {
        let stats = OutboxStats::new();
        for _ in 0..2 * STRIPES {
            let stripe = stats.stripe();
            stripe.sent(3);
            stripe.queued(2, 2);
            stripe.unqueued(1);
        }
        assert_eq!((stats.sent_bytes(), stats.waiting_bytes()), (96, 32));
    }
}
