//! A node as the conformance suite uses it: every wait has a deadline, every surprise is
//! a panic that says what was expected.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_core::{Position, RoomId, Topic};
use tokio::time::timeout;

use crate::broker::{Broker, Delivery, Published};
use crate::error::BrokerError;
use crate::events::{BrokerEvent, BrokerEvents};
use crate::random;

/// How long one step may take.
const STEP_DEADLINE: Duration = Duration::from_secs(10);

/// A received publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: Topic,
    pub(super) payload: Bytes,
    pub(super) position: Option<Position>,
}

pub(super) struct Node {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) events: BrokerEvents,
    inbox: VecDeque<BrokerEvent>,
    fence: Topic,
}

impl Node {
    pub(super) fn new((broker, events): (Arc<dyn Broker>, BrokerEvents)) -> Self {
        Self { broker, events, inbox: VecDeque::new(), fence: room("fence") }
    }

    pub(super) async fn subscribe(&self, topics: &[Topic]) {
        step("subscribe", self.broker.subscribe(topics)).await;
    }

    pub(super) async fn unsubscribe(&self, topics: &[Topic]) {
        step("unsubscribe", self.broker.unsubscribe(topics)).await;
    }

    pub(super) async fn publish(&self, topic: &Topic, payload: impl Into<Bytes>) -> Position {
        let published = self.deliver(topic, payload, Delivery::kept()).await;
        published.position.expect("a sequenced publication has a position")
    }

    pub(super) async fn deliver(
        &self,
        topic: &Topic,
        payload: impl Into<Bytes>,
        delivery: Delivery,
    ) -> Published {
        let receipt = step("publish", self.broker.publish(topic, payload.into(), delivery)).await;
        step("the receipt", receipt).await
    }

    pub(super) async fn position(&self, topic: &Topic) -> Position {
        let topics = std::slice::from_ref(topic);
        let positions = step("positions", self.broker.positions(topics)).await;
        assert_eq!(positions.len(), 1, "one position for one topic");
        positions[0]
    }

    /// The next publication; a report of lost ones is a failure.
    pub(super) async fn next(&mut self) -> Message {
        while self.inbox.is_empty() {
            let mut events = Vec::new();
            let more = timeout(STEP_DEADLINE, self.events.recv(&mut events)).await;
            assert!(more.expect("a publication should have arrived"), "the events ended");
            self.inbox.extend(events);
        }
        match self.inbox.pop_front() {
            Some(BrokerEvent::Publication { topic, payload, position }) => {
                Message { topic, payload, position }
            }
            other => panic!("expected a publication, got {other:?}"),
        }
    }

    pub(super) async fn take(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.next().await);
        }
        messages
    }

    /// All that arrives before a publication of this moment.
    pub(super) async fn arrived(&mut self) -> Vec<Message> {
        let fence = self.fence.clone();
        self.subscribe(std::slice::from_ref(&fence)).await;
        self.deliver(&fence, Bytes::new(), Delivery::Ephemeral).await;
        let mut messages = Vec::new();
        loop {
            let message = self.next().await;
            if message.topic == fence {
                return messages;
            }
            messages.push(message);
        }
    }

    /// Fails unless nothing arrives before a publication of this moment.
    pub(super) async fn assert_quiet(&mut self, why: &str) {
        let messages = self.arrived().await;
        assert!(messages.is_empty(), "{why}: {messages:?}");
    }
}

/// Awaits something that must succeed, and soon.
pub(super) async fn step<T: Debug>(
    what: &str,
    work: impl Future<Output = Result<T, BrokerError>>,
) -> T {
    match timeout(STEP_DEADLINE, work).await {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => panic!("{what} failed: {error}"),
        Err(_) => panic!("{what} took longer than {STEP_DEADLINE:?}"),
    }
}

/// A room that nobody used before: the suite may run again on a bus that remembers.
pub(super) fn room(name: &str) -> Topic {
    named(name, |name| RoomId::new(name).map(Topic::Room))
}

pub(super) fn named<E: Debug>(name: &str, topic: impl FnOnce(String) -> Result<Topic, E>) -> Topic {
    topic(format!("{name} {:016x}", random::bits())).expect("a valid name")
}
