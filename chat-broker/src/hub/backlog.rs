//! What the members of one topic have yet to receive, and whether the fan-out has the topic queued.

use chat_core::Item;
use tokio::time::Instant;

/// Publications in one batch, and their bytes but for the last one's: a batch fits into an
/// outbox that is not empty.
const BATCH_ITEMS: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;

/// Items without a position that arrive before the room is live, for the members that wait. Above
/// this the oldest are dropped: nothing but a bound keeps a room that cannot be read from growing.
const MAX_HELD: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct RoomBacklog {
    /// Items that are in no batch yet, oldest first.
    pub(super) pending: Vec<Item>,
    /// When the oldest of them became pending, in a room that is live.
    pub(super) pending_since: Option<Instant>,
    /// A turn of this topic is in a queue of the fan-out, or is being served. At most one is: this
    /// is what keeps the order of its batches.
    pub(super) is_queued: bool,
    /// The number of this room among all that ever began, earlier rooms of the same topic included.
    /// It also selects the queue of the fan-out.
    pub(super) serial: usize,
    /// How many items of `pending` are in the hub's total.
    pub(super) counted: usize,
}

impl RoomBacklog {
    /// Takes the items of one batch, oldest first, for the current members.
    pub(super) fn cut(&mut self) -> Vec<Item> {
        let mut bytes = 0;
        let mut fits = |item: &Item| {
            let before = bytes;
            bytes += item.size();
            before < BATCH_BYTES
        };
        let count = self.pending.iter().take(BATCH_ITEMS).take_while(|item| fits(item)).count();
        let rest = self.pending.split_off(count);
        std::mem::replace(&mut self.pending, rest)
    }

    /// When the oldest item of the batch became pending, after a [`cut`](Self::cut). The rest keeps
    /// that time: it may have waited as long.
    pub(super) fn take_since(&mut self) -> Option<Instant> {
        let since = self.pending_since;
        self.pending_since = since.filter(|_| !self.pending.is_empty());
        since
    }

    /// Bounds the items of a room that is not live.
    pub(super) fn drop_excess(&mut self) {
        let excess = self.pending.len().saturating_sub(MAX_HELD);
        self.pending.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn pending(sizes: impl IntoIterator<Item = usize>) -> RoomBacklog {
        let item = |size| Item::Envelope(Bytes::from(vec![b'x'; size]), None);
        RoomBacklog { pending: sizes.into_iter().map(item).collect(), ..RoomBacklog::default() }
    }

    fn batches(slot: &mut RoomBacklog) -> Vec<usize> {
        let batches = std::iter::from_fn(|| Some(slot.cut().len()).filter(|count| *count > 0));
        batches.collect()
    }

    #[test]
    fn batch_ends_with_the_item_that_reaches_its_bytes() {
        assert_eq!(batches(&mut pending([BATCH_BYTES / 2; 5])), [2, 2, 1]);
        assert_eq!(batches(&mut pending([3 * BATCH_BYTES, 1])), [1, 1], "never empty");
    }

    #[test]
    fn batch_has_as_many_items_as_the_bound_says() {
        assert_eq!(batches(&mut pending([1; 2 * BATCH_ITEMS + 1])), [BATCH_ITEMS, BATCH_ITEMS, 1]);
    }

    #[test]
    fn latest_items_are_held_for_a_room_that_is_not_live() {
        let mut slot = pending(1..=MAX_HELD + 3);
        slot.drop_excess();
        assert!(slot.pending.iter().map(Item::size).eq(4..=MAX_HELD + 3));
    }
}
