//! One topic on the bus: its subscribers, position, history and occupants.

use std::sync::Arc;

use bytes::Bytes;
use chat_core::{
    Epoch, History, Occupancy, Occupant, Position, PresenceChange, Retention, Topic, UserId,
};
use tokio::time::Instant;

use super::history::{Budget, Log};
use super::presence::Occupants;
use crate::events::EventSender;
use crate::history::HistoryRead;
use crate::random;

#[derive(Debug, Default)]
pub(super) struct TopicState {
    pub(super) subscribers: Vec<(u64, Arc<EventSender>)>,
    pub(super) position: Position,
    /// The time of the last publication, by the clock of the bus.
    pub(super) used: u64,
    pub(super) log: Option<Box<Log>>,
    pub(super) occupants: Occupants,
    /// The version of the latest change of the occupants, or of a topic that was dropped before.
    pub(super) version: u64,
}

impl TopicState {
    /// Assigns a publication its position, and stores it.
    pub(super) fn keep(
        &mut self,
        payload: Bytes,
        retention: Retention,
        budget: &Arc<Budget>,
        now: Instant,
    ) -> Position {
        if self.position == Position::default() {
            self.position.epoch = Epoch::from_random(random::bits());
        }
        self.position.offset += 1;
        self.used = budget.tick();
        self.expire(now);
        let log = self.log.get_or_insert_with(|| Box::new(Log::new(budget)));
        log.push(payload, retention, now);
        self.position
    }

    pub(super) fn read(&mut self, read: &HistoryRead, now: Instant) -> History {
        self.expire(now);
        let position = self.position;
        let entries = match &self.log {
            Some(log) => log.read(position.offset, read.range, read.limit),
            None => Vec::new(),
        };
        History::new(position, entries)
    }

    /// Loses the position and the history.
    #[cfg(feature = "testing")]
    pub(super) fn lose(&mut self) {
        self.position = Position::default();
        self.log = None;
    }

    fn expire(&mut self, now: Instant) {
        self.log.take_if(|log| log.is_expired(now));
    }

    pub(super) fn subscribe(&mut self, node: u64, events: &Arc<EventSender>) {
        if !self.subscribers.iter().any(|(subscriber, _)| *subscriber == node) {
            self.subscribers.push((node, Arc::clone(events)));
        }
    }

    pub(super) fn unsubscribe(&mut self, node: u64) {
        self.subscribers.retain(|(subscriber, _)| *subscriber != node);
    }

    pub(super) fn enter(&mut self, topic: &Topic, node: u64, occupant: Occupant) {
        if let Some(change) = self.occupants.enter(node, &occupant) {
            self.announce(topic, change, &occupant);
        }
    }

    /// Returns the version of the event, if there is one.
    pub(super) fn leave(&mut self, topic: &Topic, node: u64, user: &UserId) -> Option<u64> {
        let left = self.occupants.leave(node, user)?;
        self.announce(topic, PresenceChange::Left, &left);
        Some(self.version)
    }

    /// Removes a node that was closed, with its users.
    pub(super) fn remove_node(&mut self, topic: &Topic, node: u64) {
        self.unsubscribe(node);
        for user in self.occupants.of_node(node) {
            self.leave(topic, node, &user);
        }
    }

    fn announce(&mut self, topic: &Topic, change: PresenceChange, occupant: &Occupant) {
        self.version += 1;
        let (version, count) = (self.version, self.occupants.count());
        for (_, events) in &self.subscribers {
            events.presence(topic.clone(), change, occupant.clone(), version, count);
        }
    }

    pub(super) fn occupancy(&self, limit: usize) -> Occupancy {
        let count = self.occupants.count();
        let is_listed = count as usize <= limit;
        Occupancy::new(
            if count == 0 { 0 } else { self.version },
            count,
            if is_listed { self.occupants.list() } else { Vec::new() },
        )
    }

    /// Whether a node is subscribed or holds users.
    pub(super) fn is_held(&self) -> bool {
        !self.subscribers.is_empty() || !self.occupants.is_empty()
    }

    /// Whether nothing is lost if the topic is dropped.
    pub(super) fn is_void(&self) -> bool {
        !self.is_held() && self.position == Position::default()
    }
}
