//! Any mix of calls, against the simplest thing that keeps the promises.

use std::collections::{HashMap, VecDeque};
use std::ops::Range as Span;

use bytes::Bytes;
use chat_core::{HistoryEntry, HistoryRange, Position, Retention, Topic};

use super::Bus;
use super::node::{Node, room};
use crate::publish::PublishOptions;

/// Calls, in rooms each of which keeps another number of messages, or of bytes.
const CALLS: u64 = 1_500;
const KEPT: [(u32, usize); 5] = [(1, 1 << 20), (3, 1 << 20), (40, 1 << 20), (40, 8_000), (8, 400)];

/// The longest payload, in bytes: above the share of a message in the last two.
const LONGEST: u64 = 600;

/// A room as it should be.
#[derive(Default)]
struct Model {
    offset: u64,
    kept: VecDeque<HistoryEntry>,
    keys: HashMap<u64, u64>,
}

impl Model {
    /// Returns the offset, and whether the key was known.
    fn publish(&mut self, payload: Bytes, key: Option<u64>, retention: Retention) -> (u64, bool) {
        if let Some(first) = key.and_then(|key| self.keys.get(&key)) {
            return (*first, true);
        }
        self.offset += 1;
        self.kept.push_back(HistoryEntry::new(self.offset, payload));
        let excess = |entry: &HistoryEntry| retention.excess(entry.payload.len());
        while !retention.allows(self.kept.len(), self.kept.iter().map(excess).sum()) {
            self.kept.pop_front();
        }
        self.keys.extend(key.map(|key| (key, self.offset)));
        (self.offset, false)
    }

    fn read(&self, range: HistoryRange, limit: usize) -> Vec<HistoryEntry> {
        let kept = |is_in: &dyn Fn(u64) -> bool| -> Vec<HistoryEntry> {
            self.kept.iter().filter(|entry| is_in(entry.offset)).cloned().collect()
        };
        let newest =
            |mut entries: Vec<HistoryEntry>| entries.split_off(entries.len().saturating_sub(limit));
        match range {
            HistoryRange::After(offset) => {
                let mut entries = kept(&|other| other > offset);
                entries.truncate(limit);
                entries
            }
            HistoryRange::Before(offset) => newest(kept(&|other| other < offset)),
            HistoryRange::Latest => newest(kept(&|_| true)),
        }
    }
}

/// Numbers by rng, the same in each run.
pub(super) struct TestRng(pub(super) u64);

impl TestRng {
    pub(super) fn within(&mut self, span: Span<u64>) -> u64 {
        // Knuth's MMIX generator; its high bits are the good ones.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        span.start + (self.0 >> 33) % (span.end - span.start)
    }
}

/// Publications with and without keys, reads and positions, by two nodes in turn, have the
/// outcomes of the simplest model of a room.
///
/// Calls `publish`, `positions` and `history`.
pub async fn any_mix_of_calls_matches_the_model(bus: &impl Bus) {
    let nodes = [Node::connect(bus).await, Node::connect(bus).await];
    let mut rooms = KEPT.map(|(messages, bytes)| {
        let retention = Retention::default().messages(messages).bytes(bytes);
        (room("model"), retention, Model::default())
    });
    let mut rng = TestRng(1);
    for nth in 0..CALLS {
        let node = &nodes[rng.within(0..2) as usize];
        let (topic, retention, model) = &mut rooms[rng.within(0..5) as usize];
        let around = model.offset.saturating_sub(5)..model.offset + 3;
        match rng.within(0..8) {
            kind @ 0..4 => {
                // Most are small.
                let size = rng.within(0..LONGEST) / rng.within(1..8);
                let payload = Bytes::from(format!("{nth} {:1$}", "", size as usize));
                let key = (kind == 3).then(|| rng.within(0..20));
                publish(node, topic, *retention, model, payload, key).await;
            }
            4 => assert_eq!(node.position(topic).await.offset, model.offset),
            5 => read(node, topic, model, HistoryRange::Latest, rng.within(1..50)).await,
            6 => {
                let range = HistoryRange::After(rng.within(around));
                read(node, topic, model, range, rng.within(1..5)).await;
            }
            _ => {
                let range = HistoryRange::Before(rng.within(around));
                read(node, topic, model, range, rng.within(1..5)).await;
            }
        }
    }
}

async fn publish(
    node: &Node,
    topic: &Topic,
    retention: Retention,
    model: &mut Model,
    payload: Bytes,
    key: Option<u64>,
) {
    let mut options = PublishOptions::default().retention(retention);
    if let Some(key) = key {
        options = options.key(key.to_string());
    }
    let published = node.deliver(topic, payload.clone(), options).await;
    let expected = model.publish(payload, key, retention);
    let answer = (published.position.unwrap_or_default().offset, published.repeated);
    assert_eq!(answer, expected, "key {key:?}");
}

async fn read(node: &Node, topic: &Topic, model: &Model, range: HistoryRange, limit: u64) {
    let history = node.history(topic, range, limit as u32).await;
    let Position { offset, .. } = history.position;
    let expected = model.read(range, limit as usize);
    assert_eq!((offset, history.entries), (model.offset, expected), "{range:?}, {limit} at most");
}
