//! The latest messages of a room, as one server holds them for those who come.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::history::Entry;
use crate::position::{Epoch, Position};

/// The latest messages of one sequence, oldest first, each offset one above the last.
#[derive(Debug, Clone)]
pub struct Recent {
    epoch: Epoch,
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
        let (epoch, entries) = (Epoch::NONE, VecDeque::new());
        Self { epoch, entries, bytes: 0, max_entries, max_bytes }
    }

    /// The messages with offsets above `after` and up to `upto`, oldest first. `None` if
    /// some of them are not here, or are of another sequence.
    pub fn between(
        &self,
        after: u64,
        upto: Position,
    ) -> Option<impl Iterator<Item = &Entry> + Clone> {
        let wanted = upto.offset.saturating_sub(after);
        let first = self.entries.front().map_or(u64::MAX, |first| first.offset);
        let has_all = || {
            let end = first.saturating_add(self.entries.len() as u64);
            self.epoch == upto.epoch && first <= after + 1 && upto.offset < end
        };
        if wanted > 0 && !has_all() {
            return None;
        }
        let skip = if wanted == 0 { self.entries.len() } else { (after + 1 - first) as usize };
        Some(self.entries.range(skip.min(self.entries.len())..).take(wanted as usize))
    }

    /// The newest messages up to `upto`: `limit` of them and `bytes` of payload at most,
    /// but the newest in any case. Oldest first. None of another sequence.
    pub fn latest(
        &self,
        upto: Position,
        limit: usize,
        bytes: usize,
    ) -> impl Iterator<Item = &Entry> + Clone {
        let is_same = self.epoch == upto.epoch;
        let end = self.entries.partition_point(|entry| is_same && entry.offset <= upto.offset);
        let mut size = 0;
        let fits = |entry: &&Entry| {
            let is_newest = size == 0;
            size += entry.payload.len().max(1);
            is_newest || size <= bytes
        };
        let count = self.entries.range(..end).rev().take(limit).take_while(fits).count();
        self.entries.range(end - count..end)
    }

    /// The most messages that are held.
    #[must_use]
    pub fn max_entries(&self) -> usize {
        self.max_entries
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
    pub(crate) fn push(&mut self, Position { epoch, offset }: Position, payload: Bytes) {
        let follows = |newest: &Entry| self.epoch == epoch && newest.offset + 1 == offset;
        if !self.entries.back().is_some_and(follows) {
            self.clear();
            self.epoch = epoch;
        }
        self.bytes += payload.len();
        self.entries.push_back(Entry { offset, payload });
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
    use super::*;

    /// In the sequence of the tests.
    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::from_random(1), offset }
    }

    fn recent(offsets: std::ops::RangeInclusive<u64>) -> Recent {
        let mut recent = Recent::new(4, 100);
        for offset in offsets {
            recent.push(at(offset), Bytes::from(vec![0; 10]));
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
        assert_eq!(offsets(recent.between(5, at(9)).unwrap()), [6, 7, 8, 9]);
        assert_eq!(offsets(recent.between(6, at(8)).unwrap()), [7, 8]);
        assert_eq!(offsets(recent.between(9, at(9)).unwrap()), [0; 0]);
        assert_eq!(offsets(recent.between(3, at(3)).unwrap()), [0; 0], "nothing is wanted");
        assert!(recent.between(4, at(9)).is_none(), "5 is gone");
        assert!(recent.between(8, at(10)).is_none(), "10 has not come");
        assert!(Recent::new(4, 100).between(0, at(1)).is_none());
    }

    #[test]
    fn messages_of_another_sequence_are_no_substitute() {
        let mut recent = recent(1..=4);
        let before = at(3);
        for offset in 1..=9 {
            let position = Position { epoch: Epoch::from_random(2), offset };
            recent.push(position, Bytes::new());
        }
        assert!(recent.between(1, before).is_none());
        assert_eq!(offsets(recent.between(3, before).unwrap()), [0; 0], "nothing is wanted");
        assert_eq!(offsets(recent.latest(before, 9, 100)), [0; 0]);
    }

    #[test]
    fn the_latest_are_bounded_in_number_and_bytes() {
        let recent = recent(1..=9);
        assert_eq!(offsets(recent.latest(at(9), 2, 100)), [8, 9]);
        assert_eq!(offsets(recent.latest(at(8), 9, 25)), [7, 8]);
        assert_eq!(offsets(recent.latest(at(9), 9, 1)), [9], "the newest in any case");
        assert_eq!(offsets(recent.latest(at(2), 9, 100)), [0; 0]);
        assert_eq!(offsets(recent.latest(at(9), 0, 100)), [0; 0]);
    }

    #[test]
    fn memory_is_bounded_and_can_be_given_up() {
        let mut recent = recent(1..=9);
        recent.push(at(10), Bytes::from(vec![0; 95]));
        assert_eq!((recent.oldest(), recent.bytes()), (Some(10), 95));
        recent.push(at(20), Bytes::new());
        assert_eq!((recent.oldest(), recent.bytes()), (Some(20), 0), "no hole inside");
        recent.shed();
        assert_eq!(recent.oldest(), None);
    }
}
