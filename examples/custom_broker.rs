//! A broker of one's own: anything that can carry bytes between servers, and keep them.
//! This one is a map behind a lock; it then runs the suite that every broker must pass.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::testing::conformance;
use chat_broker::{
    Broker, BrokerError, BrokerEvents, Delivery, Departure, EventSender, HistoryRead, Published,
    Receipt, Record, Records, Status, events,
};
use chat_core::{
    Entry, Epoch, History, Occupancy, Occupant, Position, PresenceChange, Range, Retention, Topic,
    UserId,
};

/// What all nodes share. One lock around all of it: one order for all, and every step is
/// whole.
#[derive(Debug, Default)]
struct Bus {
    /// A real one forgets those that nobody uses.
    rooms: HashMap<Topic, Room>,
    nodes: BTreeMap<u64, Arc<EventSender>>,
    next_node: u64,
    table: Table,
}

/// What all nodes share, by the version in which it was set or removed.
#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<u64, (Instant, Record)>,
    version: u64,
    /// The latest version that was forgotten: whoever has read less must read all.
    floor: u64,
}

impl Table {
    /// Returns whether anything has changed.
    fn set(
        &mut self,
        key: &str,
        value: Option<Bytes>,
        expires_in: Duration,
    ) -> Result<bool, BrokerError> {
        Record::check(key, value.as_ref())?;
        let is_over = |(ends, _): &(Instant, Record)| *ends <= Instant::now();
        let over = self.entries.iter().filter(|(_, entry)| is_over(entry));
        self.floor = over.map(|(version, _)| *version).max().unwrap_or(0).max(self.floor);
        self.entries.retain(|_, entry| !is_over(entry));

        let known = self.entries.iter().find(|(_, (_, record))| record.key == key);
        let is_there = known.is_some_and(|(_, (_, record))| record.value.is_some());
        if !is_there && value.is_none() {
            return Ok(false);
        }
        let live = self.entries.values().filter(|(_, record)| record.value.is_some());
        if !is_there && live.count() >= Records::MAX {
            return Err(BrokerError::refused("there are too many records"));
        }
        self.entries.retain(|_, (_, record)| record.key != key);
        self.version += 1;
        let expires_in = Record::lifetime(value.as_ref(), expires_in);
        let record = Record { key: key.to_owned(), value, expires_in };
        self.entries.insert(self.version, (Instant::now() + expires_in, record));
        Ok(true)
    }

    fn read(&self, after: u64) -> Records {
        let complete = after == 0 || after < self.floor || after > self.version;
        let from = if complete { 0 } else { after + 1 };
        let record = |(_, (ends, record)): (&u64, &(Instant, Record))| {
            let expires_in = ends.saturating_duration_since(Instant::now());
            let value = record.value.clone().filter(|_| !expires_in.is_zero());
            let expires_in = if value.is_some() { expires_in } else { Duration::ZERO };
            Record { value, expires_in, key: record.key.clone() }
        };
        let mut records: Vec<Record> = self.entries.range(from..).map(record).collect();
        records.retain(|record| !complete || record.value.is_some());
        Records { version: self.version, complete, records }
    }
}

#[derive(Debug, Default)]
struct Room {
    subscribers: HashMap<u64, Arc<EventSender>>,
    position: Position,
    history: VecDeque<Entry>,
    expires: Option<Instant>,
    keys: HashMap<Arc<str>, (Instant, Position)>,
    /// The information of each, and the nodes that say so.
    occupants: BTreeMap<UserId, (Bytes, BTreeSet<u64>)>,
    version: u64,
}

impl Room {
    fn publish(&mut self, topic: &Topic, payload: Bytes, delivery: Delivery) -> Published {
        let mut position = None;
        if let Delivery::Kept { retention, key } = delivery {
            self.keys.retain(|_, (at, _)| at.elapsed() < Duration::from_secs(300));
            if let Some((_, first)) = key.as_ref().and_then(|key| self.keys.get(key)) {
                return Published { position: Some(*first), nodes: 0, repeated: true };
            }
            self.keep(payload.clone(), retention);
            self.keys.extend(key.map(|key| (key, (Instant::now(), self.position))));
            position = Some(self.position);
        }
        for events in self.subscribers.values() {
            // A node that reads too slowly is told what it missed by the queue itself.
            events.publication(topic.clone(), payload.clone(), position);
        }
        Published { position, nodes: self.subscribers.len() as u32, repeated: false }
    }

    fn keep(&mut self, payload: Bytes, retention: Retention) {
        self.expire();
        if self.position == Position::default() {
            // Another one each time, for the counter is lost with the process.
            self.position.epoch = Epoch::from_random(RandomState::new().hash_one(()));
        }
        self.position.offset += 1;
        self.history.push_back(Entry { offset: self.position.offset, payload });
        // A real one remembers the sum.
        let excess = |entry: &Entry| retention.excess(entry.payload.len());
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
        let part: Vec<&Entry> = match read.range {
            Range::After(offset) => self.history.iter().filter(|e| e.offset > offset).collect(),
            Range::Before(offset) => {
                self.history.iter().rev().filter(|e| e.offset < offset).collect()
            }
            Range::Latest => self.history.iter().rev().collect(),
        };
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let fits = bytes < HistoryRead::MAX_BYTES;
            bytes += entry.payload.len();
            fits
        };
        let mut entries: Vec<Entry> =
            part.into_iter().take(read.limit as usize).take_while(fits).cloned().collect();
        entries.sort_by_key(|entry| entry.offset);
        History { position: self.position, entries }
    }

    fn enter(&mut self, topic: &Topic, node: u64, Occupant { user, info }: Occupant) {
        let (known, nodes) = self.occupants.entry(user.clone()).or_default();
        let change =
            if nodes.is_empty() { PresenceChange::Joined } else { PresenceChange::Renamed };
        nodes.insert(node);
        let before = std::mem::replace(known, info.clone());
        if change == PresenceChange::Joined || before != info {
            self.tell(topic, change, &Occupant { user, info });
        }
    }

    /// Returns the version of the event, if there is one.
    fn leave(&mut self, topic: &Topic, node: u64, user: &UserId) -> Option<u64> {
        let (_, nodes) = self.occupants.get_mut(user)?;
        nodes.remove(&node);
        if !nodes.is_empty() {
            return None;
        }
        let (user, (info, _)) = self.occupants.remove_entry(user)?;
        self.tell(topic, PresenceChange::Left, &Occupant { user, info });
        Some(self.version)
    }

    fn tell(&mut self, topic: &Topic, change: PresenceChange, occupant: &Occupant) {
        self.version += 1;
        let (version, count) = (self.version, self.occupants.len() as u32);
        for events in self.subscribers.values() {
            events.presence(topic.clone(), change, occupant.clone(), version, count);
        }
    }

    fn occupancy(&self, limit: usize) -> Occupancy {
        let count = self.occupants.len();
        let listed = self.occupants.iter().filter(|_| count <= limit);
        let occupants =
            listed.map(|(user, (info, _))| Occupant { user: user.clone(), info: info.clone() });
        Occupancy {
            version: if count == 0 { 0 } else { self.version },
            count: count as u32,
            occupants: occupants.collect(),
        }
    }
}

/// One node's handle on the bus.
#[derive(Debug)]
struct MapBroker {
    bus: Arc<Mutex<Bus>>,
    node: u64,
    /// Taken away when the node is closed, which ends its events.
    events: Mutex<Option<Arc<EventSender>>>,
}

impl MapBroker {
    fn connect(shared: &Arc<Mutex<Bus>>) -> (Self, BrokerEvents) {
        let (sender, receiver) = events::channel(8192);
        let mut bus = lock(shared);
        bus.next_node += 1;
        let (node, events) = (bus.next_node, Arc::new(sender));
        bus.nodes.insert(node, Arc::clone(&events));
        (Self { bus: Arc::clone(shared), node, events: Mutex::new(Some(events)) }, receiver)
    }

    /// The bus, unless this node was closed.
    fn open(&self) -> Result<(MutexGuard<'_, Bus>, Arc<EventSender>), BrokerError> {
        let bus = lock(&self.bus);
        let events = lock(&self.events).clone().ok_or(BrokerError::Closed)?;
        Ok((bus, events))
    }

    /// What becomes of a node at its end. A bus between processes would have to find out
    /// by itself that a node is gone.
    fn end(&self) {
        let mut bus = lock(&self.bus);
        lock(&self.events).take();
        bus.nodes.remove(&self.node);
        for (topic, room) in &mut bus.rooms {
            room.subscribers.remove(&self.node);
            for user in room.occupants.keys().cloned().collect::<Vec<_>>() {
                room.leave(topic, self.node, &user);
            }
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
        delivery: Delivery,
    ) -> Result<Receipt, BrokerError> {
        let (mut bus, _) = self.open()?;
        let room = bus.rooms.entry(topic.clone()).or_default();
        Ok(Receipt::ready(Ok(room.publish(topic, payload, delivery))))
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

    fn enter(&self, topic: &Topic, occupant: Occupant) {
        if let Ok((mut bus, _)) = self.open() {
            let room = bus.rooms.entry(topic.clone()).or_default();
            room.enter(topic, self.node, occupant);
        }
    }

    fn leave(&self, topic: &Topic, user: &UserId) -> Departure {
        let mut bus = lock(&self.bus);
        let room = bus.rooms.get_mut(topic);
        Departure::ready(room.and_then(|room| room.leave(topic, self.node, user)))
    }

    async fn occupancy(
        &self,
        topics: &[Topic],
        limit: usize,
    ) -> Result<Vec<Occupancy>, BrokerError> {
        let (bus, _) = self.open()?;
        let occupancy = |topic| bus.rooms.get(topic).map(|room| room.occupancy(limit));
        Ok(topics.iter().map(|topic| occupancy(topic).unwrap_or_default()).collect())
    }

    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        // A real one makes it once, at random, and keeps it where all nodes find it.
        self.open().map(|_| [7; 32])
    }

    async fn set_record(
        &self,
        key: &str,
        value: Option<Bytes>,
        expires_in: Duration,
    ) -> Result<(), BrokerError> {
        let (mut bus, _) = self.open()?;
        if bus.table.set(key, value, expires_in)? {
            bus.nodes.values().for_each(|events| events.records_changed());
        }
        Ok(())
    }

    async fn records(&self, after: u64) -> Result<Records, BrokerError> {
        self.open().map(|(bus, _)| bus.table.read(after))
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
async fn main() {
    let bus = Arc::new(Mutex::new(Bus::default()));
    conformance::run(async || {
        let (broker, events) = MapBroker::connect(&bus);
        (Arc::new(broker) as Arc<dyn Broker>, events)
    })
    .await;
    println!("the broker keeps its promises");
}
