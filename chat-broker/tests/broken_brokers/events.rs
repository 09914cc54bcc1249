//! Faults of the way from a broker to its node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_broker::{BrokerEvent, BrokerEvents, EventSender};
use chat_core::{Position, PresenceChange, Topic};
use tokio::time::sleep;

use crate::Fault;

/// Carries the events of the `nth` node until they end.
pub(crate) async fn carry(
    fault: Option<Fault>,
    nth: usize,
    mut from: BrokerEvents,
    to: Arc<EventSender>,
) {
    // The last version before a topic that was empty had an occupant again.
    let mut bases = HashMap::new();
    let (mut batch, mut carried) = (Vec::new(), 0);
    while from.recv(&mut batch).await {
        carried += batch.len();
        if fault == Some(Fault::SwapsPublications) && nth % 2 == 1 && is_pair(&batch) {
            batch.swap(0, 1);
        }
        for mut event in batch.drain(..) {
            match (fault, &mut event) {
                (Some(Fault::LosesSilently), BrokerEvent::Lagged(_)) => continue,
                (Some(Fault::NotifiesSomeNodes), BrokerEvent::RecordsChanged) if nth % 2 == 1 => {
                    continue;
                }
                (
                    Some(Fault::LosesRenames),
                    BrokerEvent::Presence { change: PresenceChange::Renamed, .. },
                ) => continue,
                (Some(Fault::ChangesPayloads), BrokerEvent::Publication { payload, .. }) => {
                    *payload = as_text(payload);
                }
                (
                    Some(Fault::SkipsOffsets),
                    BrokerEvent::Publication { position: Some(position), .. },
                ) => *position = skipping(*position),
                (
                    Some(Fault::DeliversTwice),
                    BrokerEvent::Publication { position: Some(Position { offset, .. }), .. },
                ) if offset.is_multiple_of(10) => forward(&to, event.clone()),
                (Some(Fault::SkipsVersions), BrokerEvent::Presence { version, .. }) => {
                    *version *= 2;
                }
                (Some(Fault::ChangesInformation), BrokerEvent::Presence { occupant, .. }) => {
                    occupant.info = as_text(&occupant.info);
                }
                (
                    Some(Fault::RestartsVersions),
                    BrokerEvent::Presence { topic, change, version, count, .. },
                ) => restart(&mut bases, topic, (*change, *count), version),
                _ => {}
            }
            forward(&to, event);
        }
        if fault == Some(Fault::LosesSilently) && carried > 1000 {
            // The queue of the broker behind this fills.
            sleep(Duration::from_secs(1)).await;
            carried = 0;
        }
    }
    to.close();
}

/// Whether it begins with two publications to one topic.
fn is_pair(batch: &[BrokerEvent]) -> bool {
    match batch {
        [
            BrokerEvent::Publication { topic: one, .. },
            BrokerEvent::Publication { topic: other, .. },
            ..,
        ] => one == other,
        _ => false,
    }
}

fn restart(
    bases: &mut HashMap<Topic, u64>,
    topic: &Topic,
    (change, count): (PresenceChange, u32),
    version: &mut u64,
) {
    if change == PresenceChange::Joined && count == 1 {
        bases.insert(topic.clone(), *version - 1);
    }
    *version -= bases.get(topic).copied().unwrap_or_default();
}

fn forward(to: &EventSender, event: BrokerEvent) {
    match event {
        BrokerEvent::Publication { topic, payload, position } => {
            to.publication(topic, payload, position);
        }
        BrokerEvent::Presence { topic, change, occupant, version, count } => {
            to.presence(topic, change, occupant, version, count);
        }
        BrokerEvent::Lagged(topics) => to.lagged(topics),
        BrokerEvent::Interrupted => to.interrupted(),
        BrokerEvent::RecordsChanged => to.records_changed(),
        other => panic!("{other:?}"),
    }
}

/// A position that leaves out every tenth offset.
pub(crate) fn skipping(position: Position) -> Position {
    Position { offset: position.offset + position.offset / 10, ..position }
}

pub(crate) fn as_text(bytes: &Bytes) -> Bytes {
    String::from_utf8_lossy(bytes).into_owned().into()
}
