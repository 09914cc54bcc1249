//! A custom broker: anything that can carry bytes between servers, and store them. This one is a map
//! behind a lock. It leaves out both optional parts, presence and the shared table, and is tested by
//! the conformance suite of the parts that it has.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::{
    Broker, BrokerError, BrokerEvent, BrokerEvents, EventSender, HistoryRead, PublishOptions,
    Published, Receipt, Status, events,
};
use chat_core::{Epoch, History, HistoryEntry, HistoryRange, Position, Retention, RoomId, Topic};

/// What all nodes share. One lock around all of it: one order for all, and every step is
/// whole.
#[derive(Debug, Default)]
struct Bus {
    /// A real broker removes unused topics.
    rooms: HashMap<Topic, Room>,
    next_node: u64,
}

#[derive(Debug, Default)]
struct Room {
    subscribers: HashMap<u64, Arc<EventSender>>,
    position: Position,
    history: VecDeque<HistoryEntry>,
    expires: Option<Instant>,
    keys: HashMap<Arc<str>, (Instant, Position)>,
}

impl Room {
    fn publish(&mut self, topic: &Topic, payload: Bytes, options: PublishOptions) -> Published {
        let mut position = None;
        if let Some(retention) = options.retention {
            self.keys.retain(|_, (at, _)| at.elapsed() < Duration::from_secs(300));
            if let Some((_, first)) = options.key.as_ref().and_then(|key| self.keys.get(key)) {
                return Published::repeated(*first);
            }
            self.keep(payload.clone(), retention);
            self.keys.extend(options.key.map(|key| (key, (Instant::now(), self.position))));
            position = Some(self.position);
        }
        for events in self.subscribers.values() {
            // If a node reads too slowly, the queue itself reports what it missed.
            events.publication(topic.clone(), payload.clone(), position);
        }
        Published::new(position, self.subscribers.len() as u32)
    }

    fn keep(&mut self, payload: Bytes, retention: Retention) {
        self.expire();
        if self.position == Position::default() {
            // Another one each time, for the counter is lost with the process.
            self.position.epoch = Epoch::from_random(RandomState::new().hash_one(()));
        }
        self.position.offset += 1;
        self.history.push_back(HistoryEntry::new(self.position.offset, payload));
        // A real one remembers the sum.
        let excess = |entry: &HistoryEntry| retention.excess(entry.payload.len());
        while !retention.allows(self.history.len(), self.history.iter().map(excess).sum()) {
            self.history.pop_front();
        }
        self.expires = Instant::now().checked_add(retention.ttl);
    }

    fn expire(&mut self) {
        if self.expires.is_some_and(|expires| expires <= Instant::now()) {
            self.history.clear();
        }
    }

    fn read(&mut self, read: &HistoryRead) -> History {
        self.expire();
        let part: Vec<&HistoryEntry> = match read.range {
            HistoryRange::After(offset) => {
                self.history.iter().filter(|e| e.offset > offset).collect()
            }
            HistoryRange::Before(offset) => {
                self.history.iter().rev().filter(|e| e.offset < offset).collect()
            }
            HistoryRange::Latest => self.history.iter().rev().collect(),
        };
        let mut bytes = 0;
        let fits = |entry: &&HistoryEntry| {
            let fits = bytes < HistoryRead::MAX_BYTES;
            bytes += entry.payload.len();
            fits
        };
        let mut entries: Vec<HistoryEntry> =
            part.into_iter().take(read.limit as usize).take_while(fits).cloned().collect();
        entries.sort_by_key(|entry| entry.offset);
        History::new(self.position, entries)
    }
}

/// One node's handle on the bus.
#[derive(Debug)]
struct MapBroker {
    bus: Arc<Mutex<Bus>>,
    node: u64,
    /// Removed when the node is closed, which ends its events.
    events: Mutex<Option<Arc<EventSender>>>,
}

impl MapBroker {
    fn connect(shared: &Arc<Mutex<Bus>>) -> (Self, BrokerEvents) {
        let (sender, receiver) = events::channel(8192);
        let mut bus = lock(shared);
        bus.next_node += 1;
        let (node, events) = (bus.next_node, Mutex::new(Some(Arc::new(sender))));
        (Self { bus: Arc::clone(shared), node, events }, receiver)
    }

    /// The bus, unless this node was closed.
    fn open(&self) -> Result<(MutexGuard<'_, Bus>, Arc<EventSender>), BrokerError> {
        let bus = lock(&self.bus);
        let events = lock(&self.events).clone().ok_or(BrokerError::Closed)?;
        Ok((bus, events))
    }

    fn end(&self) {
        let mut bus = lock(&self.bus);
        lock(&self.events).take();
        for room in bus.rooms.values_mut() {
            room.subscribers.remove(&self.node);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Broker for MapBroker {
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Receipt, BrokerError> {
        let (mut bus, _) = self.open()?;
        let room = bus.rooms.entry(topic.clone()).or_default();
        Ok(Receipt::ready(Ok(room.publish(topic, payload, options))))
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        let (mut bus, events) = self.open()?;
        for topic in topics {
            let room = bus.rooms.entry(topic.clone()).or_default();
            room.subscribers.insert(self.node, Arc::clone(&events));
        }
        Ok(())
    }

    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        let (mut bus, _) = self.open()?;
        for topic in topics {
            bus.rooms.get_mut(topic).and_then(|room| room.subscribers.remove(&self.node));
        }
        Ok(())
    }

    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
        let (bus, _) = self.open()?;
        let position = |topic| bus.rooms.get(topic).map(|room| room.position).unwrap_or_default();
        Ok(topics.iter().map(position).collect())
    }

    async fn history(&self, reads: &[HistoryRead]) -> Result<Vec<History>, BrokerError> {
        let (mut bus, _) = self.open()?;
        let mut read = |read: &HistoryRead| Some(bus.rooms.get_mut(&read.topic)?.read(read));
        Ok(reads.iter().map(|one| read(one).unwrap_or_default()).collect())
    }

    fn status(&self) -> Status {
        self.open().map_or(Status::Closed, |_| Status::Ready)
    }

    async fn close(&self) {
        self.end();
    }
}

impl Drop for MapBroker {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Arc::default();
    let (one, _) = MapBroker::connect(&bus);
    let (other, mut events) = MapBroker::connect(&bus);
    let room = Topic::Room(RoomId::new("lobby")?);
    other.subscribe(std::slice::from_ref(&room)).await?;
    let options = PublishOptions::default().retention(Retention::default());
    one.publish(&room, "hello".into(), options).await?.await?;

    let mut received = Vec::new();
    events.recv(&mut received).await;
    for event in received {
        if let BrokerEvent::Publication { payload, .. } = event {
            println!("received {payload:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod conformance {
    use super::*;

    async fn bus() -> impl AsyncFn() -> (MapBroker, BrokerEvents) {
        let bus = Arc::default();
        async move || MapBroker::connect(&bus)
    }

    chat_broker::conformance_tests! { bus, parts: [pubsub, history, keys] }
}
