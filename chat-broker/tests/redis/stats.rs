//! What a node counts of its connections.

use std::time::Duration;

use bytes::Bytes;
use chat_broker::Broker;
use chat_broker::testing::RedisServer;
use chat_core::HistoryRange;

use crate::support::{Node, TIMEOUT, assert_damaged, eventually, persistent, room};

fn round_trips(node: &Node) -> u64 {
    node.broker.stats().round_trips.count()
}

#[tokio::test]
async fn round_trip_is_counted_for_each_pipeline_and_query() {
    const COUNT: usize = 200;
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    let before = node.broker.stats();
    node.publish(&topic, "").await.unwrap();
    let after = node.broker.stats();
    assert_eq!(after.round_trips.count(), before.round_trips.count() + 1);
    assert!(after.round_trips.sum() > before.round_trips.sum());
    node.history(&topic, HistoryRange::Latest, 9).await;
    assert_eq!(round_trips(&node), after.round_trips.count() + 1);

    let before = round_trips(&node);
    let mut receipts = Vec::new();
    for _ in 0..COUNT {
        receipts.push(node.broker.publish(&topic, Bytes::new(), persistent()).await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let pipelines = round_trips(&node) - before;
    assert!(pipelines > 0 && pipelines < COUNT as u64 / 10, "{pipelines} for {COUNT}");
}

#[tokio::test]
async fn round_trips_include_the_time_of_redis() {
    const PAUSE: Duration = Duration::from_millis(300);
    let server = RedisServer::start();
    let node = Node::with(Node::config(&server).deadline(TIMEOUT)).await;
    let topic = room("r");
    // A `PING` may be in the way of the publication, and is not counted.
    eventually("an answer that took its time", async || {
        let before = node.broker.stats().round_trips.sum();
        server.pause();
        let resume = async {
            tokio::time::sleep(PAUSE).await;
            server.resume();
        };
        let (published, ()) = tokio::join!(node.publish(&topic, ""), resume);
        published.unwrap();
        node.broker.stats().round_trips.sum() - before > PAUSE / 2
    })
    .await;
}

/// One that subscribes, one that publishes, one that keeps the lease, one of the pool.
#[tokio::test]
async fn each_reconnect_is_counted_once() {
    let server = RedisServer::start();
    let node = Node::with(Node::config(&server).lease(Duration::from_secs(1))).await;
    let topic = room("r");
    let reconnects = || node.broker.stats().reconnects;
    node.publish(&topic, "").await.unwrap();
    node.position(&topic).await.unwrap();
    assert_eq!(reconnects(), 0, "the first is no reconnect");

    // A busy machine may break one besides: at most as many are counted as Redis has seen.
    let before = received(&server).await;
    assert_eq!(server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await, "1");
    eventually("the subscriber", async || reconnects() >= 1).await;
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    eventually("the others", async || {
        // The pool opens one when it is asked for one.
        let _ = node.position(&topic).await;
        reconnects() >= 4
    })
    .await;
    let counted = reconnects();
    // The two commands and this question are ours.
    let new = received(&server).await - before - 3;
    assert!(counted <= new, "{counted} are counted, and there were {new}");
    eventually("publishing", async || node.publish(&topic, "").await.is_ok()).await;
    server.command(&["SET", "chat:{r.bad}", "x"]).await;
    eventually("an error that is an answer", async || {
        let before = reconnects();
        for _ in 0..3 {
            assert_damaged(&room("bad"), node.position(&room("bad")).await);
        }
        node.position(&topic).await.unwrap();
        reconnects() == before
    })
    .await;
}

/// How many connections Redis has seen, that of the question among them.
async fn received(server: &RedisServer) -> u64 {
    let info = server.command(&["INFO", "stats"]).await;
    let count = |line: &str| line.strip_prefix("total_connections_received:")?.parse().ok();
    info.lines().find_map(count).expect("the number")
}

#[tokio::test]
async fn publications_that_wait_are_counted() {
    let server = RedisServer::start();
    let node = Node::with(Node::config(&server).deadline(TIMEOUT)).await;
    let (queued, topic) = (|| node.broker.stats().publish_queued, room("r"));
    assert_eq!(queued(), 0);
    server.pause();
    let mut receipts = Vec::new();
    for n in 1..=5 {
        let publish = node.broker.publish(&topic, Bytes::new(), persistent());
        receipts.push(publish.await.unwrap());
        assert_eq!(queued(), n);
        tokio::task::yield_now().await;
    }
    server.resume();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    eventually("an end", async || queued() == 0).await;
}
