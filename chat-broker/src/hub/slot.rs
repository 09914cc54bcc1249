//! A topic in the fan-out: what its members have yet to get, and its place in the queue.

use chat_core::Item;
use tokio::time::Instant;

/// Publications in one batch, and their bytes but for the last one's: a batch fits into an
/// outbox that is not empty.
const BATCH_ITEMS: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;

/// What has no position in a sequence and arrives before the room is live is kept for the members
/// that wait, up to this many items; beyond it the oldest are dropped.
const MAX_HELD: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct FanOutSlot {
    /// What the members have not been given yet, oldest first.
    pub(super) pending: Vec<Item>,
    /// Since when something has been pending in a room that is live.
    pub(super) pending_since: Option<Instant>,
    /// The topic stands in the fan-out's queue, or is being served.
    pub(super) queued: bool,
    /// Tells it from others, of the same topic too; says in which of the fan-out's queues it
    /// stands.
    pub(super) nth: usize,
    /// How many of `pending` the fan-out counts in its backlog.
    pub(super) counted: usize,
}

impl FanOutSlot {
    /// Takes what is pending, oldest first, for the members of this moment: as much as
    /// makes one batch.
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

    /// Since when the first of what was pending had been, after a [`cut`](Self::cut): the rest has
    /// waited for as long.
    pub(super) fn take_since(&mut self) -> Option<Instant> {
        let since = self.pending_since;
        self.pending_since = since.filter(|_| !self.pending.is_empty());
        since
    }

    /// Bounds what waits for a room that is not live.
    pub(super) fn drop_excess(&mut self) {
        let excess = self.pending.len().saturating_sub(MAX_HELD);
        self.pending.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn pending(sizes: impl IntoIterator<Item = usize>) -> FanOutSlot {
        let item = |size| Item::Envelope(Bytes::from(vec![b'x'; size]), None);
        FanOutSlot { pending: sizes.into_iter().map(item).collect(), ..FanOutSlot::default() }
    }

    fn batches(slot: &mut FanOutSlot) -> Vec<usize> {
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
