//! The broker over Redis: keeps servers in sync by its pub/sub, lists and scripts.
//!
//! ```text
//! publish ──────► publish/queue ────► publish/worker, 1 of n ─► publish.lua, PUBLISH ─────┐
//! enter, leave ─► presence/outbox ──────┘                     enter.lua, leave.lua ─────┤
//!                                                                                     Redis
//! events ◄─────── subscribe ◄── pushed messages ◄── connection ◄────────────────────────┤
//! subscribe ──────────┘ SUBSCRIBE                                                       │
//! history, positions, occupancy, table ──► connection/store ──► scripts that read ──────┤
//! presence/lease ──► renew.lua ──► expired nodes ──► presence/reaper ──► reap.lua ──────┤
//! presence/reconciler ──► reconcile.lua ──► what Redis has lost ──► presence/outbox ────┘
//! ```
//!
//! | path | what it is for |
//! |---|---|
//! | `publish/` | publications: the queue, the connection that sends them, lost answers |
//! | `subscribe/` | the connection that receives, and what it is subscribed to |
//! | `presence/` | the users of this node in topics: the outbox, the lease, the repair |
//! | `table/` | the table and the secret that all nodes share |
//! | `history.rs`, `tail.rs` | messages that Redis keeps; the latest ones, without a script |
//! | `connection/` | a connection, the pool of connections, reconnects, changed servers |
//! | `health/` | the state of Redis: unavailable, refusing, full, damaged, without rights |
//! | `inspection.rs` | whether a Redis can be used, for an operator |
//! | `error.rs` | what errors of Redis mean |
//! | `names.rs`, `wire.rs`, `scripts/` | keys and channels, payloads, what Redis runs |
//! | `config/`, `shared.rs`, `stats.rs`, `last_seen.rs` | settings; what all connections share |
//!
//! One script makes each change of a topic, so subscribers receive the changes in the order of
//! offsets and versions. `docs/redis.md` describes names, keys and payloads.
//!
//! Each connection is probed every second, and replaced if it has not answered for two: a broken
//! one is noticed at once, a silent one within four seconds. Each reconnects by itself. Connections
//! that write are probed by a [write](connection::probe): a Redis that refuses it is
//! [unavailable](health), and keeps its connections; a [full](health::capacity) one stays available. A
//! persistent publication without an answer is [searched for](publish) before it is sent again; if
//! Redis lost messages of a sequence, its epoch [ends](connection::epochs).

mod config;
mod connection;
mod error;
mod health;
mod history;
mod inspection;
mod last_seen;
mod names;
mod presence;
mod publish;
mod scripts;
mod shared;
mod stats;
mod subscribe;
mod table;
mod tail;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_core::{History, Occupancy, Occupant, Position, RoomId, Topic, UserId};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use config::RedisConfig;
#[cfg(feature = "testing")]
pub use config::{Dial, Dialing};
pub use inspection::RedisInspection;
#[cfg(feature = "testing")]
pub use wire::redis_payload;

use crate::broker::{Broker, Status};
use crate::error::BrokerError;
use crate::events::{self, BrokerEvents};
use crate::history::HistoryRead;
use crate::presence::{Departure, EnterReceipt, OccupiedRooms, PresenceTracker};
use crate::publish::{PublishOptions, Receipt};
use crate::stats::BrokerStats;
use crate::table::{Records, SetOptions, SharedTable};
use connection::store::Store;
use health::capacity::Memory;
use presence::lease::LeaseTask;
use presence::{Presence, reaper, reconciler};
use publish::Publisher;
use shared::Shared;
use subscribe::Subscriber;
use table::RecordTable;
use table::secret::SharedSecret;

/// One node of a bus in Redis.
///
/// Dropping it closes its connections at once: what it has not sent is lost, and its users leave
/// when its [lease](RedisConfig::lease) expires. [`close`](Broker::close) first sends what it has
/// accepted, and gives its users the [grace](RedisConfig::grace) period to connect to another node.
///
/// ```no_run
/// use std::sync::Arc;
/// use chat_broker::{Hub, HubConfig, RedisBroker, RedisConfig};
///
/// # async fn example<M: chat_core::Deliver + Clone + 'static>() -> Result<(), chat_broker::BrokerError> {
/// let config = RedisConfig::new("redis://10.0.0.5:6379").prefix("support");
/// let (broker, events) = RedisBroker::connect(config).await?;
/// let (hub, driver) = Hub::<M>::new(Arc::new(broker), events, HubConfig::default());
/// tokio::spawn(driver.run());
/// # drop(hub);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RedisBroker {
    shared: Arc<Shared>,
    publisher: Publisher,
    presence: Arc<Presence>,
    subscriber: Arc<Subscriber>,
    store: Arc<Store>,
    records: RecordTable,
    secret: SharedSecret,
    closing: watch::Sender<bool>,
    releasing: watch::Sender<bool>,
    /// The tasks that publish: they end by themselves after `closing`.
    publishing: Mutex<JoinSet<()>>,
    /// The task that subscribes.
    subscribing: Mutex<JoinSet<()>>,
    /// The task that keeps the lease: it ends by itself after `releasing`, and so does the one that
    /// reaps. The one that reconciles ends after `closing`.
    leasing: Mutex<JoinSet<()>>,
}

impl RedisBroker {
    /// Opens connections to Redis with the certificates of `config` from now on
    /// ([`ca_certificate`](RedisConfig::ca_certificate) and
    /// [`client_certificate`](RedisConfig::client_certificate)), for certificates that are renewed while
    /// the server runs. Open connections stay. The other settings of `config` have no effect.
    ///
    /// # Errors
    /// [`BrokerError::Config`] if a certificate or a key cannot be used; then the former ones stay.
    pub fn replace_certificates(&self, config: &RedisConfig) -> Result<(), BrokerError> {
        self.shared.replace_certificates(config)
    }

    /// Starts a node. Returns when it is connected, or when the first attempt has failed: an
    /// unavailable Redis is no error, and the node keeps trying to connect.
    ///
    /// # Errors
    /// [`BrokerError::Config`] if a setting is invalid.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped leaves nothing behind.
    pub async fn connect(config: RedisConfig) -> Result<(Self, BrokerEvents), BrokerError> {
        let (events, receiver) = events::channel(config.event_queue);
        let shared = Arc::new(Shared::new(config)?);
        let store = Arc::new(Store::new(Arc::clone(&shared))?);

        let presence = Presence::new(shared.config.publish_connections);
        let subscriber = Subscriber::new(Arc::clone(&store), &presence, events);
        let mut subscribing = JoinSet::new();
        subscribing.spawn(Arc::clone(&subscriber).run());

        let (closing, closed) = watch::channel(false);
        let mut publishing = JoinSet::new();
        let publisher = Publisher::start(&shared, &subscriber, &presence, &closed, &mut publishing);

        let (releasing, released) = watch::channel(false);
        let (expired, to_reap) = mpsc::channel(1);
        let mut leasing = JoinSet::new();
        leasing.spawn(LeaseTask::new(&shared, &presence, expired).run(released));
        leasing.spawn(reaper::run(Arc::clone(&store), to_reap));
        leasing.spawn(reconciler::run(Arc::clone(&store), Arc::clone(&presence), closed));

        shared.health.first_report().await;
        let broker = Self {
            shared,
            publisher,
            presence,
            subscriber,
            records: RecordTable::new(&store),
            secret: SharedSecret::new(&store),
            store,
            closing,
            releasing,
            publishing: Mutex::new(publishing),
            subscribing: Mutex::new(subscribing),
            leasing: Mutex::new(leasing),
        };
        Ok((broker, receiver))
    }

    fn open(&self) -> Result<(), BrokerError> {
        if *self.closing.borrow() { Err(BrokerError::Closed) } else { Ok(()) }
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Receipt, BrokerError> {
        self.open()?;
        self.publisher.publish(topic, payload, options).await
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        self.open()?;
        self.subscriber.subscribe(topics).await
    }

    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        self.open()?;
        self.subscriber.unsubscribe(topics).await
    }

    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
        self.open()?;
        let addresses = self.store.addresses(topics);
        let last_seen_of = self.store.positions(&addresses).await?;
        self.subscriber.read(&addresses, &last_seen_of);
        Ok(last_seen_of.into_iter().map(|last_seen| last_seen.position).collect())
    }

    fn known_position(&self, topic: &Topic) -> Option<Position> {
        self.subscriber.known_position(&self.shared.names.address(topic))
    }

    async fn history(&self, reads: &[HistoryRead]) -> Result<Vec<History>, BrokerError> {
        self.open()?;
        let addresses = self.store.addresses(reads.iter().map(|read| &read.topic));
        let known = self.subscriber.last_seen(&addresses);
        let read = self.store.history(reads, &addresses, &known).await?;
        let (histories, last_seen_of): (_, Vec<_>) = read.into_iter().unzip();
        self.subscriber.read(&addresses, &last_seen_of);
        Ok(histories)
    }

    async fn subscribers(&self, topics: &[Topic]) -> Result<Vec<u32>, BrokerError> {
        self.open()?;
        self.store.subscribers(topics).await
    }

    fn presence(&self) -> Option<&dyn PresenceTracker> {
        Some(self)
    }

    fn table(&self) -> Option<&dyn SharedTable> {
        Some(self)
    }

    fn node(&self) -> Option<&str> {
        Some(&self.shared.node)
    }

    fn status(&self) -> Status {
        if *self.closing.borrow() {
            Status::Closed
        } else if self.shared.health.is_ready() {
            Status::Ready
        } else {
            Status::Unavailable
        }
    }

    fn stats(&self) -> BrokerStats {
        let Memory { used, max } = self.shared.capacity.memory();
        BrokerStats {
            round_trips: self.shared.counters.round_trips.snapshot(),
            reconnects: self.shared.counters.reconnects(),
            unreadable: self.subscriber.unreadable(),
            dropped: self.subscriber.dropped(),
            publish_queued: self.publisher.queued(),
            full: self.shared.capacity.is_full(),
            memory_used: used,
            memory_max: max,
            outage: self.shared.health.outage(),
            run_id: self.shared.health.run_id(),
            refusals: self.shared.refusals.snapshot(),
        }
    }

    async fn close(&self) {
        self.closing.send_replace(true);
        let deadline = Instant::now() + self.shared.config.deadline;
        let mut publishing = self.publishing.lock().await;
        let drained = async { while publishing.join_next().await.is_some() {} };
        if timeout_at(deadline, drained).await.is_err() {
            tracing::warn!("closing: redis did not take all publications within the deadline");
        }
        publishing.shutdown().await;
        self.presence.close();
        // The lease is released last: while publications and leaves are sent, other nodes must not
        // expire this one. The reaper ends with the lease task, which holds the sender.
        self.releasing.send_replace(true);
        let mut leasing = self.leasing.lock().await;
        let released = async { while leasing.join_next().await.is_some() {} };
        let _ = timeout_at(deadline, released).await;
        leasing.shutdown().await;
        self.subscribing.lock().await.shutdown().await;
        self.subscriber.close();
    }
}

#[async_trait]
impl PresenceTracker for RedisBroker {
    fn enter(&self, topic: &Topic, occupant: Occupant) {
        if self.open().is_ok() {
            self.publisher.enter(topic, occupant);
        }
    }

    fn enter_limited(&self, topic: &Topic, occupant: Occupant, max: u32) -> EnterReceipt {
        match self.open() {
            Ok(()) => self.publisher.enter_limited(topic, occupant, max),
            Err(closed) => EnterReceipt::ready(Err(closed)),
        }
    }

    fn leave(&self, topic: &Topic, user: &UserId) -> Departure {
        match self.open() {
            Ok(()) => self.publisher.leave(topic, user),
            Err(_) => Departure::ready(None),
        }
    }

    async fn occupancy(
        &self,
        topics: &[Topic],
        limit: usize,
    ) -> Result<Vec<Occupancy>, BrokerError> {
        self.open()?;
        self.store.occupancy(topics, limit, self.presence.may_expire_others()).await
    }

    async fn rooms(
        &self,
        prefix: &str,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<OccupiedRooms, BrokerError> {
        self.open()?;
        self.store.rooms(prefix, after, limit).await
    }
}

#[async_trait]
impl SharedTable for RedisBroker {
    async fn set(&self, key: &str, value: Bytes, options: SetOptions) -> Result<(), BrokerError> {
        self.open()?;
        self.records.set(key, Some(value), options.expires_in).await
    }

    async fn remove(&self, key: &str) -> Result<(), BrokerError> {
        self.open()?;
        self.records.set(key, None, Duration::ZERO).await
    }

    async fn changes_since(&self, after: u64) -> Result<Records, BrokerError> {
        self.open()?;
        self.subscriber.reading_records();
        let records = self.records.changes_after(after).await?;
        // Callers read the table every few seconds, which is often enough to restore a lost secret.
        self.secret.restore().await;
        Ok(records)
    }

    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        self.open()?;
        self.secret.get().await
    }
}

impl Drop for RedisBroker {
    fn drop(&mut self) {
        // The task that reads the socket may outlive the broker by a moment.
        self.subscriber.close();
    }
}
