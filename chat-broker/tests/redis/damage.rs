//! Something else stands under the names of a room: that room alone fails, at once, until it is
//! mended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{
    Broker, BrokerError, HistoryRead, PresenceTracker, Published, SharedTable, Status,
};
use chat_core::{Epoch, History, HistoryRange, Position, Topic};

use crate::support::{
    DEADLINE, Node, assert_damaged, assert_within, eventually, keyed, keys, lasting, latest,
    persistent, room, texts,
};

/// Nothing of this may wait for a deadline.
const AT_ONCE: Duration = Duration::from_millis(800);

/// Ways to make a key of each type.
const TYPES: [(&str, &[&str]); 6] = [
    ("string", &["SET", "", "x"]),
    ("list", &["LPUSH", "", "x"]),
    ("hash", &["HSET", "", "x", "x"]),
    ("set", &["SADD", "", "x"]),
    ("zset", &["ZADD", "", "1", "x"]),
    ("stream", &["XADD", "", "*", "x", "x"]),
];

/// All that is asked for one topic.
async fn ask_all(node: &Node, topic: &Topic) -> Vec<(&'static str, Result<(), BrokerError>)> {
    let topics = std::slice::from_ref(topic);
    let read = [HistoryRead::new(topic.clone(), HistoryRange::Latest, 9)];
    vec![
        ("publish", node.publish(topic, "x").await.map(drop)),
        ("publish with a key", node.deliver(topic, "x", keyed("k")).await.map(drop)),
        ("positions", node.broker.positions(topics).await.map(drop)),
        ("history", node.broker.history(&read).await.map(drop)),
        ("occupancy", node.broker.occupancy(topics, 9).await.map(drop)),
    ]
}

async fn assert_all_work(node: &Node, topic: &Topic, what: &str) {
    for (call, outcome) in ask_all(node, topic).await {
        assert!(outcome.is_ok(), "{what}: {call}: {outcome:?}");
    }
}

#[tokio::test]
async fn key_of_wrong_type_fails_one_room_until_deleted() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let good = room("good");
    for (part, kind) in [("", "list"), (":k:k", "string"), (":members", "hash"), (":on", "set")] {
        for (other, command) in TYPES.iter().filter(|(other, _)| *other != kind) {
            let what = format!("{part:?} is a {other}");
            let name = format!("{} {other}", part.replace(':', ""));
            let topic = room(&name);
            let names = format!("chat:{{r.{}}}", name.replace(' ', "%20"));
            node.deliver(&topic, "before", keyed("k")).await.unwrap();
            node.enter(&topic, "anna");
            node.wait_for_occupants(&topic, &["anna"]).await;
            let all = keys(&server).await;
            let key = all.iter().find(|key| key.starts_with(&format!("{names}{part}"))).unwrap();
            server.command(&["DEL", key]).await;
            let command = command.iter().map(|word| if word.is_empty() { key } else { *word });
            server.command(&command.collect::<Vec<_>>()).await;
            // A change of presence is to be made as well.
            node.enter(&topic, "bob");

            let began = Instant::now();
            let mut failed = 0;
            for (call, outcome) in ask_all(&node, &topic).await {
                if let Err(error) = outcome {
                    assert_eq!(error.topic(), Some(&topic), "{what}: {call}: {error}");
                    assert!(error.to_string().contains(&names), "{what}: {error}");
                    failed += 1;
                }
            }
            assert_within(&what, began.elapsed(), AT_ONCE);
            // What one node holds is read by none but those that reap it.
            assert!(failed > 0 || part == ":on", "{what}");
            assert_all_work(&node, &good, &what).await;
            assert_eq!(node.broker.status(), Status::Ready, "{what}");

            assert_eq!(server.command(&["DEL", key]).await, "1");
            assert_all_work(&node, &topic, &what).await;
            server.command(&["DEL", &format!("{names}:members")]).await;
        }
    }
}

/// Users of several rooms join, and leave, in one call of a script.
#[tokio::test]
async fn damaged_room_fails_alone_among_changes_of_presence() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let (damaged, others) = (room("b"), [room("a"), room("c")]);
    node.enter(&others[0], "first");
    node.wait_for_occupants(&others[0], &["first"]).await;
    node.leave(&others[0], "first");
    node.wait_for_occupants(&others[0], &[]).await;
    let name = server.command(&["ZRANGE", "chat:nodes", "0", "0"]).await;
    for key in ["chat:{r.b}:members".to_owned(), format!("chat:{{r.b}}:on:{name}")] {
        let damage = async || {
            server.command(&["DEL", &key]).await;
            server.command(&["SET", &key, "x"]).await;
        };
        let change_all = |change: &dyn Fn(&Topic, &str)| {
            for topic in [&others[0], &damaged, &others[1]] {
                change(topic, "anna");
                change(topic, "ben");
            }
        };
        damage().await;
        change_all(&|topic, name| node.enter(topic, name));
        for topic in &others {
            node.wait_for_occupants(topic, &["anna", "ben"]).await;
        }
        server.command(&["DEL", &key]).await;
        node.wait_for_occupants(&damaged, &["anna", "ben"]).await;

        damage().await;
        change_all(&|topic, name| node.leave(topic, name));
        for topic in &others {
            node.wait_for_occupants(topic, &[]).await;
        }
        server.command(&["DEL", &key]).await;
        eventually("nothing but the lease", async || keys(&server).await == ["chat:nodes"]).await;
    }
}

/// A call for many says for which of them it failed.
#[tokio::test]
async fn call_for_many_rooms_names_the_damaged_one() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topics: Vec<Topic> = (0..40).map(|n| room(&n.to_string())).collect();
    for part in ["", ":members"] {
        let key = format!("chat:{{r.33}}{part}");
        server.command(&["SET", &key, "x"]).await;
        let reads: Vec<_> = topics
            .iter()
            .map(|topic| HistoryRead::new(topic.clone(), HistoryRange::Latest, 1))
            .collect();
        if part.is_empty() {
            assert_damaged(&topics[33], node.broker.positions(&topics).await);
            assert_damaged(&topics[33], node.broker.history(&reads).await);
        } else {
            assert_damaged(&topics[33], node.broker.occupancy(&topics, 9).await);
        }
        server.command(&["DEL", &key]).await;
    }
}

const OLD: &str = "abcdEF12";

async fn publish(node: &Node, topic: &Topic, text: &str) -> Position {
    let published: Published = node.publish(topic, text).await.unwrap();
    published.position.unwrap()
}

/// Writes a log or position whose value is the epoch and the offset, and has so many bytes.
const WRITE: &str = "local value = ARGV[1] .. struct.pack('>I8', ARGV[2]) .. ('x'):rep(40)
    redis.call('DEL', KEYS[1], KEYS[2])
    if #KEYS[2] > 0 then return redis.call('SET', KEYS[1], value:sub(1, ARGV[3])) end
    return redis.call('RPUSH', KEYS[1], value:sub(1, ARGV[3]), '12345678forged')";

/// No position that a room can have: it is as a room without one, and begins a new epoch.
#[tokio::test]
async fn malformed_positions_begin_a_new_epoch() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let offsets = ["9007199254740993", "9223372036854775808"];
    let lengths = ["0", "1", "7", "8", "16", "23", "43", "45"];
    let epochs = ["", "x", "abcdEF123", "abcd F12", "abcdEF1\u{1}", "日本ab", "--------"];
    let all = (offsets.iter().map(|offset| (OLD, *offset, true)))
        .chain(epochs.iter().map(|epoch| (*epoch, "7", true)))
        .chain(lengths.iter().map(|length| (OLD, *length, false)));
    for (n, (epoch, number, is_offset)) in all.enumerate() {
        for is_log in [true, false] {
            let name = format!("{n} {is_log}");
            let topic = room(&name);
            let log = format!("chat:{{r.{n}%20{is_log}}}");
            let position = format!("{log}:position");
            let (key, other) = if is_log { (&*log, "") } else { (&*position, &*log) };
            let length = if is_log { "44" } else { "24" };
            let (offset, length) = if is_offset { (number, length) } else { ("7", number) };
            let before = publish(&node, &topic, "before").await;
            server.command(&["EVAL", WRITE, "2", key, other, epoch, offset, length]).await;
            let what = format!("{epoch:?}, {offset}, {length} bytes, a log: {is_log}");
            assert_eq!(node.position(&topic).await.unwrap(), Position::default(), "{what}");
            let history = node.history(&topic, HistoryRange::Latest, 9).await;
            assert_eq!(history, History::default(), "{what}");
            let after = publish(&node, &topic, "after").await;
            assert!(after.offset == 1 && after.epoch.as_str() != OLD, "{what}: {after:?}");
            assert_ne!(after.epoch, before.epoch, "{what}");
            let history = node.history(&topic, HistoryRange::Latest, 9).await;
            assert_eq!((texts(&history), history.position), (vec!["after".to_owned()], after));
            assert_eq!(publish(&node, &topic, "next").await.offset, 2, "{what}");
        }
    }
    assert_eq!(node.broker.status(), Status::Ready);
}

/// What is read of it fails; the next publication replaces or removes it.
#[tokio::test]
async fn position_of_wrong_type_is_replaced() {
    let server = RedisServer::start();
    let topic = room("r");
    for options in [latest(9), persistent()] {
        for (other, command) in TYPES.iter().filter(|(other, _)| *other != "string") {
            // It has not extended the lifetime of the log lately.
            let node = Node::start(&server).await;
            let position = "chat:{r.r}:position";
            server.command(&["DEL", "chat:{r.r}", position]).await;
            let command = command.iter().map(|word| if word.is_empty() { position } else { *word });
            server.command(&command.collect::<Vec<_>>()).await;
            assert_damaged(&topic, node.position(&topic).await);
            let published = node.deliver(&topic, "after", options.clone()).await.unwrap();
            assert_eq!(published.position.unwrap().offset, 1, "{other}");
            assert_eq!(node.position(&topic).await.unwrap(), published.position.unwrap());
            server.command(&["DEL", "chat:{r.r}"]).await;
            assert!(node.position(&topic).await.is_ok(), "{other} is gone");
        }
    }
}

/// Offsets stay below what JSON carries exactly everywhere, with all that a log may hold.
#[tokio::test]
async fn room_at_the_largest_offset_begins_a_new_epoch() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    let limit = Position::MAX_OFFSET + 1 - (1 << 32);
    for (base, is_continued) in [(limit, true), (limit + 1, false)] {
        server.command(&["EVAL", WRITE, "2", "chat:{r.r}", "", OLD, &base.to_string(), "44"]).await;
        let expected = Position { epoch: Epoch::parse(OLD.as_bytes()).unwrap(), offset: base + 1 };
        assert_eq!(node.position(&topic).await.unwrap(), expected);
        let next = publish(&node, &topic, "next").await;
        assert_eq!(next.epoch == expected.epoch, is_continued, "{next:?}");
        assert_eq!(next.offset, if is_continued { base + 2 } else { 1 });
    }
}

#[tokio::test]
async fn foreign_keys_are_ignored() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let (log, record) = ("chat:{r.r}", "chat:{r.r}:k:k");
    let topic = room("r");
    let shapes = ["", "x", "abcdEF12", "abcdEF1212345678", "abcd F121234567812345678"];
    for junk in shapes.iter().chain(&["abcdEF12123456781234567"]) {
        server.command(&["SET", record, junk]).await;
        let published = node.deliver(&topic, "z", keyed("k")).await.unwrap();
        assert!(!published.repeated, "{junk:?} is no record");
        let again = node.deliver(&topic, "z", keyed("k")).await.unwrap();
        assert_eq!((again.repeated, again.position), (true, published.position), "{junk:?}");
        let ttl = server.command(&["TTL", record]).await;
        assert!((299..=300).contains(&ttl.parse::<u32>().unwrap()), "{ttl}");
    }
    // An entry that is not ours has an offset, too.
    let last = publish(&node, &topic, "last").await;
    server.command(&["RPUSH", log, "short"]).await;
    let next = publish(&node, &topic, "next").await;
    assert_eq!(next, Position { offset: last.offset + 2, ..last });
    for range in [HistoryRange::Latest, HistoryRange::After(0), HistoryRange::After(last.offset)] {
        let read = HistoryRead::new(topic.clone(), range, 99);
        read.check(&node.history(&topic, range, 99).await).unwrap();
    }
    let found = node.history(&topic, HistoryRange::Latest, 9).await;
    assert_eq!((texts(&found), found.position), (vec!["next".to_owned()], next));
}

/// Keys that all rooms share: the log and the error name them, and after the repair all works
/// again.
#[tokio::test]
async fn damage_to_shared_keys_ends_with_it() {
    let server = RedisServer::start();
    let node = Node::with(Node::config(&server).lease(Duration::from_millis(300))).await;
    let set = async || node.broker.set("a", Bytes::from("x"), lasting(DEADLINE * 9)).await;
    node.broker.secret().await.unwrap();
    set().await.unwrap();
    for name in [
        "secret",
        "{records}:meta",
        "{records}:values",
        "{records}:versions",
        "{records}:ends",
        "nodes",
    ] {
        for (kind, command) in TYPES {
            let key = format!("chat:{name}");
            server.command(&["DEL", &key]).await;
            let command = command.iter().map(|word| if word.is_empty() { &*key } else { *word });
            server.command(&command.collect::<Vec<_>>()).await;
            let error = match name {
                "secret" => node.broker.secret().await.map(drop),
                "nodes" => Ok(()),
                _ => node.broker.changes_since(0).await.map(drop),
            };
            if let Err(error) = error {
                let (shown, _) = key.split_once('}').unwrap_or((&key, ""));
                assert!(error.to_string().contains(shown), "{kind}: {error}");
            }
            node.publish(&room("r"), "x").await.expect("rooms go on");
            assert_eq!(server.command(&["DEL", &key]).await, "1");
            node.broker.secret().await.unwrap();
            node.broker.changes_since(0).await.unwrap();
            set().await.unwrap();
            eventually("ready", async || node.broker.status() == Status::Ready).await;
        }
    }
}
