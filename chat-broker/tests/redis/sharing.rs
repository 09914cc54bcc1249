//! What several deployments on one Redis see of each other, and operators of them.

use std::time::Duration;

use chat_broker::testing::RedisServer;
use chat_broker::{Broker, BrokerEvent, PresenceTracker, PublishOptions, RedisConfig, SharedTable};
use chat_core::{History, HistoryRange, Occupancy, Position, Topic, UserId};

use super::rights;
use crate::support::{DEADLINE, Node, eventually, keyed, keys, lasting, latest, room};

#[tokio::test]
async fn prefixes_and_databases_keep_deployments_apart() {
    let server = RedisServer::start();
    let other_database = RedisConfig::new(format!("{}/3", server.url())).deadline(DEADLINE);
    let mut nodes = vec![
        Node::start(&server).await,
        Node::with(Node::config(&server).prefix("other")).await,
        Node::with(other_database).await,
    ];
    let topic = room("r");
    for node in &nodes {
        node.subscribe(&topic).await.unwrap();
    }
    nodes[0].publish(&topic, "only ours").await.unwrap();
    let mut secrets = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        let expected = u64::from(n == 0);
        assert_eq!(node.position(&topic).await.unwrap().offset, expected, "node {n}");
        let secret = node.broker.secret().await.unwrap();
        assert!(!secrets.contains(&secret), "each has its own");
        secrets.push(secret);
    }
    for (n, node) in nodes.iter_mut().enumerate() {
        let text = format!("of {n}");
        assert_eq!(node.publish(&topic, &text).await.unwrap().nodes, 1, "node {n}");
        if n == 0 {
            assert_eq!(node.message().await.0, "only ours");
        }
        assert_eq!(node.message().await.0, text);
    }
}

#[tokio::test]
async fn only_the_documented_keys_and_channels_exist() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let (room, user) = (room("a {b}"), Topic::User(UserId::new("a {b}").unwrap()));
    node.broker.subscribe(&[room.clone(), user.clone()]).await.unwrap();
    assert_eq!(node.position(&room).await.unwrap(), Position::default());
    assert_eq!(node.history(&room, HistoryRange::Latest, 9).await, History::default());
    assert_eq!(node.occupancy(&room, 9).await, Occupancy::default());
    assert_eq!(node.broker.changes_since(0).await.unwrap().version, 0);
    assert_eq!(keys(&server).await, ["chat:nodes"], "reading makes nothing");
    node.deliver(&room, "", latest(9).key("* {x}")).await.unwrap();
    node.publish(&user, "").await.unwrap();
    node.enter(&room, "anna");
    node.wait_for_occupants(&room, &["anna"]).await;
    node.broker.secret().await.unwrap();
    node.broker.set("a", "x".into(), lasting(DEADLINE)).await.unwrap();
    let id = server.command(&["ZRANGE", "chat:nodes", "0", "-1"]).await;

    let sorted = |reply: String| {
        let mut lines: Vec<_> = reply.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let channels = sorted(server.command(&["PUBSUB", "CHANNELS"]).await);
    assert!(channels[0].starts_with("chat:node:"), "{channels:?}");
    let expected = ["chat:{r.a%20%7Bb%7D}", "chat:{records}", "chat:{u.a%20%7Bb%7D}"];
    assert_eq!(channels[1..], expected);
    assert_eq!(
        keys(&server).await,
        [
            "chat:nodes",
            "chat:occupied",
            &format!("chat:rooms:{id}"),
            "chat:secret",
            "chat:{r.a%20%7Bb%7D}",
            "chat:{r.a%20%7Bb%7D}:k:%2A%20%7Bx%7D",
            "chat:{r.a%20%7Bb%7D}:members",
            &format!("chat:{{r.a%20%7Bb%7D}}:on:{id}"),
            "chat:{r.a%20%7Bb%7D}:position",
            "chat:{records}:ends",
            "chat:{records}:meta",
            "chat:{records}:values",
            "chat:{records}:versions",
            "chat:{u.a%20%7Bb%7D}",
        ]
    );
    let probes = sorted(server.command(&["KEYS", "chat:{p.*"]).await);
    assert_eq!(probes.len(), 1, "{probes:?}");
    for probe in probes {
        let ttl: i32 = server.command(&["TTL", &probe]).await.parse().unwrap();
        assert!((1..=20).contains(&ttl), "{probe} lives for {ttl} s");
    }
    assert_eq!(server.command(&["PUBSUB", "NUMPAT"]).await, "0", "never a pattern");
}

/// A user joins, and leaves with a node that crashes, and with one that closes.
async fn presence_works(node: &Node, config: RedisConfig) {
    let (dying, topic) = (Node::with(config).await, room("presence"));
    dying.enter(&topic, "anna");
    node.enter(&topic, "ben");
    node.wait_for_occupants(&topic, &["anna", "ben"]).await;
    drop(dying.broker);
    node.wait_for_occupants(&topic, &["ben"]).await;
    node.leave(&topic, "ben");
    node.wait_for_occupants(&topic, &[]).await;
}

/// Those of docs/redis.md, also when Redis restarts with older data.
#[tokio::test]
async fn documented_permissions_are_enough() {
    let mut server = RedisServer::start();
    let rights = rights::documented(0);
    let config = rights::config_of(&server, "chat", &rights, 0).await;
    let config = config.deadline(DEADLINE).lease(Duration::from_millis(300));
    let mut node = Node::with(config.clone()).await;
    let topic = room("r");
    presence_works(&node, config).await;
    node.subscribe(&topic).await.unwrap();
    node.deliver(&topic, "typing", PublishOptions::default()).await.unwrap();
    node.publish(&topic, "in the snapshot").await.unwrap();
    assert_eq!(server.command(&["SAVE"]).await, "OK");
    node.deliver(&topic, "not in it", keyed("k")).await.unwrap();
    assert_eq!(node.history(&topic, HistoryRange::Latest, 9).await.entries.len(), 2);
    node.broker.secret().await.unwrap();
    node.broker.set("a", "x".into(), lasting(DEADLINE)).await.unwrap();
    node.broker.remove("a").await.unwrap();
    assert_eq!(node.broker.subscribers(std::slice::from_ref(&topic)).await.unwrap(), [1]);
    assert_eq!(node.broker.rooms("", None, 9).await.unwrap().rooms, []);
    assert_ne!(node.broker.changes_since(0).await.unwrap().version, 0);
    node.broker.unsubscribe(&[room("other")]).await.unwrap();
    let is_message = |event: &BrokerEvent| matches!(event, BrokerEvent::Publication { .. });
    let events = node.arrived().await;
    assert_eq!(events.iter().filter(|event| is_message(event)).count(), 3);
    assert!(events.contains(&BrokerEvent::RecordsChanged));

    server.restart();
    rights::config_of(&server, "chat", &rights, 0).await;
    assert_eq!(node.next().await, BrokerEvent::Interrupted);
    eventually("publishing", async || node.publish(&topic, "again").await.is_ok()).await;
    assert_eq!(node.position(&topic).await.unwrap().offset, 1, "the newer position is lost");
}
