//! The line of the log that a call has: which key called for what, and about whom.
//!
//! Every call that changes something, and every call that reads what is personal, has one: a call is
//! logged unless its line in [`calls`](super::calls) says that it is neither.

use std::sync::Arc;

use chat_core::UserId;
use parking_lot::Mutex;

/// What a call does, as far as the log is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Changes,
    /// Reads what users have written, where they are or who they are.
    ReadsPersonal,
    /// Changes what has a line of its own, with more in it.
    Sanctions,
    /// Neither changes anything nor reads what is personal, or is only the sum of other calls.
    Neutral,
}

impl Effect {
    /// Whether the call changes nothing.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::ReadsPersonal | Self::Neutral)
    }
}

/// What a call is about, as far as its path does not say it.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    /// The user whom the call is about.
    pub(super) user: Option<UserId>,
    /// The sender that the key has named.
    pub(super) as_user: Option<UserId>,
    /// How many users, or rooms, the call is about.
    pub(super) users: Option<usize>,
    pub(super) rooms: Option<usize>,
    /// The text by which users are searched.
    pub(super) search: Option<String>,
    /// A hash of `users`, if their ids are not in the log: other users of the same number are another read.
    pub(super) users_hash: u64,
    /// The lifetime of the token that was issued, or the time of a rebalance.
    pub(super) seconds: Option<u64>,
    /// Of a rebalance: so many of 100 clients, and how many they are.
    pub(super) percent: Option<u8>,
    pub(super) connections: Option<usize>,
    /// Whether it is a message in the name of the key, which says itself who sent it.
    pub(super) is_own_message: bool,
}

/// Where the handler of a call notes its subject.
#[derive(Debug, Clone, Default)]
pub(super) struct Audit(Arc<Mutex<Subject>>);

impl Audit {
    pub(super) fn note(&self, subject: Subject) {
        *self.0.lock() = subject;
    }

    pub(super) fn subject(&self) -> Subject {
        self.0.lock().clone()
    }
}
