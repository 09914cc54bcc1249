//! Receives messages: one connection for all subscriptions, owned by one task.
//!
//! [`Interest`] has the channels that the node wants. While connected, the task sends the changes
//! to Redis; after a reconnect, all channels. Callers wait until Redis has confirmed the version of
//! their change.

mod interest;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chat_core::{Position, PresenceChange, Topic};
use parking_lot::{Mutex, MutexGuard};
use redis::{RedisError, RedisResult, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connection::epochs;
use super::connection::reconnect::ReconnectTimer;
use super::connection::store::Store;
use super::connection::{Link, PING_INTERVAL};
use super::error::is_refusal;
use super::health::ConnectionHealth;
use super::last_seen::LastSeen;
use super::names::Address;
use super::presence::Presence;
use super::shared::Shared;
use super::wire;
use super::wire::Message;
use crate::error::BrokerError;
use crate::events::EventSender;
use interest::{Changes, Interest};

/// Channels in one command: measured to be nearly as fast as one command for all, without blocking
/// Redis for long.
const MAX_CHANNELS: usize = 512;

/// How long a connection receives nothing before it is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state that callers, the task and the reader of the socket share.
#[derive(Debug)]
pub(super) struct Subscriber {
    shared: Arc<Shared>,
    /// Sends the probes, on another connection.
    store: Arc<Store>,
    presence: Arc<Presence>,
    health: ConnectionHealth,
    /// The channel of this node alone.
    own: String,
    /// A channel to which nothing is published, and to which this node is not subscribed.
    unused: String,
    /// The channel of changes to records.
    records: String,
    /// Records were read while the node was not subscribed to their changes: one that came after
    /// the read would be unnoticed, so the first connection reports `RecordsChanged`.
    read_while_disconnected: AtomicBool,
    events: EventSender,
    interest: Mutex<Interest>,
    changed: Notify,
    progress: watch::Sender<Progress>,
    unreadable: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    connected: bool,
    /// Redis has confirmed the changes up to this version.
    confirmed: u64,
    /// Redis has refused the changes up to this version.
    refused: u64,
    closed: bool,
}

impl Progress {
    /// Whether Redis has answered all changes up to this version.
    fn is_answered(&self, version: u64) -> bool {
        self.confirmed.max(self.refused) >= version
    }
}

impl Subscriber {
    pub(super) fn new(
        store: Arc<Store>,
        presence: &Arc<Presence>,
        events: EventSender,
    ) -> Arc<Self> {
        let shared = Arc::clone(&store.shared);
        let own = shared.names.node(&shared.node);
        let unused = [&*own, ":unused"].concat();
        let records = shared.names.records();
        let health = shared.health.connection();
        Arc::new(Self {
            shared,
            store,
            presence: Arc::clone(presence),
            health,
            own,
            unused,
            records,
            read_while_disconnected: AtomicBool::new(false),
            events,
            interest: Mutex::default(),
            changed: Notify::new(),
            progress: watch::Sender::default(),
            unreadable: AtomicU64::new(0),
        })
    }

    /// See [`Broker::subscribe`](crate::Broker::subscribe).
    pub(super) async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        let channels = self.channels(topics);
        let version = self.interest().add(&channels, topics);
        self.changed.notify_one();
        let outcome = match self.progress(|progress| progress.is_answered(version)).await {
            Ok(progress) if progress.confirmed < version => {
                Err(BrokerError::unavailable("redis refused the subscription"))
            }
            outcome => outcome.map(drop),
        };
        if outcome.is_err() {
            self.interest().take_back(&channels, version);
            self.changed.notify_one();
        }
        outcome
    }

    /// See [`Broker::unsubscribe`](crate::Broker::unsubscribe). Without a connection there
    /// is nothing to confirm, and what Redis refuses is sent again.
    pub(super) async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        let version = self.interest().remove(&self.channels(topics));
        self.changed.notify_one();
        let is_over = |progress: &Progress| !progress.connected || progress.is_answered(version);
        self.progress(is_over).await.map(drop)
    }

    /// Ends the events, and fails all waiting callers.
    pub(super) fn close(&self) {
        self.interest().disconnected();
        self.events.close();
        self.progress.send_modify(|progress| progress.closed = true);
    }

    /// Records positions that were read.
    pub(super) fn read(&self, addresses: &[Address], last_seen_of: &[LastSeen]) {
        let mut interest = self.interest();
        for (address, last_seen) in addresses.iter().zip(last_seen_of) {
            interest.read(address.channel(), *last_seen);
        }
    }

    /// What this node has seen of topics.
    pub(super) fn last_seen(&self, addresses: &[Address]) -> Vec<Option<LastSeen>> {
        let interest = self.interest();
        addresses.iter().map(|address| interest.last_seen(address.channel())).collect()
    }

    /// Records positions that this node has published.
    pub(super) fn published(&self, publications: Vec<(Address, LastSeen)>) {
        let mut interest = self.interest();
        for (address, last_seen) in publications {
            interest.published(address.into_channel(), last_seen);
        }
    }

    /// See [`Broker::known_position`](crate::Broker::known_position).
    pub(super) fn known_position(&self, address: &Address) -> Option<Position> {
        self.interest().known_position(address.channel())
    }

    /// The positions of topics that this node has seen.
    pub(super) fn seen(&self) -> Vec<(Address, LastSeen)> {
        self.interest().seen()
    }

    /// Records are about to be read: the caller must be notified of later changes.
    pub(super) fn reading_records(&self) {
        if !self.progress.borrow().connected {
            self.read_while_disconnected.store(true, Ordering::Release);
        }
    }

    /// How many payloads could not be decoded.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// How many publications were dropped because the queue of events was full.
    pub(super) fn dropped(&self) -> u64 {
        self.events.dropped()
    }

    /// Connects and serves, again and again, until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut reconnect = ReconnectTimer::new();
        let mut was_connected = false;
        loop {
            reconnect.attempt();
            let error = match self.connect().await {
                Ok((link, version)) => {
                    reconnect.established();
                    if was_connected {
                        self.shared.counters.reconnected();
                        // After all channels are subscribed: what is published from here on
                        // arrives, so a history that is read because of this event misses nothing.
                        self.events.interrupted();
                    }
                    self.confirm(version);
                    let read_while_disconnected =
                        self.read_while_disconnected.swap(false, Ordering::AcqRel);
                    if read_while_disconnected && !was_connected {
                        self.events.records_changed();
                    }
                    was_connected = true;
                    self.health.set_up();
                    self.serve(link).await
                }
                Err(error) => error,
            };
            if self.interest().has_delivered() {
                reconnect.worked();
            }
            self.disconnected();
            self.health.set_down(&error);
            sleep(reconnect.pause()).await;
        }
    }

    /// Connects and subscribes to all wanted channels; returns the version of that set.
    async fn connect(self: &Arc<Self>) -> RedisResult<(Link, u64)> {
        let connection = self.interest().connecting();
        let subscriber = Arc::clone(self);
        let receive = move |message| subscriber.receive(connection, message);
        let mut link = Link::open(&self.shared, receive).await?;
        link.load().await?;
        epochs::check(&mut link, &self.shared.scripts, &self.seen()).await?;
        link.subscribe(&[self.own.clone(), self.records.clone()]).await?;
        let all = self.interest().all();
        send_changes_on(&mut link, &all).await?;
        Ok((link, all.version))
    }

    /// Sends changes to Redis until the connection breaks.
    async fn serve(&self, mut link: Link) -> RedisError {
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut starved = pin!(self.until_nothing_is_delivered());
        loop {
            let outcome = tokio::select! {
                error = link.lost() => Err(error),
                error = &mut starved => Err(error),
                () = self.changed.notified() => self.send_changes(&mut link).await.map(drop),
                _ = ping.tick() => self.ping(&mut link).await,
            };
            if let Err(error) = outcome {
                return error;
            }
        }
    }

    /// Waits until the connection answers pings but delivers nothing: its server may be one that no
    /// node publishes to (a primary that became a replica), or may have lost the subscriptions. A
    /// node that receives nothing publishes to its own channel by another connection, and must
    /// receive that.
    async fn until_nothing_is_delivered(&self) -> RedisError {
        loop {
            self.interest().take_received();
            sleep(PROBE_INTERVAL).await;
            if self.interest().take_received() || !self.store.probe(&self.own).await {
                continue;
            }
            sleep(PROBE_TIMEOUT).await;
            if !self.interest().take_received() {
                let cause = "nothing is delivered on this connection";
                return std::io::Error::new(std::io::ErrorKind::TimedOut, cause).into();
            }
        }
    }

    /// Pings, checks the rights to subscribe and unsubscribe, and sends again what Redis has
    /// refused.
    async fn ping(&self, link: &mut Link) -> RedisResult<()> {
        link.ping().await?;
        let refusal = refusal(link.try_to_subscribe(&self.own, &self.unused).await)?;
        let is_answered = self.send_changes(link).await?;
        match refusal {
            Some(error) => self.health.set_refused(&error),
            None if is_answered => self.health.set_up(),
            None => {}
        }
        Ok(())
    }

    /// Sends the changes; returns whether Redis accepted them. A refusal is no error: the
    /// connection still works.
    async fn send_changes(&self, link: &mut Link) -> RedisResult<bool> {
        let changes = self.interest().changes();
        let version = changes.version;
        let Some(error) = refusal(send_changes_on(link, &changes).await)? else {
            self.confirm(version);
            return Ok(true);
        };
        self.interest().put_back(changes);
        self.health.set_refused(&error);
        self.progress.send_modify(|progress| progress.refused = version);
        Ok(false)
    }

    /// Called by the reader of the socket: must not wait.
    fn receive(&self, connection: u64, message: Vec<Value>) {
        let mut fields = message.into_iter();
        let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
            (fields.next(), fields.next())
        else {
            return;
        };
        // Locked until the event is queued: after `unsubscribe` has returned, no event of the topic
        // is.
        let mut interest = self.interest();
        if !interest.accepts(connection) {
            return;
        }
        let Some(wanted) = interest.recipient(&channel) else {
            if channel == self.records.as_bytes() {
                self.events.records_changed();
            }
            return;
        };
        match wire::decode(Bytes::from(payload)) {
            Some(Message::Ephemeral(payload)) => {
                self.events.publication(wanted.topic.clone(), payload, None);
            }
            Some(Message::Kept { position, id, payload }) => {
                let before = wanted.receive(position, id);
                self.events.publication(wanted.topic.clone(), payload, Some(position));
                if before != position.epoch {
                    interest.ended(&String::from_utf8_lossy(&channel), before);
                }
            }
            Some(Message::KeptBatch { first, entries }) => {
                let before = wanted.seen.position.epoch;
                for (offset, (id, payload)) in (first.offset..).zip(entries) {
                    let position = Position { offset, ..first };
                    wanted.receive(position, id);
                    self.events.publication(wanted.topic.clone(), payload, Some(position));
                }
                if before != first.epoch {
                    interest.ended(&String::from_utf8_lossy(&channel), before);
                }
            }
            Some(Message::Presence { change, occupant, version, count }) => {
                if change == PresenceChange::Renamed {
                    let address = Address::of_channel(&String::from_utf8_lossy(&channel));
                    self.presence.renamed(&wanted.topic, address, &occupant);
                }
                self.events.presence(wanted.topic.clone(), change, occupant, version, count);
            }
            None => {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(topic = %wanted.topic, "skipping a payload that cannot be decoded");
            }
        }
    }

    async fn progress(&self, done: impl Fn(&Progress) -> bool) -> Result<Progress, BrokerError> {
        let mut progress = self.progress.subscribe();
        let wait = progress.wait_for(|progress| progress.closed || done(progress));
        match timeout(self.shared.config.deadline, wait).await {
            Ok(Ok(progress)) if !progress.closed => Ok(*progress),
            Ok(_) => Err(BrokerError::Closed),
            Err(_) => {
                Err(BrokerError::unavailable("redis did not confirm the subscription in time"))
            }
        }
    }

    fn confirm(&self, version: u64) {
        self.progress.send_modify(|progress| {
            progress.connected = true;
            progress.confirmed = version;
        });
    }

    fn disconnected(&self) {
        self.interest().disconnected();
        self.progress.send_modify(|progress| progress.connected = false);
    }

    fn channels(&self, topics: &[Topic]) -> Vec<String> {
        topics.iter().map(|topic| self.shared.names.address(topic).into_channel()).collect()
    }

    fn interest(&self) -> MutexGuard<'_, Interest> {
        self.interest.lock()
    }
}

/// A refusal is an answer; any other error ends the connection.
fn refusal(outcome: RedisResult<()>) -> RedisResult<Option<RedisError>> {
    match outcome {
        Ok(()) => Ok(None),
        Err(error) if is_refusal(&error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

async fn send_changes_on(link: &mut Link, changes: &Changes) -> RedisResult<()> {
    for channels in changes.subscribe.chunks(MAX_CHANNELS) {
        link.subscribe(channels).await?;
    }
    for channels in changes.unsubscribe.chunks(MAX_CHANNELS) {
        link.unsubscribe(channels).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RedisConfig, events};

    #[tokio::test]
    async fn broker_is_not_ready_before_it_subscribes() {
        let shared = Arc::new(Shared::new(RedisConfig::new("redis://127.0.0.1")).unwrap());
        let store = Arc::new(Store::new(Arc::clone(&shared)).unwrap());
        let _subscriber = Subscriber::new(store, &Presence::new(1), events::channel(1).0);
        shared.health.connection().set_up();
        assert!(!shared.health.is_ready(), "no subscription is confirmed yet");
    }
}
