//! What becomes of users whose node ends, with a word or without.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chat_core::{Occupancy, Topic, UserId};
use tokio::time::Instant;

use super::{assert_joined, assert_left};
use crate::broker::{Broker, Delivery};
use crate::events::BrokerEvents;
use crate::testing::node::{Change, Node, change, occupant, room, user};

/// Within this, users of a node that is gone without a word have left.
const CRASH: Duration = Duration::from_secs(15);
/// Within this, users of a node that was closed have left.
const CLOSE: Duration = Duration::from_secs(10);
/// What the test itself may take.
const SLACK: Duration = Duration::from_secs(1);

/// A node that is dropped without a word: each of its users leaves once, within 15 seconds,
/// however many nodes are left to notice; whoever is at another node stays.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn users_of_a_dead_node_leave_once<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    users_leave_once(connect, CRASH, async |node| drop(node)).await;
}

/// A node that is closed: each of its users leaves once, within ten seconds; whoever is at
/// another node stays.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn users_of_a_closed_node_leave_once<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    users_leave_once(connect, CLOSE, async |node| node.broker.close().await).await;
}

async fn users_leave_once<F>(connect: &F, limit: Duration, end: impl AsyncFnOnce(Node))
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    const TOPICS: usize = 20;
    const USERS: u32 = 5;
    let (ending, mut staying) = (Node::new(connect().await), Node::new(connect().await));
    let mut watcher = Node::new(connect().await);
    let topics: Vec<Topic> = (0..TOPICS).map(|n| room(&format!("departure {n}"))).collect();
    for node in [&staying, &watcher] {
        node.subscribe(&topics).await;
    }
    let mut before = BTreeMap::new();
    for topic in &topics {
        for name in (0..USERS).map(|n| n.to_string()) {
            ending.broker.enter(topic, occupant(&name));
        }
        staying.broker.enter(topic, occupant("0"));
        for node in [&ending, &staying] {
            node.deliver(topic, "", Delivery::kept()).await;
        }
        before.insert(topic.clone(), watcher.occupancy(topic, 10).await);
        assert_eq!(before[topic].count, USERS, "all are there");
    }
    for node in [&mut staying, &mut watcher] {
        let events = node.arrived_events().await;
        assert_eq!(events.len(), TOPICS * (USERS as usize + 2), "all came: {events:?}");
    }

    let deadline = Instant::now() + limit + SLACK;
    end(ending).await;
    let gone = TOPICS * (USERS as usize - 1);
    let at_watcher = departures(&mut watcher, gone, deadline).await;
    let at_staying = departures(&mut staying, gone, deadline).await;
    for topic in &topics {
        let changes = &at_watcher[topic];
        assert_eq!(changes, &at_staying[topic], "all nodes are told the same");
        assert_departures(changes, topic, &before[topic]);
        let now = watcher.occupancy(topic, 10).await;
        let version = before[topic].version + u64::from(USERS) - 1;
        assert_eq!(now, Occupancy { version, count: 1, occupants: vec![occupant("0")] });
    }
    for topic in &topics {
        staying.broker.leave(topic, &user("0"));
        assert_left(&watcher.change().await, topic, "0", 0);
    }
    watcher.assert_quiet("all was told once").await;
}

async fn departures(
    node: &mut Node,
    count: usize,
    deadline: Instant,
) -> BTreeMap<Topic, Vec<Change>> {
    let mut changes: BTreeMap<Topic, Vec<Change>> = BTreeMap::new();
    for _ in 0..count {
        let left = deadline.saturating_duration_since(Instant::now());
        let change = change(node.event_within(left).await);
        changes.entry(change.topic.clone()).or_default().push(change);
    }
    changes
}

/// Asserts that all but the first of the occupants left, in numbers without a hole.
fn assert_departures(changes: &[Change], topic: &Topic, before: &Occupancy) {
    let mut gone: Vec<&UserId> = Vec::new();
    let (versions, counts) = (before.version + 1.., (1..before.count).rev());
    for ((change, version), count) in changes.iter().zip(versions).zip(counts) {
        let name = change.occupant.user.as_str();
        assert_left(change, topic, name, count);
        assert_eq!(change.version, version, "it is numbered without a hole");
        gone.push(&change.occupant.user);
    }
    gone.sort();
    let expected = before.occupants.iter().map(|occupant| &occupant.user).skip(1);
    assert!(expected.eq(gone.iter().copied()), "each left once: {changes:?}");
}

/// A user who is at two nodes stays while one of them closes, and goes with the other.
///
/// # Cancel safety
/// As for [`run`](super::run).
pub async fn a_user_at_two_nodes_goes_with_the_last<F>(connect: &F)
where
    F: AsyncFn() -> (Arc<dyn Broker>, BrokerEvents),
{
    let (a, b) = (Node::new(connect().await), Node::new(connect().await));
    let mut watcher = Node::new(connect().await);
    let topic = room("two nodes");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    for node in [&a, &b] {
        node.broker.enter(&topic, occupant("u"));
        node.deliver(&topic, "", Delivery::Ephemeral).await;
    }
    assert_joined(&watcher.change().await, &topic, "u", 1);
    watcher.take(2).await;
    let start = Instant::now();
    a.broker.close().await;
    b.broker.close().await;
    let mut left = departures(&mut watcher, 1, start + CLOSE + SLACK).await;
    assert_left(&left.remove(&topic).expect("it is of this topic")[0], &topic, "u", 0);
    watcher.assert_quiet("it was told once").await;
    assert_eq!(watcher.occupancy(&topic, 10).await, Occupancy::default());
}
