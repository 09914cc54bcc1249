//! Payloads, names, the secret, and the end.

use std::sync::Arc;

use bytes::Bytes;
use chat_core::{RoomId, Topic, UserId};

use crate::broker::{Broker, Status};
use crate::error::BrokerError;
use crate::events::BrokerEvents;
use crate::publish::PublishOptions;
use crate::table::SetOptions;
use crate::testing::node::{Node, occupant, persistent, room, step, user};

/// Payloads of any bytes and of 0 bytes to 1 MiB arrive as they were sent.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn payloads_pass_unchanged<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let mut node = Node::new(connect().await);
    let topic = room("payloads");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let payloads: [Vec<u8>; 7] = [
        Vec::new(),
        vec![0],
        vec![1],
        b"\r\n$-1\r\n*2\r\n".to_vec(),
        vec![0xff, 0xfe, 0xc0, 0x80],
        all_bytes.clone(),
        all_bytes.iter().copied().cycle().take(1 << 20).collect(),
    ];
    for payload in payloads {
        for delivery in [persistent(), PublishOptions::default()] {
            node.deliver(&topic, payload.clone(), delivery.clone()).await;
            let arrived = node.next().await.payload;
            assert!(arrived == payload, "{delivery:?}, {} bytes", payload.len());
        }
    }
}

/// Names with characters that mean something to a backend.
pub(super) const NAMES: [&str; 20] = [
    "*",
    "?",
    "[a-z]",
    "{}",
    "{a}",
    "a",
    "a:b",
    "a b",
    " a ",
    "%",
    "%41",
    "A",
    "..",
    "日本語",
    "👩‍👩‍👧",
    "\\",
    "\"",
    "'",
    "$1",
    "|",
];

/// Names with characters that mean something to a backend are names like any other, and
/// rooms and users of one name are different topics.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn names_do_not_mix<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let mut node = Node::new(connect().await);
    let mut topics: Vec<Topic> = NAMES.iter().map(|name| room(name)).collect();
    // The random part alone would keep them apart: two that differ in one character only.
    let long = "x".repeat(127);
    for end in ["y", "*"] {
        topics.extend(RoomId::new(format!("{long}{end}")).map(Topic::Room));
    }
    let users: Vec<Topic> =
        topics.iter().filter_map(|topic| UserId::new(topic.name()).ok().map(Topic::User)).collect();
    topics.extend(users);
    node.subscribe(&topics).await;
    for (n, topic) in topics.iter().enumerate() {
        let text = n.to_string();
        let published = node.deliver(topic, text.clone(), persistent()).await;
        assert_eq!(published.nodes, 1, "{topic}");
        let message = node.next().await;
        assert_eq!((&message.topic, &message.payload[..]), (topic, text.as_bytes()));
    }
    node.unsubscribe(&topics).await;
    for topic in &topics {
        node.deliver(topic, "late", PublishOptions::default()).await;
    }
    node.assert_quiet("every name can be unsubscribed").await;
}

/// All nodes have the same secret, and it is one.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn the_secret_is_shared<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let (one, other) = tokio::join!(a.table().secret(), b.table().secret());
    let secret = one.expect("the secret");
    assert_eq!(secret, other.expect("the secret"), "one secret for all nodes");
    assert_eq!(secret, step("secret", a.table().secret()).await, "and always the same");
    assert_ne!(secret, [0; 32], "it is random");
}

/// After `close`, every call fails with `Closed` and the events end; closing again is
/// fine; another node goes on.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn closing_is_final<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (mut a, mut b) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("close");
    let topics = std::slice::from_ref(&topic);
    a.subscribe(topics).await;
    b.subscribe(topics).await;
    assert_eq!(a.broker.status(), Status::Ready);
    let accepted = a.broker.publish(&topic, Bytes::new(), persistent());
    let receipt = step("publish", accepted).await;
    a.broker.close().await;
    step("what was accepted before", receipt).await;
    a.broker.close().await;

    assert_eq!(a.broker.status(), Status::Closed);
    let publish = a.broker.publish(&topic, Bytes::new(), persistent()).await;
    assert!(matches!(publish, Err(BrokerError::Closed)), "publish: {publish:?}");
    let mut outcomes = vec![
        ("subscribe", a.broker.subscribe(topics).await),
        ("unsubscribe", a.broker.unsubscribe(topics).await),
        ("positions", a.broker.positions(topics).await.map(drop)),
        ("history", a.broker.history(&[]).await.map(drop)),
    ];
    if let Some(presence) = a.broker.presence() {
        outcomes.push(("occupancy", presence.occupancy(topics, 9).await.map(drop)));
        presence.enter(&topic, occupant("nobody"));
        presence.leave(&topic, &user("nobody"));
    }
    if let Some(table) = a.broker.table() {
        let (value, options) = (Bytes::new(), SetOptions::default());
        outcomes.extend([
            ("set", table.set("closed", value, options).await),
            ("remove", table.remove("closed").await),
            ("changes_since", table.changes_since(0).await.map(drop)),
            ("secret", table.secret().await.map(drop)),
        ]);
    }
    for (what, outcome) in outcomes {
        assert!(matches!(outcome, Err(BrokerError::Closed)), "{what}: {outcome:?}");
    }
    let mut rest = Vec::new();
    while a.events.recv(&mut rest).await {}
    b.publish(&topic, "the other goes on").await;
    assert_eq!(b.take(2).await.len(), 2);
}
