//! A maximum of users in a topic.

use chat_core::{Occupant, Topic};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::node::{Node, STEP_DEADLINE, ephemeral, occupant, room, step, user};
use super::{Bus, assert_joined};
use crate::error::BrokerError;

/// However many nodes call `enter_limited` at the same time, exactly as many users are in the topic
/// as its maximum says. A user who was refused leaves no event behind.
///
/// Calls `enter_limited`, `leave`, `occupancy`, `publish` and `subscribe`.
pub async fn full_topic_takes_no_more_users(bus: &impl Bus) {
    const MAX: u32 = 8;
    let nodes = join_all((0..3).map(|_| Node::connect(bus))).await;
    let mut watcher = Node::connect(bus).await;
    let topic = room("full");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    let receipts = (0..50).map(|n| {
        let node = &nodes[n % nodes.len()];
        let occupant = occupant(&n.to_string());
        async {
            let user = occupant.user.clone();
            let is_admitted = admit(node, &topic, occupant, MAX).await;
            if !is_admitted {
                node.presence().leave(&topic, &user);
            }
            is_admitted.then_some(user)
        }
    });
    let mut admitted: Vec<_> = join_all(receipts).await.into_iter().flatten().collect();
    admitted.sort();
    assert_eq!(admitted.len(), MAX as usize);
    let listed = watcher.occupancy(&topic, 50).await.occupants;
    assert!(listed.iter().map(|occupant| &occupant.user).eq(&admitted), "{listed:?}");
    let mut joined = Vec::new();
    for count in 1..=MAX {
        let change = watcher.change().await;
        assert_joined(&change, &topic, change.occupant.user.as_str(), count);
        joined.push(change.occupant.user);
    }
    joined.sort();
    assert_eq!(joined, admitted);
    for node in &nodes {
        node.deliver(&topic, "fence", ephemeral()).await;
        assert_eq!(&watcher.next().await.payload[..], b"fence", "no event of a refused user");
    }
}

/// A user who is in the topic takes no second place, at the same node or at another.
///
/// Calls `enter`, `enter_limited`, `leave`, `occupancy`, `publish` and `subscribe`.
pub async fn user_takes_one_place_at_all_nodes(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let mut watcher = Node::connect(bus).await;
    let topic = room("one place");
    watcher.subscribe(std::slice::from_ref(&topic)).await;
    a.presence().enter(&topic, occupant("u"));
    assert_joined(&watcher.change().await, &topic, "u", 1);
    for node in [&a, &b, &b] {
        assert!(admit(node, &topic, occupant("u"), 1).await);
    }
    assert!(!admit(&b, &topic, occupant("v"), 1).await);
    a.presence().leave(&topic, &user("u"));
    watcher.assert_quiet("the other node holds the user").await;
    assert_eq!(watcher.occupancy(&topic, 9).await.count, 1);
    // A maximum is that of the call, and users who enter without one count.
    a.presence().enter(&topic, occupant("w"));
    assert_joined(&watcher.change().await, &topic, "w", 2);
    assert!(!admit(&b, &topic, occupant("v"), 2).await);
    assert!(admit(&b, &topic, occupant("v"), 3).await);
    assert_joined(&watcher.change().await, &topic, "v", 3);
}

/// The place of a user who has left is free.
///
/// Calls `enter_limited`, `leave` and `occupancy`.
pub async fn place_of_a_user_who_left_is_free(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("free place");
    assert!(admit(&a, &topic, occupant("u"), 1).await);
    assert!(!admit(&b, &topic, occupant("v"), 1).await);
    step("the leave", async { Ok(a.presence().leave(&topic, &user("u")).await) }).await;
    assert!(admit(&b, &topic, occupant("v"), 1).await);
    assert!(!admit(&a, &topic, occupant("u"), 1).await);
    assert_eq!(a.occupancy(&topic, 9).await.occupants, [occupant("v")]);
}

/// Whether a node admits a user.
async fn admit(node: &Node, topic: &Topic, occupant: Occupant, max: u32) -> bool {
    let receipt = node.presence().enter_limited(topic, occupant, max);
    match timeout(STEP_DEADLINE, receipt).await.expect("an answer") {
        Ok(()) => true,
        Err(BrokerError::RoomFull { max: answered }) => {
            assert_eq!(answered, max, "the maximum is that of the call");
            false
        }
        Err(error) => panic!("enter_limited failed: {error}"),
    }
}
