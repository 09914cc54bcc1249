//! What is published again under the same key.

use bytes::Bytes;
use chat_core::{HistoryRange, Retention, Topic};

use super::node::{Node, persistent, room, step};
use super::{Bus, assert_contiguous};
use crate::publish::{PublishOptions, Published};

fn keyed(key: &str) -> PublishOptions {
    persistent().key(key)
}

/// Asserts that a message was published before, and keeps its position.
fn assert_repeats(again: Published, first: Published) {
    let expected = Published { nodes: 0, repeated: true, ..first };
    assert_eq!(again, expected, "the answer of the first time");
}

/// A publication with the key of an earlier one, by the same node or another, is answered as that
/// was, and neither kept nor handed on; however much was published since, and whether or not the
/// first is still kept.
///
/// Calls `publish`, `subscribe` and `history`.
pub async fn key_is_published_once(bus: &impl Bus) {
    let (mut a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("keys");
    a.subscribe(std::slice::from_ref(&topic)).await;
    let first = a.deliver(&topic, "first", keyed("k")).await;
    assert!(!first.repeated && first.position.is_some_and(|position| position.offset == 1));
    assert_eq!(first.nodes, 1);
    assert_repeats(a.deliver(&topic, "again", keyed("k")).await, first);
    assert_repeats(b.deliver(&topic, "elsewhere", keyed("k")).await, first);

    let second = b.deliver(&topic, "second", keyed("l")).await;
    assert!(!second.repeated && second.position.is_some_and(|position| position.offset == 2));
    assert_repeats(a.deliver(&topic, "again", keyed("k")).await, first);
    assert_repeats(a.deliver(&topic, "again", keyed("l")).await, second);
    let third = a.deliver(&topic, "third", persistent()).await;
    let history = b.history(&topic, HistoryRange::Latest, 10).await;
    assert_eq!(Some(history.position), third.position);
    let kept: Vec<_> = history.entries.iter().map(|entry| &entry.payload[..]).collect();
    let expected: [&[u8]; 3] = [b"first", b"second", b"third"];
    assert_eq!(kept, expected, "what was published again is not kept");
    assert_eq!(a.arrived().await.len(), 3, "nor handed on");

    let one = Retention::default().messages(1);
    for _ in 0..300 {
        a.deliver(&topic, "", PublishOptions::default().retention(one)).await;
    }
    let history = b.history(&topic, HistoryRange::After(0), 10).await;
    assert!(history.entries[0].offset > 1, "the first was trimmed");
    assert_repeats(b.deliver(&topic, "late", keyed("k")).await, first);
}

/// A key names a publication within its topic only, and two keys are one if their bytes are.
///
/// Calls `publish`.
pub async fn keys_do_not_mix(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let long = "k".repeat(300);
    let keys = ["a", "A", "a:b", "a\0b", "{a}", " ", "*", "%61", "日本語", "\r\n", &long];
    let topics: Vec<Topic> = ["one", "two", "one:a"].map(room).into();
    let mut answers = Vec::new();
    for topic in &topics {
        let mut positions = Vec::new();
        for key in keys {
            let published = node.deliver(topic, key.to_owned(), keyed(key)).await;
            assert!(!published.repeated, "{key:?} is new in {topic}");
            positions.extend(published.position);
            answers.push((topic, key, published));
        }
        assert_eq!(positions.len(), keys.len());
        assert_contiguous(&positions);
    }
    for (topic, key, first) in answers {
        assert_repeats(node.deliver(topic, "again", keyed(key)).await, first);
    }
}

/// A key is used by two nodes at the same time, and twice by each, without awaiting the first
/// receipt: one publication, and every receipt has its position.
///
/// Calls `publish` and `subscribe`.
pub async fn concurrent_uses_of_a_key_publish_once(bus: &impl Bus) {
    const ROUNDS: usize = 50;
    let (mut a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("races");
    a.subscribe(std::slice::from_ref(&topic)).await;
    let twice = async |node: &Node, key: &str| {
        let publish = || node.broker.publish(&topic, Bytes::from(key.to_owned()), keyed(key));
        let first = step("publish", publish()).await;
        let second = step("publish", publish()).await;
        [step("the receipt", first).await, step("the receipt", second).await]
    };
    for round in 0..ROUNDS {
        let key = round.to_string();
        let (at_a, at_b) = tokio::join!(twice(&a, &key), twice(&b, &key));
        let answers = [at_a, at_b].concat();
        let new = answers.iter().filter(|published| !published.repeated).count();
        assert_eq!(new, 1, "one of them published it: {answers:?}");
        let offset = round as u64 + 1;
        for published in &answers {
            let position = published.position.expect("a position");
            assert_eq!(position.offset, offset, "all get the same answer: {answers:?}");
        }
    }
    let arrived = a.arrived().await;
    assert_eq!(arrived.len(), ROUNDS, "each arrived once");
}
