//! A broker for servers that live in one process: tests, and a deployment of one server.

mod history;
mod keys;
mod presence;
mod records;
mod shard;
#[cfg(test)]
mod tests;
mod topic;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_core::{History, Occupancy, Occupant, Position, RoomId, Topic, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::history::Budget;
use self::records::Table;
use self::shard::Shard;
use crate::broker::{Broker, Status};
use crate::error::BrokerError;
use crate::events::{self, BrokerEvents, EventSender};
use crate::history::HistoryRead;
use crate::presence::{Departure, EnterReceipt, OccupiedRoom, OccupiedRooms, PresenceTracker};
use crate::publish::{PublishOptions, Published, Receipt};
use crate::random;
use crate::stats::BrokerStats;
use crate::table::{Records, SetOptions, SharedTable};

/// Topics that a bus keeps, at most, beside those that a node holds.
const MAX_TOPICS: usize = 1_000_000;

/// Keys that a bus keeps, at most.
const MAX_KEYS: usize = 1 << 20;

/// Default memory for the histories of a bus, in bytes.
const HISTORY_BYTES: usize = 256 << 20;

/// Publications that a node's events hold before they lag.
const EVENT_QUEUE: usize = 8192;

/// How long a publication waits for a subscriber whose queue is full; then it is dropped there, and
/// the subscriber receives [`BrokerEvent::Lagged`](crate::BrokerEvent::Lagged).
const FULL_TIMEOUT: Duration = Duration::from_millis(250);

/// Locks that a bus spreads its topics over.
const SHARDS: usize = 64;

/// A bus for nodes in one process. Its data is lost with the process.
///
/// A clone is another handle on the same bus.
///
/// ```
/// use chat_broker::MemoryBus;
///
/// let bus = MemoryBus::with_history_bytes(64 << 20);
/// let (first, _events) = bus.connect();
/// let (second, _events) = bus.connect();
/// # drop((first, second));
/// ```
///
/// # Memory
/// * **Topics.** About 200 bytes are kept for each topic that something was
///   [stored](PublishOptions::retention) in. Above 1,000,000 topics those that were unused longest
///   are dropped with their histories, except those with subscribers or occupants; such a topic
///   begins a new epoch.
/// * **Histories** share 256 MiB, or as many bytes as [`with_history_bytes`] says; beside
///   the payload, a publication counts 64 bytes and a history 256. Above that, the topics with the
///   oldest last publication lose their whole history, until a quarter is free. One topic keeps at
///   most a quarter, and loses its oldest messages. An expired history is dropped when its topic is
///   next used, or when memory is needed.
/// * **Records.** [`Records::MAX`], and as many keys of records that were removed.
/// * **Keys.** The latest 16,384 of the topics that share one of 64 locks, 1,048,576 in all.
///
/// [`with_history_bytes`]: Self::with_history_bytes
#[derive(Debug, Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

/// One node on a [`MemoryBus`].
///
/// Its calls fail only after it was closed. Dropping it closes it, and its users leave their topics
/// at once.
///
/// ```
/// use chat_broker::{Broker, MemoryBroker, Status};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (broker, _events) = MemoryBroker::connect();
/// assert_eq!(broker.status(), Status::Ready);
/// broker.close().await;
/// assert_eq!(broker.status(), Status::Closed);
/// # }
/// ```
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
    budget: Arc<Budget>,
    reclaiming: Mutex<()>,
    secret: OnceLock<[u8; 32]>,
    records: Mutex<Table>,
    next_node: AtomicU64,
}

impl MemoryBus {
    /// A bus without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_history_bytes(HISTORY_BYTES)
    }

    /// A bus without nodes, with about `bytes` of memory for its histories together.
    #[must_use]
    pub fn with_history_bytes(bytes: usize) -> Self {
        Self::with_limits(MAX_TOPICS, bytes)
    }

    fn with_limits(topics: usize, history_bytes: usize) -> Self {
        let budget = Arc::new(Budget::new(history_bytes));
        let shard = || Shard::new(topics.div_ceil(SHARDS), MAX_KEYS / SHARDS, Arc::clone(&budget));
        Self {
            shared: Arc::new(Shared {
                shards: std::array::from_fn(|_| Mutex::new(shard())),
                shard_of: RandomState::new(),
                budget,
                reclaiming: Mutex::new(()),
                secret: OnceLock::new(),
                records: Mutex::default(),
                next_node: AtomicU64::new(0),
            }),
        }
    }

    /// Loses the position and the history of a topic, as a Redis that was flushed does: for tests
    /// of what follows.
    #[cfg(feature = "testing")]
    pub fn lose(&self, topic: &Topic) {
        self.shared.shard(topic).lose(topic);
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
        self.shared.records.lock().add_node(broker.node, &broker.events);
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

    fn disconnect(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            for shard in &self.bus.shards {
                shard.lock().remove_node(self.node);
            }
            self.bus.records.lock().remove_node(self.node);
            self.events.close();
        }
    }

    /// The locked shard of a topic, for a change that the close of this node undoes. `closed` is
    /// read under the lock: a close that sets it later removes the node from the shard after the
    /// change.
    fn open_shard(&self, topic: &Topic) -> Result<MutexGuard<'_, Shard>, BrokerError> {
        let shard = self.bus.shard(topic);
        self.open().map(|()| shard)
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Receipt, BrokerError> {
        self.open()?;
        let published = match self.bus.publish(topic, payload, options) {
            Ok(published) => published,
            // Publishing takes no time here, so a publisher could always be faster than its
            // readers: it waits for a subscriber whose queue is full, for a bounded time, since the
            // subscriber may have stopped reading.
            Err(SubscriberFull { events, payload, options }) => {
                let _ = tokio::time::timeout(FULL_TIMEOUT, events.not_full()).await;
                self.bus.shard(topic).publish(topic, payload, options)
            }
        };
        if self.bus.budget.is_exceeded() {
            self.bus.reclaim();
        }
        Ok(Receipt::ready(Ok(published)))
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        for topic in topics {
            self.open_shard(topic)?.subscribe(topic, self.node, &self.events);
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

    fn known_position(&self, topic: &Topic) -> Option<Position> {
        Some(self.bus.shard(topic).position(topic))
    }

    async fn history(&self, reads: &[HistoryRead]) -> Result<Vec<History>, BrokerError> {
        self.open()?;
        Ok(reads.iter().map(|read| self.bus.shard(&read.topic).read(read)).collect())
    }

    async fn subscribers(&self, topics: &[Topic]) -> Result<Vec<u32>, BrokerError> {
        self.open()?;
        Ok(topics.iter().map(|topic| self.bus.shard(topic).subscribers(topic)).collect())
    }

    fn presence(&self) -> Option<&dyn PresenceTracker> {
        Some(self)
    }

    fn table(&self) -> Option<&dyn SharedTable> {
        Some(self)
    }

    fn status(&self) -> Status {
        if self.closed.load(Ordering::Acquire) { Status::Closed } else { Status::Ready }
    }

    fn stats(&self) -> BrokerStats {
        BrokerStats { dropped: self.events.dropped(), ..BrokerStats::default() }
    }

    async fn close(&self) {
        self.disconnect();
    }
}

#[async_trait]
impl PresenceTracker for MemoryBroker {
    fn enter(&self, topic: &Topic, occupant: Occupant) {
        if let Ok(mut shard) = self.open_shard(topic) {
            shard.enter(topic, self.node, occupant);
        }
    }

    fn enter_limited(&self, topic: &Topic, occupant: Occupant, max: u32) -> EnterReceipt {
        let shard = self.open_shard(topic);
        EnterReceipt::ready(shard.and_then(|mut shard| {
            if !shard.has_place(topic, &occupant.user, max) {
                return Err(BrokerError::RoomFull { max });
            }
            shard.enter(topic, self.node, occupant);
            Ok(())
        }))
    }

    fn leave(&self, topic: &Topic, user: &UserId) -> Departure {
        Departure::ready(self.bus.shard(topic).leave(topic, self.node, user))
    }

    async fn occupancy(
        &self,
        topics: &[Topic],
        limit: usize,
    ) -> Result<Vec<Occupancy>, BrokerError> {
        self.open()?;
        Ok(topics.iter().map(|topic| self.bus.shard(topic).occupancy(topic, limit)).collect())
    }

    async fn rooms(
        &self,
        prefix: &str,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<OccupiedRooms, BrokerError> {
        self.open()?;
        let limit = limit.clamp(1, OccupiedRooms::MAX);
        // The first of all shards. One more than the page shows whether another follows.
        let mut first = BTreeMap::new();
        for shard in &self.bus.shards {
            for (room, count) in shard.lock().occupied() {
                if room.as_str().starts_with(prefix) && Some(room) > after {
                    first.insert(room.clone(), count);
                    if first.len() > limit + 1 {
                        first.pop_last();
                    }
                }
            }
        }
        let has_next = first.len() > limit && first.pop_last().is_some();
        let next = first.last_key_value().filter(|_| has_next).map(|(room, _)| room.clone());
        let rooms = first.into_iter().map(|(room, count)| OccupiedRoom::new(room, count));
        Ok(OccupiedRooms::new(rooms.collect(), next))
    }
}

#[async_trait]
impl SharedTable for MemoryBroker {
    async fn set(&self, key: &str, value: Bytes, options: SetOptions) -> Result<(), BrokerError> {
        self.open()?;
        self.bus.records.lock().set(key, Some(value), options.expires_in, Instant::now())
    }

    async fn remove(&self, key: &str) -> Result<(), BrokerError> {
        self.open()?;
        self.bus.records.lock().set(key, None, Duration::ZERO, Instant::now())
    }

    async fn changes_since(&self, after: u64) -> Result<Records, BrokerError> {
        self.open()?;
        Ok(self.bus.records.lock().read(after, Instant::now()))
    }

    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        self.open()?;
        if let Some(secret) = self.bus.secret.get() {
            return Ok(*secret);
        }
        let secret = random::secret()?;
        Ok(*self.bus.secret.get_or_init(|| secret))
    }
}

impl Drop for MemoryBroker {
    fn drop(&mut self) {
        self.disconnect();
    }
}

/// A publication that was not made, and the subscriber whose queue is full.
struct SubscriberFull {
    events: Arc<EventSender>,
    payload: Bytes,
    options: PublishOptions,
}

impl Shared {
    fn shard(&self, topic: &Topic) -> MutexGuard<'_, Shard> {
        let index = self.shard_of.hash_one(topic) as usize % SHARDS;
        self.shards[index].lock()
    }

    fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Published, SubscriberFull> {
        let mut shard = self.shard(topic);
        match shard.full_subscriber(topic) {
            Some(events) => Err(SubscriberFull { events, payload, options }),
            None => Ok(shard.publish(topic, payload, options)),
        }
    }

    /// Frees memory: the topics with the oldest last publication lose their histories.
    fn reclaim(&self) {
        // Another publisher is reclaiming: one is enough.
        let Some(_guard) = self.reclaiming.try_lock() else { return };
        let mut histories: Vec<(u64, usize)> = Vec::new();
        for shard in &self.shards {
            histories.extend(shard.lock().histories());
        }
        histories.sort_unstable();
        let mut kept = 0;
        let newest_to_go = histories.iter().rev().find(|(_, bytes)| {
            kept += bytes;
            kept > self.budget.target()
        });
        if let Some((used, _)) = newest_to_go {
            for shard in &self.shards {
                shard.lock().drop_histories(*used);
            }
        }
    }
}
