//! What arrives, and what does not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use chat_core::{Position, Topic, UserId};
use tokio::task::yield_now;

use super::{assert_contiguous_from, positions_of};
use crate::broker::Broker;
use crate::events::BrokerEvents;
use crate::publish::PublishOptions;
use crate::testing::node::{Node, named, persistent, room, step};

/// Nothing arrives before `subscribe` or after `unsubscribe` has returned, nor from topics
/// that only another node is subscribed to.
///
/// # Cancel safety
/// As for [`run`](super::run).
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
/// As for [`run`](super::run).
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
    let published = node.deliver(&topic, "once", persistent()).await;
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
/// As for [`run`](super::run).
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
/// As for [`run`](super::run).
pub async fn nodes_are_counted<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let topic = room("count");
    let topics = std::slice::from_ref(&topic);
    for (delivery, name) in [(persistent(), "sequenced"), (PublishOptions::default(), "ephemeral")]
    {
        let count = async || a.deliver(&topic, "", delivery.clone()).await.nodes;
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

/// Two thousand topics in one call.
///
/// # Cancel safety
/// As for [`run`](super::run).
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
        let place = node.broker.publish(topic, Bytes::new(), persistent());
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
