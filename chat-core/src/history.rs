//! The history of a room, and how much of it is kept.

use std::time::Duration;

use bytes::Bytes;

use crate::position::Position;

/// How much of a room's history is kept: the latest messages that meet both bounds,
/// [`messages`](Self::messages) and [`bytes`](Self::bytes), and always the newest one.
///
/// For the bound in bytes a message counts as its size, but as an equal [share](Self::share) of it
/// at least. So a room whose messages are no larger than that is bounded by their number alone, and
/// a broker need not add up their sizes.
///
/// ```
/// use chat_core::Retention;
///
/// let retention = Retention::default().messages(100).bytes(10_000);
/// assert_eq!(retention.share(), 100);
/// assert_eq!((retention.excess(99), retention.excess(101)), (0, 1));
/// assert!(retention.allows(100, 0) && retention.allows(99, 100));
/// assert!(!retention.allows(100, 1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Retention {
    /// The latest messages: at most this many, at least 1. A broker that trims in blocks may keep
    /// some more. Default 256.
    pub messages: u32,
    /// The payloads of all of them: at most this many bytes; the newest message is kept even if it
    /// alone is larger. Default 1 MiB.
    pub bytes: usize,
    /// How long the messages are kept after the latest one; at least a second. Default 24 hours.
    pub ttl: Duration,
}

impl Default for Retention {
    /// 256 messages and 1 MiB, for 24 hours.
    fn default() -> Self {
        Self { messages: 256, bytes: 1 << 20, ttl: Duration::from_secs(24 * 60 * 60) }
    }
}

impl Retention {
    /// At most this many messages and bytes, for `ttl` after the latest message.
    #[must_use]
    pub const fn new(messages: u32, bytes: usize, ttl: Duration) -> Self {
        Self { messages, bytes, ttl }
    }

    /// Sets [`messages`](Self::messages).
    #[must_use]
    pub const fn messages(mut self, messages: u32) -> Self {
        self.messages = messages;
        self
    }

    /// Sets [`bytes`](Self::bytes).
    #[must_use]
    pub const fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets [`ttl`](Self::ttl).
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The part of [`bytes`](Self::bytes) that each of the messages may have, in bytes.
    #[must_use]
    pub fn share(&self) -> usize {
        self.bytes / self.messages.max(1) as usize
    }

    /// By how many bytes a payload of `size` bytes is larger than its share.
    #[must_use]
    pub fn excess(&self, size: usize) -> usize {
        // Most are not, which takes no division to find.
        let all = size.checked_mul(self.messages.max(1) as usize);
        let is_within = all.is_some_and(|all| all <= self.bytes);
        if is_within { 0 } else { size.saturating_sub(self.share()) }
    }

    /// Whether this many messages may be kept, if together they exceed their shares by `excess`
    /// bytes.
    #[must_use]
    pub fn allows(&self, messages: usize, excess: usize) -> bool {
        let is_within = || excess == 0 || excess <= self.bytes - messages * self.share();
        messages <= 1 || messages <= self.messages as usize && is_within()
    }
}

/// A message of a room's history.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// The offset of the message in the room's sequence.
    pub offset: u64,
    /// The payload that was published.
    pub payload: Bytes,
}

impl HistoryEntry {
    /// The message with this offset.
    #[must_use]
    pub fn new(offset: u64, payload: Bytes) -> Self {
        Self { offset, payload }
    }
}

/// Which part of a history is read. Not `#[non_exhaustive]`: a broker has to answer each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryRange {
    /// The messages after this offset, beginning with the oldest.
    After(u64),
    /// The messages before this offset, ending with the newest of them.
    Before(u64),
    /// The newest messages.
    Latest,
}

/// A part of a room's history, and the position of the room at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct History {
    /// The position after the latest message of the room.
    pub position: Position,
    /// Oldest first, of the epoch of `position`, each offset one above the last.
    pub entries: Vec<HistoryEntry>,
}

impl History {
    /// These entries of a room whose position is `position`.
    #[must_use]
    pub fn new(position: Position, entries: Vec<HistoryEntry>) -> Self {
        Self { position, entries }
    }

    /// Whether the entries, or the position if there are none, follow `since` without a hole. The
    /// beginning of any sequence follows [`Position::default`].
    ///
    /// ```
    /// use bytes::Bytes;
    /// use chat_core::{Epoch, History, HistoryEntry, Position};
    ///
    /// let at = |offset| Position { epoch: Epoch::from_random(1), offset };
    /// let history = History::new(at(7), vec![HistoryEntry::new(7, Bytes::new())]);
    /// assert!(history.follows(at(6)) && !history.follows(at(5)));
    /// ```
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
    fn small_messages_are_bounded_by_their_number_alone() {
        for (messages, bytes) in [(256, 1 << 20), (7, 100), (10, 3), (1, 0), (2, usize::MAX)] {
            let retention = Retention { messages, bytes, ..Retention::default() };
            let (all, share) = (messages as usize, retention.share());
            assert_eq!((retention.excess(share), retention.excess(share + 1)), (0, 1));
            assert!(retention.allows(all, 0), "{retention:?}");
            assert!(!retention.allows(all + 1, 0), "{retention:?}");
            assert!(retention.allows(1, usize::MAX), "the newest is always kept");
        }
    }

    #[test]
    fn larger_messages_take_what_the_others_leave() {
        let retention = Retention { messages: 10, bytes: 100, ..Retention::default() };
        assert!(retention.allows(2, 80));
        assert!(!retention.allows(2, 81));
        assert!(!retention.allows(10, 1));
    }

    #[test]
    fn history_follows_only_without_a_hole() {
        let at = |epoch, offset| Position { epoch: Epoch::from_random(epoch), offset };
        let history = |offset, entries: &[u64]| History {
            position: at(1, offset),
            entries: entries
                .iter()
                .map(|n| HistoryEntry { offset: *n, payload: Bytes::new() })
                .collect(),
        };
        let nowhere = Position::default();
        assert!(History::default().follows(nowhere));
        assert!(history(9, &[6, 7]).follows(at(1, 5)));
        assert!(history(9, &[]).follows(at(1, 9)));
        assert!(history(2, &[1, 2]).follows(nowhere));

        assert!(!history(9, &[7]).follows(at(1, 5)), "6 is trimmed");
        assert!(!history(9, &[]).follows(at(1, 5)), "all of it is trimmed");
        assert!(!history(9, &[6, 7]).follows(at(2, 5)), "another sequence");
        assert!(!history(2, &[2]).follows(nowhere), "its beginning is trimmed");
        assert!(!history(2, &[]).follows(nowhere), "all of it is trimmed");
        assert!(!history(9, &[]).follows(at(1, u64::MAX)));
        assert!(!history(9, &[1]).follows(at(1, u64::MAX)));
    }
}
