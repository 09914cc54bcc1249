//! The users of a node that was closed, or that died.

use std::collections::BTreeMap;
use std::time::Duration;

use chat_core::{Occupancy, Topic, UserId};
use tokio::time::Instant;

use super::node::{Change, Node, change, ephemeral, occupant, persistent, room, user};
use super::{Bus, assert_joined, assert_left};

/// The users of a node that died have left after this time.
const CRASH: Duration = Duration::from_secs(15);
/// The users of a node that was closed have left after this time.
const CLOSE: Duration = Duration::from_secs(10);
/// What the test itself may take.
const SLACK: Duration = Duration::from_secs(1);

/// A node is dropped without being closed: each of its users leaves once, within 15 seconds,
/// however many nodes are left; a user who is at another node stays.
///
/// Calls `enter`, `leave`, `occupancy`, `publish` and `subscribe`.
pub async fn users_of_a_dead_node_leave_once(bus: &impl Bus) {
    users_leave_once(bus, CRASH, async |node| drop(node)).await;
}

/// A node is closed: each of its users leaves once, within ten seconds; a user who is at another
/// node stays.
///
/// Calls `enter`, `leave`, `occupancy`, `publish`, `subscribe` and `close`.
pub async fn users_of_a_closed_node_leave_once(bus: &impl Bus) {
    users_leave_once(bus, CLOSE, async |node| node.broker.close().await).await;
}

async fn users_leave_once(bus: &impl Bus, limit: Duration, end: impl AsyncFnOnce(Node)) {
    const TOPICS: usize = 20;
    const USERS: u32 = 5;
    let (ending, mut staying) = (Node::connect(bus).await, Node::connect(bus).await);
    let mut watcher = Node::connect(bus).await;
    let topics: Vec<Topic> = (0..TOPICS).map(|n| room(&format!("departure {n}"))).collect();
    for node in [&staying, &watcher] {
        node.subscribe(&topics).await;
    }
    let mut before = BTreeMap::new();
    for topic in &topics {
        for name in (0..USERS).map(|n| n.to_string()) {
            ending.presence().enter(topic, occupant(&name));
        }
        staying.presence().enter(topic, occupant("0"));
        for node in [&ending, &staying] {
            node.deliver(topic, "", persistent()).await;
        }
        before.insert(topic.clone(), watcher.occupancy(topic, 10).await);
        assert_eq!(before[topic].count, USERS, "all are there");
    }
    for node in [&mut staying, &mut watcher] {
        let events = node.arrived_events().await;
        assert_eq!(events.len(), TOPICS * (USERS as usize + 2), "all joined: {events:?}");
    }

    let deadline = Instant::now() + limit + SLACK;
    end(ending).await;
    let left = TOPICS * (USERS as usize - 1);
    let at_watcher = departures(&mut watcher, left, deadline).await;
    let at_staying = departures(&mut staying, left, deadline).await;
    for topic in &topics {
        let changes = &at_watcher[topic];
        assert_eq!(changes, &at_staying[topic], "all nodes receive the same");
        assert_departures(changes, topic, &before[topic]);
        let now = watcher.occupancy(topic, 10).await;
        let version = before[topic].version + u64::from(USERS) - 1;
        assert_eq!(now, Occupancy::new(version, 1, vec![occupant("0")]));
    }
    for topic in &topics {
        staying.presence().leave(topic, &user("0"));
        assert_left(&watcher.change().await, topic, "0", 0);
    }
    watcher.assert_quiet("all leaves arrived once").await;
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
    let mut left: Vec<&UserId> = Vec::new();
    let (versions, counts) = (before.version + 1.., (1..before.count).rev());
    for ((change, version), count) in changes.iter().zip(versions).zip(counts) {
        let name = change.occupant.user.as_str();
        assert_left(change, topic, name, count);
        assert_eq!(change.version, version, "it is numbered without a hole");
        left.push(&change.occupant.user);
    }
    left.sort();
    let expected = before.occupants.iter().map(|occupant| &occupant.user).skip(1);
    assert!(expected.eq(left.iter().copied()), "each left once: {changes:?}");
}

/// A user who is at two nodes stays when one of them is closed, and leaves with the other.
///
/// Calls `enter`, `occupancy`, `publish`, `subscribe` and `close`.
pub async fn user_at_two_nodes_leaves_with_the_last(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let mut watcher = Node::connect(bus).await;
    let topic = room("two nodes");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    for node in [&a, &b] {
        node.presence().enter(&topic, occupant("u"));
        node.deliver(&topic, "", ephemeral()).await;
    }
    assert_joined(&watcher.change().await, &topic, "u", 1);
    watcher.take(2).await;
    let start = Instant::now();
    a.broker.close().await;
    assert_eq!(watcher.occupancy(&topic, 10).await.count, 1, "the other node holds the user");
    watcher.assert_quiet("the user has not left").await;
    b.broker.close().await;
    let mut left = departures(&mut watcher, 1, start + CLOSE + SLACK).await;
    assert_left(&left.remove(&topic).expect("it is of this topic")[0], &topic, "u", 0);
    watcher.assert_quiet("it arrived once").await;
    assert_eq!(watcher.occupancy(&topic, 10).await, Occupancy::default());
}
