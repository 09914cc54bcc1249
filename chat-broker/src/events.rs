//! The ordered stream of events that a node receives from its broker.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use chat_core::{Occupant, Position, PresenceChange, Topic};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// An event that a node receives from its broker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerEvent {
    /// A message was published to a topic that the node is subscribed to.
    Publication {
        /// The topic that the message was published to.
        topic: Topic,
        /// The payload that was passed to [`publish`](crate::Broker::publish).
        payload: Bytes,
        /// The message's position in the topic's sequence; `None` if it is not
        /// [persistent](crate::PublishOptions::retention).
        position: Option<Position>,
    },
    /// A user joined a topic that the node is subscribed to, left it, or changed information there.
    Presence {
        /// The topic that the user joined, left or is in.
        topic: Topic,
        /// Whether the user joined, left or changed information.
        change: PresenceChange,
        /// The user, with the information after the change.
        occupant: Occupant,
        /// The version of the change: one above that of the topic's change before.
        version: u64,
        /// The number of users in the topic after the change.
        count: u32,
    },
    /// The node read its events too slowly: publications or presence changes of these topics were
    /// dropped.
    Lagged(Vec<Topic>),
    /// The connection to the backend was lost and is back, and all topics are subscribed again. The
    /// node has missed what was published to them in between, and records may have changed.
    Interrupted,
    /// A node, maybe this one, has changed the [shared table](crate::SharedTable), and the change
    /// can be read. All nodes receive the event, without a subscription; one may cover many
    /// changes.
    RecordsChanged,
}

/// Makes a queue for the events of one node: at most `capacity` publications and presence changes,
/// and 64 MiB of payload.
///
/// The sending side never waits. When the queue is full, events are dropped and counted, and the
/// receiver gets one [`BrokerEvent::Lagged`] with their topics before anything later.
///
/// ```
/// use bytes::Bytes;
/// use chat_broker::{BrokerEvent, events};
/// use chat_core::{RoomId, Topic};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), chat_core::InvalidName> {
/// let (sender, mut events) = events::channel(1);
/// let lobby = Topic::Room(RoomId::new("lobby")?);
/// assert!(sender.publication(lobby.clone(), Bytes::from_static(b"queued"), None));
/// assert!(!sender.publication(lobby.clone(), Bytes::from_static(b"dropped"), None));
///
/// let mut batch = Vec::new();
/// assert!(events.recv(&mut batch).await);
/// assert_eq!(batch[1], BrokerEvent::Lagged(vec![lobby]));
///
/// drop(sender);
/// batch.clear();
/// assert!(!events.recv(&mut batch).await);
/// # Ok(())
/// # }
/// ```
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

/// Maximum payload in a queue, in bytes.
const MAX_BYTES: usize = 64 << 20;

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// An event was queued.
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
    /// [`BrokerEvent::RecordsChanged`] is queued.
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

/// The broker's end of the queue. Dropping it ends the events.
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
        // One event covers all interruptions before it is read.
        if queue.events.last() != Some(&BrokerEvent::Interrupted) {
            self.push(queue, BrokerEvent::Interrupted);
        }
    }

    /// Reports [`BrokerEvent::RecordsChanged`].
    pub fn records_changed(&self) {
        let mut queue = self.shared.queue();
        // The reader of the first event reads all changes.
        if !std::mem::replace(&mut queue.records_changed, true) {
            self.push(queue, BrokerEvent::RecordsChanged);
        }
    }

    /// Reports [`BrokerEvent::Lagged`], for a broker that knows of a loss before this queue.
    pub fn lagged(&self, topics: Vec<Topic>) {
        let mut queue = self.shared.queue();
        // One event names a topic once: the queue stays bounded by the number of topics, whatever
        // was lost before it is read.
        match queue.events.last_mut() {
            Some(BrokerEvent::Lagged(named)) => {
                let known: HashSet<_> = named.iter().cloned().collect();
                named.extend(topics.into_iter().filter(|topic| !known.contains(topic)));
            }
            _ => self.push(queue, BrokerEvent::Lagged(topics)),
        }
    }

    /// How many publications and presence changes were dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.queue().dropped
    }

    /// Ends the events: the receiver gets those that are queued, then the end.
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

/// The node's end of the queue.
#[derive(Debug)]
pub struct BrokerEvents {
    shared: Arc<Shared>,
}

impl BrokerEvents {
    /// Waits for events, then moves all that are queued into `events`, in order. Returns
    /// `false` after the last one.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped has taken no event.
    pub async fn recv(&mut self, events: &mut Vec<BrokerEvent>) -> bool {
        loop {
            if self.try_recv(events) {
                return true;
            }
            if !self.shared.queue().open {
                // An event may have been queued between `try_recv` and the end.
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
            // The two vectors are swapped, so neither is allocated again.
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
