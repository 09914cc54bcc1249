//! A node under test, and waiting with a deadline.

pub(crate) mod roster_copy;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{
    Broker, BrokerError, BrokerEvent, BrokerEvents, HistoryRead, PresenceTracker, PublishOptions,
    Published, RedisBroker, RedisConfig, SetOptions, Status,
};
use chat_core::{
    History, HistoryRange, Occupancy, Occupant, Position, PresenceChange, Retention, RoomId, Topic,
    UserId,
};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// The deadline of the brokers here: failures should not take long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);

pub(crate) struct Node {
    pub(crate) broker: RedisBroker,
    pub(crate) events: BrokerEvents,
    inbox: VecDeque<BrokerEvent>,
}

impl Node {
    pub(crate) async fn start(server: &RedisServer) -> Self {
        Self::with(Self::config(server)).await
    }

    pub(crate) fn config(server: &RedisServer) -> RedisConfig {
        RedisConfig::new(server.url()).deadline(DEADLINE)
    }

    pub(crate) async fn with(config: RedisConfig) -> Self {
        let (broker, events) = RedisBroker::connect(config).await.unwrap();
        Self { broker, events, inbox: VecDeque::new() }
    }

    pub(crate) async fn subscribe(&self, topic: &Topic) -> Result<(), BrokerError> {
        self.broker.subscribe(std::slice::from_ref(topic)).await
    }

    pub(crate) async fn publish(
        &self,
        topic: &Topic,
        text: &str,
    ) -> Result<Published, BrokerError> {
        self.deliver(topic, text, persistent()).await
    }

    pub(crate) async fn deliver(
        &self,
        topic: &Topic,
        text: &str,
        options: PublishOptions,
    ) -> Result<Published, BrokerError> {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        self.broker.publish(topic, payload, options).await?.await
    }

    pub(crate) async fn history(&self, topic: &Topic, range: HistoryRange, limit: u32) -> History {
        let read = HistoryRead::new(topic.clone(), range, limit);
        let histories = self.broker.history(&[read]).await.unwrap();
        assert_eq!(histories.len(), 1);
        histories.into_iter().next().unwrap()
    }

    pub(crate) fn enter(&self, topic: &Topic, name: &str) {
        self.broker.enter(topic, Occupant::new(user(name), info_of(name)));
    }

    pub(crate) fn leave(&self, topic: &Topic, name: &str) {
        self.broker.leave(topic, &user(name));
    }

    /// Who is in `topic`, in their order.
    pub(crate) async fn occupants(&self, topic: &Topic) -> Vec<String> {
        let Occupancy { count, occupants, .. } = self.occupancy(topic, 1_000_000).await;
        assert_eq!(count as usize, occupants.len());
        let mut names = Vec::new();
        for Occupant { user, info, .. } in occupants {
            assert_eq!(info, info_of(user.as_str()));
            names.push(user.as_str().to_owned());
        }
        names.sort();
        names
    }

    pub(crate) async fn occupancy(&self, topic: &Topic, limit: usize) -> Occupancy {
        let topics = std::slice::from_ref(topic);
        self.broker.occupancy(topics, limit).await.unwrap().remove(0)
    }

    pub(crate) async fn wait_for_occupants(&self, topic: &Topic, expected: &[&str]) {
        let what = format!("{expected:?} in {topic}");
        eventually(&what, async || self.occupants(topic).await == expected).await;
    }

    /// `+name` or `-name`, the version and the count of the next event, which must be a
    /// change of presence.
    pub(crate) async fn change(&mut self) -> (String, u64, u32) {
        match self.next().await {
            BrokerEvent::Presence { change, occupant, version, count, .. } => {
                let sign = if change == PresenceChange::Joined { '+' } else { '-' };
                assert_eq!(occupant.info, info_of(occupant.user.as_str()));
                (format!("{sign}{}", occupant.user), version, count)
            }
            other => panic!("expected a change, got {other:?}"),
        }
    }

    /// What has arrived by now: everything before a publication of this moment.
    pub(crate) async fn arrived(&mut self) -> Vec<BrokerEvent> {
        let fence = room("fence");
        self.subscribe(&fence).await.unwrap();
        self.deliver(&fence, "", PublishOptions::default()).await.unwrap();
        let mut events = Vec::new();
        loop {
            match self.next().await {
                BrokerEvent::Publication { topic, .. } if topic == fence => return events,
                event => events.push(event),
            }
        }
    }

    pub(crate) async fn position(&self, topic: &Topic) -> Result<Position, BrokerError> {
        let positions = self.broker.positions(std::slice::from_ref(topic)).await?;
        Ok(positions[0])
    }

    pub(crate) async fn next(&mut self) -> BrokerEvent {
        while self.inbox.is_empty() {
            let mut events = Vec::new();
            let more = timeout(TIMEOUT, self.events.recv(&mut events)).await;
            assert!(more.expect("an event should have come"), "the events ended");
            self.inbox.extend(events);
        }
        self.inbox.pop_front().unwrap()
    }

    /// The payload and position of the next event, which must be a publication.
    pub(crate) async fn message(&mut self) -> (String, Option<Position>) {
        match self.next().await {
            BrokerEvent::Publication { payload, position, .. } => {
                (String::from_utf8(payload.to_vec()).unwrap(), position)
            }
            other => panic!("expected a publication, got {other:?}"),
        }
    }

    pub(crate) async fn wait_for(&self, status: Status) {
        eventually(&format!("{status:?}"), async || self.broker.status() == status).await;
    }
}

/// Whether tests judge how long something took: with `ASSERT_TIMES=1`, as `.ci/run --long` sets it.
/// On a machine that has other work, any server is slow.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("ASSERT_TIMES").is_some_and(|value| value != "0")
}

/// Asserts that something took less than `most`, if [`asserts_times`].
pub(crate) fn assert_within(what: &str, took: Duration, most: Duration) {
    assert!(!asserts_times() || took < most, "{what} took {took:?}, more than {most:?}");
}

/// Waits until `condition` holds, and fails if it does not within [`TIMEOUT`].
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited too long for: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until each node has renewed its lease so often.
pub(crate) async fn until_renewed(server: &RedisServer, times: usize) {
    let leases = Mutex::new(BTreeMap::<String, BTreeSet<String>>::new());
    eventually("renewals", async || {
        let listed = server.command(&["ZRANGE", "chat:nodes", "0", "-1", "WITHSCORES"]).await;
        let words: Vec<&str> = listed.lines().collect();
        let mut leases = leases.lock().unwrap();
        for node in words.chunks_exact(2) {
            leases.entry(node[0].to_owned()).or_default().insert(node[1].to_owned());
        }
        leases.values().all(|ends| ends.len() > times)
    })
    .await;
}

/// Says why a test is skipped, where the harness does not hold it back.
pub(crate) fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// All keys in their order, but for those that connections write to see whether they can.
pub(crate) async fn keys(server: &RedisServer) -> Vec<String> {
    let keys = server.command(&["KEYS", "*"]).await;
    let mut keys: Vec<_> = keys
        .lines()
        .filter(|key| !key.is_empty() && !key.starts_with("chat:{p."))
        .map(str::to_owned)
        .collect();
    keys.sort();
    keys
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn info_of(name: &str) -> Bytes {
    Bytes::from(format!("info: of {name}"))
}

pub(crate) fn room(name: &str) -> Topic {
    Topic::Room(RoomId::new(name).unwrap())
}

/// Stored as long as by default.
pub(crate) fn persistent() -> PublishOptions {
    PublishOptions::default().retention(Retention::default())
}

/// The latest so many, for an hour.
pub(crate) fn latest(messages: u32) -> PublishOptions {
    let ttl = Duration::from_secs(3600);
    let retention = Retention::default().messages(messages).bytes(usize::MAX).ttl(ttl);
    PublishOptions::default().retention(retention)
}

/// The latest that are so many bytes.
pub(crate) fn bytes(bytes: usize) -> PublishOptions {
    PublishOptions::default().retention(Retention::default().bytes(bytes))
}

pub(crate) fn keyed(key: &str) -> PublishOptions {
    persistent().key(key)
}

/// A record that expires after this.
pub(crate) fn lasting(expires_in: Duration) -> SetOptions {
    SetOptions::default().expires_in(expires_in)
}

/// What was said, oldest first.
pub(crate) fn texts(history: &History) -> Vec<String> {
    let text = |payload: &Bytes| String::from_utf8(payload.to_vec()).unwrap();
    history.entries.iter().map(|entry| text(&entry.payload)).collect()
}

pub(crate) fn assert_unavailable<T: std::fmt::Debug>(what: &str, outcome: Result<T, BrokerError>) {
    assert!(matches!(outcome, Err(BrokerError::Unavailable(_))), "{what}: {outcome:?}");
}

/// What is stored of `topic` is at fault, and the error says so.
pub(crate) fn assert_damaged<T: std::fmt::Debug>(topic: &Topic, outcome: Result<T, BrokerError>) {
    let damaged = outcome.as_ref().err().and_then(BrokerError::topic);
    assert_eq!(damaged, Some(topic), "{outcome:?}");
}

pub(crate) fn assert_refused<T: std::fmt::Debug>(what: &str, outcome: Result<T, BrokerError>) {
    assert!(matches!(outcome, Err(BrokerError::Refused(_))), "{what}: {outcome:?}");
}
