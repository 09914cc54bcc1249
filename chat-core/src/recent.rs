//! The latest messages of a room, as one server holds them for those who come.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::history::{HistoryEntry, HistoryRange, Retention};
use crate::position::{Epoch, Position};

/// The latest messages of one sequence, oldest first, each offset one above the last; never one
/// that the broker has trimmed, if all servers publish with the same [`Retention`].
#[derive(Debug, Clone)]
pub struct Recent {
    epoch: Epoch,
    entries: VecDeque<HistoryEntry>,
    /// The offset of the latest message, whether it is held or not.
    newest: u64,
    /// Up to this offset the broker keeps nothing, as far as is known; 0 if it is not.
    floor: u64,
    bytes: usize,
    /// By how much the messages are larger than their shares.
    excess: usize,
    retention: Retention,
    /// Of each message: [`Retention::share`].
    share: usize,
    max_entries: usize,
    max_bytes: usize,
}

/// A part of a room's history that [`Recent`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentPage<'a> {
    /// Oldest first.
    pub entries: Vec<&'a HistoryEntry>,
    /// Whether there are more in the direction of reading.
    pub more: bool,
}

impl Recent {
    /// Room for so many messages, and for so many bytes of payload, of a room that keeps as much as
    /// `retention` says; the newest is held even if it alone is larger.
    #[must_use]
    pub fn new(retention: Retention, max_entries: usize, max_bytes: usize) -> Self {
        Self {
            epoch: Epoch::NONE,
            entries: VecDeque::new(),
            newest: 0,
            floor: 0,
            bytes: 0,
            excess: 0,
            retention,
            share: retention.share(),
            max_entries: max_entries.min(retention.messages as usize).max(1),
            max_bytes,
        }
    }

    /// What the broker would answer to a read of `range` when the room stood at `upto`: `limit`
    /// messages at most, and the one that reaches `bytes` of payload is the last. `None` if that
    /// cannot be known from what is held here.
    #[must_use]
    pub fn page(
        &self,
        range: HistoryRange,
        upto: Position,
        limit: usize,
        bytes: usize,
    ) -> Option<RecentPage<'_>> {
        let is_same = self.epoch == upto.epoch && upto.offset <= self.newest;
        if upto.offset > 0 && !is_same || upto.offset < self.floor {
            return None;
        }
        match range {
            HistoryRange::After(after) if after > upto.offset => None,
            HistoryRange::After(after) => self.page_after(after, upto.offset, limit, bytes),
            HistoryRange::Before(before) => {
                let end = before.saturating_sub(1).min(upto.offset);
                self.page_back_from(end, limit, bytes)
            }
            HistoryRange::Latest => self.page_back_from(upto.offset, limit, bytes),
        }
    }

    fn page_after(
        &self,
        after: u64,
        end: u64,
        limit: usize,
        bytes: usize,
    ) -> Option<RecentPage<'_>> {
        // What is gone is left out.
        let first = after.max(self.floor).saturating_add(1);
        if first > end {
            return Some(RecentPage { entries: Vec::new(), more: false });
        }
        let held = self.entries.range(self.index(first)?..=self.index(end)?);
        let entries: Vec<_> = held.take(limit).take_while(fits(bytes)).collect();
        let more = entries.last().is_some_and(|last| last.offset < end);
        Some(RecentPage { entries, more })
    }

    fn page_back_from(&self, end: u64, limit: usize, bytes: usize) -> Option<RecentPage<'_>> {
        if end <= self.floor {
            return Some(RecentPage { entries: Vec::new(), more: false });
        }
        let end = self.index(end)?;
        let held = self.entries.range(..=end);
        let count = held.rev().take(limit).take_while(fits(bytes)).count();
        let entries: Vec<_> = self.entries.range(end + 1 - count..=end).collect();
        let more = entries.first().is_some_and(|first| !self.begins_with(first.offset));
        // Of what lies before all that is held nothing is known.
        (!more || count <= end).then_some(RecentPage { entries, more })
    }

    /// Where a message stands among those that are held.
    fn index(&self, offset: u64) -> Option<usize> {
        let index = offset.checked_sub(self.oldest()?)? as usize;
        (index < self.entries.len()).then_some(index)
    }

    /// The messages with offsets above `after` and up to `upto`, oldest first. `None` if
    /// some of them are not here, or are of another sequence.
    pub fn between(
        &self,
        after: u64,
        upto: Position,
    ) -> Option<impl Iterator<Item = &HistoryEntry> + Clone> {
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
    ) -> impl Iterator<Item = &HistoryEntry> + Clone {
        let is_same = self.epoch == upto.epoch;
        let end = self.entries.partition_point(|entry| is_same && entry.offset <= upto.offset);
        let mut size = 0;
        let fits = |entry: &&HistoryEntry| {
            let is_newest = size == 0;
            size += entry.payload.len().max(1);
            is_newest || size <= bytes
        };
        let count = self.entries.range(..end).rev().take(limit).take_while(fits).count();
        self.entries.range(end - count..end)
    }

    /// Whether the broker keeps nothing before the message with this offset, as far as is known.
    #[must_use]
    pub fn begins_with(&self, offset: u64) -> bool {
        offset <= self.floor.saturating_add(1)
    }

    /// What the room keeps.
    #[must_use]
    pub fn retention(&self) -> Retention {
        self.retention
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

    /// Adds a message that was just published. If it does not follow on the newest, all that is
    /// held is dropped first.
    pub(crate) fn push(&mut self, position: Position, payload: Bytes) {
        self.append(position, payload);
        // The broker has trimmed by the same rule.
        while let Some(trimmed) = self.trim() {
            self.floor = trimmed;
        }
        self.bound();
    }

    /// As [`push`](Self::push), for a message of the past: the room may have kept more then.
    pub(crate) fn load(&mut self, position: Position, payload: Bytes) {
        self.append(position, payload);
        while self.trim().is_some() {}
        self.bound();
    }

    fn append(&mut self, Position { epoch, offset }: Position, payload: Bytes) {
        if self.epoch != epoch || self.newest.checked_add(1) != Some(offset) {
            self.clear();
            self.epoch = epoch;
        }
        self.newest = offset;
        self.bytes += payload.len();
        self.excess += payload.len().saturating_sub(self.share);
        self.entries.push_back(HistoryEntry { offset, payload });
    }

    /// Drops the oldest if the room keeps it no longer; returns its offset.
    fn trim(&mut self) -> Option<u64> {
        let is_kept = self.retention.allows(self.entries.len(), self.excess);
        if is_kept { None } else { self.drop_oldest() }
    }

    /// Drops what is more than is to be held here.
    fn bound(&mut self) {
        while self.entries.len() > self.max_entries
            || (self.bytes > self.max_bytes && self.entries.len() > 1)
        {
            self.drop_oldest();
        }
    }

    /// Gives up the older half, for want of memory.
    pub fn evict(&mut self) {
        for _ in 0..self.entries.len().div_ceil(2) {
            self.drop_oldest();
        }
        self.entries.shrink_to(2 * self.entries.len());
    }

    /// The broker keeps nothing of the sequence up to here.
    pub(crate) fn begin(&mut self, Position { epoch, offset }: Position) {
        self.clear();
        self.epoch = epoch;
        (self.newest, self.floor) = (offset, offset);
    }

    /// The time of all messages is over, unless others have followed that this server missed.
    pub(crate) fn expire(&mut self) {
        while self.drop_oldest().is_some() {}
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        (self.newest, self.floor) = (0, 0);
        (self.bytes, self.excess) = (0, 0);
    }

    fn drop_oldest(&mut self) -> Option<u64> {
        let oldest = self.entries.pop_front()?;
        self.bytes -= oldest.payload.len();
        self.excess -= oldest.payload.len().saturating_sub(self.share);
        Some(oldest.offset)
    }
}

/// Takes messages until one has reached so many bytes.
fn fits(bytes: usize) -> impl FnMut(&&HistoryEntry) -> bool {
    let mut size = 0;
    move |entry| {
        let fits = size < bytes;
        size += entry.payload.len();
        fits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// In the sequence of the tests.
    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::from_random(1), offset }
    }

    /// Holds four messages, and 100 bytes.
    fn few() -> Recent {
        Recent::new(Retention::default(), 4, 100)
    }

    fn recent(offsets: std::ops::RangeInclusive<u64>) -> Recent {
        let mut recent = few();
        for offset in offsets {
            recent.push(at(offset), Bytes::from(vec![0; 10]));
        }
        recent
    }

    fn offsets<'a>(entries: impl Iterator<Item = &'a HistoryEntry>) -> Vec<u64> {
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
        assert!(few().between(0, at(1)).is_none());
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
        recent.evict();
        assert_eq!(recent.oldest(), None);
    }

    #[test]
    fn as_many_bytes_are_held_as_the_bound_says_and_the_newest_in_any_case() {
        let mut recent = Recent::new(Retention::default(), 9, 100);
        for (offset, size, held) in
            [(1, 50, (1, 50)), (2, 50, (1, 100)), (3, 50, (2, 100)), (4, 101, (4, 101))]
        {
            recent.push(at(offset), Bytes::from(vec![0; size]));
            assert_eq!((recent.oldest().unwrap(), recent.bytes()), held);
        }
    }

    #[test]
    fn page_that_only_the_broker_knows_is_not_guessed() {
        let recent = recent(1..=9);
        let page = |range, upto| recent.page(range, upto, 2, 100);
        assert!(page(HistoryRange::Latest, at(9)).is_some());
        let other = Position { epoch: Epoch::from_random(2), offset: 9 };
        assert_eq!(page(HistoryRange::Latest, other), None, "another sequence");
        assert_eq!(page(HistoryRange::Before(9), at(10)), None, "10 may have trimmed some of them");
        assert_eq!(page(HistoryRange::After(10), at(9)), None, "the reader is ahead");
    }

    #[test]
    fn page_of_a_room_that_nothing_was_sent_to_is_empty() {
        let none = Some(RecentPage { entries: Vec::new(), more: false });
        let later = recent(1..=3);
        assert_eq!(later.page(HistoryRange::Latest, Position::default(), 4, 100), none);
        assert_eq!(few().page(HistoryRange::After(0), Position::default(), 4, 100), none);
    }

    #[test]
    fn room_whose_messages_are_all_gone_begins_after_them() {
        let mut recent = recent(1..=3);
        recent.begin(at(5));
        assert_eq!(
            (recent.oldest(), recent.begins_with(6), recent.begins_with(7)),
            (None, true, false)
        );
        let none = Some(RecentPage { entries: Vec::new(), more: false });
        assert_eq!(recent.page(HistoryRange::Latest, at(5), 4, 100), none);
        recent.push(at(6), Bytes::new());
        assert_eq!(offsets(recent.between(5, at(6)).unwrap()), [6]);
    }

    #[test]
    fn no_more_is_held_than_the_room_keeps() {
        let retention = Retention { messages: 3, ..Retention::default() };
        let recent = Recent::new(retention, 9, 1000);
        assert_eq!((recent.max_entries(), recent.retention()), (3, retention));
        assert_eq!(Recent::new(retention, 2, 1000).max_entries(), 2);
    }

    /// What a broker keeps of the sequence.
    #[derive(Debug, Default)]
    struct Store {
        sizes: Vec<usize>,
        /// The offset of the oldest that is kept, less one.
        trimmed: usize,
    }

    impl Store {
        fn publish(&mut self, size: usize, retention: Retention) -> Position {
            self.sizes.push(size);
            let excess = |sizes: &[usize]| sizes.iter().map(|size| retention.excess(*size)).sum();
            while let kept = &self.sizes[self.trimmed..]
                && !retention.allows(kept.len(), excess(kept))
            {
                self.trimmed += 1;
            }
            self.position()
        }

        fn position(&self) -> Position {
            at(self.sizes.len() as u64)
        }

        fn size(&self, offset: u64) -> usize {
            self.sizes[offset as usize - 1]
        }

        fn payload(&self, offset: u64) -> Bytes {
            Bytes::from(vec![offset as u8; self.size(offset)])
        }

        /// Offsets of a page of what is kept up to `upto`, and whether there are more.
        fn read(
            &self,
            range: HistoryRange,
            upto: u64,
            limit: usize,
            bytes: usize,
        ) -> (Vec<u64>, bool) {
            let kept = self.trimmed as u64 + 1..=upto;
            let (mut part, is_forward): (Vec<u64>, _) = match range {
                HistoryRange::After(after) => (kept.filter(|n| *n > after).collect(), true),
                HistoryRange::Before(before) => {
                    (kept.rev().filter(|n| *n < before).collect(), false)
                }
                HistoryRange::Latest => (kept.rev().collect(), false),
            };
            let all = part.len();
            let mut sum = 0;
            let fits = part.iter().take(limit).take_while(|offset| {
                let fits = sum < bytes;
                sum += self.size(**offset);
                fits
            });
            let count = fits.count();
            part.truncate(count);
            if !is_forward {
                part.reverse();
            }
            (part, count < all)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Publish(usize),
        /// The broker has dropped all, and so does the server.
        Expire,
        Shed,
        /// The server gives the room up, and opens it again with so many messages.
        Open(usize),
        /// The server misses some, and passes on a gap.
        Miss(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => prop_oneof![0..20_usize, 0..200_usize].prop_map(Step::Publish),
            1 => Just(Step::Expire),
            1 => Just(Step::Shed),
            1 => (0..12_usize).prop_map(Step::Open),
            1 => (0..4_usize).prop_map(Step::Miss),
        ]
    }

    proptest! {
        #[test]
        fn page_is_what_the_broker_would_answer(
            (messages, bytes) in (1..12_u32, 0..600_usize),
            (max_entries, max_bytes) in (1..16_usize, 0..800_usize),
            steps in prop::collection::vec(step(), 1..40),
            (limit, page_bytes) in (1..8_usize, 1..300_usize),
        ) {
            let retention = Retention { messages, bytes, ..Retention::default() };
            let mut store = Store::default();
            let mut recent = Recent::new(retention, max_entries, max_bytes);
            let mut is_whole = max_entries >= messages as usize && max_bytes >= bytes.max(200);
            let mut seen = Position::default();
            for step in steps {
                is_whole &= matches!(step, Step::Publish(_));
                match step {
                    Step::Publish(size) => {
                        seen = store.publish(size, retention);
                        recent.push(seen, store.payload(seen.offset));
                    }
                    Step::Expire => {
                        store.trimmed = store.sizes.len();
                        recent.expire();
                    }
                    Step::Shed => recent.evict(),
                    Step::Open(count) => {
                        recent = Recent::new(retention, max_entries, max_bytes);
                        seen = if store.sizes.is_empty() { seen } else { store.position() };
                        let (read, _) = store.read(HistoryRange::Latest, seen.offset, count, usize::MAX);
                        if store.trimmed == store.sizes.len() {
                            recent.begin(seen);
                        }
                        for offset in read {
                            recent.load(at(offset), store.payload(offset));
                        }
                    }
                    Step::Miss(count) => {
                        for _ in 0..count {
                            seen = store.publish(1, retention);
                        }
                        recent.clear();
                    }
                }
                for upto in seen.offset.saturating_sub(2)..=seen.offset {
                    let upto = Position { offset: upto, ..seen };
                    let around = (store.trimmed as u64).saturating_sub(1)..seen.offset + 3;
                    let ranges = around.flat_map(|n| [HistoryRange::After(n), HistoryRange::Before(n)]);
                    for range in ranges.chain([HistoryRange::Latest, HistoryRange::Before(u64::MAX)]) {
                        let page = recent.page(range, upto, limit, page_bytes);
                        let is_ahead = matches!(range, HistoryRange::After(n) if n > upto.offset);
                        let is_held = is_whole && !is_ahead && store.trimmed as u64 <= upto.offset;
                        prop_assert!(page.is_some() || !is_held, "{range:?} up to {upto:?}");
                        let Some(page) = page else { continue };
                        let (expected, more) = store.read(range, upto.offset, limit, page_bytes);
                        let held = page.entries.iter().map(|e| (e.offset, e.payload.clone()));
                        let expected = expected.into_iter().map(|n| (n, store.payload(n)));
                        prop_assert_eq!(held.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
                        prop_assert_eq!(page.more, more, "{:?} up to {:?}", range, upto);
                    }
                }
            }
        }
    }

    /// Its oldest messages are trimmed by the next publication, not by a server that keeps fewer.
    #[test]
    fn history_of_a_longer_retention_is_left_to_the_broker() {
        let retention = Retention { messages: 3, ..Retention::default() };
        let mut recent = Recent::new(retention, 9, 1000);
        for offset in 1..=8 {
            recent.load(at(offset), Bytes::new());
        }
        let page = |recent: &Recent, limit| {
            let page = recent.page(HistoryRange::Latest, at(recent.newest), limit, 1000)?;
            Some((page.entries.first().map(|first| first.offset), page.more))
        };
        assert_eq!(page(&recent, 2), Some((Some(7), true)));
        assert_eq!(page(&recent, 3), None, "there may be more");
        recent.push(at(9), Bytes::new());
        assert_eq!(page(&recent, 3), Some((Some(7), false)));
    }
}
