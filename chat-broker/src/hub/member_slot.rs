//! A member's place in a topic.

use std::fmt;
use std::sync::Arc;

use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome};
use parking_lot::{Mutex, MutexGuard};

/// A member's place in a topic, as snapshots of the members hold it. Once the member has
/// left, or was closed as a slow consumer, nothing is delivered through it, even by a snapshot
/// that was taken before.
pub struct MemberSlot<M>(Arc<Mutex<Option<M>>>);

impl<M: Clone> MemberSlot<M> {
    /// The member, unless it has left or was closed as a slow consumer.
    #[must_use]
    pub fn member(&self) -> Option<M> {
        self.taken().clone()
    }
}

impl<M> MemberSlot<M> {
    /// What `read` makes of the member, unless it has left: where a copy of the handle would be too
    /// much. Deliveries to the member wait until `read` returns.
    pub fn with<T>(&self, read: impl FnOnce(&M) -> T) -> Option<T> {
        self.taken().as_ref().map(read)
    }

    pub(super) fn new(member: M) -> Self {
        Self(Arc::new(Mutex::new(Some(member))))
    }

    /// Puts another handle in the place of the member's, unless nothing is delivered through it any
    /// more: what follows would hide what the member has not received.
    pub(super) fn replace(&self, member: M) {
        if let Some(place) = self.taken().as_mut() {
            *place = member;
        }
    }

    /// The member leaves, or does not receive the topic yet. A delivery that is under way is over when
    /// this returns.
    pub(super) fn detach(&self) {
        self.taken().take();
    }

    fn taken(&self) -> MutexGuard<'_, Option<M>> {
        self.0.lock()
    }
}

impl<M: Deliver> MemberSlot<M> {
    /// A member without room for the batch is closed, and gets nothing more: once it had room again,
    /// what follows would hide what it has not received.
    pub(super) fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        let mut place = self.taken();
        let outcome =
            place.as_ref().map_or(DeliveryOutcome::Closed, |member| member.deliver(batch));
        if outcome == DeliveryOutcome::Full
            && let Some(member) = place.take()
        {
            member.close(CloseReason::SlowConsumer);
        }
        outcome
    }
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
