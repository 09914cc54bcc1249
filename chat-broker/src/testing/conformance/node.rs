//! A node as the conformance suite uses it: every wait has a deadline, every surprise is
//! a panic that says what was expected.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_core::{
    History, HistoryRange, Occupancy, Occupant, Position, PresenceChange, Retention, RoomId, Topic,
    UserId,
};
use tokio::time::timeout;

use super::Bus;
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::events::{BrokerEvent, BrokerEvents};
use crate::history::HistoryRead;
use crate::presence::PresenceTracker;
use crate::publish::{PublishOptions, Published};
use crate::random;
use crate::table::{Records, SetOptions, SharedTable};

/// How long one step may take.
pub(super) const STEP_DEADLINE: Duration = Duration::from_secs(10);

/// A received publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: Topic,
    pub(super) payload: Bytes,
    pub(super) position: Option<Position>,
}

/// A change of who is in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) topic: Topic,
    pub(super) change: PresenceChange,
    pub(super) occupant: Occupant,
    pub(super) version: u64,
    pub(super) count: u32,
}

pub(super) struct Node {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) events: BrokerEvents,
    inbox: VecDeque<BrokerEvent>,
    fence: Topic,
}

impl Node {
    pub(super) async fn connect(bus: &impl Bus) -> Self {
        let (broker, events) = bus.connect().await;
        Self { broker, events, inbox: VecDeque::new(), fence: room("fence") }
    }

    pub(super) fn presence(&self) -> &dyn PresenceTracker {
        self.broker.presence().expect("this broker has no presence: leave the part out")
    }

    pub(super) fn table(&self) -> &dyn SharedTable {
        self.broker.table().expect("this broker has no shared table: leave the part out")
    }

    pub(super) async fn subscribe(&self, topics: &[Topic]) {
        step("subscribe", self.broker.subscribe(topics)).await;
    }

    pub(super) async fn unsubscribe(&self, topics: &[Topic]) {
        step("unsubscribe", self.broker.unsubscribe(topics)).await;
    }

    pub(super) async fn publish(&self, topic: &Topic, payload: impl Into<Bytes>) -> Position {
        let published = self.deliver(topic, payload, persistent()).await;
        published.position.expect("a sequenced publication has a position")
    }

    pub(super) async fn deliver(
        &self,
        topic: &Topic,
        payload: impl Into<Bytes>,
        options: PublishOptions,
    ) -> Published {
        let receipt = step("publish", self.broker.publish(topic, payload.into(), options)).await;
        step("the receipt", receipt).await
    }

    pub(super) async fn position(&self, topic: &Topic) -> Position {
        let topics = std::slice::from_ref(topic);
        let positions = step("positions", self.broker.positions(topics)).await;
        assert_eq!(positions.len(), 1, "one position for one topic");
        positions[0]
    }

    pub(super) async fn history(&self, topic: &Topic, range: HistoryRange, limit: u32) -> History {
        let read = HistoryRead::new(topic.clone(), range, limit);
        let mut histories = step("history", self.broker.history(&[read])).await;
        assert_eq!(histories.len(), 1, "one answer to one read");
        histories.remove(0)
    }

    pub(super) async fn occupancy(&self, topic: &Topic, limit: usize) -> Occupancy {
        let topics = std::slice::from_ref(topic);
        let mut occupancies = step("occupancy", self.presence().occupancy(topics, limit)).await;
        assert_eq!(occupancies.len(), 1, "one answer for one topic");
        let mut occupancy = occupancies.remove(0);
        occupancy.occupants.sort_by(|a, b| a.user.cmp(&b.user));
        occupancy
    }

    pub(super) async fn set_record(&self, key: &str, value: impl Into<Bytes>, lasts: Duration) {
        let options = SetOptions::default().expires_in(lasts);
        step("set a record", self.table().set(key, value.into(), options)).await;
    }

    pub(super) async fn remove_record(&self, key: &str) {
        step("remove a record", self.table().remove(key)).await;
    }

    pub(super) async fn records(&self, after: u64) -> Records {
        step("records", self.table().changes_since(after)).await
    }

    /// The next event of any kind.
    pub(super) async fn event(&mut self) -> BrokerEvent {
        self.event_within(STEP_DEADLINE).await
    }

    pub(super) async fn event_within(&mut self, deadline: Duration) -> BrokerEvent {
        while self.inbox.is_empty() {
            let mut events = Vec::new();
            let more = timeout(deadline, self.events.recv(&mut events)).await;
            assert!(more.expect("an event should have arrived"), "the events ended");
            self.inbox.extend(events);
        }
        self.inbox.pop_front().expect("it is not empty")
    }

    /// The next event, which is a publication: a report of lost ones is a failure.
    pub(super) async fn next(&mut self) -> Message {
        message(self.event().await)
    }

    pub(super) async fn take(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.next().await);
        }
        messages
    }

    /// The next event, which is a presence change.
    pub(super) async fn change(&mut self) -> Change {
        change(self.event().await)
    }

    /// All that arrives before a publication of this moment.
    pub(super) async fn arrived_events(&mut self) -> Vec<BrokerEvent> {
        let fence = self.fence.clone();
        self.subscribe(std::slice::from_ref(&fence)).await;
        self.deliver(&fence, Bytes::new(), PublishOptions::default()).await;
        let mut events = Vec::new();
        loop {
            match self.event().await {
                BrokerEvent::Publication { topic, .. } if topic == fence => return events,
                BrokerEvent::Lagged(topics) if topics.contains(&fence) => lagged(&topics),
                event => events.push(event),
            }
        }
    }

    /// All that arrives before a publication of this moment, which is publications.
    pub(super) async fn arrived(&mut self) -> Vec<Message> {
        self.arrived_events().await.into_iter().map(message).collect()
    }

    /// Fails unless nothing arrives before a publication of this moment.
    pub(super) async fn assert_quiet(&mut self, why: &str) {
        let events = self.arrived_events().await;
        assert!(events.is_empty(), "{why}: {events:?}");
    }
}

fn message(event: BrokerEvent) -> Message {
    match event {
        BrokerEvent::Publication { topic, payload, position } => {
            Message { topic, payload, position }
        }
        BrokerEvent::Lagged(topics) => lagged(&topics),
        other => panic!("expected a publication, got {other:?}"),
    }
}

fn lagged(topics: &[Topic]) -> ! {
    panic!("publications to {} topics were dropped: the node's queue is too small", topics.len());
}

pub(super) fn change(event: BrokerEvent) -> Change {
    match event {
        BrokerEvent::Presence { topic, change, occupant, version, count } => {
            Change { topic, change, occupant, version, count }
        }
        other => panic!("expected a presence change, got {other:?}"),
    }
}

/// Awaits something that must succeed, and soon.
pub(super) async fn step<T: Debug>(
    what: &str,
    work: impl Future<Output = Result<T, BrokerError>>,
) -> T {
    // A broker that never waits would never let a deadline end what makes no progress.
    tokio::task::coop::consume_budget().await;
    match timeout(STEP_DEADLINE, work).await {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => panic!("{what} failed: {error}"),
        Err(_) => panic!("{what} took longer than {STEP_DEADLINE:?}"),
    }
}

/// Stored as long as by default.
pub(super) fn persistent() -> PublishOptions {
    PublishOptions::default().retention(Retention::default())
}

pub(super) fn ephemeral() -> PublishOptions {
    PublishOptions::default()
}

/// A room that was not used before: the suite may run again on a bus that keeps its data.
pub(super) fn room(name: &str) -> Topic {
    named(name, |name| RoomId::new(name).map(Topic::Room))
}

pub(super) fn named<E: Debug>(name: &str, topic: impl FnOnce(String) -> Result<Topic, E>) -> Topic {
    topic(format!("{name} {:016x}", random::bits())).expect("a valid name")
}

pub(super) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

/// An occupant whose information is the name.
pub(super) fn occupant(name: &str) -> Occupant {
    Occupant::new(user(name), Bytes::from(format!("about {name}")))
}
