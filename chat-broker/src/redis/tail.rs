//! Reading the end of a log without a script.
//!
//! A reader that was disconnected misses the last few publications of a topic, and this node mostly
//! knows the position of one of them. Plain commands then cost Redis a third of what a script costs,
//! which copies each entry into Lua and out of it. They are not one atomic step: other clients may
//! publish, trim or delete between them. So what they return counts only if it agrees:
//!
//! | check | excludes |
//! |---|---|
//! | the end of the log contains the known publication, by its id | a log that has changed, or grown by more than was read |
//! | the head, read after it, is of the known epoch | a log that was deleted and began again |
//! | base and length, read last, name the same last offset | a publication in between, or a trim between these two; an id that is in the log twice |
//!
//! Otherwise the script reads, which is slower and always right.

use bytes::Bytes;
use chat_core::{Epoch, HistoryRange};
use redis::{FromRedisValue, Pipeline, Value};

use super::last_seen::LastSeen;
use super::names::Address;
use super::wire::{self, HistoryReply, MAX_OFFSET, MessageId};
use crate::history::HistoryRead;

/// Entries at most. A log is read as the script does first, which bounds the bytes of an answer.
const MAX_ENTRIES: u64 = 16;

/// Entries that are read in addition: publications that this node has not received yet.
const SLACK: u64 = 2;

/// A read of the end of a log, and what this node knows of it.
#[derive(Debug)]
pub(super) struct TailRead {
    after: u64,
    limit: usize,
    /// The epoch, and the offset and id of a publication in it.
    epoch: Epoch,
    offset: u64,
    id: MessageId,
}

impl TailRead {
    /// `None` if only the script can carry out this read.
    pub(super) fn new(read: &HistoryRead, known: Option<LastSeen>) -> Option<Self> {
        let LastSeen { position, id } = known?;
        let HistoryRange::After(after) = read.range else { return None };
        let tail = Self {
            after,
            limit: read.limit as usize,
            epoch: position.epoch,
            offset: position.offset,
            id: id?,
        };
        (after <= position.offset && tail.count() <= MAX_ENTRIES).then_some(tail)
    }

    /// How many entries are read: those that the reader lacks, and at least the known one.
    fn count(&self) -> u64 {
        (self.offset - self.after).max(1).saturating_add(SLACK)
    }

    /// Adds the commands; their replies belong to [`reply`](Self::reply).
    pub(super) fn add_to(&self, commands: &mut Pipeline, address: &Address) {
        let log = address.log();
        commands.cmd("LRANGE").arg(log).arg(-self.count().cast_signed()).arg(-1);
        commands.cmd("LINDEX").arg(log).arg(0);
        commands.cmd("LLEN").arg(log);
    }

    /// What the script would have replied; `None` if the commands do not agree.
    pub(super) fn reply(&self, [entries, head, length]: [Value; 3]) -> Option<HistoryReply> {
        let mut entries: Vec<Bytes> = read(entries)?;
        let (epoch, base, kept) = wire::decode_head(read(head)?)?;
        let length: u64 = read(length)?;

        let newer = entries.iter().rev().position(|entry| entry.starts_with(self.id.as_bytes()))?;
        let last = self.offset + newer as u64;
        if epoch != self.epoch || last > MAX_OFFSET || Some(last + 1) != base.checked_add(length) {
            return None;
        }
        // The first element may be the head.
        let first = (last + 1).checked_sub(entries.len() as u64)?;
        let before = self.after.max(base).max(last.saturating_sub(kept));
        let unwanted = (before + 1).checked_sub(first)?;
        entries.drain(..(unwanted as usize).min(entries.len()));
        entries.truncate(self.limit);
        truncate_to_bytes(&mut entries);
        let oldest = if entries.is_empty() { 0 } else { before + 1 };
        Some((epoch.as_str().as_bytes().to_vec(), last, oldest, entries))
    }
}

fn read<T: FromRedisValue>(reply: Value) -> Option<T> {
    redis::from_redis_value(reply).ok()
}

/// Ends a read that holds more than it may, with the entry that exceeds it.
fn truncate_to_bytes(entries: &mut Vec<Bytes>) {
    let mut bytes = 0;
    let within = |entry: &&Bytes| {
        let fits = bytes < HistoryRead::MAX_BYTES;
        bytes += entry.len().saturating_sub(MessageId::LEN);
        fits
    };
    let count = entries.iter().take_while(within).count();
    entries.truncate(count);
}

#[cfg(test)]
mod tests {
    use chat_core::{Position, RoomId, Topic};

    use super::*;

    const EPOCH: &[u8; 8] = b"abcdEF12";

    fn id(offset: u64) -> [u8; 8] {
        (1000 + offset).to_be_bytes()
    }

    fn bulk(bytes: impl Into<Vec<u8>>) -> Value {
        Value::BulkString(bytes.into())
    }

    fn head(epoch: &[u8; 8], base: u64) -> Value {
        let bounds = [&40_u32.to_be_bytes()[..], &[0; 24]].concat();
        bulk([&epoch[..], &base.to_be_bytes(), &bounds].concat())
    }

    fn entries(offsets: impl IntoIterator<Item = u64>) -> Value {
        Value::Array(offsets.into_iter().map(|offset| bulk(id(offset))).collect())
    }

    /// A read after an offset of a node that knows the publication 9.
    fn tail(after: u64) -> Option<TailRead> {
        let position = Position { epoch: Epoch::parse(EPOCH).unwrap(), offset: 9 };
        let known = LastSeen { position, id: MessageId::parse(&id(9)) };
        let topic = Topic::Room(RoomId::new("r").unwrap());
        TailRead::new(&HistoryRead::new(topic, HistoryRange::After(after), 99), Some(known))
    }

    fn reply(after: u64, replies: [Value; 3]) -> Option<(u64, u64, usize)> {
        let (_, last, oldest, entries) = tail(after).unwrap().reply(replies)?;
        Some((last, oldest, entries.len()))
    }

    #[test]
    fn replies_that_agree_are_a_history() {
        for (after, first, base, last, expected) in [
            (7, 6, 0, 9, (9, 8, 2)),
            (7, 7, 0, 10, (10, 8, 3)),
            (9, 7, 0, 9, (9, 0, 0)),
            (9, 9, 0, 11, (11, 10, 2)),
            // The log has been trimmed further than the reader has come.
            (6, 7, 8, 11, (11, 9, 3)),
        ] {
            let length = Value::Int((last - base + 1) as i64);
            let replies = [entries(first..=last), head(EPOCH, base), length];
            assert_eq!(reply(after, replies), Some(expected), "after {after}");
        }
    }

    #[test]
    fn replies_that_disagree_are_none() {
        for (what, replies) in [
            ("no log", [Value::Array(Vec::new()), Value::Nil, Value::Int(0)]),
            ("no list", [Value::Nil, Value::Nil, Value::Nil]),
            ("unknown entries", [entries(1..=8), head(EPOCH, 0), Value::Int(9)]),
            ("another epoch", [entries(7..=9), head(b"another1", 0), Value::Int(10)]),
            ("a publication in between", [entries(7..=9), head(EPOCH, 0), Value::Int(11)]),
            ("a trim in between", [entries(7..=9), head(EPOCH, 0), Value::Int(5)]),
            (
                "an entry that is there twice",
                [entries([7, 9, 8, 9]), head(EPOCH, 0), Value::Int(12)],
            ),
            ("too many new ones", [entries(9..=12), head(EPOCH, 0), Value::Int(13)]),
            ("an impossible base", [entries(7..=9), head(EPOCH, u64::MAX), Value::Int(10)]),
        ] {
            assert_eq!(reply(7, replies), None, "{what}");
        }
    }

    #[test]
    fn only_reads_near_the_known_publication_need_no_script() {
        let possible: Vec<_> = (0..12).filter(|after| tail(*after).is_some()).collect();
        assert_eq!(possible, Vec::from_iter(0..=9));
        assert!(tail(u64::MAX).is_none());
    }
}
