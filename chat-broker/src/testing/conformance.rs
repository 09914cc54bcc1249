//! The promises of [`Broker`], as tests that any implementation can be put to.
//!
//! [`run`] takes a way to connect one more node to a shared bus and goes through every
//! case; each case can also be run alone.
//!
//! ```
//! use std::sync::Arc;
//!
//! use chat_broker::testing::conformance;
//! use chat_broker::{Broker, MemoryBus};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let bus = MemoryBus::new();
//! conformance::run(async || {
//!     let (broker, events) = bus.connect();
//!     (Arc::new(broker) as Arc<dyn Broker>, events)
//! })
//! .await;
//! # }
//! ```
//!
//! The backend must be up. Every case uses names of its own, so the bus may be one that
//! remembers. What happens in an outage is for each backend's own tests.
//!
//! # Panics
//! A promise that is not kept is a panic that names it, and so is a case that takes longer
//! than a minute.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chat_core::{Position, RoomId, Topic, UserId};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::node::{Message, Node, named, room, step};
use crate::broker::{Broker, Delivery, Status};
use crate::error::BrokerError;
use crate::events::BrokerEvents;

/// How long a case may take.
const CASE_DEADLINE: Duration = Duration::from_secs(60);

/// Runs every case, one after the other.
///
/// # Cancel safety
/// A run that is dropped leaves its nodes to be dropped with it.
pub async fn run<F>(connect: F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            within(stringify!($case), $case(&connect)).await;
        )*};
    }
    cases!(
        offsets_are_contiguous_and_equal_on_all_nodes,
        two_publishers_share_one_order,
        pipelined_publications_keep_their_order,
        ephemeral_publications_take_no_offset,
        positions_create_nothing,
        only_subscribed_topics_arrive,
        subscribing_twice_and_unsubscribing_strangers_are_fine,
        churn_loses_nothing_after_the_last_subscribe,
        nodes_are_counted,
        payloads_pass_unchanged,
        names_do_not_mix,
        the_secret_is_shared,
        closing_is_final,
        many_topics_in_one_call,
    );
}

async fn within(case: &str, work: impl Future<Output = ()>) {
    if timeout(CASE_DEADLINE, work).await.is_err() {
        panic!("{case} took longer than {CASE_DEADLINE:?}");
    }
}

/// Offsets run 1, 2, 3 … in one epoch, and every subscribed node, the publisher included,
/// gets the same.
///
/// # Cancel safety
/// As for [`run`].
pub async fn offsets_are_contiguous_and_equal_on_all_nodes<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (mut a, mut b) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("offsets");
    for node in [&a, &b] {
        node.subscribe(std::slice::from_ref(&topic)).await;
    }
    let mut told = Vec::new();
    for n in 0..50u8 {
        let publisher = if n % 2 == 0 { &a } else { &b };
        told.push(publisher.publish(&topic, vec![n]).await);
    }
    assert_contiguous(&told);
    let at_a = a.take(50).await;
    assert_eq!(positions_of(&at_a), told, "the publishers were told what arrived");
    assert_eq!(at_a, b.take(50).await, "both nodes got the same");
}

/// Two nodes publish at once: all nodes see one order, in which each publisher's own
/// messages stand as it sent them.
///
/// # Cancel safety
/// As for [`run`].
pub async fn two_publishers_share_one_order<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const EACH: u8 = 200;
    let (mut a, mut b) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("order");
    for node in [&a, &b] {
        node.subscribe(std::slice::from_ref(&topic)).await;
    }
    let publish = async |node: &Node, who: u8| {
        for n in 0..EACH {
            node.publish(&topic, vec![who, n]).await;
        }
    };
    tokio::join!(publish(&a, b'a'), publish(&b, b'b'));

    let all = usize::from(EACH) * 2;
    let at_a = a.take(all).await;
    assert_eq!(at_a, b.take(all).await, "both nodes see one order");
    assert_contiguous(&positions_of(&at_a));
    for who in *b"ab" {
        let own = at_a.iter().filter(|message| message.payload[0] == who);
        assert!(own.map(|message| message.payload[1]).eq(0..EACH), "the order of one publisher");
    }
}

/// One task hands over many messages before it asks for the first receipt.
///
/// # Cancel safety
/// As for [`run`].
pub async fn pipelined_publications_keep_their_order<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const COUNT: u16 = 500;
    let mut node = Node::new(connect().await);
    let topic = room("pipeline");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let mut receipts = Vec::new();
    for n in 0..COUNT {
        let payload = Bytes::copy_from_slice(&n.to_be_bytes());
        let place = node.broker.publish(&topic, payload, Delivery::Sequenced);
        receipts.push(step("a place in the queue", place).await);
    }
    let mut told = Vec::new();
    for receipt in receipts {
        told.extend(step("the receipt", receipt).await.position);
    }
    assert_eq!(told.len(), usize::from(COUNT), "sequenced publications have positions");
    assert_contiguous(&told);
    let arrived = node.take(told.len()).await;
    assert_eq!(positions_of(&arrived), told);
    for (n, message) in (0..COUNT).zip(&arrived) {
        assert_eq!(message.payload[..], n.to_be_bytes(), "in the order of the calls");
    }
}

/// An ephemeral publication has no position, moves no offset, and keeps its place among
/// the sequenced ones of the same task.
///
/// # Cancel safety
/// As for [`run`].
pub async fn ephemeral_publications_take_no_offset<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let mut node = Node::new(connect().await);
    let topic = room("ephemeral");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let first = node.publish(&topic, "1").await;
    let typing = node.deliver(&topic, "typing", Delivery::Ephemeral).await;
    assert_eq!(typing.position, None, "an ephemeral publication has no position");
    assert_eq!(node.position(&topic).await, first, "it does not move the offset");
    let second = node.publish(&topic, "2").await;
    assert_contiguous(&[first, second]);

    let arrived = node.take(3).await;
    let expected = [("1", Some(first)), ("typing", None), ("2", Some(second))];
    for (message, (payload, position)) in arrived.iter().zip(expected) {
        assert_eq!((&message.payload[..], message.position), (payload.as_bytes(), position));
    }
}

/// Positions are the default before the first publication, the last one's after it, come
/// in the order asked, and asking makes nothing.
///
/// # Cancel safety
/// As for [`run`].
pub async fn positions_create_nothing<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let (used, untouched) = (room("used"), room("untouched"));
    assert_eq!(a.position(&used).await, Position::default());
    assert_eq!(a.position(&used).await, Position::default(), "asking creates nothing");
    let first = a.publish(&used, "1").await;
    assert_eq!(first.offset, 1, "asking creates nothing");
    let last = a.publish(&used, "2").await;
    let topics = [untouched.clone(), used.clone(), untouched, used];
    let positions = step("positions", b.broker.positions(&topics)).await;
    assert_eq!(positions, [Position::default(), last, Position::default(), last]);
    assert_eq!(step("positions", b.broker.positions(&[])).await, []);
}

/// Nothing arrives before `subscribe` or after `unsubscribe` has returned, nor from topics
/// that only another node is subscribed to.
///
/// # Cancel safety
/// As for [`run`].
pub async fn only_subscribed_topics_arrive<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (mut a, mut b) = (Node::new(connect().await), Node::new(connect().await));
    let (topic, other) = (room("interest"), room("other"));
    a.subscribe(&[topic.clone(), other.clone()]).await;
    b.publish(&topic, "before").await;
    b.assert_quiet("before subscribe").await;

    b.subscribe(std::slice::from_ref(&topic)).await;
    b.publish(&other, "elsewhere").await;
    let position = b.publish(&topic, "during").await;
    let message = b.next().await;
    assert_eq!((message.topic, message.position), (topic.clone(), Some(position)));

    b.unsubscribe(std::slice::from_ref(&topic)).await;
    a.publish(&topic, "after").await;
    b.assert_quiet("after unsubscribe").await;
    let arrived = a.arrived().await;
    let payloads: Vec<_> = arrived.iter().map(|message| &message.payload[..]).collect();
    let expected: [&[u8]; 4] = [b"before", b"elsewhere", b"during", b"after"];
    assert_eq!(payloads, expected, "the other node is not disturbed");
}

/// To subscribe twice is to subscribe once; to unsubscribe from an unknown topic, or from
/// none at all, is no error.
///
/// # Cancel safety
/// As for [`run`].
pub async fn subscribing_twice_and_unsubscribing_strangers_are_fine<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let mut node = Node::new(connect().await);
    let (topic, stranger) = (room("twice"), room("stranger"));
    node.subscribe(&[topic.clone(), topic.clone()]).await;
    node.subscribe(std::slice::from_ref(&topic)).await;
    node.subscribe(&[]).await;
    node.unsubscribe(&[stranger, room("stranger")]).await;
    node.unsubscribe(&[]).await;
    let published = node.deliver(&topic, "once", Delivery::Sequenced).await;
    assert_eq!(published.nodes, 1, "one node, however often it subscribed");
    assert_eq!(node.arrived().await.len(), 1, "one copy");
    node.unsubscribe(std::slice::from_ref(&topic)).await;
    node.publish(&topic, "gone").await;
    node.assert_quiet("one unsubscribe undoes both").await;
}

/// While another node publishes without a pause, a node subscribes and unsubscribes: after
/// the last `subscribe` has returned, all that is published later arrives.
///
/// # Cancel safety
/// As for [`run`].
pub async fn churn_loses_nothing_after_the_last_subscribe<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const ROUNDS: usize = 100;
    let (publisher, mut node) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("churn");
    let topics = std::slice::from_ref(&topic);
    let stop = AtomicBool::new(false);
    let publish = async {
        let mut last = Position::default();
        while !stop.load(Ordering::Relaxed) {
            last = publisher.publish(&topic, "tick").await;
            // A broker that never waits would never let the other side run.
            yield_now().await;
        }
        last
    };
    let churn = async {
        for _ in 0..ROUNDS {
            node.subscribe(topics).await;
            let from = node.publish(&topic, "mark").await;
            // It may be preceded by some that were published while we subscribed.
            while node.next().await.position != Some(from) {}
            node.unsubscribe(topics).await;
            node.arrived().await;
        }
        node.subscribe(topics).await;
        let from = node.position(&topic).await;
        stop.store(true, Ordering::Relaxed);
        from
    };
    let (last, from) = tokio::join!(publish, churn);
    let arrived = positions_of(&node.arrived().await);
    assert_contiguous_from(&arrived, arrived.first().map_or(1, |first| first.offset));
    let expected: BTreeSet<_> = (from.offset + 1..=last.offset).collect();
    let offsets: BTreeSet<_> = arrived.iter().map(|position| position.offset).collect();
    assert!(offsets.is_superset(&expected), "expected {expected:?}, got {offsets:?}");
}

/// `nodes` says how many nodes a publication was handed to.
///
/// # Cancel safety
/// As for [`run`].
pub async fn nodes_are_counted<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("count");
    let topics = std::slice::from_ref(&topic);
    for (delivery, name) in [(Delivery::Sequenced, "sequenced"), (Delivery::Ephemeral, "ephemeral")]
    {
        let count = async || a.deliver(&topic, "", delivery).await.nodes;
        assert_eq!(count().await, 0, "{name}, nobody subscribed");
        b.subscribe(topics).await;
        assert_eq!(count().await, 1, "{name}, one other node");
        a.subscribe(topics).await;
        assert_eq!(count().await, 2, "{name}, two nodes");
        a.unsubscribe(topics).await;
        b.unsubscribe(topics).await;
        assert_eq!(count().await, 0, "{name}, all unsubscribed");
    }
}

/// Payloads of any bytes and of 0 bytes to 1 MiB arrive as they were sent.
///
/// # Cancel safety
/// As for [`run`].
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
        for delivery in [Delivery::Sequenced, Delivery::Ephemeral] {
            node.deliver(&topic, payload.clone(), delivery).await;
            let arrived = node.next().await.payload;
            assert!(arrived == payload, "{delivery:?}, {} bytes", payload.len());
        }
    }
}

/// Names with characters that mean something to a backend are names like any other, and
/// rooms and users of one name are different topics.
///
/// # Cancel safety
/// As for [`run`].
pub async fn names_do_not_mix<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let mut node = Node::new(connect().await);
    let names = [
        "*",
        "?",
        "[a-z]",
        "{}",
        "{a}",
        "a",
        "a:b",
        "a b",
        " ",
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
    let mut topics: Vec<Topic> = names.iter().map(|name| room(name)).collect();
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
        let published = node.deliver(topic, text.clone(), Delivery::Sequenced).await;
        assert_eq!(published.nodes, 1, "{topic}");
        let message = node.next().await;
        assert_eq!((&message.topic, &message.payload[..]), (topic, text.as_bytes()));
    }
    node.unsubscribe(&topics).await;
    for topic in &topics {
        node.deliver(topic, "late", Delivery::Ephemeral).await;
    }
    node.assert_quiet("every name can be unsubscribed").await;
}

/// All nodes have the same secret, and it is one.
///
/// # Cancel safety
/// As for [`run`].
pub async fn the_secret_is_shared<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let (one, other) = tokio::join!(a.broker.secret(), b.broker.secret());
    let secret = one.expect("the secret");
    assert_eq!(secret, other.expect("the secret"), "one secret for all nodes");
    assert_eq!(secret, step("secret", a.broker.secret()).await, "and always the same");
    assert_ne!(secret, [0; 32], "it is random");
}

/// After `close`, every call fails with `Closed` and the events end; closing again is
/// fine; another node goes on.
///
/// # Cancel safety
/// As for [`run`].
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
    let accepted = a.broker.publish(&topic, Bytes::new(), Delivery::Sequenced);
    let receipt = step("publish", accepted).await;
    a.broker.close().await;
    step("what was accepted before", receipt).await;
    a.broker.close().await;

    assert_eq!(a.broker.status(), Status::Closed);
    let publish = a.broker.publish(&topic, Bytes::new(), Delivery::Sequenced).await;
    assert!(matches!(publish, Err(BrokerError::Closed)), "publish: {publish:?}");
    for (what, outcome) in [
        ("subscribe", a.broker.subscribe(topics).await),
        ("unsubscribe", a.broker.unsubscribe(topics).await),
        ("positions", a.broker.positions(topics).await.map(drop)),
        ("secret", a.broker.secret().await.map(drop)),
    ] {
        assert!(matches!(outcome, Err(BrokerError::Closed)), "{what}: {outcome:?}");
    }
    let mut rest = Vec::new();
    while a.events.recv(&mut rest).await {}
    b.publish(&topic, "the other goes on").await;
    assert_eq!(b.take(2).await.len(), 2);
}

/// Two thousand topics in one call.
///
/// # Cancel safety
/// As for [`run`].
pub async fn many_topics_in_one_call<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let mut node = Node::new(connect().await);
    let topics: Vec<Topic> = (0..2000)
        .map(|n| named(&format!("many {n}"), |name| UserId::new(name).map(Topic::User)))
        .collect();
    node.subscribe(&topics).await;
    let mut receipts = Vec::new();
    for topic in &topics {
        let place = node.broker.publish(topic, Bytes::new(), Delivery::Sequenced);
        receipts.push(step("publish", place).await);
    }
    for receipt in receipts {
        assert_eq!(step("the receipt", receipt).await.nodes, 1);
    }
    let arrived: BTreeSet<Topic> =
        node.take(topics.len()).await.into_iter().map(|message| message.topic).collect();
    assert_eq!(arrived.len(), topics.len(), "every topic arrives once");
    let positions = step("positions", node.broker.positions(&topics)).await;
    assert!(positions.iter().all(|position| position.offset == 1), "each has its own offset");
    node.unsubscribe(&topics).await;
}

fn positions_of(messages: &[Message]) -> Vec<Position> {
    messages.iter().filter_map(|message| message.position).collect()
}

fn assert_contiguous(positions: &[Position]) {
    assert_contiguous_from(positions, 1);
}

fn assert_contiguous_from(positions: &[Position], first: u64) {
    let Some(Position { epoch, .. }) = positions.first().copied() else { return };
    for (offset, position) in (first..).zip(positions) {
        assert_eq!(*position, Position { epoch, offset }, "the offsets have no hole");
    }
}
