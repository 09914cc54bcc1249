//! The positions of topics that this node has seen.

use std::collections::HashMap;

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

/// `epoch`, `offset` and `id`, as they are stored.
pub(super) type Stored = (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

impl LastSeen {
    /// Reads one; the default if nothing is stored, `None` if it makes no sense.
    pub(super) fn parse((epoch, offset, id): Stored) -> Option<Self> {
        let (Some(epoch), Some(offset)) = (epoch, offset) else { return Some(Self::default()) };
        let offset = std::str::from_utf8(&offset).ok()?.parse().ok()?;
        let epoch = Epoch::parse(&epoch).filter(|epoch| *epoch != Epoch::NONE)?;
        let position = Position { epoch, offset };
        (offset <= MAX_OFFSET).then_some(())?;
        Some(Self { position, id: id.and_then(|id| MessageId::parse(&id)) })
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
}
