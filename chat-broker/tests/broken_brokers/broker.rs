//! A broker in memory with one fault, and the faults of what is no optional part.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::testing::conformance::Bus;
use chat_broker::{
    Broker, BrokerError, BrokerEvents, EventSender, HistoryRead, MemoryBroker, MemoryBus,
    PresenceTracker, PublishOptions, Published, Receipt, SharedTable, Status, events,
};
use chat_core::{History, HistoryRange, Occupant, Position, Retention, RoomId, Topic, UserId};
use futures_util::FutureExt;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::Fault;
use crate::events::{carry, skipping};

/// More than any case publishes.
const QUEUE: usize = 1 << 20;

/// One node, which does as one in memory but for the fault.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) fault: Option<Fault>,
    pub(crate) nth: usize,
    pub(crate) inner: Arc<MemoryBroker>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) is_closed: AtomicBool,
    events: Arc<EventSender>,
    subscribed: Mutex<HashSet<Topic>>,
    calls: AtomicUsize,
}

/// What all nodes of a bus share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    nodes: Mutex<Vec<SharedNode>>,
    keys: Mutex<HashMap<Arc<str>, Position>>,
    pub(crate) held: Mutex<HashMap<(Topic, UserId), Held>>,
    /// The values of records that were removed.
    pub(crate) removed: Mutex<HashMap<String, Bytes>>,
    /// Something was published since the last read.
    is_fresh: AtomicBool,
}

/// A user in a topic, and the nodes that say so.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) occupant: Option<Occupant>,
    pub(crate) nodes: HashSet<usize>,
}

/// A node as the others see it.
#[derive(Debug, Clone)]
struct SharedNode {
    inner: Arc<MemoryBroker>,
    events: Arc<EventSender>,
}

/// A bus whose nodes have this fault.
pub(crate) fn bus(fault: Option<Fault>) -> impl Bus {
    let (memory, shared) = (MemoryBus::new(), Arc::default());
    async move || Broken::connect(fault, &memory, &shared)
}

impl Broken {
    fn connect(
        fault: Option<Fault>,
        memory: &MemoryBus,
        shared: &Arc<Shared>,
    ) -> (Self, BrokerEvents) {
        let (inner, from) = memory.connect();
        let (to, events) = events::channel(QUEUE);
        let node = SharedNode { inner: Arc::new(inner), events: Arc::new(to) };
        let nth = {
            let mut nodes = lock(&shared.nodes);
            nodes.push(node.clone());
            nodes.len() - 1
        };
        tokio::spawn(carry(fault, nth, from, Arc::clone(&node.events)));
        let broken = Self {
            fault,
            nth,
            inner: node.inner,
            shared: Arc::clone(shared),
            is_closed: AtomicBool::default(),
            events: node.events,
            subscribed: Mutex::default(),
            calls: AtomicUsize::default(),
        };
        (broken, events)
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Whether this is one of the calls that go wrong: every `n`th.
    pub(crate) fn is_nth_call(&self, n: usize) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) % n == n - 1
    }

    /// All nodes that were ever connected.
    pub(crate) fn nodes(&self) -> Vec<Arc<MemoryBroker>> {
        lock(&self.shared.nodes).iter().map(|node| Arc::clone(&node.inner)).collect()
    }

    pub(crate) fn announce_records(&self) {
        lock(&self.shared.nodes).iter().for_each(|node| node.events.records_changed());
    }

    async fn published(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Published, BrokerError> {
        let key = options.key.clone();
        let remembered = key.as_ref().and_then(|key| lock(&self.shared.keys).get(key).copied());
        if self.has(Fault::SharesKeys)
            && let Some(position) = remembered
        {
            return Ok(Published::repeated(position));
        }
        let mut published = self.inner.publish(topic, payload, options).await?.await?;
        self.shared.is_fresh.store(true, Ordering::Relaxed);
        if let (Some(key), Some(position)) = (key, published.position) {
            lock(&self.shared.keys).insert(key, position);
        }
        if self.has(Fault::SkipsOffsets) {
            published.position = published.position.map(skipping);
        }
        if self.has(Fault::AnswersWithNewPosition) && published.repeated {
            published.position = Some(self.position(topic).await?);
        }
        if self.has(Fault::CountsOneNode) {
            published.nodes = 1;
        }
        Ok(published)
    }

    /// Publishes without the key, and remembers the key later.
    async fn remember_late(
        &self,
        topic: &Topic,
        payload: Bytes,
        mut options: PublishOptions,
    ) -> Result<Published, BrokerError> {
        let key = options.key.take().map(|key| Arc::<str>::from(format!("{topic} {key}")));
        let known = key.as_ref().and_then(|key| lock(&self.shared.keys).get(key).copied());
        if let Some(position) = known {
            return Ok(Published::repeated(position));
        }
        yield_now().await;
        let published = self.inner.publish(topic, payload, options).await?.await?;
        if let (Some(key), Some(position)) = (key, published.position) {
            lock(&self.shared.keys).insert(key, position);
        }
        Ok(published)
    }

    async fn position(&self, topic: &Topic) -> Result<Position, BrokerError> {
        let positions = self.inner.positions(std::slice::from_ref(topic)).await?;
        Ok(positions[0])
    }

    /// Starts the sequences of those that have none.
    async fn create(&self, topics: impl Iterator<Item = &Topic>) -> Result<(), BrokerError> {
        for topic in topics {
            if self.position(topic).await? == Position::default() {
                let options = PublishOptions::default().retention(Retention::default());
                self.inner.publish(topic, Bytes::new(), options).await?.await?;
            }
        }
        Ok(())
    }

    /// Reads on until the limit is reached.
    async fn read_on(&self, read: &HistoryRead, history: &mut History) -> Result<(), BrokerError> {
        while let (HistoryRange::After(_), Some(last)) = (read.range, history.entries.last()) {
            let rest = read.limit - history.entries.len() as u32;
            let next = HistoryRead::new(read.topic.clone(), HistoryRange::After(last.offset), rest);
            let more = self.inner.history(&[next]).await?.remove(0).entries;
            if more.is_empty() {
                break;
            }
            history.entries.extend(more);
        }
        Ok(())
    }
}

/// What the call is for, with this fault.
fn faulty_options(broken: &Broken, mut options: PublishOptions) -> PublishOptions {
    match broken.fault {
        Some(Fault::PersistsEphemeral) => {
            options.retention.get_or_insert_default();
        }
        Some(Fault::IgnoresKeys) => options.key = None,
        Some(Fault::ForgetsSomeKeys) if options.key.is_some() && broken.is_nth_call(5) => {
            options.key = None;
        }
        _ => {}
    }
    if let Some(retention) = &mut options.retention {
        match broken.fault {
            Some(Fault::KeepsOneTooFew) => retention.messages -= 1,
            Some(Fault::KeepsAllBytes) => retention.bytes = usize::MAX,
            Some(Fault::KeepsForLong) => retention.ttl = Duration::from_secs(1 << 20),
            _ => {}
        }
    }
    options
}

/// The topic of the same name in lower case.
fn folded(topic: &Topic) -> Topic {
    match topic.as_room().map(|room| RoomId::new(room.as_str().to_lowercase())) {
        Some(Ok(room)) => Topic::Room(room),
        _ => topic.clone(),
    }
}

#[async_trait]
impl Broker for Broken {
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Receipt, BrokerError> {
        let options = faulty_options(self, options);
        let topic = if self.has(Fault::FoldsNames) { folded(topic) } else { topic.clone() };
        let inner = Arc::clone(&self.inner);
        let outcome = match self.fault {
            Some(Fault::PublishesAfterClose) if self.is_closed() => Ok(Published::new(None, 0)),
            Some(Fault::PublishesDroppedCalls) => {
                let call =
                    tokio::spawn(
                        async move { inner.publish(&topic, payload, options).await?.await },
                    );
                call.await.expect("the call ends")
            }
            Some(Fault::SwapsCalls) => {
                let is_late = self.is_nth_call(2);
                let (sender, receipt) = Receipt::pending();
                tokio::spawn(async move {
                    if is_late {
                        sleep(Duration::from_millis(1)).await;
                    }
                    match inner.publish(&topic, payload, options).await {
                        Ok(published) => sender.resolve(published.await),
                        Err(error) => sender.resolve(Err(error)),
                    }
                });
                return Ok(receipt);
            }
            Some(Fault::RemembersKeysLate) => self.remember_late(&topic, payload, options).await,
            _ => self.published(&topic, payload, options).await,
        };
        outcome.map(|published| Receipt::ready(Ok(published)))
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        lock(&self.subscribed).extend(topics.iter().cloned());
        match self.fault {
            Some(Fault::SubscribesLate) => {
                let (inner, topics) = (Arc::clone(&self.inner), topics.to_vec());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(1)).await;
                    inner.subscribe(&topics).await
                });
                Ok(())
            }
            Some(Fault::SubscribesAllNodes) => {
                for node in self.nodes() {
                    // One may be closed.
                    let _ = node.subscribe(topics).await;
                }
                Ok(())
            }
            Some(Fault::Takes1000Topics) => self.inner.subscribe(first_1000(topics)).await,
            Some(Fault::ReplaysOnSubscribe) => {
                self.inner.subscribe(topics).await?;
                for topic in topics {
                    let read = HistoryRead::new(topic.clone(), HistoryRange::Latest, 1);
                    let History { position, entries, .. } =
                        self.inner.history(&[read]).await?.remove(0);
                    for entry in entries {
                        self.events.publication(topic.clone(), entry.payload, Some(position));
                    }
                }
                Ok(())
            }
            _ => self.inner.subscribe(topics).await,
        }
    }

    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        let are_known = {
            let mut subscribed = lock(&self.subscribed);
            topics.iter().all(|topic| subscribed.remove(topic))
        };
        match self.fault {
            Some(Fault::IgnoresUnsubscribe) => Ok(()),
            Some(Fault::RefusesUnknownTopics) if !are_known => {
                Err(BrokerError::refused("this topic is not subscribed"))
            }
            _ => self.inner.unsubscribe(topics).await,
        }
    }

    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
        if self.has(Fault::PositionsCreateTopics) {
            self.create(topics.iter()).await?;
        }
        let mut positions = self.inner.positions(topics).await?;
        match self.fault {
            Some(Fault::DropsPosition) => drop(positions.pop()),
            Some(Fault::RepeatsAnswer) => positions.extend(positions.last().copied()),
            Some(Fault::ReversesPositions) => positions.reverse(),
            Some(Fault::Takes1000Topics) => positions.truncate(1000),
            _ => {}
        }
        Ok(positions)
    }

    fn known_position(&self, topic: &Topic) -> Option<Position> {
        let position = self.position(topic).now_or_never()?.ok()?;
        let offset = position.offset.saturating_sub(u64::from(self.has(Fault::KnowsOldPosition)));
        Some(Position { offset, ..position })
    }

    async fn history(&self, reads: &[HistoryRead]) -> Result<Vec<History>, BrokerError> {
        if self.has(Fault::ReadsCreateTopics) {
            self.create(reads.iter().map(|read| &read.topic)).await?;
        }
        let mut reads = reads.to_vec();
        for read in &mut reads {
            match (self.fault, &mut read.range) {
                (Some(Fault::ReadsOneBefore), HistoryRange::After(offset)) => {
                    *offset = offset.saturating_sub(1);
                }
                (Some(Fault::IgnoresLimit), _) => read.limit = u32::MAX,
                _ => {}
            }
        }
        let mut histories = self.inner.history(&reads).await?;
        if self.has(Fault::ReadsPositionLater) {
            yield_now().await;
        }
        let is_fresh = self.shared.is_fresh.swap(false, Ordering::Relaxed);
        for (read, history) in reads.iter().zip(&mut histories) {
            match self.fault {
                Some(Fault::IgnoresPageSize) => self.read_on(read, history).await?,
                Some(Fault::ReadsPositionLater) => {
                    history.position = self.position(&read.topic).await?;
                }
                Some(Fault::LosesEntries) => {
                    history.entries.retain(|entry| !entry.offset.is_multiple_of(70));
                }
                Some(Fault::KeepsLate) if is_fresh => {
                    history.position.offset -= u64::from(history.entries.pop().is_some());
                }
                _ => {}
            }
        }
        match self.fault {
            Some(Fault::DropsHistory) => drop(histories.pop()),
            Some(Fault::RepeatsAnswer) => histories.extend(histories.last().cloned()),
            Some(Fault::Takes1000Topics) => histories.truncate(1000),
            _ => {}
        }
        Ok(histories)
    }

    async fn subscribers(&self, topics: &[Topic]) -> Result<Vec<u32>, BrokerError> {
        let mut counts = self.inner.subscribers(topics).await?;
        if self.has(Fault::CountsOneNode) {
            counts.iter_mut().for_each(|count| *count = (*count).min(1));
        }
        Ok(counts)
    }

    fn presence(&self) -> Option<&dyn PresenceTracker> {
        Some(self)
    }

    fn table(&self) -> Option<&dyn SharedTable> {
        Some(self)
    }

    fn status(&self) -> Status {
        if self.is_closed() { Status::Closed } else { self.inner.status() }
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        if self.has(Fault::KeepsClosedNodes) {
            self.events.close();
        } else {
            self.leave_all();
            self.inner.close().await;
        }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if !self.has(Fault::KeepsDeadNodes) && !self.has(Fault::KeepsClosedNodes) {
            // In memory it takes no time.
            self.inner.close().now_or_never();
        }
    }
}

fn first_1000(topics: &[Topic]) -> &[Topic] {
    &topics[..topics.len().min(1000)]
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
