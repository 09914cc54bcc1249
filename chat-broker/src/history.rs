//! Reads of a topic's history, and the check of the answers.

use chat_core::{History, HistoryRange, Position, Topic};

use crate::error::BrokerError;

/// A read of a part of a topic's history.
///
/// ```
/// use bytes::Bytes;
/// use chat_broker::HistoryRead;
/// use chat_core::{Epoch, History, HistoryEntry, HistoryRange, Position, RoomId, Topic};
///
/// let lobby = Topic::Room(RoomId::new("lobby")?);
/// let read = HistoryRead::new(lobby, HistoryRange::After(6), 50);
/// let position = Position { epoch: Epoch::from_random(1), offset: 7 };
/// let answer = |offset| History::new(position, vec![HistoryEntry::new(offset, Bytes::new())]);
/// assert!(read.check(&answer(7)).is_ok());
/// assert!(read.check(&answer(5)).is_err());
/// # Ok::<(), chat_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryRead {
    /// The topic whose history is read.
    pub topic: Topic,
    /// The part that is read.
    pub range: HistoryRange,
    /// The maximum number of publications. A read ends early, but never empty, once it holds
    /// more than [`HistoryRead::MAX_BYTES`].
    pub limit: u32,
}

impl HistoryRead {
    /// Maximum payload of one read, in bytes; the publication that exceeds it is the last.
    pub const MAX_BYTES: usize = 256 * 1024;

    /// A read of at most `limit` publications of `topic` in `range`.
    #[must_use]
    pub fn new(topic: Topic, range: HistoryRange, limit: u32) -> Self {
        Self { topic, range, limit }
    }

    /// Checks whether `history` can be the answer: entries without a hole, oldest first, at most
    /// [`limit`](Self::limit), in the range and up to the position.
    ///
    /// # Errors
    /// [`BrokerError::Damaged`]: the answer is malformed. A reader that continued from it might
    /// never reach the end.
    pub fn check(&self, history: &History) -> Result<(), BrokerError> {
        let History { position, entries, .. } = history;
        let offsets = || entries.iter().map(|entry| entry.offset);
        let (first, last) = (offsets().next().unwrap_or(1), offsets().last().unwrap_or(0));
        let is_in_range = match self.range {
            _ if entries.is_empty() => true,
            HistoryRange::After(offset) => first > offset,
            HistoryRange::Before(offset) => last < offset,
            HistoryRange::Latest => true,
        };
        let wrong = if position.offset > Position::MAX_OFFSET {
            "a position above the maximum"
        } else if entries.len() > self.limit as usize {
            "more messages than were asked for"
        } else if first == 0 || last > position.offset {
            "messages outside of the sequence"
        } else if !offsets()
            .zip(offsets().skip(1))
            .all(|(one, next)| one.checked_add(1) == Some(next))
        {
            "messages that do not follow on each other"
        } else if !is_in_range {
            "messages that were not asked for"
        } else {
            return Ok(());
        };
        Err(BrokerError::damaged(self.topic.clone(), format!("its history has {wrong}")))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chat_core::{Epoch, HistoryEntry, RoomId};

    use super::*;

    #[test]
    fn malformed_history_is_damage() {
        let read = |range| {
            let topic = Topic::Room(RoomId::new("r").expect("a name"));
            HistoryRead::new(topic, range, 3)
        };
        let history = |offset, offsets: &[u64]| {
            History::new(
                Position { epoch: Epoch::from_random(1), offset },
                offsets.iter().map(|n| HistoryEntry::new(*n, Bytes::new())).collect(),
            )
        };
        for (range, offset, offsets) in [
            (HistoryRange::Latest, 0, &[][..]),
            (HistoryRange::Latest, 9, &[7, 8, 9]),
            (HistoryRange::After(2), 9, &[5, 6]),
            (HistoryRange::After(9), 9, &[]),
            (HistoryRange::Before(9), 9, &[8]),
            (HistoryRange::Before(u64::MAX), 1, &[1]),
        ] {
            let outcome = read(range).check(&history(offset, offsets));
            assert!(outcome.is_ok(), "{range:?}: {offsets:?} of {offset}: {outcome:?}");
        }
        for (range, offset, offsets) in [
            (HistoryRange::Latest, 9, &[6, 7, 8, 9][..]),
            (HistoryRange::Latest, 9, &[9, 8]),
            (HistoryRange::Latest, 9, &[8, 8]),
            (HistoryRange::Latest, 9, &[7, 9]),
            (HistoryRange::Latest, 9, &[9, 10]),
            (HistoryRange::Latest, 9, &[0, 1]),
            (HistoryRange::Latest, u64::MAX, &[u64::MAX]),
            (HistoryRange::After(3), 9, &[3, 4]),
            (HistoryRange::After(3), 9, &[1]),
            (HistoryRange::Before(3), 9, &[2, 3]),
            (HistoryRange::Before(3), 9, &[7]),
        ] {
            let outcome = read(range).check(&history(offset, offsets));
            assert!(outcome.is_err(), "{range:?}: {offsets:?} of {offset}");
        }
    }
}
