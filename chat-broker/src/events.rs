//! The one ordered stream of what a node receives from its broker.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use chat_core::{Occupant, Position, PresenceChange, Topic};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// What a broker tells its node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerEvent {
    /// Something was published to a topic that the node is subscribed to.
    Publication {
        /// Where.
        topic: Topic,
        /// What, as it was handed to [`publish`](crate::Broker::publish).
        payload: Bytes,
        /// Its place in the topic's sequence, if it was
        /// [persistent](crate::PublishOptions::retention).
        position: Option<Position>,
    },
    /// A user came to a topic that the node is subscribed to, left it, or has another name there.
    Presence {
        /// Where.
        topic: Topic,
        /// What happened.
        change: PresenceChange,
        /// Who.
        occupant: Occupant,
        /// One above that of the topic's change before.
        version: u64,
        /// How many are there now.
        count: u32,
    },
    /// The node read too slowly: publications to these topics were dropped.
    Lagged(Vec<Topic>),
    /// The connection was lost and is back, and every subscribed topic is subscribed
    /// again: whatever was published to any of them in between was missed, and records may
    /// have changed.
    Interrupted,
    /// A node, maybe this one, has changed the [shared table](crate::SharedTable), and the change can
    /// be read. Every node receives it, whatever it is subscribed to; one event may stand for many.
    RecordsChanged,
}

/// Makes a queue for the events of one node: `capacity` publications and 64 MiB of
/// payload at most.
///
/// The sending side never waits. When the queue is full, publications are dropped and
/// counted, and the receiver gets one [`BrokerEvent::Lagged`] with their topics before
/// anything later.
#[must_use]
pub fn channel(capacity: usize) -> (EventSender, BrokerEvents) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue { open: true, ..Queue::default() }),
        wake: Notify::new(),
        taken: Notify::new(),
        capacity,
    });
    (EventSender { shared: Arc::clone(&shared) }, BrokerEvents { shared })
}

/// Payload that a queue holds at most, in bytes.
const MAX_BYTES: usize = 64 << 20;

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued.
    wake: Notify,
    /// The queue was emptied.
    taken: Notify,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Queue {
    events: Vec<BrokerEvent>,
    bytes: usize,
    /// Topics with dropped publications: bounded by the number of subscribed topics.
    lagged: HashSet<Topic>,
    dropped: u64,
    /// One of the events says that records have changed.
    records_changed: bool,
    open: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    fn is_full(&self, queue: &Queue) -> bool {
        queue.events.len() >= self.capacity || queue.bytes >= MAX_BYTES
    }
}

/// The broker's end. Dropping it ends the events.
#[derive(Debug)]
pub struct EventSender {
    shared: Arc<Shared>,
}

impl EventSender {
    /// Queues a publication, or drops it if the queue is full. Returns whether it was
    /// queued.
    pub fn publication(&self, topic: Topic, payload: Bytes, position: Option<Position>) -> bool {
        self.offer(BrokerEvent::Publication { topic, payload, position })
    }

    /// Queues a change of presence, or drops it if the queue is full. Returns whether it
    /// was queued.
    pub fn presence(
        &self,
        topic: Topic,
        change: PresenceChange,
        occupant: Occupant,
        version: u64,
        count: u32,
    ) -> bool {
        self.offer(BrokerEvent::Presence { topic, change, occupant, version, count })
    }

    fn offer(&self, event: BrokerEvent) -> bool {
        let mut queue = self.shared.queue();
        let (topic, bytes) = match &event {
            BrokerEvent::Publication { topic, payload, .. } => (topic, payload.len()),
            BrokerEvent::Presence { topic, occupant, .. } => (topic, occupant.info.len()),
            BrokerEvent::Lagged(_) | BrokerEvent::Interrupted | BrokerEvent::RecordsChanged => {
                return false;
            }
        };
        if self.shared.is_full(&queue) {
            queue.lagged.insert(topic.clone());
            queue.dropped += 1;
            return false;
        }
        queue.bytes += bytes;
        self.push(queue, event);
        true
    }

    /// Whether the next publication would be dropped.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.is_full(&self.shared.queue())
    }

    /// Waits until the queue is not full, for brokers that can make a publisher wait.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn not_full(&self) {
        loop {
            let taken = self.shared.taken.notified();
            if !self.is_full() {
                return;
            }
            taken.await;
        }
    }

    /// Reports [`BrokerEvent::Interrupted`].
    pub fn interrupted(&self) {
        let queue = self.shared.queue();
        // One report says it all, however often the connection breaks before it is read.
        if queue.events.last() != Some(&BrokerEvent::Interrupted) {
            self.push(queue, BrokerEvent::Interrupted);
        }
    }

    /// Reports [`BrokerEvent::RecordsChanged`].
    pub fn records_changed(&self) {
        let mut queue = self.shared.queue();
        // Whoever reads the first report reads all that was set.
        if !std::mem::replace(&mut queue.records_changed, true) {
            self.push(queue, BrokerEvent::RecordsChanged);
        }
    }

    /// Reports [`BrokerEvent::Lagged`], for a broker that knows of a loss before this queue.
    pub fn lagged(&self, topics: Vec<Topic>) {
        let mut queue = self.shared.queue();
        // One report names a topic once, however much was lost before it is read.
        match queue.events.last_mut() {
            Some(BrokerEvent::Lagged(told)) => {
                let told_before: HashSet<_> = told.iter().cloned().collect();
                told.extend(topics.into_iter().filter(|topic| !told_before.contains(topic)));
            }
            _ => self.push(queue, BrokerEvent::Lagged(topics)),
        }
    }

    /// How many publications were dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.queue().dropped
    }

    /// Ends the events: the receiver gets what is queued, then nothing more.
    pub fn close(&self) {
        self.shared.queue().open = false;
        self.shared.wake.notify_one();
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, event: BrokerEvent) {
        queue.events.push(event);
        let was_empty = queue.events.len() == 1;
        drop(queue);
        if was_empty {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        self.close();
    }
}

/// The node's end.
#[derive(Debug)]
pub struct BrokerEvents {
    shared: Arc<Shared>,
}

impl BrokerEvents {
    /// Waits for events, then moves all that are queued into `events`, in order. Returns
    /// `false` when there will be no more.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped has taken nothing.
    pub async fn recv(&mut self, events: &mut Vec<BrokerEvent>) -> bool {
        loop {
            if self.try_recv(events) {
                return true;
            }
            if !self.shared.queue().open {
                // What was queued before the end is still to be had.
                return self.try_recv(events);
            }
            self.shared.wake.notified().await;
        }
    }

    /// Moves the events that are queued now into `events`. Returns whether there were any.
    pub fn try_recv(&mut self, events: &mut Vec<BrokerEvent>) -> bool {
        let mut queue = self.shared.queue();
        let before = events.len();
        if events.is_empty() {
            // The two vectors change places, so neither is allocated anew.
            std::mem::swap(events, &mut queue.events);
        } else {
            events.append(&mut queue.events);
        }
        queue.bytes = 0;
        queue.records_changed = false;
        self.shared.taken.notify_waiters();
        if !queue.lagged.is_empty() {
            events.push(BrokerEvent::Lagged(queue.lagged.drain().collect()));
        }
        events.len() > before
    }
}

#[cfg(test)]
mod tests {
    use chat_core::RoomId;

    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::Room(RoomId::new(name).unwrap())
    }

    #[tokio::test]
    async fn full_queue_drops_and_reports_lag_in_order() {
        let (sender, mut events) = channel(2);
        for n in 0..4u8 {
            sender.publication(topic("r"), Bytes::from(vec![n]), None);
        }
        let mut got = Vec::new();
        assert!(events.recv(&mut got).await);
        assert_eq!(got.len(), 3);
        assert_eq!(got[2], BrokerEvent::Lagged(vec![topic("r")]));
        assert_eq!(sender.dropped(), 2);

        got.clear();
        sender.publication(topic("r"), Bytes::new(), None);
        assert!(events.recv(&mut got).await);
        assert_eq!(got.len(), 1);
    }

    #[tokio::test]
    async fn records_changed_is_queued_once_even_if_full() {
        let (sender, mut events) = channel(1);
        for _ in 0..2 {
            for _ in 0..3 {
                sender.records_changed();
                sender.publication(topic("r"), Bytes::new(), None);
            }
            let mut got = Vec::new();
            assert!(events.recv(&mut got).await);
            assert_eq!(got[0], BrokerEvent::RecordsChanged);
            assert_eq!(got[1..], [BrokerEvent::Lagged(vec![topic("r")])]);
        }
    }

    #[tokio::test]
    async fn queued_events_precede_the_end() {
        let (sender, mut events) = channel(2);
        sender.interrupted();
        sender.interrupted();
        drop(sender);
        let mut got = Vec::new();
        assert!(events.recv(&mut got).await);
        assert_eq!(got, [BrokerEvent::Interrupted]);
        assert!(!events.recv(&mut Vec::new()).await);
    }
}
