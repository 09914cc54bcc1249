//! What a room keeps of what was said in it.

use std::time::Duration;

use bytes::Bytes;

use crate::position::Position;

/// How much of a room's history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retention {
    /// The latest messages, at least this many; at least 1. A backend that trims in blocks
    /// may keep some more.
    pub messages: u32,
    /// How long after the latest message they are kept; at least a second.
    pub ttl: Duration,
}

impl Default for Retention {
    /// 256 messages, for 24 hours.
    fn default() -> Self {
        Self { messages: 256, ttl: Duration::from_secs(24 * 60 * 60) }
    }
}

/// A message of a room's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the room's sequence.
    pub offset: u64,
    /// What was published.
    pub payload: Bytes,
}

/// Which part of a history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// What follows on this offset: the oldest of it come first.
    After(u64),
    /// What lies before this offset: the newest of it count first.
    Before(u64),
    /// The newest.
    Latest,
}

/// A part of a room's history, and where the room stood in that moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// After the latest message.
    pub position: Position,
    /// Oldest first, of the epoch of `position`, each offset one above the last.
    pub entries: Vec<Entry>,
}

impl History {
    /// Whether the entries follow on `offset` without a hole, and in the same sequence go
    /// on to wherever they end.
    #[must_use]
    pub fn follows(&self, since: Position) -> bool {
        self.position.epoch == since.epoch
            && match self.entries.first() {
                Some(first) => first.offset == since.offset + 1,
                None => self.position.offset == since.offset,
            }
    }
}
