//! Keys and channels in Redis.
//!
//! | name | kind | content |
//! |---|---|---|
//! | `<prefix>:{r.<room>}`, `<prefix>:{u.<user>}` | channel | publications, see [`wire`](super::wire) |
//! | the same | list | the history, see `scripts/publish.lua` |
//! | `<channel>:position` | string | epoch, offset and id of the last kept publication, if the history expires first |
//! | `<channel>:k:<key>` | string | which publication had this key |
//! | `<channel>:members` | hash | who is there, see `scripts/change.lua` |
//! | `<channel>:on:<node>` | set | users that a node holds there |
//! | `<prefix>:rooms:<node>` | set | channels in which a node holds users |
//! | `<prefix>:occupied` | sorted set | topics that have users: `r.<room>`, `u.<user>`, all with the score 0 |
//! | `<prefix>:nodes` | sorted set | nodes, by when their leases end |
//! | `<prefix>:node:<node>` | channel | what a node sends to itself |
//! | `<prefix>:{p.<random>}` | channel | what a connection publishes to see whether it can; it has a history, too; `rights` is what it writes and removes at once |
//! | `<prefix>:secret` | string | 32 random bytes |
//! | `<prefix>:{records}` | channel | that a record was set |
//! | `<prefix>:{records}:meta` | hash | `version`, `floor` and `run`, see `scripts/records.lua` |
//! | `<prefix>:{records}:values` | hash | the records |
//! | `<prefix>:{records}:versions` | sorted set | their keys, by when they were set or removed |
//! | `<prefix>:{records}:ends` | sorted set | their keys, by when they are forgotten |
//!
//! A room, a user or a key is in them percent-encoded (RFC 3986, section 2.1: all but
//! letters, digits, `-`, `.`, `_` and `~`), so that no name is a pattern, a separator or a
//! hash tag. The hash tag, the part in braces, puts the channel and the keys of a topic
//! into one slot of a Redis Cluster.
//!
//! The databases of one Redis share their channels: a database other than 0 is therefore
//! part of the prefix, as in `chat@3`.

use chat_core::{RoomId, Topic, UserId};
use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, utf8_percent_encode,
};

use crate::random;

/// Makes the names of one deployment.
#[derive(Debug)]
pub(super) struct Names {
    prefix: String,
}

/// The channel and keys of a topic in Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    channel: String,
}

impl Names {
    pub(super) fn new(prefix: &str, database: i64) -> Self {
        let prefix = if database == 0 { prefix.to_owned() } else { format!("{prefix}@{database}") };
        Self { prefix }
    }

    pub(super) fn address(&self, topic: &Topic) -> Address {
        let kind = match topic {
            Topic::Room(_) => 'r',
            Topic::User(_) => 'u',
        };
        let name = topic.name();
        let length = self.prefix.len() + name.len() + ":{r.}".len();
        let mut channel = String::with_capacity(length);
        channel.push_str(&self.prefix);
        channel.push_str(":{");
        channel.push(kind);
        channel.push('.');
        channel.extend(percent_encode(name));
        channel.push('}');
        Address { channel }
    }

    /// The address of a topic that no other node uses.
    pub(super) fn probe(&self) -> Address {
        Address::of_channel(&format!("{}:{{p.{:016x}}}", self.prefix, random::bits()))
    }

    pub(super) fn secret(&self) -> String {
        format!("{}:secret", self.prefix)
    }

    /// The channel of changes to records.
    pub(super) fn records(&self) -> String {
        format!("{}:{{records}}", self.prefix)
    }

    /// The keys that hold them, as the scripts want them.
    pub(super) fn record_keys(&self) -> [String; 4] {
        ["meta", "values", "versions", "ends"].map(|part| format!("{}:{part}", self.records()))
    }

    /// The same for people.
    pub(super) fn record_keys_text(&self) -> String {
        format!("{}:meta, :values, :versions or :ends", self.records())
    }

    /// Channels in which a node holds users.
    pub(super) fn rooms(&self, node: &str) -> String {
        format!("{}:rooms:{node}", self.prefix)
    }

    /// The rooms that have users at any node.
    pub(super) fn occupied(&self) -> String {
        format!("{}:occupied", self.prefix)
    }

    /// The name of a room, or the beginning of one, as [`occupied`](Self::occupied) lists it.
    pub(super) fn listed(room: &str) -> String {
        format!("r.{}", percent_encode(room))
    }

    /// The room of a [listed](Self::listed) name; `None` if it is none of this form.
    pub(super) fn of_listed(name: &str) -> Option<RoomId> {
        decode_room(name.strip_prefix("r.")?)
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The leases of all nodes.
    pub(super) fn nodes(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    /// The channel of a node, to which it publishes its own probes.
    pub(super) fn node(&self, node: &str) -> String {
        format!("{}:node:{node}", self.prefix)
    }
}

impl Address {
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// The list with the history: a channel and a key may have the same name.
    pub(super) fn log(&self) -> &str {
        &self.channel
    }

    /// The position, of a topic whose log may expire before it.
    pub(super) fn position(&self) -> String {
        [self.channel(), ":position"].concat()
    }

    /// The key that a [probe](super::connection::probe) writes and removes at once.
    pub(super) fn scratch(&self) -> String {
        [self.channel(), ":rights"].concat()
    }

    /// The key in Redis of an idempotency key.
    pub(super) fn record(&self, key: &str) -> String {
        let mut record = [self.channel(), ":k:"].concat();
        record.extend(percent_encode(key));
        record
    }

    /// The hash of the occupants.
    pub(super) fn members(&self) -> String {
        [self.channel(), ":members"].concat()
    }

    /// Users that a node holds there.
    pub(super) fn held(&self, node: &str) -> String {
        [self.channel(), ":on:", node].concat()
    }

    /// The topic; `None` if it is none of this form.
    pub(super) fn topic(&self) -> Option<Topic> {
        let (_, tag) = self.channel().strip_suffix('}')?.rsplit_once(":{")?;
        let (kind, name) = tag.split_once('.')?;
        match kind {
            "r" => decode_room(name).map(Topic::Room),
            "u" => UserId::new(percent_decode_str(name).decode_utf8().ok()?).ok().map(Topic::User),
            _ => None,
        }
    }

    pub(super) fn of_channel(channel: &str) -> Self {
        Self { channel: channel.to_owned() }
    }

    pub(super) fn into_channel(self) -> String {
        self.channel
    }
}

/// All but the unreserved characters (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn percent_encode(name: &str) -> PercentEncode<'_> {
    utf8_percent_encode(name, RESERVED)
}

fn decode_room(name: &str) -> Option<RoomId> {
    RoomId::new(percent_decode_str(name).decode_utf8().ok()?).ok()
}

/// Letters and digits that are hard to mistake for one another.
const ALPHABET: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";

/// The characters of the id of a node: 50 random bits.
const NODE_LEN: usize = 10;

/// A new random id of a node, which is never used again.
pub(super) fn new_node() -> String {
    let bits = random::bits();
    let character =
        |nth: usize| char::from(ALPHABET[(bits >> (5 * nth)) as usize % ALPHABET.len()]);
    (0..NODE_LEN).map(character).collect()
}

/// The name under which a node has its `nth` lease: a new one each time, since a reaper may be at work
/// under the one before.
pub(super) fn leaseholder(node: &str, nth: u32) -> String {
    if nth == 0 { node.to_owned() } else { format!("{node}.{nth}") }
}

/// The id of the node that has the lease of this name.
pub(super) fn node_of(leaseholder: &str) -> &str {
    leaseholder.split_once('.').map_or(leaseholder, |(node, _)| node)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(name: &str) -> Topic {
        Topic::Room(RoomId::new(name).unwrap())
    }

    fn channel(topic: &Topic) -> String {
        Names::new("chat", 0).address(topic).into_channel()
    }

    #[test]
    fn names_as_operators_see_them() {
        let address = Names::new("chat", 0).address(&room("a b{*}%é"));
        assert_eq!(address.channel(), "chat:{r.a%20b%7B%2A%7D%25%C3%A9}");
        assert_eq!(address.log(), "chat:{r.a%20b%7B%2A%7D%25%C3%A9}");
        assert_eq!(address.position(), "chat:{r.a%20b%7B%2A%7D%25%C3%A9}:position");
        assert_eq!(address.record("u 1:x"), "chat:{r.a%20b%7B%2A%7D%25%C3%A9}:k:u%201%3Ax");
        let user = Topic::User(UserId::new("a").unwrap());
        assert_eq!(Names::new("chat", 3).address(&user).into_channel(), "chat@3:{u.a}");
        let third = Names::new("chat", 3);
        assert_eq!(third.secret(), "chat@3:secret");
        assert_eq!(third.records(), "chat@3:{records}");
        assert_eq!(third.record_keys()[0], "chat@3:{records}:meta");
    }

    #[test]
    fn leases_of_a_node_have_its_id() {
        let node = new_node();
        assert_eq!(node.len(), NODE_LEN);
        assert!(node.bytes().all(|byte| ALPHABET.contains(&byte)), "{node}");
        let names = [0, 1, 2].map(|nth| leaseholder(&node, nth));
        assert_eq!(names[0], node);
        assert!(names[1] != names[0] && names[2] != names[1], "{names:?}");
        for name in &names {
            assert_eq!(node_of(name), node);
        }
    }

    proptest! {
        #[test]
        fn encoded_names_have_no_special_characters(name in "\\PC{0,31}[!-~]") {
            let channel = channel(&room(&name));
            let encoded = channel.strip_prefix("chat:{r.").unwrap().strip_suffix('}').unwrap();
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
        }

        #[test]
        fn topics_are_known_by_their_channels(name in "\\PC{1,32}", channel in "\\PC{0,16}") {
            for topic in [RoomId::new(&*name).ok().map(Topic::Room), UserId::new(&*name).ok().map(Topic::User)] {
                let Some(topic) = topic else { continue };
                prop_assert_eq!(Names::new("a:b", 3).address(&topic).topic(), Some(topic));
            }
            let _ = Address::of_channel(&channel).topic();
        }

        #[test]
        fn different_topics_have_different_channels(a in "[%24a:{}. ]{0,5}[%24a:{}.]", b in "[%24a:{}. ]{0,5}[%24a:{}.]") {
            prop_assert_eq!(a == b, channel(&room(&a)) == channel(&room(&b)));
        }
    }
}
