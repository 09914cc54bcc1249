//! Redis loses records that nodes hold: evicted, deleted, with all its data, or with an older copy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::testing::{RedisServer, TcpProxy};
use chat_broker::{BrokerError, BrokerEvent, Records, RedisBroker, SharedTable, Status};
use tokio::task::JoinHandle;

use super::unmarked;
use crate::support::{Node, PATIENCE, eventually, lasting};

const HOUR: Duration = Duration::from_secs(3600);

const META: &str = "chat:{records}:meta";
const VALUES: &str = "chat:{records}:values";
const VERSIONS: &str = "chat:{records}:versions";
const ENDS: &str = "chat:{records}:ends";

async fn set(node: &Node, key: &str) {
    node.broker.set(key, Bytes::from("x"), lasting(HOUR)).await.unwrap();
}

async fn remove(node: &Node, key: &str) {
    node.broker.remove(key).await.unwrap();
}

async fn read(node: &Node, after: u64) -> Records {
    node.broker.changes_since(after).await.unwrap()
}

fn keys(records: &Records) -> Vec<&str> {
    records.records.iter().map(|record| record.key.as_str()).collect()
}

/// What a node that has seen nothing reads.
async fn stored(server: &RedisServer) -> Records {
    read(&Node::start(server).await, 0).await
}

/// A node that reads whenever it is told to, as a server does.
struct Follower {
    broker: Arc<RedisBroker>,
    reading: JoinHandle<()>,
}

impl Follower {
    async fn start(server: &RedisServer) -> Self {
        let Node { broker, mut events, .. } = Node::start(server).await;
        let broker = Arc::new(broker);
        let mut version = broker.changes_since(0).await.unwrap().version;
        let reader = Arc::clone(&broker);
        let reading = tokio::spawn(async move {
            let mut batch = Vec::new();
            while events.recv(&mut batch).await {
                if batch.drain(..).any(|event| event == BrokerEvent::RecordsChanged) {
                    version = reader.changes_since(version).await.unwrap().version;
                }
            }
        });
        Self { broker, reading }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Ways to lose some of the table.
const LOSSES: [&[&str]; 9] = [
    &["DEL", META],
    &["DEL", VALUES],
    &["DEL", VERSIONS],
    &["DEL", ENDS],
    &["DEL", VALUES, VERSIONS],
    &["DEL", META, ENDS],
    &["DEL", VALUES, VERSIONS, ENDS],
    &["DEL", META, VALUES, VERSIONS, ENDS],
    &["FLUSHALL"],
];

#[tokio::test]
async fn lost_records_are_written_again() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    for key in ["a", "b", "removed"] {
        set(&node, key).await;
    }
    remove(&node, "removed").await;
    let mut known = read(&node, 0).await.version;
    for loss in LOSSES {
        server.command(loss).await;
        let found = read(&node, known).await;
        assert_eq!(keys(&found), ["a", "b"], "{loss:?}");
        assert!(found.complete && found.version > known, "{loss:?}: all is to be read again");
        known = found.version;
        let stored = stored(&server).await;
        assert_eq!(keys(&stored), ["a", "b"], "{loss:?}");
        let left = stored.records.iter().map(|record| record.expires_in);
        assert!(left.clone().all(|left| left <= HOUR && left > HOUR - HOUR / 10), "{loss:?}");
        let unchanged = read(&node, known).await;
        assert_eq!(unchanged, Records::changes(known, vec![]), "once is enough");
    }
}

/// The first new server of a rolling upgrade finds a table that is not marked as whole, and is:
/// servers of the former version read and write it meanwhile, and cannot write it again.
#[tokio::test]
async fn table_without_marks_keeps_its_records() {
    for sets_first in [true, false] {
        let server = RedisServer::start();
        for key in ["a", "b", "removed"] {
            unmarked::set(&server, key, "x").await;
        }
        unmarked::remove(&server, "removed").await;
        let proxy = TcpProxy::before(&server);
        let config = Node::config(&server).url(proxy.redis_url()).deadline(PATIENCE);
        let node = Node::with(config).await;
        // Long enough to see what each command leaves to the next one.
        proxy.delay(Duration::from_millis(30));
        let upgrade = async {
            if sets_first {
                set(&node, "c").await;
            }
            assert!(keys(&read(&node, 0).await).starts_with(&["a", "b"]));
        };
        let old_server = async {
            loop {
                let found = unmarked::read(&server).await;
                let has = |key: &str| found.contains_key(key);
                assert!(has("a") && has("b") && !has("removed"), "{found:?}");
            }
        };
        tokio::select! {
            () = upgrade => {}
            () = old_server => {}
        }
        let known = read(&node, 0).await.version;
        unmarked::set(&server, "d", "x").await;
        unmarked::remove(&server, "a").await;
        let changes = read(&node, known).await;
        assert!(!changes.complete, "the table is marked, also after a change of an old server");
        assert_eq!(keys(&changes), ["d", "a"]);
        let expected: &[&str] = if sets_first { &["b", "c", "d"] } else { &["b", "d"] };
        assert_eq!(keys(&stored(&server).await), expected);
    }
}

/// An old server sets a record before a new one has noticed the loss, and restores nothing.
#[tokio::test]
async fn record_of_an_old_server_does_not_hide_a_loss() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    set(&node, "a").await;
    for (n, loss) in LOSSES.into_iter().enumerate() {
        let known = read(&node, 0).await.version;
        server.command(loss).await;
        let key = format!("old{n}");
        unmarked::set(&server, &key, "x").await;
        let found = read(&node, known).await;
        for found in [found, stored(&server).await] {
            assert!(keys(&found).contains(&"a"), "{loss:?}: {:?}", keys(&found));
            assert!(keys(&found).contains(&&*key), "{loss:?}: {:?}", keys(&found));
        }
    }
}

/// Nobody has noticed the loss yet.
#[tokio::test]
async fn a_change_of_a_lost_table_keeps_the_rest_of_it() {
    let server = RedisServer::start();
    let (node, other) = (Node::start(&server).await, Follower::start(&server).await);
    set(&node, "first").await;
    read(&node, 0).await;
    for (n, loss) in LOSSES.into_iter().enumerate() {
        let (before, key) = (format!("b{n}"), format!("c{n}"));
        set(&node, &before).await;
        read(&node, 0).await;
        other.broker.changes_since(0).await.unwrap();
        server.command(loss).await;
        if n % 2 == 0 {
            set(&node, &key).await;
            let stored = stored(&server).await;
            assert!(keys(&stored).contains(&"first"), "{loss:?}: {:?}", keys(&stored));
            assert!(keys(&stored).contains(&&*key), "{loss:?}: {:?}", keys(&stored));
        }
        remove(&node, &before).await;
        // Both read as often as they like.
        for _ in 0..2 {
            read(&node, 0).await;
            other.broker.changes_since(0).await.unwrap();
        }
        let stored = stored(&server).await;
        assert!(!keys(&stored).contains(&&*before), "{loss:?}: a removal is undone");
        assert!(keys(&stored).contains(&"first"), "{loss:?}");
    }
}

/// A server that starts after the loss gets the table from those that run.
#[tokio::test]
async fn a_new_node_finds_what_others_hold() {
    let server = RedisServer::start();
    let _others = [Follower::start(&server).await, Follower::start(&server).await];
    set(&Node::start(&server).await, "ban").await;
    eventually("both have read it", async || {
        let mut held = true;
        for other in &_others {
            held &= keys(&other.broker.changes_since(0).await.unwrap()) == ["ban"];
        }
        held
    })
    .await;
    for loss in LOSSES {
        server.command(loss).await;
        assert_eq!(keys(&stored(&server).await), ["ban"], "{loss:?}");
    }
}

/// A node was cut off while a record was removed, and comes back when Redis has lost all.
#[tokio::test]
async fn a_node_that_missed_a_removal_does_not_undo_it() {
    for is_first in [true, false] {
        let server = RedisServer::start();
        let (late, node) = (Node::start(&server).await, Node::start(&server).await);
        for key in ["removed", "stays"] {
            set(&node, key).await;
        }
        for node in [&late, &node] {
            assert_eq!(keys(&read(node, 0).await), ["removed", "stays"]);
        }
        remove(&node, "removed").await;
        let version = read(&node, 0).await.version;
        server.command(&["FLUSHALL"]).await;
        if !is_first {
            read(&node, version).await;
        }
        for node in [&late, &node, &late] {
            read(node, version).await;
        }
        for node in [&late, &node] {
            assert_eq!(keys(&read(node, 0).await), ["stays"], "late is first: {is_first}");
        }
    }
}

#[tokio::test]
async fn expired_records_are_not_written_again() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    set(&node, "stays").await;
    let short = Duration::from_millis(300);
    node.broker.set("short", Bytes::new(), lasting(short)).await.unwrap();
    let version = read(&node, 0).await.version;
    let other = Node::start(&server).await;
    eventually("its end", async || keys(&read(&other, 0).await) == ["stays"]).await;
    server.command(&["FLUSHALL"]).await;
    assert_eq!(keys(&read(&node, version).await), ["stays"]);
}

/// All at once, in more than one page.
#[tokio::test]
async fn many_nodes_write_a_table_again() {
    const COUNT: usize = 1300;
    let server = RedisServer::start();
    let config = || Node::config(&server).deadline(crate::support::PATIENCE);
    let nodes =
        [Node::with(config()).await, Node::with(config()).await, Node::with(config()).await];
    for n in 0..COUNT {
        set(&nodes[n % 3], &n.to_string()).await;
    }
    for node in &nodes {
        assert_eq!(read(node, 0).await.records.len(), COUNT);
    }
    server.command(&["FLUSHALL"]).await;
    let [a, b, c] = &nodes;
    let began = Instant::now();
    let (a, b, c) = tokio::join!(read(a, 1), read(b, 1), read(c, 1));
    println!("{COUNT} records were written again by three nodes in {:?}", began.elapsed());
    let expected: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
    for found in [&a, &b, &c, &stored(&server).await] {
        assert_eq!(keys(found), expected, "in the order in which they were set");
    }
}

/// Another process comes back without what was set since its snapshot, and is written to by a node
/// that knows nothing of that.
#[tokio::test]
async fn an_older_copy_gets_back_what_it_lacks() {
    let mut server = RedisServer::start();
    let node = Node::start(&server).await;
    for key in ["in the copy", "removed"] {
        set(&node, key).await;
    }
    assert_eq!(server.command(&["SAVE"]).await, "OK");
    set(&node, "not in it").await;
    remove(&node, "removed").await;
    let before = read(&node, 0).await.version;
    server.restart();
    let other = Node::start(&server).await;
    set(&other, "after").await;
    eventually("an answer", async || node.broker.changes_since(before).await.is_ok()).await;
    let now = read(&node, before).await;
    assert!(now.version > before);
    let expected = ["in the copy", "not in it", "after"];
    for node in [&node, &other] {
        assert_eq!(keys(&read(node, 0).await), expected);
    }
    assert!(!read(&node, read(&node, 0).await.version).await.complete, "once is enough");
}

/// The clock of Redis is that of its machine.
#[tokio::test]
async fn versions_rise_whatever_is_lost() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    set(&node, "a").await;
    // As if set when the clock was a year ahead.
    let ahead = (read(&node, 0).await.version + 31_536_000_000_000).to_string();
    server.command(&["HSET", META, "version", &ahead]).await;
    server.command(&["ZADD", VERSIONS, &ahead, "a"]).await;
    let before = read(&node, 0).await.version;
    assert_eq!(before.to_string(), ahead);
    server.command(&["FLUSHALL"]).await;
    remove(&node, "a").await;
    let after = read(&node, before).await;
    assert!(after.version > before, "{} after {before}", after.version);
    assert_eq!(keys(&stored(&server).await), [""; 0]);
}

#[tokio::test]
async fn a_full_redis_takes_back_what_it_lost() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    set(&node, "a").await;
    let before = read(&node, 0).await.version;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    server.command(&["FLUSHALL"]).await;
    assert_eq!(keys(&read(&node, before).await), ["a"]);
    assert_eq!(keys(&stored(&server).await), ["a"]);
}

/// Nothing can be written, and what the node knows still holds.
#[tokio::test]
async fn a_redis_that_refuses_writes_does_not_end_what_is_known() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    set(&node, "a").await;
    let before = read(&node, 0).await.version;
    server.command(&["FLUSHALL"]).await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let held = read(&node, before).await;
    assert!(held.complete);
    assert_eq!(keys(&held), ["a"]);
    let refused = node.broker.set("b", Bytes::new(), lasting(HOUR)).await;
    assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    assert_eq!(keys(&read(&node, held.version).await), ["a"]);
    assert_eq!(keys(&stored(&server).await), ["a"]);
    node.wait_for(Status::Ready).await;
}

/// Whatever stands there beside what nodes write.
#[tokio::test]
async fn junk_in_the_table_costs_no_record() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    set(&node, "a").await;
    let mut known = read(&node, 0).await.version;
    let junk: [&[&str]; 12] = [
        &["HSET", META, "version", "x", "floor", "x"],
        &["HSET", META, "version", "-1"],
        &["HSET", META, "version", "1e300", "floor", "inf"],
        &["HSET", META, "version", "", "run", "", "table", ""],
        &["HSET", META, "table", "x"],
        &["HSET", VALUES, "b", "not a record", "", "x"],
        &["ZADD", VERSIONS, "inf", "b"],
        &["ZADD", VERSIONS, "-5", "b"],
        &["ZADD", VERSIONS, "1e300", "a b"],
        &["ZADD", VERSIONS, "1", "\u{1}"],
        &["ZADD", ENDS, "inf", "b"],
        &["ZREM", VERSIONS, ""],
    ];
    for junk in junk {
        server.command(junk).await;
        for _ in 0..2 {
            let read = node.broker.changes_since(known).await;
            known = read.unwrap_or_else(|error| panic!("{junk:?}: {error}")).version;
        }
        set(&node, "c").await;
        assert!(known > 0, "{junk:?}");
        let stored = stored(&server).await;
        assert!(keys(&stored).contains(&"a"), "{junk:?}: {:?}", keys(&stored));
        assert!(keys(&stored).contains(&"c"), "{junk:?}: {:?}", keys(&stored));
    }
}

/// A server that starts then would sign with another.
#[tokio::test]
async fn a_lost_secret_is_written_again() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let secret = node.broker.secret().await.unwrap();
    for loss in [&["DEL", "chat:secret"][..], &["FLUSHALL"]] {
        server.command(loss).await;
        read(&node, 0).await;
        assert_eq!(Node::start(&server).await.broker.secret().await.unwrap(), secret, "{loss:?}");
        server.command(loss).await;
        assert_eq!(node.broker.secret().await.unwrap(), secret, "{loss:?}");
        assert_eq!(Node::start(&server).await.broker.secret().await.unwrap(), secret, "{loss:?}");
    }
    server.command(&["SET", "chat:secret", &"x".repeat(32)]).await;
    read(&node, 0).await;
    assert_eq!(node.broker.secret().await.unwrap(), secret, "what it has signed holds");
    assert_eq!(server.command(&["GET", "chat:secret"]).await, "x".repeat(32));
}
