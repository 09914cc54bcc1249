//! A topic whose sequence the backend has lost.

use chat_core::{HistoryRange, Position, Topic};

use super::Bus;
use super::node::{Node, ephemeral, room};

/// After the backend has lost a topic, no offset means two publications: what is published
/// next starts a new epoch with offset 1, for all nodes, and nothing of before is in its
/// history; subscribed nodes still receive what is published. Other topics are as they were.
///
/// Not in [`conformance_tests!`](crate::conformance_tests), because how to lose something is
/// the backend's: `lose` removes the position and the history of a topic.
///
/// Calls `publish`, `subscribe`, `positions` and `history`.
pub async fn lost_sequence_starts_a_new_epoch(bus: &impl Bus, lose: impl AsyncFn(&Topic)) {
    let (mut a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let (lost, other) = (room("lost"), room("other"));
    a.subscribe(&[lost.clone(), other.clone()]).await;
    for topic in [&lost, &other] {
        for _ in 0..5 {
            a.publish(topic, "before").await;
        }
    }
    let (before, untouched) = (b.position(&lost).await, b.position(&other).await);
    a.take(10).await;
    lose(&lost).await;
    assert_eq!(b.position(&lost).await, Position::default(), "as in a new topic");
    let history = a.history(&lost, HistoryRange::After(0), 10).await;
    assert_eq!((history.position, history.entries), (Position::default(), Vec::new()));
    b.deliver(&lost, "ephemeral", ephemeral()).await;
    assert_eq!(a.next().await.position, None);

    let mut epochs = vec![before.epoch];
    for _ in 0..2 {
        for (offset, node) in (1..).zip([&b, &a]) {
            let position = node.publish(&lost, "after").await;
            assert!(!epochs.contains(&position.epoch) || offset > 1, "a new epoch");
            epochs.push(position.epoch);
            assert_eq!(position.offset, offset);
        }
        let received: Vec<_> =
            a.take(2).await.iter().filter_map(|received| received.position).collect();
        let history = b.history(&lost, HistoryRange::After(0), 10).await;
        let position_at = |offset| Position { offset, ..history.position };
        assert_eq!(received, [position_at(1), position_at(2)]);
        assert_eq!(history.position, position_at(2));
        assert_eq!(history.entries.len(), 2, "nothing of before");
        assert!(!history.follows(before), "a member from before gets a gap");
        lose(&lost).await;
    }
    assert_eq!(a.position(&other).await, untouched);
    assert_eq!(a.history(&other, HistoryRange::After(0), 10).await.entries.len(), 5);
}
