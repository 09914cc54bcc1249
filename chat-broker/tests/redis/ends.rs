//! Nodes end, and leave nothing.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{Broker, BrokerError, SharedTable};

use crate::support::{DEADLINE, Node, assert_within, eventually, persistent, room};

async fn assert_no_connections(server: &RedisServer) {
    eventually("no connection but the one that asks", async || {
        server.command(&["CLIENT", "LIST"]).await.lines().count() == 1
    })
    .await;
}

#[tokio::test]
async fn closing_sends_what_was_accepted() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    let mut receipts = Vec::new();
    for _ in 0..2000 {
        let place = node.broker.publish(&topic, Bytes::new(), persistent());
        receipts.push(place.await.unwrap());
    }
    node.broker.close().await;
    for receipt in receipts {
        receipt.await.expect("sent before the end");
    }
    assert_no_connections(&server).await;
    let other = Node::start(&server).await;
    assert_eq!(other.position(&topic).await.unwrap().offset, 2000);
}

#[tokio::test]
async fn closing_without_redis_ends_in_time() {
    let mut server = RedisServer::start();
    let node = Node::start(&server).await;
    server.kill();
    let topic = room("r");
    let place = node.broker.publish(&topic, Bytes::new(), persistent());
    let receipt = place.await.unwrap();
    let started = Instant::now();
    let (waiting, ()) = tokio::join!(node.subscribe(&topic), node.broker.close());
    assert_within("to close", started.elapsed(), DEADLINE + Duration::from_secs(3));
    assert!(waiting.is_err(), "the caller that waits gets an error");
    assert!(receipt.await.is_err(), "it was not sent");
    assert!(matches!(node.subscribe(&topic).await, Err(BrokerError::Closed)));
}

#[tokio::test]
async fn dropping_a_node_ends_its_connections_and_events() {
    let server = RedisServer::start();
    let Node { broker, mut events, .. } = Node::start(&server).await;
    broker.subscribe(&[room("r")]).await.unwrap();
    broker.secret().await.unwrap();
    drop(broker);
    assert!(!events.recv(&mut Vec::new()).await, "the events end");
    assert_no_connections(&server).await;
}
