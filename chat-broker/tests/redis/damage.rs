//! Something else stands under the names of a room: that room alone fails, at once, until it is
//! mended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{
    Broker, BrokerError, HistoryRead, PresenceTracker, Published, SharedTable, Status,
};
use chat_core::{History, HistoryRange, Position, Topic};

use crate::support::{
    DEADLINE, Node, assert_damaged, assert_within, eventually, keyed, keys, lasting, latest, room,
    texts,
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
    for (part, kind) in
        [("meta", "hash"), ("log", "stream"), ("k:k", "string"), ("members", "hash"), ("on", "set")]
    {
        for (other, command) in TYPES.iter().filter(|(other, _)| *other != kind) {
            let what = format!("{part} is a {other}");
            let topic = room(&format!("{part} {other}"));
            let names = format!(
                "chat:{{r.{}}}:",
                format!("{part} {other}").replace(' ', "%20").replace(':', "%3A")
            );
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
            assert!(failed > 0 || part == "on", "{what}");
            assert_all_work(&node, &good, &what).await;
            assert_eq!(node.broker.status(), Status::Ready, "{what}");

            assert_eq!(server.command(&["DEL", key]).await, "1");
            assert_all_work(&node, &topic, &what).await;
            server.command(&["DEL", &format!("{names}members")]).await;
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
    for part in ["meta", "members"] {
        let key = format!("chat:{{r.33}}:{part}");
        server.command(&["SET", &key, "x"]).await;
        let reads: Vec<_> = topics
            .iter()
            .map(|topic| HistoryRead::new(topic.clone(), HistoryRange::Latest, 1))
            .collect();
        if part == "meta" {
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

/// No position that a room can have: it is as a room without one, and begins a new epoch.
#[tokio::test]
async fn malformed_fields_begin_a_new_epoch() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let offsets = [
        "",
        "x",
        "-1",
        "-5",
        "1.5",
        "nan",
        "inf",
        "-inf",
        "1e300",
        "9007199254740993",
        "18446744073709551615",
        "99999999999999999999999",
        "\u{1}",
        "日本",
    ];
    let epochs = ["", "x", "abcdEF123", "abcd F12", "abcdEF1\u{1}", "日本ab", "--------"];
    let all =
        offsets.iter().map(|offset| (OLD, *offset)).chain(epochs.iter().map(|epoch| (*epoch, "7")));
    for (n, (epoch, offset)) in all.enumerate() {
        let topic = room(&n.to_string());
        let meta = format!("chat:{{r.{n}}}:meta");
        publish(&node, &topic, "before").await;
        server.command(&["HSET", &meta, "epoch", epoch, "offset", offset]).await;
        let what = format!("{epoch:?}, {offset:?}");
        assert_eq!(node.position(&topic).await.unwrap(), Position::default(), "{what}");
        let history = node.history(&topic, HistoryRange::Latest, 9).await;
        assert_eq!(history, History::default(), "{what}");
        let after = publish(&node, &topic, "after").await;
        assert!(after.offset == 1 && after.epoch.as_str() != OLD, "{what}: {after:?}");
        let history = node.history(&topic, HistoryRange::Latest, 9).await;
        assert_eq!(
            (texts(&history), history.position),
            (vec!["after".to_owned()], after),
            "{what}"
        );
        assert_eq!(publish(&node, &topic, "next").await.offset, 2, "{what}");
    }
    assert_eq!(node.broker.status(), Status::Ready);
}

/// No offset is above that which JSON carries exactly everywhere: subscribers would drop the message.
#[tokio::test]
async fn room_at_the_largest_offset_begins_a_new_epoch() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    publish(&node, &topic, "before").await;
    let before_last = (Position::MAX_OFFSET - 1).to_string();
    server.command(&["HSET", "chat:{r.r}:meta", "offset", &before_last]).await;
    let last = publish(&node, &topic, "last").await;
    assert_eq!(last.offset, Position::MAX_OFFSET);
    let next = publish(&node, &topic, "next").await;
    assert!(next.offset == 1 && next.epoch != last.epoch, "{next:?}");
}

/// The counter is an older copy than the log, or an operator has added to the log.
#[tokio::test]
async fn log_beyond_the_counter_begins_a_new_epoch() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let (meta, log) = ("chat:{r.r}:meta", "chat:{r.r}:log");
    let topic = room("r");
    let damages: [&[&str]; 4] = [
        &["HSET", meta, "offset", "3"],
        &["HSET", meta, "offset", "0"],
        &["XADD", log, "9-0", "d", "forged", "i", "12345678"],
        &["XADD", log, "*", "other", "fields"],
    ];
    for damage in damages {
        let mut before = Position::default();
        for n in 1..=5 {
            before = publish(&node, &topic, &n.to_string()).await;
        }
        assert_eq!(before.offset, 5);
        server.command(damage).await;
        // Nothing beyond the counter is read.
        let here = node.position(&topic).await.unwrap();
        for range in [HistoryRange::Latest, HistoryRange::After(0), HistoryRange::Before(100)] {
            let history = node.history(&topic, range, 9).await;
            assert_eq!(history.position, here, "{damage:?}, {range:?}");
            let read = HistoryRead::new(topic.clone(), range, 9);
            read.check(&history).unwrap_or_else(|error| panic!("{damage:?}: {error}"));
            assert!(!texts(&history).contains(&"fields".to_owned()), "{damage:?}");
        }
        let after = publish(&node, &topic, "after").await;
        assert!(after.offset == 1 && after.epoch != before.epoch, "{damage:?}: {after:?}");
        assert_eq!(
            texts(&node.history(&topic, HistoryRange::Latest, 9).await),
            ["after"],
            "{damage:?}"
        );
        server.command(&["DEL", meta, log]).await;
    }
}

#[tokio::test]
async fn foreign_keys_are_ignored() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let (meta, log, record) = ("chat:{r.r}:meta", "chat:{r.r}:log", "chat:{r.r}:k:k");
    let topic = room("r");
    let first = node.deliver(&topic, "1", latest(9)).await.unwrap().position.unwrap();
    for size in ["", "x", "-1/-1", "9/9+999999999999999999999", "nan", "18446744073709551615/1"] {
        server.command(&["HSET", meta, "size", size, "id", "junk", "more", "x"]).await;
        let position = node.deliver(&topic, "x", latest(9)).await.unwrap().position.unwrap();
        assert_eq!(position.epoch, first.epoch, "{size:?}");
        node.deliver(&topic, "y", latest(9)).await.unwrap();
        let found = texts(&node.history(&topic, HistoryRange::Latest, 2).await);
        assert_eq!(found, ["x", "y"], "{size:?}");
    }
    for junk in ["", "x", "abcdEF12", "abcdEF1212345678", "abcdEF1212345678x", "abcdEF1212345678-1"]
    {
        server.command(&["SET", record, junk]).await;
        let published = node.deliver(&topic, "z", keyed("k")).await.unwrap();
        assert!(!published.repeated, "{junk:?} is no record");
        let again = node.deliver(&topic, "z", keyed("k")).await.unwrap();
        assert_eq!((again.repeated, again.position), (true, published.position), "{junk:?}");
    }
    // An entry between two.
    let last = publish(&node, &topic, "last").await;
    server.command(&["XADD", log, &format!("{}-1", last.offset), "forged", "x"]).await;
    let next = publish(&node, &topic, "next").await;
    assert_eq!(next, Position { offset: last.offset + 1, ..last });
    for range in [HistoryRange::Latest, HistoryRange::After(0), HistoryRange::After(last.offset)] {
        let read = HistoryRead::new(topic.clone(), range, 99);
        read.check(&node.history(&topic, range, 99).await).unwrap();
    }
    // A hole in the log, as an operator makes who deletes a message.
    let last = publish(&node, &topic, "last").await;
    server.command(&["XDEL", log, &format!("{}-0", last.offset - 1)]).await;
    let found = node.history(&topic, HistoryRange::Latest, 9).await;
    assert_eq!((texts(&found), found.position), (vec!["last".to_owned()], last));
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
