//! What happened to topics that the [interest](super::interest) loop has to see to.

use std::collections::HashSet;

use chat_core::Topic;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Topics to be looked at. Bounded by the number of topics.
#[derive(Debug, Default)]
pub(super) struct DirtyTopics {
    queue: Mutex<DirtyQueue>,
    wake: Notify,
}

#[derive(Debug, Default)]
pub(super) struct DirtyQueue {
    /// The first member came, or the last one left.
    pub(super) membership_changed: HashSet<Topic>,
    /// The room wants to read.
    pub(super) needs_read: HashSet<Topic>,
    /// The room may have missed something.
    pub(super) needs_check: HashSet<Topic>,
    /// The room has a count to tell.
    pub(super) count_changed: HashSet<Topic>,
    /// The broker was away.
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

    /// Waits until there is something.
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
