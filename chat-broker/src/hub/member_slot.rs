//! The entry of a member in a topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::{fmt, mem};

use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome, Item};
use parking_lot::{Mutex, MutexGuard};

use super::presence_log::{is_presence, presence_changes};

/// The entry of a member in a topic, which snapshots of the members share. Once the member has
/// left, or was closed as a slow consumer, nothing is delivered through it, even if a batch took
/// its snapshot of the members before.
pub struct MemberSlot<M>(Arc<Mutex<State<M>>>);

enum State<M> {
    /// The member has left, was closed as a slow consumer, or does not receive the topic yet.
    Detached,
    Live(M),
    /// The roster of the member is ahead of its batches. Boxed: few members are in this state, and
    /// not for long.
    Ahead(Box<Ahead<M>>),
}

struct Ahead<M> {
    member: M,
    /// How many presence changes of the next batches the roster contains.
    changes: usize,
}

impl<M: Clone> MemberSlot<M> {
    /// The member, unless it has left or was closed as a slow consumer.
    #[must_use]
    pub fn member(&self) -> Option<M> {
        self.with(M::clone)
    }
}

impl<M> MemberSlot<M> {
    /// What `read` returns for the member, unless it has left: cheaper than a clone of the handle.
    /// Deliveries to the member wait until `read` returns.
    pub fn with<T>(&self, read: impl FnOnce(&M) -> T) -> Option<T> {
        self.lock().member().map(read)
    }

    pub(super) fn new(member: M) -> Self {
        Self(Arc::new(Mutex::new(State::Live(member))))
    }

    /// Replaces the member's handle, unless the member is detached: what follows would hide what it
    /// has not received.
    pub(super) fn replace(&self, member: M) {
        match &mut *self.lock() {
            State::Detached => {}
            State::Live(current) => *current = member,
            State::Ahead(ahead) => ahead.member = member,
        }
    }

    /// Skips this many presence changes in the next batches: the roster that the member has received
    /// contains them.
    pub(super) fn skip_presence(&self, changes: usize) {
        let mut state = self.lock();
        if changes > 0
            && let Some(member) = state.take()
        {
            *state = State::Ahead(Box::new(Ahead { member, changes }));
        }
    }

    /// The member leaves, or does not receive the topic yet. A delivery that is under way has ended
    /// when this returns.
    pub(super) fn detach(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.0.lock()
    }
}

impl<M: Deliver> MemberSlot<M> {
    /// Delivers a batch. A member whose outbox is full is closed and detached: if a later batch
    /// fitted again, the member would have a gap that it does not know of.
    pub(super) fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        let mut state = self.lock();
        let outcome = match &*state {
            State::Live(member) => member.deliver(batch),
            _ => state.deliver_news(batch),
        };
        if outcome == DeliveryOutcome::Full {
            state.close();
        }
        outcome
    }
}

impl<M> State<M> {
    fn member(&self) -> Option<&M> {
        match self {
            Self::Detached => None,
            Self::Live(member) => Some(member),
            Self::Ahead(ahead) => Some(&ahead.member),
        }
    }

    fn take(&mut self) -> Option<M> {
        match mem::replace(self, Self::Detached) {
            Self::Detached => None,
            Self::Live(member) => Some(member),
            Self::Ahead(ahead) => Some(ahead.member),
        }
    }
}

impl<M: Deliver> State<M> {
    #[cold]
    fn close(&mut self) {
        if let Some(member) = self.take() {
            member.close(CloseReason::SlowConsumer);
        }
    }

    /// Delivers a batch without the presence changes that the member's roster contains.
    // Not inlined: each delivery to a live member would save the registers that this needs.
    #[cold]
    #[inline(never)]
    fn deliver_news(&mut self, batch: &Batch) -> DeliveryOutcome {
        let Self::Ahead(ahead) = self else { return DeliveryOutcome::Closed };
        let known = ahead.changes.min(presence_changes(batch.items()));
        ahead.changes -= known;
        let outcome = match known {
            // With the frames that it shares with the other members.
            0 => ahead.member.deliver(batch),
            all if all == batch.items().len() => DeliveryOutcome::Skipped,
            _ => ahead.member.deliver(&without_first_changes(batch, known)),
        };
        if ahead.changes == 0
            && let Some(member) = self.take()
        {
            *self = Self::Live(member);
        }
        outcome
    }
}

/// Batches without their first presence changes, by how many these are.
#[derive(Default)]
struct WithoutChanges(Mutex<HashMap<usize, Arc<Batch>>>);

/// The batch without its first presence changes, one for all members that skip as many: of 400 users who
/// joined a room at once, 263 skipped one of 7 numbers, and a batch for each would have encoded 47,259
/// items.
fn without_first_changes(batch: &Batch, changes: usize) -> Arc<Batch> {
    let news = || {
        let mut left = changes;
        let is_news = |item: &&Item| {
            let is_known = left > 0 && is_presence(item);
            left -= usize::from(is_known);
            !is_known
        };
        let items = batch.items().iter().filter(is_news).cloned().collect();
        Arc::new(Batch::new(batch.topic().clone(), items))
    };
    let batches = batch.shared(|_| WithoutChanges::default());
    Arc::clone(batches.0.lock().entry(changes).or_insert_with(news))
}

impl<M> Clone for MemberSlot<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> fmt::Debug for MemberSlot<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberSlot").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use chat_core::{RoomId, Topic};

    use super::*;

    /// Keeps the address and the items of each batch.
    #[derive(Clone, Default)]
    struct Received(Arc<Mutex<Vec<(usize, usize)>>>);

    impl Deliver for Received {
        fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
            self.0.lock().push((std::ptr::from_ref(batch).addr(), batch.items().len()));
            DeliveryOutcome::Queued
        }

        fn close(&self, _: CloseReason) {}
    }

    #[test]
    fn members_that_skip_as_many_changes_share_a_batch() {
        let topic = Topic::Room(RoomId::new("r").unwrap());
        let batch = Batch::new(topic, (0..5).map(Item::Count).collect());
        let received = Received::default();
        for changes in [2, 2, 3, 5, 6, 0] {
            let slot = MemberSlot::new(received.clone());
            slot.skip_presence(changes);
            slot.deliver(&batch);
        }
        let received = received.0.lock();
        let items: Vec<_> = received.iter().map(|(_, items)| *items).collect();
        assert_eq!(items, [3, 3, 2, 5]);
        assert_eq!(received[0].0, received[1].0);
        assert_eq!(received[3].0, std::ptr::from_ref(&batch).addr());
    }
}
