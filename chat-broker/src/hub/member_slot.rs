//! The entry of a member in a topic.

use std::fmt;
use std::sync::Arc;

use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome};
use parking_lot::{Mutex, MutexGuard};

/// The entry of a member in a topic, which snapshots of the members share. Once the member has
/// left, or was closed as a slow consumer, nothing is delivered through it, even if a batch took
/// its snapshot of the members before.
pub struct MemberSlot<M>(Arc<Mutex<Option<M>>>);

impl<M: Clone> MemberSlot<M> {
    /// The member, unless it has left or was closed as a slow consumer.
    #[must_use]
    pub fn member(&self) -> Option<M> {
        self.lock().clone()
    }
}

impl<M> MemberSlot<M> {
    /// What `read` returns for the member, unless it has left: cheaper than a clone of the handle.
    /// Deliveries to the member wait until `read` returns.
    pub fn with<T>(&self, read: impl FnOnce(&M) -> T) -> Option<T> {
        self.lock().as_ref().map(read)
    }

    pub(super) fn new(member: M) -> Self {
        Self(Arc::new(Mutex::new(Some(member))))
    }

    /// Replaces the member's handle, unless the member is detached: what follows would hide what it
    /// has not received.
    pub(super) fn replace(&self, member: M) {
        if let Some(current) = self.lock().as_mut() {
            *current = member;
        }
    }

    /// The member leaves, or does not receive the topic yet. A delivery that is under way has ended
    /// when this returns.
    pub(super) fn detach(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<M>> {
        self.0.lock()
    }
}

impl<M: Deliver> MemberSlot<M> {
    /// Delivers a batch. A member whose outbox is full is closed and detached: if a later batch
    /// fitted again, the member would have a gap that it does not know of.
    pub(super) fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        let mut member = self.lock();
        let outcome =
            member.as_ref().map_or(DeliveryOutcome::Closed, |member| member.deliver(batch));
        if outcome == DeliveryOutcome::Full
            && let Some(member) = member.take()
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
