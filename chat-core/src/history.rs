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
    /// Whether the entries, or the position if there are none, follow on `since` without a
    /// hole. On [`Position::default`] follows the beginning of any sequence.
    #[must_use]
    pub fn follows(&self, since: Position) -> bool {
        let is_same = self.position.epoch == since.epoch || since == Position::default();
        is_same
            && match self.entries.first() {
                Some(first) => since.offset.checked_add(1) == Some(first.offset),
                None => self.position.offset == since.offset,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    #[test]
    fn what_follows_on_a_position() {
        let at = |epoch, offset| Position { epoch: Epoch::from_random(epoch), offset };
        let history = |offset, entries: &[u64]| History {
            position: at(1, offset),
            entries: entries.iter().map(|n| Entry { offset: *n, payload: Bytes::new() }).collect(),
        };
        let nowhere = Position::default();
        assert!(History::default().follows(nowhere));
        assert!(history(9, &[6, 7]).follows(at(1, 5)));
        assert!(history(9, &[]).follows(at(1, 9)));
        assert!(history(2, &[1, 2]).follows(nowhere));

        assert!(!history(9, &[7]).follows(at(1, 5)), "6 is gone");
        assert!(!history(9, &[]).follows(at(1, 5)), "all of it is gone");
        assert!(!history(9, &[6, 7]).follows(at(2, 5)), "another sequence");
        assert!(!history(2, &[2]).follows(nowhere), "its beginning is gone");
        assert!(!history(2, &[]).follows(nowhere), "all of it is gone");
        assert!(!history(9, &[]).follows(at(1, u64::MAX)));
        assert!(!history(9, &[1]).follows(at(1, u64::MAX)));
    }
}
