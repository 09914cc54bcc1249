//! The position of a reader that continues a room's sequence, in pages of the history and then in the
//! room's memory: a member that catches up, or a follower.
//!
//! All decisions of the two are here; each has its own loop, because what lies between them differs. A
//! member is given page after page, each when it has drained the last, and is closed if a read fails. A
//! follower is in its consumer's task: it returns after each page, and retries a read that fails.

use chat_core::{History, HistoryEntry, HistoryRange, Item, Position, Recent};

use super::joiner::{Snapshot, envelopes};
use crate::history::HistoryRead;

/// Maximum messages in one page, and bytes of their payload: the limits of a batch of the fan-out,
/// and of a read of the broker.
pub(super) const PAGE: u32 = 256;
pub(super) const PAGE_BYTES: usize = HistoryRead::MAX_BYTES;

/// A reader of a room's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reader {
    here: Position,
    /// The reader's sequence was lost, and `here` is the beginning of the new one: the next item is
    /// a gap. It waits for the next page, which may begin later in the sequence: two gaps would say
    /// the same.
    is_lost: bool,
    /// The broker has had all up to `here`. It may have lost some of that since a consumer saved
    /// the position.
    is_confirmed: bool,
}

impl Reader {
    /// A reader that has the messages up to `here`, a position that a consumer has saved.
    pub(super) fn new(here: Position) -> Self {
        Self { here, is_lost: false, is_confirmed: false }
    }

    /// A reader that has the messages up to `here`, where a page of the broker ended.
    pub(super) fn after_page(here: Position) -> Self {
        Self { is_confirmed: true, ..Self::new(here) }
    }

    /// What the reader reads next.
    pub(super) fn range(&self) -> HistoryRange {
        HistoryRange::After(self.here.offset)
    }

    /// Takes the page that was read; returns its messages, after a gap if they do not follow. `None`
    /// if the page changes nothing: to read again would return the same.
    pub(super) fn take(&mut self, page: &History) -> Option<Vec<Item>> {
        let before = *self;
        let items = self.advance(page);
        (*self != before).then_some(items)
    }

    fn advance(&mut self, History { position, entries, .. }: &History) -> Vec<Item> {
        let position = *position;
        self.is_confirmed = true;
        if self.here.epoch != position.epoch && self.here != Position::default() {
            (self.here, self.is_lost) = (Position { offset: 0, ..position }, true);
            if position.offset > 0 {
                // Read after an offset of the old sequence: the new one is read from its beginning.
                return Vec::new();
            }
        }
        if position.offset < self.here.offset {
            // The backend lost the end of the sequence, and assigns its offsets to other messages.
            self.here = position;
            return vec![Item::Gap(Some(position))];
        }
        let mut items = Vec::with_capacity(entries.len() + 1);
        let first = entries.first().map_or(position.offset + 1, |first| first.offset);
        let was_lost = std::mem::take(&mut self.is_lost);
        if was_lost || first > self.here.offset + 1 {
            items.push(Item::Gap(Some(Position { offset: first - 1, ..position })));
        }
        items.extend(envelopes(position, entries.iter()));
        let offset = entries.last().map_or(position.offset, |last| last.offset);
        // An empty room has no epoch that the position could be of.
        if offset > 0 {
            self.here = Position { offset, ..position };
        }
        items
    }

    /// The items between the reader and the room's position; `None` if not all are in memory.
    pub(super) fn rest<M>(&self, snapshot: &Snapshot<'_, M>) -> Option<Vec<Item>> {
        let (Some(position), Some(recent)) = (snapshot.position, snapshot.recent) else {
            return Some(Vec::new());
        };
        let missed = missed(recent, self.here, position).filter(|_| !self.is_lost)?;
        Some(envelopes(position, missed.into_iter()).collect())
    }

    /// Whether the next page is to be read. Not if the reader is ahead of a room of the same
    /// sequence: the room receives what it lacks. But a position that the broker has not confirmed is
    /// read after once: the broker may have lost the end of the sequence, and be at the room's
    /// position.
    pub(super) fn wants_page(&self, room: Option<Position>) -> bool {
        let is_behind =
            |room: Position| room.epoch == self.here.epoch && room.offset < self.here.offset;
        !(self.is_confirmed && room.is_some_and(is_behind))
    }
}

/// The messages between two positions; `None` if not all are in memory, or if they exceed a page.
pub(super) fn missed(
    recent: &Recent,
    since: Position,
    upto: Position,
) -> Option<Vec<&HistoryEntry>> {
    // The default position is before the first message of any epoch.
    let is_same = since.epoch == upto.epoch || since == Position::default();
    if !is_same || since.offset > upto.offset {
        return None;
    }
    let missed: Vec<_> = recent.between(since.offset, upto)?.collect();
    let bytes: usize = missed.iter().map(|entry| entry.payload.len()).sum();
    (bytes <= PAGE_BYTES).then_some(missed)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chat_core::Epoch;

    use super::*;

    fn at(epoch: u64, offset: u64) -> Position {
        Position { epoch: Epoch::from_random(epoch), offset }
    }

    fn page(position: Position, offsets: &[u64]) -> History {
        let entry = |offset: &u64| HistoryEntry::new(*offset, Bytes::new());
        History::new(position, offsets.iter().map(entry).collect())
    }

    /// Each item: its position, and whether it is a gap.
    fn taken(reader: &mut Reader, history: &History) -> Vec<(Position, bool)> {
        let items = reader.take(history).unwrap_or_default().into_iter();
        let shown = items
            .map(|item| (item.position().expect("all have one"), matches!(item, Item::Gap(_))));
        shown.collect()
    }

    #[test]
    fn trimmed_messages_are_one_gap() {
        let mut reader = Reader::new(at(1, 3));
        let gap = (at(1, 6), true);
        assert_eq!(taken(&mut reader, &page(at(1, 9), &[7])), [gap, (at(1, 7), false)]);
        assert_eq!(taken(&mut reader, &page(at(1, 9), &[])), [(at(1, 9), true)]);
        assert_eq!(reader.here, at(1, 9));
    }

    #[test]
    fn new_epoch_is_one_gap_before_what_is_left_of_it() {
        for (offsets, gap) in [(&[1, 2][..], 0), (&[2], 1), (&[], 2)] {
            let mut reader = Reader::new(at(1, 3));
            assert_eq!(taken(&mut reader, &page(at(2, 2), &[])), []);
            assert_eq!(reader.range(), HistoryRange::After(0));
            let left = offsets.iter().map(|offset| (at(2, *offset), false));
            let expected: Vec<_> = [(at(2, gap), true)].into_iter().chain(left).collect();
            assert_eq!(taken(&mut reader, &page(at(2, 2), offsets)), expected);
            assert_eq!(reader.here, at(2, 2));
        }
    }

    #[test]
    fn sequence_without_its_end_is_a_gap() {
        let mut reader = Reader::new(at(1, 9));
        assert!(reader.wants_page(Some(at(1, 3))));
        assert_eq!(taken(&mut reader, &page(at(1, 3), &[])), [(at(1, 3), true)]);
        assert_eq!(taken(&mut reader, &page(at(1, 4), &[4])), [(at(1, 4), false)]);
        assert!(!reader.wants_page(Some(at(1, 3))), "the broker was at 4");
    }

    #[test]
    fn sequence_that_was_lost_without_a_new_one_is_a_gap() {
        let mut reader = Reader::new(at(1, 3));
        let empty = page(Position::default(), &[]);
        assert_eq!(taken(&mut reader, &empty), [(Position::default(), true)]);
        assert_eq!(taken(&mut reader, &page(at(2, 1), &[1])), [(at(2, 1), false)]);
    }
}
