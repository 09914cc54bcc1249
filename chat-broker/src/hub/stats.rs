//! The counters of a hub.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Shared;
use super::sequence::Ingested;
use crate::stats::{Histogram, Latencies};

/// What a [`Hub`](super::Hub) has counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HubStats {
    /// Publications received from the broker.
    pub received: u64,
    /// Batches queued for members: one for each member and batch.
    pub deliveries: u64,
    /// Members closed because their outbox was full.
    pub slow_consumers: u64,
    /// Batches that members dropped because their outbox was full:
    /// [`DeliveryOutcome::Dropped`](chat_core::DeliveryOutcome).
    pub dropped: u64,
    /// How often the queue of a [`Follow`](super::Follow) was full, so that it continued from the
    /// history.
    pub slow_followers: u64,
    /// Messages that this server missed and read from the history, so no member missed them.
    pub repaired: u64,
    /// The longest time from the detection of missing messages in a room until the room had them.
    pub longest_repair: Duration,
    /// Gaps that members received: one for each room and gap.
    pub gaps: u64,
    /// Publications dropped because the room had them already.
    pub repeats: u64,
    /// Memory for messages that joins are served from: their payload in bytes.
    pub recent_bytes: usize,
    /// The time from the first pending item of a batch until the batch was queued for all members
    /// on this server: once for each batch.
    pub fan_out: Latencies,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) deliveries: AtomicU64,
    pub(super) slow_consumers: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) slow_followers: AtomicU64,
    repaired: AtomicU64,
    longest_repair_us: AtomicU64,
    gaps: AtomicU64,
    repeats: AtomicU64,
    pub(super) fan_out: Histogram,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

impl<M> Shared<M> {
    pub(super) fn count(&self, taken: Ingested) {
        let counters = &self.counters;
        if taken == Ingested::default() {
            return;
        }
        Counters::add(&counters.repeats, u64::from(taken.repeat));
        Counters::add(&counters.gaps, taken.gaps);
        Counters::add(&counters.repaired, taken.repaired);
        if let Some(time) = taken.missing_for {
            counters.longest_repair_us.fetch_max(time.as_micros() as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn stats(&self) -> HubStats {
        let counters = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HubStats {
            received: get(&counters.received),
            deliveries: get(&counters.deliveries),
            slow_consumers: get(&counters.slow_consumers),
            dropped: get(&counters.dropped),
            slow_followers: get(&counters.slow_followers),
            repaired: get(&counters.repaired),
            longest_repair: Duration::from_micros(get(&counters.longest_repair_us)),
            gaps: get(&counters.gaps),
            repeats: get(&counters.repeats),
            recent_bytes: self.recent_bytes.load(Ordering::Relaxed),
            fan_out: counters.fan_out.snapshot(),
        }
    }
}
