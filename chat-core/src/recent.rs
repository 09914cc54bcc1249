//! The latest messages of a room, as one server holds them for those who come.

use std::collections::VecDeque;

use crate::history::Entry;

/// The latest messages, oldest first, each offset one above the last.
#[derive(Debug, Clone)]
pub struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl Recent {
    /// Room for so many messages, and for so many bytes of payload; the newest is kept even
    /// if it alone is larger.
    #[must_use]
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, max_entries, max_bytes }
    }

    /// The messages with offsets above `after` and up to `upto`, oldest first. `None` if
    /// some of them are not here any more.
    pub fn between(&self, after: u64, upto: u64) -> Option<impl Iterator<Item = &Entry> + Clone> {
        let wanted = upto.saturating_sub(after);
        let first = self.entries.front().map_or(u64::MAX, |first| first.offset);
        if wanted > 0 && (first > after + 1 || first + (self.entries.len() as u64) <= upto) {
            return None;
        }
        let skip = if wanted == 0 { self.entries.len() } else { (after + 1 - first) as usize };
        Some(self.entries.range(skip.min(self.entries.len())..).take(wanted as usize))
    }

    /// The newest messages up to `upto`: `limit` of them and `bytes` of payload at most,
    /// but the newest in any case. Oldest first.
    pub fn latest(
        &self,
        upto: u64,
        limit: usize,
        bytes: usize,
    ) -> impl Iterator<Item = &Entry> + Clone {
        let end = self.entries.partition_point(|entry| entry.offset <= upto);
        let mut size = 0;
        let fits = |entry: &&Entry| {
            let is_newest = size == 0;
            size += entry.payload.len().max(1);
            is_newest || size <= bytes
        };
        let count = self.entries.range(..end).rev().take(limit).take_while(fits).count();
        self.entries.range(end - count..end)
    }

    /// The offset of the oldest message here.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.entries.front().map(|oldest| oldest.offset)
    }

    /// How many bytes of payload are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the message that follows on the newest; one that does not begins anew.
    pub(crate) fn push(&mut self, entry: Entry) {
        if self.entries.back().is_some_and(|newest| newest.offset + 1 != entry.offset) {
            self.clear();
        }
        self.bytes += entry.payload.len();
        self.entries.push_back(entry);
        while self.entries.len() > self.max_entries.max(1)
            || (self.bytes > self.max_bytes && self.entries.len() > 1)
        {
            self.drop_oldest();
        }
    }

    /// Gives up the older half, for want of memory.
    pub fn shed(&mut self) {
        for _ in 0..self.entries.len().div_ceil(2) {
            self.drop_oldest();
        }
        self.entries.shrink_to(2 * self.entries.len());
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.entries.pop_front() {
            self.bytes -= oldest.payload.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn recent(offsets: std::ops::RangeInclusive<u64>) -> Recent {
        let mut recent = Recent::new(4, 100);
        for offset in offsets {
            recent.push(Entry { offset, payload: Bytes::from(vec![0; 10]) });
        }
        recent
    }

    fn offsets<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<u64> {
        entries.map(|entry| entry.offset).collect()
    }

    #[test]
    fn only_whole_stretches_are_given() {
        let recent = recent(1..=9);
        assert_eq!(recent.oldest(), Some(6));
        assert_eq!(offsets(recent.between(5, 9).unwrap()), [6, 7, 8, 9]);
        assert_eq!(offsets(recent.between(6, 8).unwrap()), [7, 8]);
        assert_eq!(offsets(recent.between(9, 9).unwrap()), [0; 0]);
        assert_eq!(offsets(recent.between(3, 3).unwrap()), [0; 0], "nothing is wanted");
        assert!(recent.between(4, 9).is_none(), "5 is gone");
        assert!(recent.between(8, 10).is_none(), "10 has not come");
        assert!(Recent::new(4, 100).between(0, 1).is_none());
    }

    #[test]
    fn the_latest_are_bounded_in_number_and_bytes() {
        let recent = recent(1..=9);
        assert_eq!(offsets(recent.latest(9, 2, 100)), [8, 9]);
        assert_eq!(offsets(recent.latest(8, 9, 25)), [7, 8]);
        assert_eq!(offsets(recent.latest(9, 9, 1)), [9], "the newest in any case");
        assert_eq!(offsets(recent.latest(2, 9, 100)), [0; 0]);
        assert_eq!(offsets(recent.latest(9, 0, 100)), [0; 0]);
    }

    #[test]
    fn memory_is_bounded_and_can_be_given_up() {
        let mut recent = recent(1..=9);
        recent.push(Entry { offset: 10, payload: Bytes::from(vec![0; 95]) });
        assert_eq!((recent.oldest(), recent.bytes()), (Some(10), 95));
        recent.push(Entry { offset: 20, payload: Bytes::new() });
        assert_eq!((recent.oldest(), recent.bytes()), (Some(20), 0), "no hole inside");
        recent.shed();
        assert_eq!(recent.oldest(), None);
    }
}
