//! What is kept, for how long, and how it is read.

use std::time::Duration;

use chat_broker::testing::{RedisServer, TcpProxy};
use chat_broker::{Broker, HistoryRead, PublishOptions};
use chat_core::{History, HistoryRange, Retention};
use futures_util::future::join_all;

use crate::support::{Node, assert_damaged, bytes, keyed, latest, persistent, room, texts};

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
async fn history_keeps_the_exact_count() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(7), 1..=250).await;
    assert_eq!(entries(&server).await, 7);
    let history = node.history(&room("r"), HistoryRange::After(0), 1000).await;
    assert_eq!(texts(&history), numbers(244..=250));
    assert_eq!((history.entries[0].offset, history.position.offset), (244, 250));
}

/// How many entries the log of the room `r` has, after its head.
async fn entries(server: &RedisServer) -> usize {
    server.command(&["LLEN", "chat:{r.r}"]).await.parse::<usize>().unwrap() - 1
}

/// Redis trims an eighth at once, and reads return no more than is kept.
#[tokio::test]
async fn history_is_trimmed_in_blocks_and_read_exactly() {
    const KEPT: u32 = 64;
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let (mut most, mut trimmed) = (0, 0);
    for n in 1..=200 {
        say(&node, "r", &latest(KEPT), n..=n).await;
        let (kept, first) = (n.min(KEPT), n.saturating_sub(KEPT) + 1);
        let stored = entries(&server).await;
        assert!((kept as usize..=72).contains(&stored), "{stored} after {n}");
        trimmed += usize::from(stored < most && stored == KEPT as usize);
        most = most.max(stored);
        for range in [HistoryRange::After(0), HistoryRange::Latest, HistoryRange::Before(1000)] {
            let history = node.history(&room("r"), range, 1000).await;
            assert_eq!(texts(&history), numbers(first..=n), "{range:?}");
        }
    }
    assert_eq!(most, 72);
    assert!((10..=20).contains(&trimmed), "136 were trimmed, in {trimmed} blocks");
}

/// A room whose bounds change keeps what the new ones allow, and its sequence.
#[tokio::test]
async fn changed_bounds_hold_from_the_next_message() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    for (options, kept) in [(latest(40), 20), (latest(5), 5), (bytes(3), 3), (latest(9), 4)] {
        let next = node.position(&room("r")).await.unwrap().offset as u32 + 1;
        let count = if next == 1 { 20 } else { 1 };
        for n in next..next + count {
            node.deliver(&room("r"), &(n % 10).to_string(), options.clone()).await.unwrap();
        }
        let history = node.history(&room("r"), HistoryRange::Latest, 99).await;
        assert_eq!((history.entries.len(), entries(&server).await), (kept, kept));
        assert_eq!(history.position.offset as u32, next + count - 1);
        assert_eq!(history.entries.last().unwrap().offset, history.position.offset);
    }
}

/// Calls of commands that read a log.
async fn reads_of_logs(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).await;
    let calls = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    ["cmdstat_llen", "cmdstat_lrange"].map(calls).iter().sum()
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
}

/// The head says by how many bytes entries exceed their share, and is wrong.
#[tokio::test]
async fn wrong_excess_of_a_history_is_corrected() {
    const SET: &str = "local head = redis.call('LINDEX', KEYS[1], 0)
        redis.call('LSET', KEYS[1], 0, head:sub(1, 36) .. struct.pack('>I8', ARGV[1]))";
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let large = "x".repeat(400);
    let say = async |times: usize| {
        for _ in 0..times {
            node.deliver(&room("r"), &large, bytes(1000)).await.unwrap();
        }
        entries(&server).await
    };
    assert_eq!(say(5).await, 2);
    let head = server.command(&["LINDEX", "chat:{r.r}", "0"]).await;
    server.command(&["EVAL", SET, "1", "chat:{r.r}", "999999"]).await;
    assert_eq!(say(1).await, 1);
    assert_eq!(say(3).await, 2);
    assert_eq!(server.command(&["LINDEX", "chat:{r.r}", "0"]).await[..8], head[..8], "its epoch");
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

/// What a node missed of a log that it knows costs Redis no script, and whatever else happened to the
/// log does.
#[tokio::test]
async fn latest_messages_are_read_without_a_script() {
    let server = RedisServer::start();
    let (node, other) = (Node::start(&server).await, Node::start(&server).await);
    let topic = room("r");
    let read = async |after| {
        let reads = [HistoryRead::new(topic.clone(), HistoryRange::After(after), 99)];
        let histories = node.broker.history(&reads).await;
        histories.map(|histories| (texts(&histories[0]), histories[0].position.offset))
    };
    let scripts = async |right: &str| {
        let rule = [format!("{right}evalsha"), format!("{right}eval")];
        server.command(&["ACL", "SETUSER", "default", &rule[0], &rule[1]]).await;
    };
    let both = async |after, expected: (Vec<String>, u64), needs_script: bool| {
        assert_eq!(read(after).await.unwrap(), expected, "after {after}");
        // The read before was by the script, which tells the node nothing of a room that it has not
        // subscribed to.
        scripts("-").await;
        let outcome = read(after).await;
        scripts("+").await;
        assert_eq!(outcome.ok(), (!needs_script).then_some(expected), "after {after}");
    };

    say(&node, "r", &latest(40), 1..=50).await;
    both(50, (Vec::new(), 50), false).await;
    both(40, (numbers(41..=50), 50), false).await;
    both(30, (numbers(31..=50), 50), true).await;
    both(0, (numbers(11..=50), 50), true).await;
    both(51, (Vec::new(), 50), true).await;
    say(&other, "r", &latest(40), 51..=52).await;
    both(48, (numbers(49..=52), 52), false).await;
    say(&other, "r", &latest(40), 53..=53).await;
    both(50, (numbers(51..=53), 53), true).await;
    say(&node, "r", &latest(4), 54..=54).await;
    both(45, (numbers(51..=54), 54), false).await;

    server.command(&["DEL", "chat:{r.r}", "chat:{r.r}:position"]).await;
    both(50, (Vec::new(), 0), true).await;
    say(&other, "r", &latest(40), 1..=60).await;
    both(50, (numbers(51..=60), 60), true).await;
}

#[tokio::test]
async fn read_ends_at_the_byte_limit() {
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

/// An operator replaced an entry by what is none: reads still have no hole.
#[tokio::test]
async fn read_history_has_no_hole() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(90), 1..=40).await;
    assert_eq!(server.command(&["LSET", "chat:{r.r}", "20", "none"]).await, "OK");
    for (range, expected) in [
        (HistoryRange::After(10), numbers(11..=19)),
        (HistoryRange::After(19), numbers(21..=40)),
        (HistoryRange::Latest, numbers(21..=40)),
        (HistoryRange::Before(21), numbers(1..=19)),
    ] {
        assert_eq!(texts(&node.history(&room("r"), range, 99).await), expected, "{range:?}");
    }
    say(&node, "r", &latest(90), 41..=41).await;
    let history = node.history(&room("r"), HistoryRange::After(20), 99).await;
    assert_eq!(texts(&history), numbers(21..=41));
}

#[tokio::test]
async fn keys_expire_after_their_ttl() {
    let server = RedisServer::start();
    let config = Node::config(&server).position_ttl(Duration::from_secs(100));
    let node = Node::with(config).await;
    let left = async |key: &str| server.command(&["PTTL", key]).await.parse::<i64>().unwrap();
    for (seconds, position) in [(20, Some(100)), (2000, None), (5, Some(100)), (99, Some(166))] {
        let retention = Retention::default().messages(9).ttl(Duration::from_secs(seconds));
        let options = PublishOptions::default().retention(retention);
        node.deliver(&room("r"), "", options).await.unwrap();
        // By a sixteenth longer: not each publication extends it.
        let lifetime = seconds as i64 * 1000 * 17 / 16;
        let exact = left("chat:{r.r}").await;
        assert!((lifetime - 500..=lifetime + 1).contains(&exact), "{exact} of {seconds} s");
        let exact = left("chat:{r.r}:position").await;
        match position {
            Some(seconds) => assert!((seconds * 1000 - 999..=seconds * 1000).contains(&exact)),
            None => assert_eq!(exact, -2, "the log lives longer than a position has to"),
        }
    }
}

/// `PEXPIRE` for each would cost more than it is worth.
#[tokio::test]
async fn lifetime_is_extended_by_the_first_publication_of_a_connection() {
    let server = RedisServer::start();
    let (a, b) = (Node::start(&server).await, Node::start(&server).await);
    let shortened = async || {
        server.command(&["PEXPIRE", "chat:{r.r}", "50000"]).await;
    };
    let is_extended = async || {
        let left = server.command(&["PTTL", "chat:{r.r}"]).await;
        left.parse::<u32>().unwrap() > 86_400_000
    };
    a.publish(&room("r"), "1").await.unwrap();
    assert!(is_extended().await);
    shortened().await;
    a.publish(&room("r"), "2").await.unwrap();
    assert!(!is_extended().await, "a node that has done so lately does not");
    b.publish(&room("r"), "3").await.unwrap();
    assert!(is_extended().await, "another one does");
    shortened().await;
    a.deliver(&room("r"), "4", bytes(9)).await.unwrap();
    assert!(is_extended().await, "new bounds do");
}

#[tokio::test]
async fn expired_history_keeps_its_position() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(9), 1..=5).await;
    let before = node.position(&room("r")).await.unwrap();
    server.command(&["DEL", "chat:{r.r}"]).await;
    let history = node.history(&room("r"), HistoryRange::After(3), 9).await;
    assert_eq!((history.position, history.entries.len()), (before, 0));
    say(&node, "r", &latest(9), 6..=6).await;
    let history = node.history(&room("r"), HistoryRange::After(3), 9).await;
    assert_eq!((texts(&history), history.position.epoch), (numbers(6..=6), before.epoch));
    assert_eq!(history.position.offset, 6);
}

/// The log lives as long as a position has to, and is the position.
#[tokio::test]
async fn lost_history_without_position_begins_a_new_epoch() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &persistent(), 1..=5).await;
    let before = node.position(&room("r")).await.unwrap();
    assert_eq!(server.command(&["DEL", "chat:{r.r}", "chat:{r.r}:position"]).await, "1");
    assert_eq!(node.history(&room("r"), HistoryRange::Latest, 9).await, History::default());
    say(&node, "r", &persistent(), 6..=7).await;
    let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
    assert_eq!(texts(&history), numbers(6..=7));
    assert_eq!(history.position.offset, 2);
    assert_ne!(history.position.epoch, before.epoch);
    let lifetime = server.command(&["PTTL", "chat:{r.r}"]).await;
    assert!(lifetime.parse::<u32>().unwrap() > 86_400_000, "{lifetime}: it has a lifetime again");
}

/// Nothing is written when something will fail.
#[tokio::test]
async fn refused_publication_leaves_nothing() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    say(&node, "r", &latest(9), 1..=2).await;
    server.command(&["RENAME", "chat:{r.r}", "elsewhere"]).await;
    server.command(&["SET", "chat:{r.r}", "x"]).await;
    assert_damaged(&room("r"), node.publish(&room("r"), "3").await);
    assert_damaged(&room("r"), node.deliver(&room("r"), "3", keyed("k")).await);
    assert_damaged(&room("r"), node.position(&room("r")).await);
    server.command(&["RENAME", "elsewhere", "chat:{r.r}"]).await;
    say(&node, "r", &latest(9), 3..=3).await;
    let again = node.deliver(&room("r"), "4", keyed("k")).await.unwrap();
    assert!(!again.repeated, "its key was not remembered");
    assert_eq!(texts(&node.history(&room("r"), HistoryRange::Latest, 9).await), numbers(1..=4));
}

/// Each alone would take a way to Redis and back.
#[tokio::test]
async fn concurrent_requests_share_a_pipeline() {
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
