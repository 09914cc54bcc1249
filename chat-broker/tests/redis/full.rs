//! Redis is full: it refuses messages of rooms with history, and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chat_broker::testing::RedisServer;
use chat_broker::{Broker, PublishOptions, SharedTable, Status};
use chat_core::HistoryRange;

use crate::support::{
    Node, assert_refused, eventually, keyed, keys, lasting, latest, persistent, room, texts,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Any more is too much.
async fn fill(server: &RedisServer, node: &Node) {
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    eventually("a full redis", async || node.broker.stats().full).await;
}

async fn make_room(server: &RedisServer) {
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
}

#[tokio::test]
async fn refused_message_leaves_nothing_behind() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let (topic, fresh) = (room("r"), room("fresh"));
    let first = node.deliver(&topic, "1", keyed("first")).await.unwrap();
    let before = keys(&server).await;
    fill(&server, &node).await;
    for delivery in [persistent(), keyed("second"), latest(1)] {
        for topic in [&topic, &fresh] {
            assert_refused("publish", node.deliver(topic, "2", delivery.clone()).await);
        }
    }
    let again = node.deliver(&topic, "1", keyed("first")).await.unwrap();
    assert_eq!((again.position, again.repeated), (first.position, true), "its key is known");
    assert_eq!(keys(&server).await, before);
    assert_eq!(node.broker.status(), Status::Ready);

    make_room(&server).await;
    let second = node.deliver(&topic, "2", keyed("second")).await.unwrap();
    assert_eq!((second.position.unwrap().offset, second.repeated), (2, false));
    assert_eq!(texts(&node.history(&topic, HistoryRange::Latest, 9).await), ["1", "2"]);
    eventually("room again", async || !node.broker.stats().full).await;
}

#[tokio::test]
async fn full_redis_takes_everything_else() {
    let server = RedisServer::start();
    let (mut watcher, node) = (Node::start(&server).await, Node::start(&server).await);
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    node.publish(&topic, "kept").await.unwrap();
    assert_eq!(watcher.message().await.0, "kept");
    fill(&server, &node).await;

    node.enter(&topic, "anna");
    assert_eq!(watcher.change().await.0, "+anna");
    node.enter(&topic, "ben");
    assert_eq!(watcher.change().await.0, "+ben");
    assert_eq!(watcher.occupants(&topic).await, ["anna", "ben"]);
    node.leave(&topic, "anna");
    assert_eq!(watcher.change().await.0, "-anna");

    let typing = node.deliver(&topic, "typing", PublishOptions::default()).await.unwrap();
    assert_eq!((typing.nodes, watcher.message().await.0.as_str()), (1, "typing"));
    node.subscribe(&room("new")).await.expect("a subscription");
    assert_eq!(texts(&watcher.history(&topic, HistoryRange::Latest, 9).await), ["kept"]);
    assert_eq!(watcher.position(&topic).await.unwrap().offset, 1);
    node.broker.set("ban", "x".into(), lasting(HOUR)).await.expect("a record");
    assert_eq!(watcher.broker.changes_since(0).await.unwrap().records.len(), 1);
    let secret = node.broker.secret().await.expect("the first secret");
    assert_eq!(watcher.broker.secret().await.unwrap(), secret);
}

/// Its presence, its lease and its secret need no memory either.
#[tokio::test]
async fn node_starts_and_ends_on_a_full_redis() {
    let server = RedisServer::start();
    let lease = Duration::from_secs(1);
    let mut first = Node::with(Node::config(&server).lease(lease)).await;
    let topic = room("r");
    first.subscribe(&topic).await.unwrap();
    fill(&server, &first).await;
    let second = Node::with(Node::config(&server).lease(lease)).await;
    second.wait_for(Status::Ready).await;
    second.enter(&topic, "anna");
    assert_eq!(first.change().await.0, "+anna");
    drop(second);
    assert_eq!(first.change().await.0, "-anna", "its lease has expired");
}

#[tokio::test]
async fn memory_of_redis_is_known() {
    let server = RedisServer::start_with(&["--maxmemory", "100mb"]);
    let stats = Node::start(&server).await.broker.stats();
    assert_eq!((stats.memory_max, stats.full), (100 << 20, false));
    assert!((100_000..100 << 20).contains(&stats.memory_used), "{stats:?}");

    server.command(&["ACL", "SETUSER", "default", "-info"]).await;
    let node = Node::start(&server).await;
    assert_eq!(node.broker.status(), Status::Ready);
    let stats = node.broker.stats();
    assert_eq!((stats.memory_used, stats.memory_max), (0, 0), "it may not ask");
}

/// As an attacker does: message after message, in room after room, to the very limit.
#[tokio::test]
async fn messages_that_fill_redis_stop_nothing_else() {
    const MORE: u64 = 4 << 20;
    let server = RedisServer::start();
    let (mut watcher, node) = (Node::start(&server).await, Node::start(&server).await);
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    let max = node.broker.stats().memory_used + MORE;
    server.command(&["CONFIG", "SET", "maxmemory", &max.to_string()]).await;
    let large = "x".repeat(30_000);
    let mut refused = 0;
    for n in 0..4 * MORE / 30_000 {
        let outcome = node.publish(&room(&format!("{}", n % 10)), &large).await;
        refused += usize::from(outcome.is_err());
        let name = n.to_string();
        node.enter(&topic, &name);
        assert_eq!(watcher.change().await.0, format!("+{name}"), "{refused} were refused");
        node.deliver(&topic, &name, PublishOptions::default()).await.unwrap();
        assert_eq!(watcher.message().await.0, name);
        assert_eq!(node.broker.status(), Status::Ready);
    }
    assert!(refused > 100, "{refused} were refused");
    // What large messages left free on their way is not enough for small ones for long.
    let small = AtomicUsize::new(0);
    eventually("a full redis", async || {
        let n = small.fetch_add(1, Ordering::Relaxed);
        let _ = node.publish(&room(&format!("small-{n}")), "").await;
        node.broker.stats().full
    })
    .await;
    assert_eq!(watcher.broker.status(), Status::Ready);
}
