//! The channels that a node wants, and the changes that Redis does not have yet.

use std::collections::{HashMap, HashSet, VecDeque};

use chat_core::{Epoch, Position, Topic};

use crate::redis::last_seen::{LastSeen, TopicMap};
use crate::redis::names::Address;
use crate::redis::wire::MessageId;

/// Ended epochs of one topic that are remembered: a Redis that restarts again and again loads the
/// same snapshot until it has made another.
const MAX_ENDED: usize = 8;

/// Each change has a version; the call that made it waits until Redis has confirmed that version.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    /// The wanted topics, by channel.
    wanted: HashMap<String, Wanted>,
    /// Channels that changed; `None` without a connection, since the next one subscribes to all.
    changes: Option<HashSet<String>>,
    version: u64,
    /// Rises with each connection: messages that an earlier one still reads are ignored.
    connection: u64,
    /// A message was received since [`take_received`](Self::take_received).
    received: bool,
    /// The latest connection has delivered a message.
    has_delivered: bool,
    /// Positions in topics that are not wanted.
    last_seen_of: TopicMap<LastSeen>,
    /// The epochs that topics were in before.
    ended: TopicMap<VecDeque<Epoch>>,
}

#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) topic: Topic,
    /// The version of the latest call that asked for it.
    asked: u64,
    /// The latest position that this node has seen.
    pub(crate) seen: LastSeen,
}

impl Wanted {
    /// Records a publication that was received. Returns the epoch before it.
    pub(crate) fn receive(&mut self, position: Position, id: MessageId) -> Epoch {
        let before = self.seen.position;
        // The acknowledgement of a later publication of this node, on another connection, may have
        // been read before this message: the position must not go back.
        if before.epoch != position.epoch || before.offset <= position.offset {
            self.seen = LastSeen { position, id: Some(id) };
        }
        before.epoch
    }
}

/// The changes up to `version` that Redis does not have.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) subscribe: Vec<String>,
    pub(crate) unsubscribe: Vec<String>,
    pub(crate) version: u64,
}

impl Interest {
    /// Adds channels; returns the version of the change.
    pub(crate) fn add(&mut self, channels: &[String], topics: &[Topic]) -> u64 {
        let version = self.change(channels);
        for (channel, topic) in channels.iter().zip(topics) {
            let new = || {
                let seen = self.last_seen_of.remove(channel).unwrap_or_default();
                Wanted { topic: topic.clone(), asked: 0, seen }
            };
            self.wanted.entry(channel.clone()).or_insert_with(new).asked = version;
        }
        version
    }

    /// Removes channels; returns the version of the change.
    pub(crate) fn remove(&mut self, channels: &[String]) -> u64 {
        for channel in channels {
            self.drop_wanted(channel);
        }
        self.change(channels)
    }

    /// Takes back the [`add`](Self::add) of this version, except where a later one asked
    /// for the same.
    pub(crate) fn take_back(&mut self, channels: &[String], version: u64) {
        for channel in channels {
            if self.wanted.get(channel).is_some_and(|wanted| wanted.asked == version) {
                self.drop_wanted(channel);
            }
        }
        self.change(channels);
    }

    fn drop_wanted(&mut self, channel: &str) {
        if let Some((channel, Wanted { seen, .. })) = self.wanted.remove_entry(channel)
            && seen != LastSeen::default()
        {
            self.last_seen_of.insert(channel, seen);
        }
    }

    fn change(&mut self, channels: &[String]) -> u64 {
        if let Some(changes) = &mut self.changes {
            changes.extend(channels.iter().cloned());
        }
        self.version += 1;
        self.version
    }

    /// A connection begins; returns its number.
    pub(crate) fn connecting(&mut self) -> u64 {
        self.connection += 1;
        self.has_delivered = false;
        self.connection
    }

    /// The connection has ended; messages that it still reads are ignored.
    pub(crate) fn disconnected(&mut self) {
        self.connection += 1;
        self.changes = None;
    }

    /// All that a new connection has to subscribe to. From here on changes are noted.
    pub(crate) fn all(&mut self) -> Changes {
        self.changes = Some(HashSet::new());
        let subscribe = self.wanted.keys().cloned().collect();
        Changes { subscribe, unsubscribe: Vec::new(), version: self.version }
    }

    /// What has changed since [`all`](Self::all) and the last call.
    pub(crate) fn changes(&mut self) -> Changes {
        let changed = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        let (subscribe, unsubscribe) =
            changed.into_iter().partition(|channel| self.wanted.contains_key(channel));
        Changes { subscribe, unsubscribe, version: self.version }
    }

    /// Puts changes back that Redis refused. [`changes`](Self::changes) sends what is wanted then.
    pub(crate) fn put_back(&mut self, unsent: Changes) {
        if let Some(changes) = &mut self.changes {
            changes.extend(unsent.subscribe);
            changes.extend(unsent.unsubscribe);
        }
    }

    /// Whether to accept a message of this connection: only of the latest one.
    pub(crate) fn accepts(&mut self, connection: u64) -> bool {
        let is_latest = connection == self.connection;
        self.received |= is_latest;
        self.has_delivered |= is_latest;
        is_latest
    }

    /// The subscription of a channel.
    pub(crate) fn recipient(&mut self, channel: &[u8]) -> Option<&mut Wanted> {
        self.wanted.get_mut(std::str::from_utf8(channel).ok()?)
    }

    /// Whether the latest connection has delivered a message.
    pub(crate) fn has_delivered(&self) -> bool {
        self.has_delivered
    }

    /// Whether anything was received since the last call.
    pub(crate) fn take_received(&mut self) -> bool {
        std::mem::take(&mut self.received)
    }

    /// Records a position that was read, of a topic that is wanted.
    pub(crate) fn read(&mut self, channel: &str, last_seen: LastSeen) {
        if let Some(wanted) = self.wanted.get_mut(channel) {
            wanted.seen.advance(last_seen);
        }
    }

    /// Records the position of a publication of this node.
    pub(crate) fn published(&mut self, channel: String, last_seen: LastSeen) {
        match self.wanted.get_mut(&channel) {
            Some(wanted) => wanted.seen.advance(last_seen),
            // The acknowledgements of one topic arrive in its order: no comparison.
            None => {
                let before =
                    self.last_seen_of.get(&channel).copied().unwrap_or_default().position.epoch;
                if before != last_seen.position.epoch {
                    self.ended(&channel, before);
                }
                self.last_seen_of.insert(channel, last_seen);
            }
        }
    }

    /// The latest position of a subscribed topic that was received, read or acknowledged.
    pub(crate) fn known_position(&self, channel: &str) -> Option<Position> {
        self.wanted.get(channel).map(|wanted| wanted.seen.position)
    }

    /// The latest publication of a topic that this node has seen, subscribed or not.
    pub(crate) fn last_seen(&self, channel: &str) -> Option<LastSeen> {
        let wanted = self.wanted.get(channel).map(|wanted| wanted.seen);
        wanted.or_else(|| self.last_seen_of.get(channel).copied())
    }

    /// Records that a topic has left an epoch for another.
    pub(crate) fn ended(&mut self, channel: &str, epoch: Epoch) {
        if epoch != Epoch::NONE {
            let mut ended = self.ended.remove(channel).unwrap_or_default();
            ended.push_back(epoch);
            if ended.len() > MAX_ENDED {
                ended.pop_front();
            }
            self.ended.insert(channel.to_owned(), ended);
        }
    }

    /// The positions that were seen, and the ends of earlier epochs.
    pub(crate) fn seen(&self) -> Vec<(Address, LastSeen)> {
        let wanted = self.wanted.iter().map(|(channel, wanted)| (channel, wanted.seen));
        let seen = wanted.filter(|(_, seen)| seen.position != Position::default());
        let last_seen_of =
            self.last_seen_of.iter().map(|(channel, last_seen)| (channel, *last_seen));
        let ended = self.ended.iter().flat_map(|(channel, epochs)| {
            epochs.iter().map(move |epoch| (channel, LastSeen::end_of(*epoch)))
        });
        seen.chain(last_seen_of)
            .chain(ended)
            .map(|(channel, seen)| (Address::of_channel(channel), seen))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use chat_core::RoomId;

    use super::*;

    fn channels(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn add(interest: &mut Interest, names: &[&str]) -> u64 {
        let topics: Vec<_> =
            names.iter().map(|name| Topic::Room(RoomId::new(name).unwrap())).collect();
        interest.add(&channels(names), &topics)
    }

    #[test]
    fn new_connection_subscribes_to_all_then_to_changes() {
        let mut interest = Interest::default();
        add(&mut interest, &["a", "b"]);
        interest.remove(&channels(&["b"]));
        let version = add(&mut interest, &["c"]);
        let mut all = interest.all();
        all.subscribe.sort();
        assert_eq!((all.subscribe, all.version), (channels(&["a", "c"]), version));

        add(&mut interest, &["d"]);
        let version = interest.remove(&channels(&["a"]));
        let changes = interest.changes();
        assert_eq!(changes.subscribe, channels(&["d"]));
        assert_eq!(changes.unsubscribe, channels(&["a"]));
        assert_eq!(changes.version, version);
        let nothing = interest.changes();
        assert!(nothing.subscribe.is_empty() && nothing.unsubscribe.is_empty());
    }

    #[test]
    fn unsent_changes_are_sent_again_unless_superseded() {
        let mut interest = Interest::default();
        add(&mut interest, &["a", "b"]);
        interest.all();
        add(&mut interest, &["c", "d"]);
        interest.remove(&channels(&["a"]));
        let unsent = interest.changes();
        interest.remove(&channels(&["d"]));
        interest.put_back(unsent);
        let mut again = interest.changes();
        again.unsubscribe.sort();
        assert_eq!(again.subscribe, channels(&["c"]));
        assert_eq!(again.unsubscribe, channels(&["a", "d"]));
        assert!(interest.changes().subscribe.is_empty());
    }

    #[test]
    fn latest_request_for_a_channel_counts() {
        let mut interest = Interest::default();
        interest.all();
        add(&mut interest, &["a"]);
        interest.remove(&channels(&["a"]));
        add(&mut interest, &["a"]);
        assert_eq!(interest.changes().subscribe, channels(&["a"]));
    }

    #[test]
    fn failed_subscribe_keeps_later_requests() {
        let mut interest = Interest::default();
        let first = add(&mut interest, &["a", "b"]);
        add(&mut interest, &["b"]);
        interest.take_back(&channels(&["a", "b"]), first);
        assert_eq!(interest.all().subscribe, channels(&["b"]));
    }

    #[test]
    fn only_the_latest_connection_delivers() {
        let mut interest = Interest::default();
        add(&mut interest, &["a"]);
        let first = interest.connecting();
        assert!(!interest.has_delivered());
        assert!(interest.accepts(first) && interest.has_delivered());
        assert!(interest.recipient(b"a").is_some());
        assert!(interest.recipient(b"b").is_none());
        interest.disconnected();
        assert!(!interest.accepts(first));
        let second = interest.connecting();
        interest.take_received();
        assert!(!interest.accepts(first) && !interest.has_delivered(), "of the one before");
        assert!(interest.accepts(second));
        assert!(interest.take_received() && !interest.take_received());
        assert!(!interest.accepts(first));
        assert!(!interest.take_received());
    }

    #[test]
    fn seen_positions_are_kept_without_a_subscription() {
        let last_seen = |offset| LastSeen {
            position: Position { epoch: Epoch::parse(b"aaaaaaaa").unwrap(), offset },
            id: None,
        };
        let mut interest = Interest::default();
        let seen = |interest: &Interest| -> Vec<u64> {
            interest.seen().iter().map(|(_, seen)| seen.position.offset).collect()
        };
        interest.read("a", last_seen(1));
        assert_eq!(seen(&interest), [0; 0], "to read a topic is not to use it");
        interest.published("a".to_owned(), last_seen(2));
        assert_eq!(seen(&interest), [2]);
        add(&mut interest, &["a"]);
        assert_eq!(seen(&interest), [2]);
        interest.read("a", last_seen(3));
        interest.published("a".to_owned(), last_seen(2));
        assert_eq!(seen(&interest), [3]);
        interest.remove(&channels(&["a"]));
        assert_eq!(seen(&interest), [3]);
    }

    #[test]
    fn latest_ended_epochs_are_remembered() {
        let epoch = |n: usize| Epoch::parse(format!("{n:08}").as_bytes()).unwrap();
        let mut interest = Interest::default();
        for n in 0..20 {
            let position = Position { epoch: epoch(n), offset: 1 };
            for _ in 0..2 {
                interest.published("a".to_owned(), LastSeen { position, id: None });
            }
        }
        let seen = interest.seen();
        let mut expected: Vec<_> = (20 - MAX_ENDED - 1..20).map(epoch).collect();
        expected.rotate_right(1);
        let ends = seen.iter().map(|(_, last_seen)| last_seen.position.epoch);
        assert_eq!(ends.collect::<Vec<_>>(), expected);
        assert!(seen[1..].iter().all(|(_, last_seen)| last_seen.position.offset == u64::MAX));
    }
}
