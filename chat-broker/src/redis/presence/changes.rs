//! What one pipeline changes in Redis, and what becomes of each change.

use std::sync::Arc;

use bytes::Bytes;
use chat_core::UserId;

use crate::redis::names::Address;

/// A user in a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) address: Address,
    pub(crate) user: UserId,
}

/// The changes that go into one pipeline, those of one topic side by side.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) node: Arc<str>,
    pub(crate) joins: Vec<Join>,
    pub(crate) leaves: Vec<Key>,
    /// More joins wait than fit: no publication accepted after so many may be sent before them.
    pub(crate) fence_at: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) key: Key,
    pub(crate) info: Bytes,
    /// The info replaces what other nodes have set before.
    pub(crate) is_latest: bool,
    /// The maximum of users in the topic, which a new user must not exceed.
    pub(crate) max: Option<u32>,
}

/// The outcome of a change that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The change is done, and announced to nodes under this version.
    Announced(u64),
    /// The change is sent again at once.
    Unanswered,
    /// The change is sent again after a [retry](super::outbox::PresenceOutbox::retry_refused).
    Refused,
    /// The join has a maximum, and the room was full.
    RoomFull,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.joins.is_empty() && self.leaves.is_empty()
    }

    /// Whether a user leaves this topic. Redis executes the joins of a pipeline before its leaves.
    pub(super) fn leaves_from(&self, address: &Address) -> bool {
        self.leaves.binary_search_by(|leave| leave.address.cmp(address)).is_ok()
    }
}
