//! The histories of topics, within one budget for the whole bus.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use chat_core::{HistoryEntry, HistoryRange, Retention};
use tokio::time::Instant;

use crate::history::HistoryRead;

/// Bytes that a history, and each publication in it, count beside the payload.
const PER_HISTORY: usize = 256;
const PER_PUBLICATION: usize = 64;

/// The memory that all histories of a bus share.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    held: AtomicUsize,
    /// Rises with every publication: the age of what is idle.
    clock: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, held: AtomicUsize::new(0), clock: AtomicU64::new(0) }
    }

    pub(super) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.held() > self.limit
    }

    /// What may stay when memory is reclaimed: the rest is room for later publications, so that
    /// the next time is not soon.
    pub(super) fn target(&self) -> usize {
        self.limit / 4 * 3
    }

    /// A topic alone never has so much that it would have to go as a whole.
    fn per_topic(&self) -> usize {
        self.limit / 4
    }
}

/// The latest publications of one topic, oldest first. The offset of the last is known to
/// the topic.
#[derive(Debug)]
pub(super) struct Log {
    payloads: VecDeque<Bytes>,
    bytes: usize,
    /// As the latest publication said.
    retention: Retention,
    /// Bytes by which the publications exceed their shares.
    excess: usize,
    /// `None` if an `Instant` cannot hold the time.
    expires: Option<Instant>,
    budget: Arc<Budget>,
}

impl Log {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        budget.held.fetch_add(PER_HISTORY, Ordering::Relaxed);
        Self {
            payloads: VecDeque::new(),
            bytes: PER_HISTORY,
            retention: Retention::default(),
            excess: 0,
            expires: None,
            budget: Arc::clone(budget),
        }
    }

    pub(super) fn push(&mut self, payload: Bytes, retention: Retention, now: Instant) {
        let before = self.bytes;
        self.set_retention(retention);
        self.bytes += cost(&payload);
        self.excess += retention.excess(payload.len());
        self.payloads.push_back(payload);
        while !retention.allows(self.payloads.len(), self.excess)
            || (self.bytes > self.budget.per_topic() && self.payloads.len() > 1)
        {
            let Some(oldest) = self.payloads.pop_front() else { break };
            self.bytes -= cost(&oldest);
            self.excess -= retention.excess(oldest.len());
        }
        let held = &self.budget.held;
        if self.bytes > before {
            held.fetch_add(self.bytes - before, Ordering::Relaxed);
        } else if self.bytes < before {
            held.fetch_sub(before - self.bytes, Ordering::Relaxed);
        }
        self.expires = now.checked_add(retention.ttl);
    }

    fn set_retention(&mut self, retention: Retention) {
        let bounds = |retention: Retention| (retention.bytes, retention.messages);
        if bounds(retention) != bounds(self.retention) {
            self.excess = self.payloads.iter().map(|payload| retention.excess(payload.len())).sum();
        }
        self.retention = retention;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// A part of the log, whose latest publication has the offset `last`.
    pub(super) fn read(&self, last: u64, range: HistoryRange, limit: u32) -> Vec<HistoryEntry> {
        let len = self.payloads.len();
        let first = (last + 1).saturating_sub(len as u64);
        let index = |offset: u64| offset.saturating_sub(first).min(len as u64) as usize;
        let (from, to) = match range {
            HistoryRange::After(offset) => (index(offset.saturating_add(1)), len),
            HistoryRange::Before(offset) => (0, index(offset)),
            HistoryRange::Latest => (0, len),
        };
        let mut bytes = 0;
        let fits = |payload: &&Bytes| {
            let fits = bytes < HistoryRead::MAX_BYTES;
            bytes += payload.len();
            fits
        };
        let (limit, part) = (limit as usize, self.payloads.range(from..to));
        let part = if let HistoryRange::After(_) = range {
            from..from + part.take(limit).take_while(fits).count()
        } else {
            to - part.rev().take(limit).take_while(fits).count()..to
        };
        (first + part.start as u64..)
            .zip(self.payloads.range(part))
            .map(|(offset, payload)| HistoryEntry::new(offset, payload.clone()))
            .collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn cost(payload: &Bytes) -> usize {
    payload.len() + PER_PUBLICATION
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn retention(messages: u32) -> Retention {
        Retention::default().messages(messages)
    }

    fn offsets(entries: &[HistoryEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.offset).collect()
    }

    #[tokio::test]
    async fn read_includes_the_publication_that_reaches_the_limit() {
        let mut log = Log::new(&Arc::new(Budget::new(256 << 20)));
        let half = Bytes::from(vec![0; HistoryRead::MAX_BYTES / 2]);
        for _ in 0..5 {
            log.push(half.clone(), retention(10), Instant::now());
        }
        assert_eq!(offsets(&log.read(5, HistoryRange::After(1), 10)), [2, 3]);
        assert_eq!(offsets(&log.read(5, HistoryRange::Before(5), 10)), [3, 4]);
        assert_eq!(offsets(&log.read(5, HistoryRange::Latest, 10)), [4, 5]);
        log.push(Bytes::from(vec![0; HistoryRead::MAX_BYTES * 2]), retention(10), Instant::now());
        assert_eq!(offsets(&log.read(6, HistoryRange::Latest, 10)), [6], "never empty");
    }

    #[tokio::test]
    async fn one_topic_keeps_a_quarter_of_the_budget() {
        let budget = Arc::new(Budget::new(64 << 10));
        let mut log = Log::new(&budget);
        let unbounded = retention(u32::MAX).bytes(usize::MAX);
        for _ in 0..100 {
            log.push(Bytes::from(vec![0; 1 << 10]), unbounded, Instant::now());
        }
        assert!(log.bytes() <= 16 << 10, "{} bytes", log.bytes());
        assert!(log.read(100, HistoryRange::Latest, 100).len() > 10);
        log.push(Bytes::from(vec![0; 32 << 10]), unbounded, Instant::now());
        assert_eq!(offsets(&log.read(101, HistoryRange::Latest, 100)), [101], "the latest stays");
        assert_eq!(budget.held(), log.bytes());
        drop(log);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn ttl_beyond_the_clock_never_expires() {
        let mut log = Log::new(&Arc::new(Budget::new(1 << 20)));
        let retention = Retention::default().messages(0).ttl(Duration::MAX);
        log.push(Bytes::new(), retention, Instant::now());
        assert!(!log.is_expired(Instant::now()));
        assert_eq!(offsets(&log.read(1, HistoryRange::Latest, 9)), [1], "at least one is kept");
    }

    proptest! {
        #[test]
        fn kept_publications_are_within_both_bounds(
            pushes in prop::collection::vec((0..300_usize, 1..6_u32, 0..1000_usize), 1..60),
            changes in 1..20_usize,
        ) {
            let mut log = Log::new(&Arc::new(Budget::new(1 << 20)));
            let mut model: Vec<usize> = Vec::new();
            for (n, (size, ..)) in pushes.iter().enumerate() {
                // Each is valid for some publications.
                let (_, messages, bytes) = pushes[n / changes];
                let retention = Retention::default().messages(messages).bytes(bytes);
                log.push(Bytes::from(vec![0; *size]), retention, Instant::now());
                model.push(*size);
                let excess = |sizes: &[usize]| sizes.iter().map(|s| retention.excess(*s)).sum();
                while !retention.allows(model.len(), excess(&model)) {
                    model.remove(0);
                }
                let kept = log.read(n as u64 + 1, HistoryRange::Latest, 100);
                let kept: Vec<usize> = kept.iter().map(|entry| entry.payload.len()).collect();
                prop_assert!(kept.len() == 1 || kept.iter().sum::<usize>() <= bytes);
                prop_assert_eq!(&kept, &model);
            }
        }

        #[test]
        fn read_is_a_part_of_the_history(
            (pushed, kept, limit) in (0u64..40, 1u32..20, 0u32..25),
            range in prop_oneof![
                (0u64..50).prop_map(HistoryRange::After),
                Just(HistoryRange::After(u64::MAX)),
                (0u64..50).prop_map(HistoryRange::Before),
                Just(HistoryRange::Latest),
            ],
        ) {
            let mut log = Log::new(&Arc::new(Budget::new(1 << 20)));
            for n in 0..pushed {
                log.push(Bytes::from(vec![n as u8]), retention(kept), Instant::now());
            }
            let oldest = pushed.saturating_sub(u64::from(kept)) + 1;
            let all = oldest..=pushed;
            let limit = limit as usize;
            let mut expected: Vec<u64> = match range {
                HistoryRange::After(after) => all.filter(|n| *n > after).take(limit).collect(),
                HistoryRange::Before(before) => all.rev().filter(|n| *n < before).take(limit).collect(),
                HistoryRange::Latest => all.rev().take(limit).collect(),
            };
            expected.sort_unstable();
            let read = log.read(pushed, range, limit as u32);
            prop_assert_eq!(offsets(&read), expected);
            prop_assert!(read.iter().all(|entry| entry.payload[..] == [(entry.offset - 1) as u8]));
        }
    }
}
