//! What arrives, and what does not.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chat_core::{Position, Topic, UserId};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::node::{Node, STEP_DEADLINE, ephemeral, named, persistent, room, step};
use super::{Bus, ORDERS, assert_contiguous_from, positions_of};
use crate::error::BrokerError;

/// A node receives nothing of topics that only another node is subscribed to.
///
/// Calls `publish` and `subscribe`.
pub async fn only_subscribed_topics_arrive(bus: &impl Bus) {
    let (mut a, mut b) = (Node::connect(bus).await, Node::connect(bus).await);
    let (shared, other) = (room("shared"), room("other"));
    a.subscribe(&[shared.clone(), other.clone()]).await;
    b.publish(&other, "1").await;
    b.assert_quiet("it is subscribed to nothing").await;
    b.subscribe(std::slice::from_ref(&shared)).await;
    for (topic, text) in [(&other, "2"), (&shared, "3"), (&other, "4")] {
        a.publish(topic, text).await;
    }
    let texts = async |node: &mut Node| {
        let arrived = node.arrived().await;
        arrived.into_iter().map(|message| message.payload).collect::<Vec<_>>()
    };
    assert_eq!(texts(&mut b).await, ["3"]);
    assert_eq!(texts(&mut a).await, ["1", "2", "3", "4"]);
}

/// What was acknowledged before `subscribe` was called does not arrive: neither at once nor
/// after what was published later, nor when a node subscribes again.
///
/// Calls `publish`, `subscribe` and `unsubscribe`.
pub async fn publications_before_subscribe_do_not_arrive(bus: &impl Bus) {
    const ROUNDS: usize = 20;
    let (publisher, mut node) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("before");
    let topics = std::slice::from_ref(&topic);
    for _ in 0..ROUNDS {
        for delivery in [persistent(), ephemeral()] {
            publisher.deliver(&topic, "before", delivery).await;
        }
        node.subscribe(topics).await;
        let after = publisher.publish(&topic, "after").await;
        let message = node.next().await;
        assert_eq!(message.position, Some(after), "{:?} is the first to arrive", message.payload);
        node.assert_quiet("nothing of before arrives later").await;
        node.unsubscribe(topics).await;
    }
}

/// What is published after `subscribe` has returned arrives, whichever node publishes it.
///
/// Calls `publish` and `subscribe`.
pub async fn publications_after_subscribe_arrive(bus: &impl Bus) {
    const ROUNDS: usize = 50;
    let (publisher, mut node) = (Node::connect(bus).await, Node::connect(bus).await);
    for round in 0..ROUNDS {
        let topic = room("after");
        node.subscribe(std::slice::from_ref(&topic)).await;
        let delivery = if round % 2 == 0 { persistent() } else { ephemeral() };
        let published = publisher.deliver(&topic, "x", delivery).await;
        assert_eq!(published.nodes, 1, "the node counts as subscribed");
        let message = node.next().await;
        assert_eq!((message.topic, message.position), (topic, published.position));
    }
}

/// What is published after `unsubscribe` has returned does not arrive.
///
/// Calls `publish`, `subscribe` and `unsubscribe`.
pub async fn publications_after_unsubscribe_do_not_arrive(bus: &impl Bus) {
    const ROUNDS: usize = 20;
    let (publisher, mut node) = (Node::connect(bus).await, Node::connect(bus).await);
    let (topic, other) = (room("left"), room("kept"));
    node.subscribe(std::slice::from_ref(&other)).await;
    for _ in 0..ROUNDS {
        node.subscribe(std::slice::from_ref(&topic)).await;
        publisher.publish(&topic, "during").await;
        assert_eq!(node.next().await.payload, "during");
        node.unsubscribe(std::slice::from_ref(&topic)).await;
        publisher.publish(&topic, "after").await;
        publisher.publish(&other, "other").await;
        let message = node.next().await;
        assert_eq!((message.topic, &message.payload[..]), (other.clone(), &b"other"[..]));
        node.assert_quiet("after unsubscribe").await;
    }
}

/// Subscribing to a topic twice is subscribing once; unsubscribing from an unknown topic, or
/// from none at all, is no error.
///
/// Calls `publish`, `subscribe` and `unsubscribe`.
pub async fn subscribe_and_unsubscribe_are_idempotent(bus: &impl Bus) {
    let mut node = Node::connect(bus).await;
    let (topic, unknown) = (room("twice"), room("unknown"));
    node.subscribe(&[topic.clone(), topic.clone()]).await;
    node.subscribe(std::slice::from_ref(&topic)).await;
    node.subscribe(&[]).await;
    node.unsubscribe(&[unknown, room("unknown")]).await;
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
/// Calls `publish`, `subscribe`, `unsubscribe` and `positions`.
pub async fn churn_loses_nothing_after_the_last_subscribe(bus: &impl Bus) {
    const ROUNDS: usize = 100;
    let (publisher, mut node) = (Node::connect(bus).await, Node::connect(bus).await);
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

/// [`Published::nodes`](crate::Published::nodes) is the number of nodes that were subscribed.
///
/// Calls `publish`, `subscribe` and `unsubscribe`.
pub async fn nodes_are_counted(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("count");
    let topics = std::slice::from_ref(&topic);
    for (delivery, name) in [(persistent(), "sequenced"), (ephemeral(), "ephemeral")] {
        let count = async || a.deliver(&topic, "", delivery.clone()).await.nodes;
        assert_eq!(count().await, 0, "{name}, without subscribers");
        b.subscribe(topics).await;
        assert_eq!(count().await, 1, "{name}, one other node");
        a.subscribe(topics).await;
        assert_eq!(count().await, 2, "{name}, two nodes");
        a.unsubscribe(topics).await;
        b.unsubscribe(topics).await;
        assert_eq!(count().await, 0, "{name}, all unsubscribed");
    }
}

/// `subscribers` counts the nodes that are subscribed to each topic, in the order asked, also of 2,000
/// topics. A broker that cannot count them returns
/// [`Unsupported`](crate::BrokerError::Unsupported), and passes.
///
/// Calls `subscribe`, `subscribers` and `unsubscribe`.
pub async fn subscribers_are_counted(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let ann = named("ann", |name| UserId::new(name).map(Topic::User));
    let topics = [room("one"), ann, room("both"), room("none")];
    match a.broker.subscribers(&topics).await {
        Err(BrokerError::Unsupported(_)) => return,
        counts => assert_eq!(counts.expect("the number of subscribers"), [0, 0, 0, 0]),
    }
    let counted = async |node: &Node, order: &[usize]| {
        let topics: Vec<Topic> = order.iter().map(|nth| topics[*nth].clone()).collect();
        step("subscribers", node.broker.subscribers(&topics)).await
    };
    a.subscribe(&[topics[0].clone(), topics[2].clone()]).await;
    b.subscribe(&topics[1..=2]).await;
    // Subscribing again changes nothing.
    b.subscribe(&topics[2..=2]).await;
    let expected = [1, 1, 2, 0];
    for node in [&a, &b] {
        for order in ORDERS {
            let expected: Vec<u32> = order.iter().map(|nth| expected[*nth]).collect();
            assert_eq!(counted(node, order).await, expected);
        }
    }
    b.unsubscribe(&topics[1..=2]).await;
    assert_eq!(counted(&a, &[0, 1, 2, 3]).await, [1, 0, 1, 0]);
    a.broker.close().await;
    // The backend may take the end of a's connection after the next call of b.
    let deadline = Instant::now() + STEP_DEADLINE;
    while counted(&b, &[0, 2]).await != [0, 0] {
        assert!(Instant::now() < deadline, "a node that was closed is still subscribed");
        sleep(Duration::from_millis(10)).await;
    }
    let many: Vec<Topic> = (0..2000).map(|n| room(&format!("many {n}"))).collect();
    b.subscribe(&many[..1999]).await;
    let counts = step("subscribers", b.broker.subscribers(&many)).await;
    assert_eq!(counts, [vec![1; 1999], vec![0]].concat());
}

/// One call of `subscribe`, `unsubscribe` or `positions` takes 2,000 topics.
///
/// Calls `publish` and these three.
pub async fn many_topics_in_one_call(bus: &impl Bus) {
    let mut node = Node::connect(bus).await;
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
