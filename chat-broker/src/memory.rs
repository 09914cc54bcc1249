//! A broker for servers that live in one process: tests, and a deployment of one server.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use std::time::Duration;

use bytes::Bytes;
use chat_core::{Epoch, History, Occupancy, Occupant, Position, Topic, UserId};

use crate::broker::{Broker, Delivery, HistoryRead, Published, Receipt, Status};
use crate::error::BrokerError;
use crate::events::{self, BrokerEvents, EventSender};
use crate::random;

/// Topics that a bus keeps, at most, beside those that somebody subscribes to.
const MAX_TOPICS: usize = 1_000_000;

/// Publications that a node's events hold before they lag.
const EVENT_QUEUE: usize = 8192;

/// How long a publication waits for a subscriber whose queue is full; then it is dropped
/// there, and the subscriber is told.
const PATIENCE: Duration = Duration::from_millis(250);

/// Locks that a bus spreads its topics over.
const SHARDS: usize = 64;

/// What the nodes of one process share.
///
/// Everything is lost with the process. A counter (about 200 bytes) is kept for each topic
/// that was published to; past 1,000,000 topics the counters of those that have waited
/// longest are dropped, subscribed ones excepted, and such a topic begins a new epoch.
///
/// A clone is the same bus.
#[derive(Debug, Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

/// One node on a [`MemoryBus`].
///
/// It never fails before it is closed: the bus is always there. Dropping it unsubscribes.
#[derive(Debug)]
pub struct MemoryBroker {
    bus: Arc<Shared>,
    node: u64,
    events: Arc<EventSender>,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    shards: [Mutex<Shard>; SHARDS],
    shard_of: RandomState,
    secret: [u8; 32],
    next_node: AtomicU64,
}

#[derive(Debug)]
struct Shard {
    topics: HashMap<Topic, Sequence>,
    /// Rises with every publication: the age of what is idle.
    now: u64,
    /// Idle counters kept at most.
    capacity: usize,
}

#[derive(Debug, Default)]
struct Sequence {
    position: Position,
    used: u64,
    subscribers: Vec<(u64, Arc<EventSender>)>,
}

impl MemoryBus {
    /// A bus without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(MAX_TOPICS)
    }

    fn with_capacity(topics: usize) -> Self {
        let capacity = topics.div_ceil(SHARDS);
        let mut secret = [0; 32];
        for bytes in secret.chunks_exact_mut(8) {
            bytes.copy_from_slice(&random::bits().to_ne_bytes());
        }
        Self {
            shared: Arc::new(Shared {
                shards: std::array::from_fn(|_| Mutex::new(Shard::new(capacity))),
                shard_of: RandomState::new(),
                secret,
                next_node: AtomicU64::new(0),
            }),
        }
    }

    /// Adds a node.
    #[must_use]
    pub fn connect(&self) -> (MemoryBroker, BrokerEvents) {
        let (events, receiver) = events::channel(EVENT_QUEUE);
        let broker = MemoryBroker {
            bus: Arc::clone(&self.shared),
            node: self.shared.next_node.fetch_add(1, Ordering::Relaxed),
            events: Arc::new(events),
            closed: AtomicBool::new(false),
        };
        (broker, receiver)
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBroker {
    /// A node alone on a bus of its own.
    #[must_use]
    pub fn connect() -> (Self, BrokerEvents) {
        MemoryBus::new().connect()
    }

    fn open(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::Acquire) { Err(BrokerError::Closed) } else { Ok(()) }
    }

    fn leave(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            for shard in &self.bus.shards {
                lock(shard).remove_node(self.node);
            }
            self.events.close();
        }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        delivery: Delivery,
    ) -> Result<Receipt, BrokerError> {
        self.open()?;
        self.room_for(topic).await;
        let published = self.bus.shard(topic).publish(topic, payload, delivery);
        Ok(Receipt::ready(Ok(published)))
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        for topic in topics {
            let mut shard = self.bus.shard(topic);
            // Read under the lock: whoever closes sweeps the shard after this.
            self.open()?;
            shard.subscribe(topic, self.node, &self.events);
        }
        self.open()
    }

    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        self.open()?;
        for topic in topics {
            self.bus.shard(topic).unsubscribe(topic, self.node);
        }
        Ok(())
    }

    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
        self.open()?;
        Ok(topics.iter().map(|topic| self.bus.shard(topic).position(topic)).collect())
    }

    async fn history(&self, _: &[HistoryRead]) -> Result<Vec<History>, BrokerError> {
        self.open()?;
        Err(BrokerError::unavailable("not built yet"))
    }

    fn enter(&self, _: &Topic, _: Occupant) {}

    fn leave(&self, _: &Topic, _: &UserId) {}

    async fn occupancy(&self, _: &[Topic], _: usize) -> Result<Vec<Occupancy>, BrokerError> {
        self.open()?;
        Err(BrokerError::unavailable("not built yet"))
    }

    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        self.open()?;
        Ok(self.bus.secret)
    }

    fn status(&self) -> Status {
        if self.closed.load(Ordering::Acquire) { Status::Closed } else { Status::Ready }
    }

    async fn close(&self) {
        self.leave();
    }
}

impl MemoryBroker {
    /// Publishing takes no time here, so a publisher could outrun its readers without end:
    /// it waits for a subscriber whose queue is full, but not for one that reads no more.
    async fn room_for(&self, topic: &Topic) {
        let crowded = self.bus.shard(topic).crowded(topic);
        if let Some(events) = crowded {
            let _ = tokio::time::timeout(PATIENCE, events.not_full()).await;
        }
    }
}

impl Drop for MemoryBroker {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    fn shard(&self, topic: &Topic) -> MutexGuard<'_, Shard> {
        let index = self.shard_of.hash_one(topic) as usize % SHARDS;
        lock(&self.shards[index])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn new(capacity: usize) -> Self {
        Self { topics: HashMap::new(), now: 0, capacity }
    }

    fn publish(&mut self, topic: &Topic, payload: Bytes, delivery: Delivery) -> Published {
        let position = match delivery {
            Delivery::Kept { .. } => Some(self.next_position(topic)),
            Delivery::Ephemeral => None,
        };
        let subscribers = self.topics.get(topic).map_or(&[][..], |entry| &entry.subscribers);
        for (_, events) in subscribers {
            events.publication(topic.clone(), payload.clone(), position);
        }
        Published {
            position,
            nodes: u32::try_from(subscribers.len()).unwrap_or(u32::MAX),
            repeated: false,
        }
    }

    /// A subscriber whose queue is full, if there is one.
    fn crowded(&self, topic: &Topic) -> Option<Arc<EventSender>> {
        let subscribers = &self.topics.get(topic)?.subscribers;
        subscribers.iter().map(|(_, events)| events).find(|events| events.is_full()).cloned()
    }

    fn next_position(&mut self, topic: &Topic) -> Position {
        self.now += 1;
        if !self.topics.contains_key(topic) {
            self.make_room();
        }
        let entry = self.topics.entry(topic.clone()).or_default();
        if entry.position == Position::default() {
            entry.position.epoch = Epoch::from_random(random::bits());
        }
        entry.position.offset += 1;
        entry.used = self.now;
        entry.position
    }

    /// Drops the older half of the idle counters when there are too many topics: one sweep
    /// for half a shard of new topics.
    fn make_room(&mut self) {
        if self.topics.len() < self.capacity {
            return;
        }
        let idle = self.topics.values().filter(|entry| entry.subscribers.is_empty());
        let mut used: Vec<u64> = idle.map(|entry| entry.used).collect();
        if used.is_empty() {
            return;
        }
        let middle = used.len() / 2;
        let (_, &mut median, _) = used.select_nth_unstable(middle);
        self.topics.retain(|_, entry| !entry.subscribers.is_empty() || entry.used > median);
    }

    fn subscribe(&mut self, topic: &Topic, node: u64, events: &Arc<EventSender>) {
        let subscribers = &mut self.topics.entry(topic.clone()).or_default().subscribers;
        if !subscribers.iter().any(|(subscriber, _)| *subscriber == node) {
            subscribers.push((node, Arc::clone(events)));
        }
    }

    fn unsubscribe(&mut self, topic: &Topic, node: u64) {
        if let Some(entry) = self.topics.get_mut(topic) {
            entry.remove(node);
            if entry.is_void() {
                self.topics.remove(topic);
            }
        }
    }

    fn remove_node(&mut self, node: u64) {
        self.topics.retain(|_, entry| {
            entry.remove(node);
            !entry.is_void()
        });
    }

    fn position(&self, topic: &Topic) -> Position {
        self.topics.get(topic).map(|entry| entry.position).unwrap_or_default()
    }
}

impl Sequence {
    fn remove(&mut self, node: u64) {
        self.subscribers.retain(|(subscriber, _)| *subscriber != node);
    }

    /// Nothing would be lost with it.
    fn is_void(&self) -> bool {
        self.subscribers.is_empty() && self.position == Position::default()
    }
}

#[cfg(test)]
mod tests {
    use chat_core::RoomId;

    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::Room(RoomId::new(name).unwrap())
    }

    async fn publish(broker: &MemoryBroker, name: &str) -> Position {
        let receipt = broker.publish(&topic(name), Bytes::new(), Delivery::kept()).await.unwrap();
        receipt.await.unwrap().position.unwrap()
    }

    fn topics(bus: &MemoryBus) -> usize {
        bus.shared.shards.iter().map(|shard| lock(shard).topics.len()).sum()
    }

    #[tokio::test]
    async fn counters_are_bounded_and_a_dropped_one_begins_a_new_epoch() {
        let bus = MemoryBus::with_capacity(640);
        let (broker, _events) = bus.connect();
        broker.subscribe(&[topic("kept")]).await.unwrap();
        let kept = publish(&broker, "kept").await;
        let dropped = publish(&broker, "dropped").await;
        for n in 0..5000 {
            publish(&broker, &n.to_string()).await;
        }
        assert!(topics(&bus) <= 640 + 1, "{} counters", topics(&bus));
        let positions = broker.positions(&[topic("kept"), topic("dropped")]).await.unwrap();
        assert_eq!(positions, [kept, Position::default()]);
        let again = publish(&broker, "dropped").await;
        assert_eq!(again.offset, 1);
        assert_ne!(again.epoch, dropped.epoch);
    }

    #[tokio::test]
    async fn a_node_leaves_nothing_behind() {
        let bus = MemoryBus::new();
        let (broker, _events) = bus.connect();
        broker.subscribe(&[topic("a"), topic("b")]).await.unwrap();
        broker.unsubscribe(&[topic("a")]).await.unwrap();
        assert_eq!(topics(&bus), 1);
        drop(broker);
        assert_eq!(topics(&bus), 0);
    }
}
