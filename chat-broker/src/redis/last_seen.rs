//! The positions of topics that this node has seen.

use std::collections::HashMap;

use bytes::Buf;
use chat_core::{Epoch, Position};

use super::wire::{MAX_OFFSET, MessageId};

/// Topics that are remembered at most, beside those that the node is subscribed to.
const MAX_TOPICS: usize = 4096;

/// The latest kept publication of a topic that this node knows of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LastSeen {
    pub(super) position: Position,
    /// Unknown if the topic is one of which nothing was kept.
    pub(super) id: Option<MessageId>,
}

impl LastSeen {
    /// Reads what `position.lua` returns: the default if nothing is stored, `None` if it makes no
    /// sense.
    pub(super) fn parse(mut stored: &[u8]) -> Option<Self> {
        if stored.is_empty() {
            return Some(Self::default());
        }
        let (epoch, id) = stored.split_at_checked(Epoch::LEN)?;
        stored = id;
        let offset = stored.try_get_u64().ok()?;
        Self::new(epoch, offset, stored)
    }

    /// The publication with this id at a position; `None` if the position makes no sense.
    pub(super) fn new(epoch: &[u8], offset: u64, id: &[u8]) -> Option<Self> {
        let epoch = Epoch::parse(epoch).filter(|epoch| *epoch != Epoch::NONE)?;
        let position = Position { epoch, offset };
        (offset <= MAX_OFFSET).then_some(Self { position, id: MessageId::parse(id) })
    }

    /// Above all of an epoch that has ended: a position in it that is seen again is of an older
    /// snapshot.
    pub(super) fn end_of(epoch: Epoch) -> Self {
        Self { position: Position { epoch, offset: u64::MAX }, id: None }
    }

    /// Takes note of one that was read or answered: it may be older than what has arrived
    /// since.
    pub(super) fn advance(&mut self, to: Self) {
        let (here, there) = (self.position, to.position);
        let is_later = here.epoch == there.epoch
            && (here.offset < there.offset || here.offset == there.offset && self.id.is_none());
        if is_later || here == Position::default() {
            *self = to;
        }
    }
}

/// What is remembered of topics, by channel: the half that was remembered longest ago is
/// forgotten when there are too many.
#[derive(Debug)]
pub(super) struct TopicMap<T> {
    latest: HashMap<String, T>,
    earlier: HashMap<String, T>,
}

impl<T> Default for TopicMap<T> {
    fn default() -> Self {
        Self { latest: HashMap::new(), earlier: HashMap::new() }
    }
}

impl<T> TopicMap<T> {
    pub(super) fn insert(&mut self, channel: String, value: T) {
        if self.latest.len() >= MAX_TOPICS / 2 && !self.latest.contains_key(&channel) {
            self.earlier = std::mem::take(&mut self.latest);
        }
        self.latest.insert(channel, value);
    }

    /// Changes what is remembered of a topic; the default if that is nothing.
    pub(super) fn update(&mut self, channel: &str, change: impl FnOnce(&mut T))
    where
        T: Default,
    {
        if let Some(value) = self.latest.get_mut(channel) {
            return change(value);
        }
        let mut value = self.earlier.remove(channel).unwrap_or_default();
        change(&mut value);
        self.insert(channel.to_owned(), value);
    }

    pub(super) fn get(&self, channel: &str) -> Option<&T> {
        self.latest.get(channel).or_else(|| self.earlier.get(channel))
    }

    pub(super) fn remove(&mut self, channel: &str) -> Option<T> {
        let earlier = self.earlier.remove(channel);
        self.latest.remove(channel).or(earlier)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        let earlier =
            self.earlier.iter().filter(|(channel, _)| !self.latest.contains_key(*channel));
        self.latest.iter().chain(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: &[u8], offset: u64) -> LastSeen {
        let id = MessageId::parse(&offset.to_be_bytes());
        LastSeen { position: Position { epoch: Epoch::parse(epoch).unwrap(), offset }, id }
    }

    #[test]
    fn late_reads_do_not_lower_the_position() {
        let mut last_seen = LastSeen::default();
        let mut advance = |to| {
            last_seen.advance(to);
            last_seen
        };
        assert_eq!(advance(at(b"aaaaaaaa", 3)), at(b"aaaaaaaa", 3));
        assert_eq!(advance(at(b"aaaaaaaa", 2)), at(b"aaaaaaaa", 3));
        assert_eq!(advance(at(b"bbbbbbbb", 9)), at(b"aaaaaaaa", 3));
        assert_eq!(advance(at(b"aaaaaaaa", 4)), at(b"aaaaaaaa", 4));
        assert_eq!(advance(LastSeen { id: None, ..at(b"aaaaaaaa", 4) }), at(b"aaaaaaaa", 4));
    }

    #[test]
    fn latest_positions_are_remembered() {
        let mut last_seen_of = TopicMap::default();
        for n in 1..=10_000 {
            last_seen_of.insert(n.to_string(), at(b"aaaaaaaa", n));
            last_seen_of.insert("busy".to_owned(), at(b"aaaaaaaa", n));
            assert!(last_seen_of.iter().count() <= MAX_TOPICS);
        }
        for n in 10_000 - MAX_TOPICS as u64 / 2 + 2..=10_000 {
            assert_eq!(last_seen_of.remove(&n.to_string()), Some(at(b"aaaaaaaa", n)));
        }
        assert_eq!(last_seen_of.remove("busy"), Some(at(b"aaaaaaaa", 10_000)));
        assert_eq!((last_seen_of.remove("busy"), last_seen_of.remove("1")), (None, None));
    }

    #[test]
    fn changes_of_an_earlier_half_are_kept() {
        let mut counts = TopicMap::<u64>::default();
        for n in 0..10 * MAX_TOPICS {
            counts.update(&n.to_string(), |count| *count += 1);
            counts.update("busy", |count| *count += 1);
        }
        assert_eq!(counts.get("busy"), Some(&(10 * MAX_TOPICS as u64)));
        assert_eq!(counts.get("0"), None);
    }

    #[test]
    fn stored_positions_are_read() {
        let stored = [b"abcdEF12" as &[u8], &7_u64.to_be_bytes(), b"12345678"].concat();
        let position = Position { epoch: Epoch::parse(b"abcdEF12").unwrap(), offset: 7 };
        let id = MessageId::parse(b"12345678");
        assert_eq!(LastSeen::parse(&stored), Some(LastSeen { position, id }));
        assert_eq!(LastSeen::parse(&stored[..16]), Some(LastSeen { position, id: None }));
        assert_eq!(LastSeen::parse(b""), Some(LastSeen::default()));
        let beyond = [b"abcdEF12" as &[u8], &(MAX_OFFSET + 1).to_be_bytes()].concat();
        for odd in [b"?" as &[u8], &stored[..15], &beyond, &[b' '; 24]] {
            assert_eq!(LastSeen::parse(odd), None, "{odd:?}");
        }
    }
}
