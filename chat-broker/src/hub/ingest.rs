//! From the broker's events to the rooms.

use chat_core::{Deliver, Topic};

use super::room::RoomState;
use super::sequence::Ingested;
use super::{Counters, Shared};
use crate::events::{BrokerEvent, BrokerEvents};

/// Publications that wait for fan-out, over all topics, at which the hub stops taking events from
/// the broker. The queue of events is bounded, too, and reports what it drops.
const MAX_BACKLOG: usize = 16_384;

/// Runs until the events end.
pub(super) async fn run<M: Deliver + Clone>(shared: &Shared<M>, mut events: BrokerEvents) {
    let mut batch = Vec::new();
    while events.recv(&mut batch).await {
        for event in batch.drain(..) {
            shared.ingest(event);
        }
        shared.fan_out.below(MAX_BACKLOG).await;
    }
}

impl<M: Deliver + Clone> Shared<M> {
    fn ingest(&self, event: BrokerEvent) {
        match event {
            BrokerEvent::Publication { topic, payload, position } => {
                Counters::add(&self.counters.received, 1);
                self.take_in(&topic, |room| room.accept(payload, position));
            }
            BrokerEvent::Presence { topic, change, occupant, version, count } => {
                let occupant = self.presence.shared(&topic, occupant);
                self.take_in(&topic, |room| {
                    room.change_presence(version, count, change, occupant);
                    Ingested::default()
                });
            }
            BrokerEvent::Lagged(topics) => {
                for topic in topics {
                    self.take_in(&topic, RoomState::mark_stale);
                }
            }
            BrokerEvent::Interrupted => self.interrupted(),
            BrokerEvent::RecordsChanged => self.records_changed.notify_one(),
        }
    }

    /// Passes an event to a topic's room, if it has members, and marks the topic for what the room
    /// then needs.
    fn take_in(&self, topic: &Topic, take: impl FnOnce(&mut RoomState<M>) -> Ingested) {
        let taken = self.update(topic, |room, _| {
            let taken = take(room);
            // A room that is not live sends no count: its members get one with their snapshots.
            let count_changed = room.sequence.count_changed() && !room.is_waiting();
            (taken, room.sequence.wants_reads(), count_changed)
        });
        let Some((taken, wants_reads, count_changed)) = taken else { return };
        self.count(taken);
        if wants_reads {
            self.dirty_topics.needs_read(topic.clone());
        }
        if count_changed {
            self.dirty_topics.count_changed(topic.clone());
        }
    }

    /// Rooms with a history compare their positions with the broker's, many in one call. A topic
    /// without one cannot know what it missed: the members of a room, and the followers of any topic,
    /// get a gap.
    fn interrupted(&self) {
        for topic in self.registry.topics() {
            if topic.as_room().is_some_and(|room| self.config.history.of(room).is_some()) {
                self.dirty_topics.needs_check(topic.clone());
            }
            self.take_in(&topic, RoomState::interrupt);
        }
        self.dirty_topics.interrupted();
        self.records_changed.notify_one();
    }
}
