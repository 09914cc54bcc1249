//! Publications that name themselves are published once.

use std::collections::HashSet;

use chat_broker::testing::RedisServer;
use chat_core::HistoryRange;

use crate::support::{Node, keyed, latest, room, texts};

#[tokio::test]
async fn idempotency_key_is_published_once_from_any_node() {
    let server = RedisServer::start();
    let (mut a, b) = (Node::start(&server).await, Node::start(&server).await);
    let topic = room("r");
    a.subscribe(&topic).await.unwrap();
    let first = a.deliver(&topic, "1", keyed("k")).await.unwrap();
    assert!(!first.repeated && first.nodes == 1);
    a.publish(&topic, "2").await.unwrap();
    for node in [&a, &b] {
        let again = node.deliver(&topic, "other", keyed("k")).await.unwrap();
        assert_eq!((again.position, again.repeated, again.nodes), (first.position, true, 0));
    }
    let elsewhere = b.deliver(&room("s"), "1", keyed("k")).await.unwrap();
    assert!(!elsewhere.repeated, "keys are of one topic");
    assert!(!b.deliver(&topic, "3", keyed("K")).await.unwrap().repeated);
    for text in ["1", "2", "3"] {
        assert_eq!(a.message().await.0, text);
    }
    assert_eq!(texts(&a.history(&topic, HistoryRange::Latest, 9).await), ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_idempotency_key_is_published_once() {
    let server = RedisServer::start();
    let config = || Node::config(&server).publish_connections(3);
    let nodes =
        [Node::with(config()).await, Node::with(config()).await, Node::with(config()).await];
    for round in 0..50 {
        let key = round.to_string();
        let publish =
            async |n: usize| nodes[n].deliver(&room("r"), &key, keyed(&key)).await.unwrap();
        let (a, b, c) = tokio::join!(publish(0), publish(1), publish(2));
        let published = [a, b, c];
        assert_eq!(published.iter().filter(|published| !published.repeated).count(), 1);
        assert!(published.iter().all(|published| published.position == a.position));
    }
    let expected: Vec<_> = (0..50).map(|n: u32| n.to_string()).collect();
    assert_eq!(texts(&nodes[0].history(&room("r"), HistoryRange::Latest, 99).await), expected);
}

#[tokio::test]
async fn idempotency_key_outlives_the_epoch() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    let first = node.deliver(&topic, "1", keyed("k")).await.unwrap();
    server.command(&["DEL", "chat:{r.r}"]).await;
    let new = node.publish(&topic, "2").await.unwrap().position.unwrap();
    assert_ne!(new.epoch, first.position.unwrap().epoch);
    let again = node.deliver(&topic, "1", keyed("k")).await.unwrap();
    assert_eq!((again.position, again.repeated), (first.position, true));
}

#[tokio::test]
async fn idempotency_key_is_remembered_for_five_minutes() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    node.deliver(&room("r"), "1", keyed("u 1:x")).await.unwrap();
    let ttl = server.command(&["TTL", "chat:{r.r}:k:u%201%3Ax"]).await;
    assert!((299..=300).contains(&ttl.parse::<u32>().unwrap()), "{ttl}");
}

#[tokio::test]
async fn keys_of_a_room_share_a_slot() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    node.deliver(&room("a {b}:*"), "1", latest(9).key("{k}")).await.unwrap();
    let keys = server.command(&["KEYS", "chat:{r.*"]).await;
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let mut slots = HashSet::new();
    for key in keys.lines() {
        slots.insert(cluster.command(&["CLUSTER", "KEYSLOT", key]).await);
    }
    assert_eq!((keys.lines().count(), slots.len()), (3, 1), "{keys}");
}
