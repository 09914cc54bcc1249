//! Payloads, names, the secret, and the end.

use bytes::Bytes;
use chat_core::{RoomId, Topic, UserId};

use super::Bus;
use crate::broker::Status;
use crate::error::BrokerError;
use crate::testing::node::{Node, ephemeral, persistent, room, step};

/// Payloads of any bytes and of 0 bytes to 1 MiB arrive as they were published.
///
/// Calls `publish` and `subscribe`.
pub async fn payloads_pass_unchanged(bus: &impl Bus) {
    let mut node = Node::connect(bus).await;
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
        for delivery in [persistent(), ephemeral()] {
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

/// Topics whose names have characters that mean something to a backend are topics like any
/// other, and a room and a user of one name are different topics.
///
/// Calls `publish`, `subscribe` and `unsubscribe`.
pub async fn names_do_not_mix(bus: &impl Bus) {
    let mut node = Node::connect(bus).await;
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
        node.deliver(topic, "late", ephemeral()).await;
    }
    node.assert_quiet("every name can be unsubscribed").await;
}

/// All nodes have the same secret, whichever asks first and however often, and it is not zeros.
///
/// Calls `secret`.
pub async fn secret_is_shared(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let (one, other) = tokio::join!(a.table().secret(), b.table().secret());
    let secret = one.expect("the secret");
    assert_eq!(secret, other.expect("the secret"), "one secret for all nodes");
    assert_eq!(secret, step("secret", a.table().secret()).await, "and always the same");
    assert_ne!(secret, [0; 32], "it is random");
}

/// `close` publishes what was accepted; after it every call fails with `Closed`, the status is
/// [`Status::Closed`] and the events end. Closing again is no error, and other nodes go on.
///
/// Calls every method that is not of presence or the table.
pub async fn closing_is_final(bus: &impl Bus) {
    let (mut a, mut b) = (Node::connect(bus).await, Node::connect(bus).await);
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
    for (what, outcome) in [
        ("subscribe", a.broker.subscribe(topics).await),
        ("unsubscribe", a.broker.unsubscribe(topics).await),
        ("positions", a.broker.positions(topics).await.map(drop)),
        ("history", a.broker.history(&[]).await.map(drop)),
    ] {
        assert!(matches!(outcome, Err(BrokerError::Closed)), "{what}: {outcome:?}");
    }
    let mut rest = Vec::new();
    while a.events.recv(&mut rest).await {}
    b.publish(&topic, "the other goes on").await;
    assert_eq!(b.take(2).await.len(), 2);
}
