//! What is kept, for how long, and how it is read.

use std::time::Duration;

use chat_broker::testing::{RedisServer, TcpProxy};
use chat_broker::{Broker, HistoryRead, PublishOptions};
use chat_core::{History, HistoryRange, Retention};
use futures_util::future::join_all;

use crate::support::{Node, assert_damaged, bytes, keyed, latest, room, texts};

async fn say(
    node: &Node,
    name: &str,
    options: &PublishOptions,
    numbers: std::ops::RangeInclusive<u32>,
) {
    for n in numbers {
        node.deliver(&room(name), &n.to_string(), options.clone()).await.unwrap();
    }
}

fn numbers(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn exactly_as_many_are_kept_as_were_asked_for() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(7), 1..=250).await;
    assert_eq!(server.command(&["XLEN", "chat:{r.r}:log"]).await, "7");
    let history = node.history(&room("r"), HistoryRange::After(0), 1000).await;
    assert_eq!(texts(&history), numbers(244..=250));
    assert_eq!((history.entries[0].offset, history.position.offset), (244, 250));
}

/// Calls of commands that read a log.
async fn reads_of_logs(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).await;
    let calls = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    ["cmdstat_xlen", "cmdstat_xrange", "cmdstat_xrevrange"].map(calls).iter().sum()
}

/// What most messages are must stay cheap.
#[tokio::test]
async fn small_messages_are_trimmed_without_reading_the_log() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let share = "x".repeat(1000);
    let say = async |text: &str, times: usize| {
        for _ in 0..times {
            let retention = Retention::default().messages(10).bytes(10_000);
            let delivery = PublishOptions::default().retention(retention);
            node.deliver(&room("r"), text, delivery).await.unwrap();
        }
    };
    say("first", 1).await;
    let before = reads_of_logs(&server).await;
    say(&share, 30).await;
    assert_eq!(reads_of_logs(&server).await, before);
    // Until a large one has been trimmed.
    say(&"x".repeat(5000), 1).await;
    say(&share, 30).await;
    let after = reads_of_logs(&server).await;
    assert!(after > before);
    say(&share, 30).await;
    assert_eq!(reads_of_logs(&server).await, after);
    assert_eq!(server.command(&["HGET", "chat:{r.r}:meta", "size"]).await, "10000/1000");
}

/// An older server has not written it, a log has expired, or Redis was emptied in part.
#[tokio::test]
async fn size_of_a_history_that_is_wrong_is_corrected() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let (meta, log) = ("chat:{r.r}:meta", "chat:{r.r}:log");
    let large = "x".repeat(400);
    let say = async |times: usize| {
        for _ in 0..times {
            node.deliver(&room("r"), &large, bytes(1000)).await.unwrap();
        }
        server.command(&["XLEN", log]).await
    };
    assert_eq!(say(5).await, "2");
    let size = server.command(&["HGET", meta, "size"]).await;
    for damage in [
        &["HDEL", meta, "size"][..],
        &["HSET", meta, "size", "garbage"],
        &["HSET", meta, "size", "1000/500+7"],
        &["HSET", meta, "size", "1000/3+999999"],
        &["DEL", log],
        &["DEL", meta],
    ] {
        server.command(damage).await;
        let kept = say(1).await;
        let is_known = damage[0] != "DEL" && damage != ["HSET", meta, "size", "1000/3+999999"];
        let expected = if is_known { "2" } else { "1" };
        assert_eq!(kept, expected, "{damage:?}");
        assert_eq!(say(3).await, "2", "{damage:?}");
        assert_eq!(server.command(&["HGET", meta, "size"]).await, size, "{damage:?}");
    }
}

#[tokio::test]
async fn every_part_can_be_read() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(50), 1..=100).await;
    let topic = room("r");
    let position = node.position(&topic).await.unwrap();
    for (range, limit, expected) in [
        (HistoryRange::Latest, 3, numbers(98..=100)),
        (HistoryRange::Latest, 100, numbers(51..=100)),
        (HistoryRange::Latest, 0, Vec::new()),
        (HistoryRange::After(70), 20, numbers(71..=90)),
        (HistoryRange::After(90), 20, numbers(91..=100)),
        (HistoryRange::After(10), 2, numbers(51..=52)),
        (HistoryRange::After(100), 20, Vec::new()),
        (HistoryRange::After(u64::MAX), 20, Vec::new()),
        (HistoryRange::Before(71), 20, numbers(51..=70)),
        (HistoryRange::Before(100), 17, numbers(83..=99)),
        (HistoryRange::Before(51), 20, Vec::new()),
        (HistoryRange::Before(1), 20, Vec::new()),
        (HistoryRange::Before(0), 20, Vec::new()),
        (HistoryRange::Before(u64::MAX), 1, numbers(100..=100)),
    ] {
        let history = node.history(&topic, range, limit).await;
        assert_eq!(texts(&history), expected, "{range:?}, {limit}");
        assert_eq!(history.position, position);
        let offsets = history.entries.iter().map(|entry| entry.offset.to_string());
        assert!(offsets.eq(expected), "{range:?}, {limit}");
    }
}

#[tokio::test]
async fn a_read_ends_when_it_is_large_enough() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    let payload = "x".repeat(HistoryRead::MAX_BYTES / 4);
    for _ in 0..40 {
        node.deliver(&topic, &payload, latest(100)).await.unwrap();
    }
    let large = "y".repeat(2 * HistoryRead::MAX_BYTES);
    node.deliver(&topic, &large, latest(100)).await.unwrap();
    for (range, count, last) in [
        (HistoryRange::After(0), 4, 4),
        (HistoryRange::After(38), 3, 41),
        (HistoryRange::After(40), 1, 41),
        (HistoryRange::Latest, 1, 41),
        (HistoryRange::Before(41), 4, 40),
    ] {
        let entries = node.history(&topic, range, 100).await.entries;
        assert_eq!(entries.len(), count, "{range:?}");
        assert_eq!(entries.last().unwrap().offset, last, "{range:?}");
    }
}

#[tokio::test]
async fn many_reads_in_one_call_keep_their_order() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "a", &latest(9), 1..=5).await;
    let read = |name: &str, range| HistoryRead::new(room(name), range, 2);
    let reads: Vec<_> = (0..50)
        .flat_map(|_| {
            [
                read("a", HistoryRange::Latest),
                read("none", HistoryRange::Latest),
                read("a", HistoryRange::After(0)),
            ]
        })
        .collect();
    let histories = node.broker.history(&reads).await.unwrap();
    assert_eq!(histories.len(), reads.len());
    for three in histories.chunks(3) {
        assert_eq!(texts(&three[0]), numbers(4..=5));
        assert_eq!(three[1], History::default());
        assert_eq!(texts(&three[2]), numbers(1..=2));
    }
    assert_eq!(node.broker.history(&[]).await.unwrap(), []);
}

/// Somebody deleted an entry: what is read has no hole all the same.
#[tokio::test]
async fn a_hole_is_never_in_what_is_read() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(90), 1..=40).await;
    server.command(&["XDEL", "chat:{r.r}:log", "20-0"]).await;
    for (range, expected) in [
        (HistoryRange::After(10), numbers(11..=19)),
        (HistoryRange::After(19), numbers(21..=40)),
        (HistoryRange::Latest, numbers(21..=40)),
        (HistoryRange::Before(20), numbers(1..=19)),
    ] {
        assert_eq!(texts(&node.history(&room("r"), range, 99).await), expected, "{range:?}");
    }
}

#[tokio::test]
async fn everything_expires_in_its_time() {
    let server = RedisServer::start();
    let config = Node::config(&server).position_ttl(Duration::from_secs(100));
    let node = Node::with(config).await;
    let ttl = async |command: &str, key: &str| {
        server.command(&[command, key]).await.parse::<u64>().unwrap()
    };
    let publish = async |seconds| {
        let retention = Retention::default().messages(9).ttl(Duration::from_secs(seconds));
        let delivery = PublishOptions::default().retention(retention).key("k");
        node.deliver(&room("r"), "", delivery).await.unwrap();
        server.command(&["DEL", "chat:{r.r}:k:k"]).await;
    };
    for seconds in [20, 2000, 5] {
        publish(seconds).await;
        let exact = ttl("PTTL", "chat:{r.r}:log").await;
        assert!((seconds * 1000 - 500..=seconds * 1000).contains(&exact), "{exact}");
        assert!(ttl("TTL", "chat:{r.r}:meta").await > seconds + 30, "meta outlives the log");
    }
    server.command(&["EXPIRE", "chat:{r.r}:meta", "150"]).await;
    publish(5).await;
    assert!((140..=150).contains(&ttl("TTL", "chat:{r.r}:meta").await), "long enough");
    server.command(&["EXPIRE", "chat:{r.r}:meta", "50"]).await;
    publish(5).await;
    assert!((190..=200).contains(&ttl("TTL", "chat:{r.r}:meta").await), "renewed");
}

#[tokio::test]
async fn a_history_that_expired_keeps_its_place() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(9), 1..=5).await;
    let before = node.position(&room("r")).await.unwrap();
    server.command(&["DEL", "chat:{r.r}:log"]).await;
    let history = node.history(&room("r"), HistoryRange::After(3), 9).await;
    assert_eq!((history.position, history.entries.len()), (before, 0));
    say(&node, "r", &latest(9), 6..=6).await;
    let history = node.history(&room("r"), HistoryRange::After(3), 9).await;
    assert_eq!((texts(&history), history.position.epoch), (numbers(6..=6), before.epoch));
}

/// Redis has lost the counter and not what it counted.
#[tokio::test]
async fn a_log_without_its_counter_stops_nobody() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(9), 1..=5).await;
    let before = node.position(&room("r")).await.unwrap();
    server.command(&["DEL", "chat:{r.r}:meta"]).await;
    assert_eq!(node.history(&room("r"), HistoryRange::Latest, 9).await, History::default());
    say(&node, "r", &latest(9), 6..=7).await;
    let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
    assert_eq!(texts(&history), numbers(6..=7));
    assert_eq!(history.position.offset, 2);
    assert_ne!(history.position.epoch, before.epoch);
}

/// Nothing is written when something will fail.
#[tokio::test]
async fn a_refused_publication_leaves_nothing() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(9), 1..=2).await;
    server.command(&["RENAME", "chat:{r.r}:log", "elsewhere"]).await;
    server.command(&["SET", "chat:{r.r}:log", "x"]).await;
    assert_damaged(&room("r"), node.publish(&room("r"), "3").await);
    assert_damaged(&room("r"), node.deliver(&room("r"), "3", keyed("k")).await);
    assert_eq!(node.position(&room("r")).await.unwrap().offset, 2);
    server.command(&["RENAME", "elsewhere", "chat:{r.r}:log"]).await;
    say(&node, "r", &latest(9), 3..=3).await;
    let again = node.deliver(&room("r"), "4", keyed("k")).await.unwrap();
    assert!(!again.repeated, "its key was not remembered");
    assert_eq!(texts(&node.history(&room("r"), HistoryRange::Latest, 9).await), numbers(1..=4));
}

/// Each alone would take a way to Redis and back.
#[tokio::test]
async fn what_is_asked_at_once_goes_at_once() {
    let server = RedisServer::start();
    let proxy = TcpProxy::before(&server);
    let node = Node::with(Node::config(&server).url(proxy.redis_url())).await;
    node.publish(&room("0"), "first").await.unwrap();
    proxy.delay(Duration::from_millis(100));
    let before = node.broker.stats().round_trips.count();
    let topics: Vec<_> = (0..200).map(|n| room(&n.to_string())).collect();
    join_all(topics.iter().map(async |topic| node.publish(topic, "x").await.unwrap())).await;
    assert_eq!(node.broker.positions(&topics).await.unwrap().len(), 200);
    let round_trips = node.broker.stats().round_trips.count() - before;
    assert!(round_trips < 20, "{round_trips} round trips");
}
