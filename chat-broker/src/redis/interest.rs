//! Which channels a node wants, and what Redis has not been told of it yet.

use std::collections::{HashMap, HashSet};

use chat_core::{Position, Topic};

use super::names::Address;

/// Every change has a version; whoever made it waits until Redis agrees up to that.
#[derive(Debug, Default)]
pub(super) struct Interest {
    /// By channel.
    wanted: HashMap<String, Wanted>,
    /// Channels to look at again; `None` while there is no connection, since the next one
    /// looks at all.
    changes: Option<HashSet<String>>,
    version: u64,
    /// Rises with every connection: what an earlier one still reads is ignored.
    connection: u64,
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) topic: Topic,
    /// The version of the latest call that asked for it.
    asked: u64,
    /// How far this node has seen its sequence come.
    pub(super) seen: Position,
}

/// What Redis is to be told, so that it agrees up to `version`.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    pub(super) version: u64,
}

impl Interest {
    /// Wants these; returns the version of the change.
    pub(super) fn add(&mut self, channels: &[String], topics: &[Topic]) -> u64 {
        let version = self.change(channels);
        for (channel, topic) in channels.iter().zip(topics) {
            let new = || Wanted { topic: topic.clone(), asked: 0, seen: Position::default() };
            self.wanted.entry(channel.clone()).or_insert_with(new).asked = version;
        }
        version
    }

    /// Wants these no more; returns the version of the change.
    pub(super) fn remove(&mut self, channels: &[String]) -> u64 {
        for channel in channels {
            self.wanted.remove(channel);
        }
        self.change(channels)
    }

    /// Takes back the [`add`](Self::add) of this version, except where a later one asked
    /// for the same.
    pub(super) fn take_back(&mut self, channels: &[String], version: u64) {
        for channel in channels {
            if self.wanted.get(channel).is_some_and(|wanted| wanted.asked == version) {
                self.wanted.remove(channel);
            }
        }
        self.change(channels);
    }

    fn change(&mut self, channels: &[String]) -> u64 {
        if let Some(changes) = &mut self.changes {
            changes.extend(channels.iter().cloned());
        }
        self.version += 1;
        self.version
    }

    /// A connection begins; returns its number.
    pub(super) fn connecting(&mut self) -> u64 {
        self.connection += 1;
        self.connection
    }

    /// No connection counts any more.
    pub(super) fn disconnected(&mut self) {
        self.connection += 1;
        self.changes = None;
    }

    /// All that a new connection has to subscribe to. From here on changes are noted.
    pub(super) fn all(&mut self) -> Changes {
        self.changes = Some(HashSet::new());
        let subscribe = self.wanted.keys().cloned().collect();
        Changes { subscribe, unsubscribe: Vec::new(), version: self.version }
    }

    /// What has changed since [`all`](Self::all) and the last call.
    pub(super) fn changes(&mut self) -> Changes {
        let changed = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        let (subscribe, unsubscribe) =
            changed.into_iter().partition(|channel| self.wanted.contains_key(channel));
        Changes { subscribe, unsubscribe, version: self.version }
    }

    /// Where a message goes that this connection read.
    pub(super) fn recipient(&mut self, connection: u64, channel: &[u8]) -> Option<&mut Wanted> {
        if connection != self.connection {
            return None;
        }
        self.wanted.get_mut(std::str::from_utf8(channel).ok()?)
    }

    /// Takes note of positions that were read.
    pub(super) fn saw(&mut self, channels: &[String], positions: &[Position]) {
        for (channel, position) in channels.iter().zip(positions) {
            if let Some(wanted) = self.wanted.get_mut(channel) {
                wanted.saw(*position);
            }
        }
    }

    /// How far the sequences have been seen to come, where anything was seen.
    pub(super) fn seen(&self) -> Vec<(Address, Position)> {
        let seen = self.wanted.iter().filter(|(_, wanted)| wanted.seen != Position::default());
        seen.map(|(channel, wanted)| (Address::of_channel(channel), wanted.seen)).collect()
    }
}

impl Wanted {
    /// A position that was read may be older than what has arrived since.
    fn saw(&mut self, position: Position) {
        let is_later = self.seen.epoch == position.epoch && self.seen.offset < position.offset;
        if is_later || self.seen == Position::default() {
            self.seen = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use chat_core::{Epoch, RoomId};

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
    fn a_connection_hears_of_all_and_then_of_changes() {
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
    fn the_last_word_on_a_channel_counts() {
        let mut interest = Interest::default();
        interest.all();
        add(&mut interest, &["a"]);
        interest.remove(&channels(&["a"]));
        add(&mut interest, &["a"]);
        assert_eq!(interest.changes().subscribe, channels(&["a"]));
    }

    #[test]
    fn a_failed_call_takes_back_only_what_nobody_asked_for_since() {
        let mut interest = Interest::default();
        let first = add(&mut interest, &["a", "b"]);
        add(&mut interest, &["b"]);
        interest.take_back(&channels(&["a", "b"]), first);
        assert_eq!(interest.all().subscribe, channels(&["b"]));
    }

    #[test]
    fn only_the_latest_connection_is_listened_to() {
        let mut interest = Interest::default();
        add(&mut interest, &["a"]);
        let first = interest.connecting();
        assert!(interest.recipient(first, b"a").is_some());
        assert!(interest.recipient(first, b"b").is_none());
        interest.disconnected();
        assert!(interest.recipient(first, b"a").is_none());
        let second = interest.connecting();
        assert!(interest.recipient(second, b"a").is_some());
        assert!(interest.recipient(first, b"a").is_none());
    }

    #[test]
    fn a_position_that_was_read_late_does_not_count() {
        let at = |epoch: &[u8], offset| Position { epoch: Epoch::parse(epoch).unwrap(), offset };
        let mut interest = Interest::default();
        add(&mut interest, &["a"]);
        let mut see = |position| {
            interest.saw(&channels(&["a"]), &[position]);
            interest.seen()[0].1
        };
        assert_eq!(see(at(b"aaaaaaaa", 3)), at(b"aaaaaaaa", 3));
        assert_eq!(see(at(b"aaaaaaaa", 2)), at(b"aaaaaaaa", 3));
        assert_eq!(see(at(b"bbbbbbbb", 9)), at(b"aaaaaaaa", 3));
        assert_eq!(see(at(b"aaaaaaaa", 4)), at(b"aaaaaaaa", 4));
    }
}
