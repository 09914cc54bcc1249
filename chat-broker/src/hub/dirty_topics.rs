//! Topics that the [interest](super::interest) loop has to act on, and why.

use std::collections::HashSet;

use chat_core::Topic;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Topics that changed since the loop took them last: each once, so bounded by their number.
#[derive(Debug, Default)]
pub(super) struct DirtyTopics {
    queue: Mutex<DirtyQueue>,
    wake: Notify,
}

#[derive(Debug, Default)]
pub(super) struct DirtyQueue {
    /// Topics whose first member joined, or whose last one left.
    pub(super) membership_changed: HashSet<Topic>,
    /// Rooms that need a read of their history or occupants.
    pub(super) needs_read: HashSet<Topic>,
    /// Rooms whose position must be compared with the broker's: they may have missed publications.
    pub(super) needs_check: HashSet<Topic>,
    /// Large rooms whose members have yet to get the new number of occupants.
    pub(super) count_changed: HashSet<Topic>,
    /// The connection to the broker was lost and is back.
    pub(super) interrupted: bool,
}

impl DirtyTopics {
    pub(super) fn membership_changed(&self, topic: Topic) {
        self.push(|queue| queue.membership_changed.insert(topic));
    }

    pub(super) fn needs_read(&self, topic: Topic) {
        self.push(|queue| queue.needs_read.insert(topic));
    }

    pub(super) fn needs_check(&self, topic: Topic) {
        self.push(|queue| queue.needs_check.insert(topic));
    }

    pub(super) fn count_changed(&self, topic: Topic) {
        self.push(|queue| queue.count_changed.insert(topic));
    }

    pub(super) fn interrupted(&self) {
        self.push(|queue| !std::mem::replace(&mut queue.interrupted, true));
    }

    /// Waits until something was marked since the last [`take`](Self::take).
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    pub(super) fn take(&self) -> DirtyQueue {
        std::mem::take(&mut *self.queue())
    }

    fn push(&self, insert: impl FnOnce(&mut DirtyQueue) -> bool) {
        if insert(&mut self.queue()) {
            self.wake.notify_one();
        }
    }

    fn queue(&self) -> MutexGuard<'_, DirtyQueue> {
        self.queue.lock()
    }
}
