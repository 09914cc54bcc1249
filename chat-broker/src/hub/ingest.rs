//! From the broker's events to the rooms.

use std::sync::atomic::Ordering;

use chat_core::{Deliver, Topic};

use super::room::Accepted;
use super::{Counters, Shared};
use crate::events::{BrokerEvent, BrokerEvents};

/// Publications that wait for fan-out, over all topics, before no more are taken from the
/// broker; its own queue is bounded in turn.
const MAX_BACKLOG: usize = 16_384;

/// Works until the events end.
pub(super) async fn run<M: Deliver + Clone>(shared: &Shared<M>, mut events: BrokerEvents) {
    let mut batch = Vec::new();
    while events.recv(&mut batch).await {
        shared.counters.ingesting.store(true, Ordering::Relaxed);
        for event in batch.drain(..) {
            match event {
                BrokerEvent::Publication { topic, payload, position } => {
                    shared.ingest(&topic, |room| room.accept(payload, position));
                }
                BrokerEvent::Presence { .. } => {}
                BrokerEvent::Lagged(topics) => shared.edges.check(topics),
                BrokerEvent::Interrupted => shared.edges.check(shared.registry.topics()),
            }
        }
        shared.fan_out.below(MAX_BACKLOG).await;
        Counters::add(&shared.counters.rounds, 1);
        shared.counters.ingesting.store(false, Ordering::Relaxed);
    }
}

impl<M: Deliver + Clone> Shared<M> {
    /// Hands something to a topic's room, if it has members, and has it served.
    fn ingest(&self, topic: &Topic, accept: impl FnOnce(&mut super::RoomState<M>) -> Accepted) {
        Counters::add(&self.counters.received, 1);
        let accepted = self.registry.update(topic, |room| {
            let accepted = accept(&mut room.state);
            self.fan_out.enqueue(topic, &mut room.state);
            accepted
        });
        match accepted {
            Some(Accepted::AfterGap) => Counters::add(&self.counters.gaps, 1),
            Some(Accepted::Repeat) => Counters::add(&self.counters.repeats, 1),
            Some(Accepted::InOrder) | None => {}
        }
    }
}
