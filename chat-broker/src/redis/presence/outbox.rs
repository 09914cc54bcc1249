//! Joins and leaves of this node that one connection has yet to send to Redis.
//!
//! The outbox sends the difference between what the node wants and what Redis holds. An unsent
//! leave is cancelled by a join, and an unsent join by a leave, unless something was published in
//! between. So it is bounded by the users in topics, however often they join and leave in an
//! outage. A change without an answer is sent again, which changes nothing if Redis has executed
//! it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::changes::{Changes, Key, Outcome};
use super::queues::Queues;
use crate::error::BrokerError;
use crate::presence::{Departure, EnterReceipt};

/// The changes of one connection.
#[derive(Debug, Default)]
pub(crate) struct PresenceOutbox {
    queues: Mutex<Queues>,
    changed: Notify,
}

impl PresenceOutbox {
    /// See [`PresenceTracker::enter`](crate::PresenceTracker::enter), after `accepted`
    /// publications.
    pub(crate) fn join(&self, key: Key, info: Bytes, accepted: u64) {
        self.queues().join(key, info, accepted);
        self.changed.notify_one();
    }

    /// See [`PresenceTracker::enter_limited`](crate::PresenceTracker::enter_limited), after
    /// `accepted` publications.
    pub(crate) fn join_limited(
        &self,
        key: Key,
        info: Bytes,
        accepted: u64,
        max: u32,
    ) -> EnterReceipt {
        let receipt = self.queues().join_limited(key, info, accepted, max);
        self.changed.notify_one();
        receipt
    }

    /// The broker was closed: callers that wait for an answer get that, and so do later ones.
    pub(crate) fn close(&self) {
        self.queues().close();
    }

    /// Redis has refused the join of a user with this error: callers that wait for an answer get it.
    pub(crate) fn fail_limited_joins(&self, key: &Key, error: &BrokerError) {
        self.queues().fail_limited_joins(key, error);
    }

    /// See [`PresenceTracker::leave`](crate::PresenceTracker::leave), after `accepted`
    /// publications.
    pub(crate) fn leave(&self, key: &Key, accepted: u64) -> Departure {
        let departure = self.queues().leave(key, accepted);
        self.changed.notify_one();
        departure
    }

    /// The node, and the next `most` users after `last` that Redis should hold for it.
    pub(crate) fn synced_after(
        &self,
        last: Option<&Key>,
        most: usize,
    ) -> Option<(Arc<str>, Vec<Key>)> {
        self.queues().synced_after(last, most)
    }

    /// Redis does not hold these users: those who are still in their topics are sent again.
    pub(crate) fn resend_lost(&self, keys: &[Key]) {
        self.queues().resend_lost(keys);
        self.changed.notify_one();
    }

    /// Another node has set another info of a user. If this node must send the user again, after
    /// Redis lost it, the join has that info and not an older one.
    pub(crate) fn renamed(&self, key: &Key, info: &Bytes) {
        self.queues().renamed(key, info);
    }

    /// How many users are in topics, each counted once for each topic.
    pub(crate) fn len(&self) -> usize {
        self.queues().len()
    }

    /// Sends everything again as `node`, for which Redis holds nothing.
    pub(crate) fn restart_as(&self, node: &Arc<str>) {
        self.queues().restart_as(node);
        self.changed.notify_one();
    }

    /// Takes the changes for a pipeline after which `sent` publications will have been sent.
    pub(crate) fn take(&self, sent: u64) -> Changes {
        self.queues().take(sent)
    }

    /// Records the outcomes of changes, in their order. A change without an outcome is unanswered.
    pub(crate) fn record(&self, changes: Changes, outcomes: impl IntoIterator<Item = Outcome>) {
        self.queues().record(changes, outcomes);
        if self.has_changes() {
            self.changed.notify_one();
        }
    }

    /// Sends again what was refused.
    pub(crate) fn retry_refused(&self) {
        self.queues().retry_refused();
        if self.has_changes() {
            self.changed.notify_one();
        }
    }

    /// Whether something waits to be sent now or after some publications.
    pub(crate) fn has_changes(&self) -> bool {
        self.queues().has_changes()
    }

    /// Waits until something is to be sent.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether Redis holds no user for this node.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues().len() == 0
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock()
    }
}
