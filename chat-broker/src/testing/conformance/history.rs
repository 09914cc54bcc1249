//! What is kept, how it is read, and when it goes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use chat_core::{History, HistoryEntry, HistoryRange, Position, Retention, Topic};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::node::{Node, ephemeral, persistent, room, step};
use super::{Bus, ORDERS};
use crate::history::HistoryRead;
use crate::publish::PublishOptions;

/// More than is ever asked for here.
const MANY: u32 = 10_000;

/// How much more than was asked for a backend may keep that trims in blocks.
const BLOCK: usize = 128;

/// A history is read from either end in pages, by any node; each answer has the position of the
/// topic, and nothing but kept publications.
///
/// Calls `publish`, `positions` and `history`.
pub async fn history_is_read_in_pages_both_ways(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("pages");
    for n in 1..=25 {
        a.publish(&topic, n.to_string()).await;
        a.deliver(&topic, "typing", ephemeral()).await;
    }
    let position = a.position(&topic).await;
    let pages = [
        (HistoryRange::After(0), 10, 1..=10),
        (HistoryRange::After(10), 10, 11..=20),
        (HistoryRange::After(20), 10, 21..=25),
        (HistoryRange::After(24), MANY, 25..=25),
        (HistoryRange::After(0), MANY, 1..=25),
        (HistoryRange::Before(26), 10, 16..=25),
        (HistoryRange::Before(16), 10, 6..=15),
        (HistoryRange::Before(6), 10, 1..=5),
        (HistoryRange::Before(2), MANY, 1..=1),
        (HistoryRange::Before(1 << 53), 2, 24..=25),
        (HistoryRange::Latest, 10, 16..=25),
        (HistoryRange::Latest, 1, 25..=25),
        (HistoryRange::Latest, MANY, 1..=25),
    ];
    let nothing = [
        (HistoryRange::After(25), MANY),
        (HistoryRange::After(1 << 53), MANY),
        (HistoryRange::Before(1), MANY),
        (HistoryRange::Before(0), MANY),
        (HistoryRange::Latest, 0),
        (HistoryRange::After(0), 0),
    ];
    let expected =
        pages.into_iter().map(|(range, limit, offsets)| (range, limit, offsets.collect()));
    let expected: Vec<(HistoryRange, u32, Vec<u64>)> =
        expected.chain(nothing.map(|(range, limit)| (range, limit, vec![]))).collect();
    let reads: Vec<HistoryRead> = expected
        .iter()
        .map(|&(range, limit, _)| HistoryRead::new(topic.clone(), range, limit))
        .collect();
    for node in [&a, &b] {
        let answers = step("history", node.broker.history(&reads)).await;
        assert_eq!(answers.len(), reads.len(), "an answer to each read");
        for (history, (range, limit, offsets)) in answers.into_iter().zip(&expected) {
            let entries = offsets.iter().map(|&offset| entry(offset)).collect();
            let expected = History::new(position, entries);
            assert_eq!(history, expected, "{range:?}, at most {limit}");
        }
    }
    assert_eq!(step("history", a.broker.history(&[])).await, []);
}

/// What the test above publishes.
fn entry(offset: u64) -> HistoryEntry {
    HistoryEntry::new(offset, Bytes::from(offset.to_string()))
}

/// A page ends with the publication that takes it beyond
/// [`HistoryRead::MAX_BYTES`], and is never empty for that reason.
///
/// Calls `publish` and `history`.
pub async fn page_has_a_bounded_size(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let topic = room("sizes");
    let half = Bytes::from(vec![7; HistoryRead::MAX_BYTES / 2 + 1]);
    for _ in 0..5 {
        node.publish(&topic, half.clone()).await;
    }
    let read = async |range| {
        let history = node.history(&topic, range, MANY).await;
        let is_whole = |entry: &HistoryEntry| entry.payload == half || entry.offset > 5;
        assert!(history.entries.iter().all(is_whole), "{range:?}: payloads are whole");
        offsets(&history)
    };
    assert_eq!(read(HistoryRange::After(0)).await, [1, 2]);
    assert_eq!(read(HistoryRange::After(2)).await, [3, 4]);
    assert_eq!(read(HistoryRange::After(4)).await, [5]);
    assert_eq!(read(HistoryRange::Before(5)).await, [3, 4]);
    assert_eq!(read(HistoryRange::Latest).await, [4, 5]);
    node.publish(&topic, vec![8; 3 * HistoryRead::MAX_BYTES]).await;
    assert_eq!(read(HistoryRange::Latest).await, [6], "one that is larger comes alone");
    assert_eq!(read(HistoryRange::After(5)).await, [6], "one that is larger comes alone");
    assert_eq!(read(HistoryRange::After(4)).await, [5, 6]);
}

/// At least as many messages are kept as the latest publication says, and at most a block
/// of 128 more; what is left has no hole.
///
/// Calls `publish` and `history`.
pub async fn history_is_kept_by_count(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let topic = room("count");
    let mut published = 0;
    // Each step: so many messages more, of which so many are kept; so many are there then.
    for (more, messages, at_least) in [(600, 100, 100), (300, 500, 400), (1, 10, 10), (1, 1, 1)] {
        let retention = Retention::default().messages(messages);
        let mut receipts = Vec::new();
        for _ in 0..more {
            published += 1;
            let delivery = PublishOptions::default().retention(retention);
            let place = node.broker.publish(&topic, published.to_string().into(), delivery);
            receipts.push(step("publish", place).await);
        }
        for receipt in receipts {
            step("the receipt", receipt).await;
        }
        for range in [HistoryRange::Latest, HistoryRange::After(0)] {
            let history = node.history(&topic, range, MANY).await;
            let kept = history.entries.len();
            assert!(kept >= at_least, "{messages} messages are kept: only {kept} are there");
            assert!(kept <= messages as usize + BLOCK, "{messages} are kept: {kept} are there");
            let oldest = published - kept as u64 + 1;
            let expected = History::new(
                Position { offset: published, ..history.position },
                (oldest..=published).map(entry).collect(),
            );
            assert_eq!(history, expected, "the latest {kept}, without a hole");
        }
    }
}

/// The payload that a history holds is bounded, and so is its number of messages; what is within
/// both bounds, by the rule of [`Retention`], is kept. The newest message always is, and the
/// sequence goes on.
///
/// Calls `publish` and `history`.
pub async fn history_is_kept_by_bytes(bus: &impl Bus) {
    let nodes = [Node::connect(bus).await, Node::connect(bus).await];
    let topic = room("bytes");
    let (mut model, mut before) = (VecDeque::new(), Position::default());
    let large = [300; 20];
    let mixed = [10, 250, 0, 400, 90, 101, 100, 350, 20, 500, 10, 1000, 10, 999].repeat(2);
    let small = [100; 25];
    // One that is larger than all may be, and what follows on it.
    let beyond = [5000, 1, 5000, 5000, 200];
    for (messages, bytes) in [(10, 1000), (4, 1000), (10, 600), (10, 4)] {
        let retention = Retention::default().messages(messages).bytes(bytes);
        for size in large.iter().chain(&mixed).chain(&small).chain(&beyond).chain(&mixed) {
            let node = &nodes[before.offset as usize % 2];
            let delivery = PublishOptions::default().retention(retention);
            let position = node.deliver(&topic, vec![b'x'; *size], delivery).await.position;
            let position = position.expect("a position");
            assert_eq!(position.offset, before.offset + 1);
            assert!(position.epoch == before.epoch || before == Position::default());
            before = position;

            model.push_back(*size);
            let excess = |model: &VecDeque<usize>| model.iter().map(|s| retention.excess(*s)).sum();
            while !retention.allows(model.len(), excess(&model)) {
                model.pop_front();
            }
            let history = node.history(&topic, HistoryRange::Latest, MANY).await;
            let kept: Vec<usize> = history.entries.iter().map(|e| e.payload.len()).collect();
            let sum: usize = kept.iter().sum();
            assert!(kept.len() == 1 || sum <= bytes, "{retention:?}: {kept:?} are there");
            assert!(
                kept.iter().rev().take(model.len()).eq(model.iter().rev()),
                "{kept:?}: {model:?}"
            );
            let first = position.offset + 1 - kept.len() as u64;
            assert!(offsets(&history).into_iter().eq(first..=position.offset), "no hole");
            assert_eq!(history.position, position);
        }
    }
}

/// Reading a topic that has no publications answers with nothing and creates nothing.
///
/// Calls `publish`, `positions` and `history`.
pub async fn reads_create_nothing(bus: &impl Bus) {
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("untouched");
    for _ in 0..2 {
        for node in [&a, &b] {
            for range in [
                HistoryRange::Latest,
                HistoryRange::After(0),
                HistoryRange::After(7),
                HistoryRange::Before(7),
            ] {
                assert_eq!(node.history(&topic, range, 10).await, History::default());
            }
            assert_eq!(node.position(&topic).await, Position::default());
        }
    }
    a.deliver(&topic, "typing", ephemeral()).await;
    assert_eq!(a.history(&topic, HistoryRange::Latest, 10).await, History::default());
    assert_eq!(a.publish(&topic, "1").await.offset, 1);
}

/// A history expires as a whole when its [`ttl`](Retention::ttl) has passed since the latest
/// publication, and not before; the offsets continue.
///
/// Calls `publish` and `history`.
pub async fn history_expires_as_a_whole(bus: &impl Bus) {
    const TTL: Duration = Duration::from_secs(2);
    let node = Node::connect(bus).await;
    let topic = room("expiry");
    let publish = async || {
        let retention = Retention::default().messages(10).ttl(TTL);
        let published =
            node.deliver(&topic, "x", PublishOptions::default().retention(retention)).await;
        published.position.expect("a position")
    };
    let start = Instant::now();
    publish().await;
    while start.elapsed() < TTL / 2 {
        look_again().await;
    }
    let before_last = Instant::now();
    let last = publish().await;
    loop {
        // Read first: the time that is taken afterwards is surely not too early.
        let history = node.history(&topic, HistoryRange::Latest, 10).await;
        assert_eq!(history.position, last, "the topic goes on");
        if history.entries.is_empty() {
            break;
        }
        assert_eq!(offsets(&history), [1, 2], "it goes as a whole");
        assert!(before_last.elapsed() < TTL + Duration::from_secs(20), "it does not go");
        look_again().await;
    }
    assert!(before_last.elapsed() >= TTL, "gone after {:?}", before_last.elapsed());
    assert_eq!(publish().await, Position { offset: 3, ..last }, "the same sequence goes on");
    let history = node.history(&topic, HistoryRange::After(0), 10).await;
    assert_eq!(offsets(&history), [3], "what is gone does not come back");
}

/// The clock is the subject: this is how often it is looked at.
async fn look_again() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// One call of `history` reads 2,000 topics.
///
/// Calls `publish` and `history`.
pub async fn many_histories_in_one_call(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let topics: Vec<Topic> = (0..2000).map(|n| room(&format!("many {n}"))).collect();
    let mut receipts = Vec::new();
    for topic in &topics {
        let payload = Bytes::from(topic.to_string());
        receipts.push(step("publish", node.broker.publish(topic, payload, persistent())).await);
    }
    for receipt in receipts {
        step("the receipt", receipt).await;
    }
    let read = |topic: &Topic| HistoryRead::new(topic.clone(), HistoryRange::Latest, 10);
    let reads: Vec<_> = topics.iter().map(read).collect();
    let histories = step("history", node.broker.history(&reads)).await;
    assert_eq!(histories.len(), topics.len());
    for (history, topic) in histories.iter().zip(&topics) {
        let [entry] = &history.entries[..] else { panic!("{topic}: {history:?}") };
        assert_eq!((entry.offset, history.position.offset), (1, 1));
        assert_eq!(entry.payload, topic.to_string(), "each topic has its own");
    }
}

/// `history` gives one answer to each read, in the order asked, also for a topic that was asked for
/// twice and for one without publications; and none to no read.
///
/// Calls `publish` and `history`.
pub async fn histories_are_answered_in_the_order_asked(bus: &impl Bus) {
    let node = Node::connect(bus).await;
    let topics: [Topic; 4] = std::array::from_fn(|n| room(&format!("histories {n}")));
    // As many publications as its number says.
    for (n, topic) in topics.iter().enumerate() {
        for _ in 0..n {
            node.publish(topic, "x").await;
        }
    }
    for order in ORDERS {
        let read = |n: &usize| HistoryRead::new(topics[*n].clone(), HistoryRange::Latest, 10);
        let reads: Vec<_> = order.iter().map(read).collect();
        let histories = step("history", node.broker.history(&reads)).await;
        let counts: Vec<usize> = histories.iter().map(|found| found.entries.len()).collect();
        assert_eq!(counts, order, "one answer to each read, in the order asked");
        for (read, history) in reads.iter().zip(&histories) {
            read.check(history).expect("an answer to what was asked");
        }
    }
}

/// A publication that arrives can be read from the history, by any node: keeping it and handing it
/// on is one step.
///
/// Calls `publish`, `subscribe` and `history`.
pub async fn publication_is_in_the_history_when_it_arrives(bus: &impl Bus) {
    const COUNT: u64 = 100;
    let (publisher, mut node) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("kept on arrival");
    node.subscribe(std::slice::from_ref(&topic)).await;
    let publish = async {
        for n in 1..=COUNT {
            publisher.publish(&topic, n.to_string()).await;
            yield_now().await;
        }
    };
    let read = async {
        for _ in 0..COUNT {
            let message = node.next().await;
            let Position { epoch, offset } = message.position.expect("a position");
            let history = node.history(&topic, HistoryRange::After(offset - 1), 1).await;
            assert_eq!(history.entries, [HistoryEntry::new(offset, message.payload)]);
            assert!(history.position.epoch == epoch && history.position.offset >= offset);
        }
    };
    tokio::join!(publish, read);
}

/// An answer of `history` is of one moment: while another node publishes, the latest entry stands
/// at the position of the topic.
///
/// Calls `publish` and `history`.
pub async fn history_is_of_one_moment(bus: &impl Bus) {
    const READS: usize = 200;
    let (publisher, node) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("one moment");
    publisher.publish(&topic, "first").await;
    let publish = async {
        for n in 0..READS {
            publisher.publish(&topic, n.to_string()).await;
            yield_now().await;
        }
    };
    let read = async {
        for n in 0..READS {
            let history = node.history(&topic, HistoryRange::Latest, 3).await;
            let latest = history.entries.last().map(|entry| entry.offset);
            assert_eq!(latest, Some(history.position.offset), "{history:?}");
            // Out of step with the publisher.
            for _ in 0..n % 3 {
                yield_now().await;
            }
        }
    };
    tokio::join!(publish, read);
}

fn offsets(history: &History) -> Vec<u64> {
    history.entries.iter().map(|entry| entry.offset).collect()
}
