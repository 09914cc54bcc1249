//! Members that record what they receive, and a hub over a broker with faults.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::testing::FaultyBroker;
use chat_broker::{
    Broker, BrokerError, Hub, HubConfig, JoinOptions, Membership, MemoryBroker, MemoryBus,
    PublishOptions, Snapshot,
};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Event, Message, Occupant, Position,
    Presence, PresenceChange, Retention, RoomId, Sender, Topic, UserId, envelope,
};
use tokio::sync::mpsc::{self, error::TrySendError};

/// A member that records what it receives: messages with their offsets, gaps as `gap N`, joins,
/// leaves and new names as `+name`, `-name` and `~name`, counts as `=N`.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    received: mpsc::Sender<String>,
    pub(crate) closed: Arc<Mutex<Option<CloseReason>>>,
}

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        for (event, position) in batch.events() {
            match self.received.try_send(told(&event, position)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return DeliveryOutcome::Full,
                Err(TrySendError::Closed(_)) => return DeliveryOutcome::Closed,
            }
        }
        DeliveryOutcome::Queued
    }

    fn close(&self, reason: CloseReason) {
        *self.closed.lock().unwrap() = Some(reason);
    }

    async fn drained(&self) {
        // All of its queue is free, or the inbox was dropped.
        let _ = self.received.reserve_many(self.received.max_capacity()).await;
    }
}

fn told(event: &Event<'_>, position: Option<Position>) -> String {
    match event {
        Event::Message(message) => match position {
            Some(position) => format!("{} {}", position.offset, message.text),
            None => message.text.to_owned(),
        },
        Event::Gap(Some(position)) => format!("gap {}", position.offset),
        Event::Gap(None) => "gap".to_owned(),
        Event::Presence(Presence { user, change: PresenceChange::Joined, .. }) => {
            format!("+{}", user.name)
        }
        Event::Presence(Presence { user, change: PresenceChange::Renamed, .. }) => {
            format!("~{}", user.name)
        }
        Event::Presence(Presence { user, .. }) => format!("-{}", user.name),
        Event::Count(count) => format!("={count}"),
        other => format!("{other:?}"),
    }
}

pub(crate) struct Inbox(pub(crate) mpsc::Receiver<String>);

impl Inbox {
    pub(crate) async fn next(&mut self) -> String {
        let received = tokio::time::timeout(Duration::from_secs(20), self.0.recv());
        received.await.expect("an event").expect("a member")
    }

    /// Wants exactly this next.
    pub(crate) async fn expect(&mut self, all: &[&str]) {
        for told in all {
            assert_eq!(self.next().await, *told);
        }
    }

    /// Wants nothing for a while; with paused time it costs none.
    pub(crate) async fn expect_silence(&mut self) {
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(self.0.try_recv().ok(), None);
    }
}

pub(crate) fn member(capacity: usize) -> (Member, Inbox) {
    let (received, inbox) = mpsc::channel(capacity);
    (Member { received, closed: Arc::default() }, Inbox(inbox))
}

pub(crate) fn start(bus: &MemoryBus) -> Hub<Member> {
    start_with(bus, HubConfig::default()).0
}

/// A hub, and the broker with faults below it.
pub(crate) fn start_with<M: Deliver + Clone + 'static>(
    bus: &MemoryBus,
    config: HubConfig,
) -> (Hub<M>, Arc<FaultyBroker>) {
    let (broker, events) = bus.connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    let (hub, driver) = Hub::new(Arc::clone(&broker) as Arc<dyn Broker>, events, config);
    tokio::spawn(driver.run());
    (hub, broker)
}

/// A hub with faults, and another node that publishes.
pub(crate) fn faulty() -> (Hub<Member>, Arc<FaultyBroker>, MemoryBroker) {
    faulty_with(HubConfig::default())
}

pub(crate) fn faulty_with(config: HubConfig) -> (Hub<Member>, Arc<FaultyBroker>, MemoryBroker) {
    let bus = MemoryBus::new();
    let (hub, broker) = start_with(&bus, config);
    (hub, broker, bus.connect().0)
}

pub(crate) fn room(name: &str) -> Topic {
    Topic::Room(RoomId::new(name).unwrap())
}

/// Stored as long as by default.
pub(crate) fn persistent() -> PublishOptions {
    PublishOptions::default().retention(Retention::default())
}

pub(crate) fn said(text: &str) -> Bytes {
    let user = Sender::new("u", "U", "#FFFFFF");
    envelope::encode(&Event::Message(Message::new(user, text, 0)))
}

pub(crate) async fn say(broker: &impl Broker, topic: &Topic, text: &str) {
    say_keeping(broker, topic, text, Retention::default()).await;
}

/// Publishes in a room that keeps so much; returns the position of the message.
pub(crate) async fn say_keeping(
    broker: &impl Broker,
    topic: &Topic,
    text: &str,
    retention: Retention,
) -> Position {
    let options = PublishOptions::default().retention(retention);
    let published = broker.publish(topic, said(text), options).await.unwrap().await.unwrap();
    published.position.expect("a position")
}

/// Joins without an occupant; returns the membership, its inbox, and the offset at the join.
pub(crate) async fn join(
    hub: &Hub<Member>,
    topic: &Topic,
    id: u64,
) -> (Membership<Member>, Inbox, u64) {
    let (member, inbox) = member(10_000);
    let (tell, told) = std::sync::mpsc::channel();
    let on_snapshot = move |snapshot: &Snapshot<'_, Member>| {
        tell.send(snapshot.position.map_or(0, |position| position.offset)).unwrap();
    };
    let joining =
        hub.join_with(topic, ConnectionId::new(id), member, JoinOptions::default(), on_snapshot);
    let membership = joining.await.unwrap();
    (membership, inbox, told.try_recv().expect("a snapshot before join returned"))
}

/// Tries to join without an occupant.
pub(crate) async fn try_join(
    hub: &Hub<Member>,
    topic: &Topic,
    id: u64,
) -> Result<Membership<Member>, BrokerError> {
    hub.join(topic, ConnectionId::new(id), member(8).0, JoinOptions::default()).await
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn occupant(name: &str) -> Occupant {
    named(name, name)
}

/// A user under a name that is not the id.
pub(crate) fn named(id: &str, name: &str) -> Occupant {
    let sender = Sender::new(id, name, "#FFFFFF");
    let (change, announced) = (PresenceChange::Joined, true);
    let info = envelope::encode(&Event::Presence(Presence::new(sender, change, announced)));
    Occupant::new(user(id), info)
}

/// Joins with an occupant; returns the membership and its inbox.
pub(crate) async fn enter(
    hub: &Hub<Member>,
    topic: &Topic,
    id: u64,
    name: &str,
) -> (Membership<Member>, Inbox) {
    enter_as(hub, topic, id, occupant(name)).await
}

pub(crate) async fn enter_as(
    hub: &Hub<Member>,
    topic: &Topic,
    id: u64,
    occupant: Occupant,
) -> (Membership<Member>, Inbox) {
    let (member, inbox) = member(10_000);
    let options = JoinOptions::default().occupant(occupant);
    let joining = hub.join(topic, ConnectionId::new(id), member, options);
    (joining.await.unwrap(), inbox)
}
