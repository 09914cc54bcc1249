//! The broker over Redis: servers on many machines in sync through its pub/sub.
//!
//! ```text
//! publish ──► queue ──► task, 1 of n ──► connection ──► EVALSHA, PUBLISH ─┐
//!                                                                       Redis
//! events ◄── queue ◄── connection of the subscriber ◄──── pushed messages ┘
//!                       ▲
//! subscribe ──► task ───┘ SUBSCRIBE
//! positions, secret ──► pool of connections ──► HMGET, GET
//! ```
//!
//! A sequenced publication is one script, which counts and publishes in one atomic step,
//! so what subscribers get of a topic stands in the order of its offsets. Names, keys and
//! payload layouts are described in `docs/redis.md`.
//!
//! Every connection is asked each second whether it lives, and given up when it has not
//! answered for two: a lost one is noticed at once, a silent one within four seconds. Each
//! reconnects by itself for ever.

mod config;
mod health;
mod link;
mod names;
mod publisher;
mod queue;
mod store;
mod subscriber;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_core::{Position, Topic};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use config::RedisConfig;

use crate::broker::{Broker, Delivery, Receipt, Status};
use crate::error::BrokerError;
use crate::events::{self, BrokerEvents};
use health::Health;
use publisher::Publisher;
use store::Store;
use subscriber::Subscriber;

/// A node of a chat whose servers meet in one Redis.
///
/// Dropping it closes its connections at once and loses what it has not sent;
/// [`close`](Broker::close) sends that first.
#[derive(Debug)]
pub struct RedisBroker {
    publisher: Publisher,
    subscriber: Arc<Subscriber>,
    store: Store,
    health: Arc<Health>,
    closing: watch::Sender<bool>,
    deadline: Duration,
    /// The tasks that publish: they end by themselves after `closing`.
    publishing: Mutex<JoinSet<()>>,
    /// The task that subscribes.
    subscribing: Mutex<JoinSet<()>>,
}

impl RedisBroker {
    /// Starts a node. Returns when it is connected, or when the first attempt has failed:
    /// it is no error that Redis is away, and the node connects when it can.
    ///
    /// # Errors
    /// [`BrokerError::Config`] if the settings make no sense.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves nothing behind.
    pub async fn connect(config: RedisConfig) -> Result<(Self, BrokerEvents), BrokerError> {
        let client = config.client()?;
        let names = Arc::new(config.names(&client));
        let health = Health::new(config.publish_connections + 1);
        let (closing, closed) = watch::channel(false);

        let mut publishing = JoinSet::new();
        let publisher =
            Publisher::start(&config, &client, &names, &health, &closed, &mut publishing);
        let (events, receiver) = events::channel(config.event_queue);
        let subscriber = Subscriber::new(Arc::clone(&names), events, config.deadline);
        let mut subscribing = JoinSet::new();
        subscribing.spawn(Arc::clone(&subscriber).run(client.clone(), health.side()));

        let broker = Self {
            publisher,
            subscriber,
            store: Store::new(&client, names, config.deadline)?,
            health,
            closing,
            deadline: config.deadline,
            publishing: Mutex::new(publishing),
            subscribing: Mutex::new(subscribing),
        };
        broker.health.first_report().await;
        Ok((broker, receiver))
    }

    /// How many messages in our channels were not written by a broker, or by one of a
    /// version that this one does not know. They are skipped.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.subscriber.unreadable()
    }

    /// How many publications were dropped because the events were not read in time.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.subscriber.dropped()
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
        delivery: Delivery,
    ) -> Result<Receipt, BrokerError> {
        self.open()?;
        self.publisher.publish(topic, payload, delivery).await
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
        self.store.positions(topics).await
    }

    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        self.open()?;
        self.store.secret().await
    }

    fn status(&self) -> Status {
        if *self.closing.borrow() {
            Status::Closed
        } else if self.health.is_ready() {
            Status::Ready
        } else {
            Status::Away
        }
    }

    async fn close(&self) {
        self.closing.send_replace(true);
        let mut publishing = self.publishing.lock().await;
        let drained = async { while publishing.join_next().await.is_some() {} };
        if timeout(self.deadline, drained).await.is_err() {
            tracing::warn!("redis did not take all publications before the end");
        }
        publishing.shutdown().await;
        self.subscribing.lock().await.shutdown().await;
        self.subscriber.close();
    }
}

impl Drop for RedisBroker {
    fn drop(&mut self) {
        // The reader of the socket may live a moment longer than we do.
        self.subscriber.close();
    }
}
