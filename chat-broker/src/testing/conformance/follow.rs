//! History and events together: a [`Timeline`] fed from the broker has the whole sequence,
//! whatever it misses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use chat_core::timeline::Timeline;
use chat_core::{History, HistoryRange, Item, Position, Recent, Retention, Topic};
use tokio::task::yield_now;

use super::Bus;
use super::node::{Node, room};
use crate::publish::PublishOptions;

/// Everything that these tests publish is kept.
fn delivery() -> PublishOptions {
    let retention = Retention::default().messages(1_000_000).bytes(usize::MAX);
    PublishOptions::default().retention(retention)
}

/// Reads a topic as a server does.
struct Follower<'a> {
    node: &'a mut Node,
    topic: &'a Topic,
    timeline: Timeline,
    page: u32,
    received: Vec<Item>,
}

impl<'a> Follower<'a> {
    /// A follower that knows nothing yet.
    fn new(node: &'a mut Node, topic: &'a Topic, page: u32) -> Self {
        let timeline = Timeline::new(Recent::new(Retention::default(), 64, 1 << 20));
        Self { node, topic, timeline, page, received: Vec::new() }
    }

    /// Does one read, if one is wanted. Returns whether it was.
    async fn read(&mut self) -> bool {
        let Some(range) = self.timeline.begin_read() else { return false };
        let history = self.node.history(self.topic, range, self.page).await;
        self.timeline.finish_read(history, &mut self.received);
        true
    }

    fn accept(&mut self, position: Position, payload: Bytes) {
        self.timeline.accept(position, payload, &mut self.received);
    }

    /// The next publication of the topic.
    async fn next(&mut self) -> (Position, Bytes) {
        let message = self.node.next().await;
        assert_eq!(message.topic, *self.topic);
        (message.position.expect("a position"), message.payload)
    }

    /// What it received: offsets and payloads.
    fn received(&self) -> Vec<(u64, Bytes)> {
        let entry = |item: &Item| match item {
            Item::Envelope(payload, Some(position)) => (position.offset, payload.clone()),
            other => panic!("nothing is lost for good, but got {other:?}"),
        };
        self.received.iter().map(entry).collect()
    }
}

/// A node subscribes while two others publish without a pause: what it reads first and what
/// arrives afterwards is the sequence, without a hole or a repeat.
///
/// Calls `publish`, `subscribe`, `unsubscribe` and `history`.
pub async fn joining_in_a_flood_misses_nothing(bus: &impl Bus) {
    const ROUNDS: usize = 25;
    const LIVE: usize = 30;
    let (a, b) = (Node::connect(bus).await, Node::connect(bus).await);
    let mut node = Node::connect(bus).await;
    let topic = room("flood");
    let topics = std::slice::from_ref(&topic);
    let stop = AtomicBool::new(false);
    let publish = async |node: &Node, who: &str| {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            node.deliver(&topic, format!("{who} {n}"), delivery()).await;
            // A broker that never waits would never let the other side run.
            yield_now().await;
        }
    };
    let follow = async {
        let mut seen = BTreeMap::new();
        for _ in 0..ROUNDS {
            node.subscribe(topics).await;
            let mut follower = Follower::new(&mut node, &topic, 50);
            // As a server may: what arrived before the read is accepted before it.
            let (position, payload) = follower.next().await;
            follower.accept(position, payload);
            follower.read().await;
            let opened = follower.timeline.seen().expect("the first read opens it");
            let snapshot: Vec<_> =
                follower.timeline.recent().latest(opened, 100, 1 << 20).cloned().collect();
            while follower.received.len() < LIVE {
                let is_whole = !follower.timeline.wants_read();
                assert!(is_whole, "what arrives follows on what was read");
                let (position, payload) = follower.next().await;
                follower.accept(position, payload);
            }
            let before = snapshot.into_iter().map(|entry| (entry.offset, entry.payload));
            let all: Vec<_> = before.chain(follower.received()).collect();
            let first = all[0].0;
            assert!(all.iter().map(|(offset, _)| *offset).eq(first..first + all.len() as u64));
            seen.extend(all);
            node.unsubscribe(topics).await;
            node.arrived().await;
        }
        stop.store(true, Ordering::Relaxed);
        seen
    };
    let (seen, (), ()) = tokio::join!(follow, publish(&a, "a"), publish(&b, "b"));
    let truth = whole_history(&a, &topic).await;
    for (offset, payload) in seen {
        assert_eq!(truth.get(&offset), Some(&payload), "all nodes see the same");
    }
}

/// A node that loses part of what arrives reads it from the history, page by page: it has the
/// exact sequence in the end, while another node keeps publishing.
///
/// Calls `publish`, `subscribe` and `history`.
pub async fn missed_publications_are_in_the_history(bus: &impl Bus) {
    const COUNT: u64 = 400;
    let (publisher, mut node) = (Node::connect(bus).await, Node::connect(bus).await);
    let topic = room("repair");
    node.subscribe(std::slice::from_ref(&topic)).await;
    // Single ones, many in a row, and the end, after which no event follows.
    let is_lost = |offset: u64| {
        offset.is_multiple_of(7) || (100..180).contains(&offset) || offset > COUNT - 10
    };
    let publish = async {
        for n in 1..=COUNT {
            publisher.deliver(&topic, n.to_string(), delivery()).await;
            yield_now().await;
        }
    };
    let follow = async {
        let mut follower = Follower::new(&mut node, &topic, 16);
        follower.timeline.begin_read();
        follower.timeline.finish_read(History::default(), &mut Vec::new());
        for _ in 0..COUNT {
            let (position, payload) = follower.next().await;
            if !is_lost(position.offset) {
                follower.accept(position, payload);
                while follower.read().await {}
            }
        }
        follower.timeline.mark_stale();
        while follower.read().await {}
        follower.received()
    };
    let (received, ()) = tokio::join!(follow, publish);
    let expected: Vec<_> = (1..=COUNT).map(|n| (n, Bytes::from(n.to_string()))).collect();
    assert_eq!(received, expected);
}

/// Everything that was kept, page by page.
async fn whole_history(node: &Node, topic: &Topic) -> BTreeMap<u64, Bytes> {
    let mut all = BTreeMap::new();
    let mut after = 0;
    loop {
        let history = node.history(topic, HistoryRange::After(after), 1000).await;
        let Some(last) = history.entries.last() else {
            assert_eq!(
                history.position.offset, after,
                "the pages end at the position of the topic"
            );
            return all;
        };
        assert!(last.offset > after, "a page follows on {after}");
        after = last.offset;
        all.extend(history.entries.into_iter().map(|entry| (entry.offset, entry.payload)));
    }
}
