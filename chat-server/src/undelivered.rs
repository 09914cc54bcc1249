//! Direct messages that were dropped because the recipient's outbox was full: their senders are
//! informed, whichever server they are on.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use chat_broker::{Broker, PublishOptions};
use chat_core::{Batch, Direct, Event, Topic, Undelivered, User, UserId, envelope};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

/// Reports that may wait to be published. Beyond it they are lost: a sender that is not
/// informed takes the message for delivered.
const QUEUE: usize = 1024;

/// Reports that are remembered, so that a message which many connections of the recipient have
/// dropped is reported once.
const REMEMBERED: usize = 1024;

/// Takes reports of dropped messages from the fan-out, which must not wait.
#[derive(Debug, Clone)]
pub(crate) struct Drops(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    reports: mpsc::Sender<Report>,
    lost: Counter,
    hasher: RandomState,
}

/// What is to be published to the sender of a dropped message.
#[derive(Debug)]
pub(crate) struct Report {
    sender: UserId,
    envelope: Bytes,
    /// The same for all connections that dropped the message.
    message: u64,
}

/// Reports, and what [`publish`] takes them from. `lost` counts those that found no room.
pub(crate) fn channel(lost: Counter) -> (Drops, mpsc::Receiver<Report>) {
    let (reports, receiver) = mpsc::channel(QUEUE);
    (Drops(Arc::new(Queue { reports, lost, hasher: RandomState::new() })), receiver)
}

impl Drops {
    /// `recipient` did not get the direct messages of `batch`.
    pub(crate) fn report(&self, recipient: &User, batch: &Batch) {
        for (event, _) in batch.events() {
            let Event::Direct(direct) = event else { continue };
            if let Some(report) = self.0.report(recipient, &direct)
                && self.0.reports.try_send(report).is_err()
            {
                self.0.lost.inc();
            }
        }
    }
}

impl Queue {
    /// `None` if the sender cannot be informed.
    fn report(&self, recipient: &User, direct: &Direct<'_>) -> Option<Report> {
        let request = direct.request?;
        let to = recipient.as_sender();
        Some(Report {
            sender: UserId::new(direct.user.id).ok()?,
            envelope: envelope::encode(&Event::Undelivered(Undelivered::new(to, request))),
            message: self.hasher.hash_one((to.id, request.session, request.id, direct.at)),
        })
    }
}

/// Publishes reports as they come, until the server is dropped.
pub(crate) async fn publish(mut reports: mpsc::Receiver<Report>, broker: Arc<dyn Broker>) {
    let mut published = VecDeque::with_capacity(REMEMBERED);
    while let Some(Report { sender, envelope, message }) = reports.recv().await {
        if published.contains(&message) {
            continue;
        }
        published.truncate(REMEMBERED - 1);
        published.push_front(message);
        let sent = broker.publish(&Topic::User(sender), envelope, PublishOptions::default()).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a dropped message was not reported to its sender");
        }
    }
}

#[cfg(test)]
mod tests {
    use chat_broker::{BrokerEvent, MemoryBus};
    use chat_core::{RequestRef, Sender};

    use super::*;

    fn direct(at: u64) -> Batch {
        let user = Sender::new("ann", "Ann", "#FFFFFF");
        let request = Some(RequestRef::new("n-1", "7"));
        let direct = Direct::new(user, r#"{"to":"bob","message":"x"}"#, at).request(request);
        let envelope = envelope::encode(&Event::Direct(direct));
        let topic = Topic::User(UserId::new("bob").unwrap());
        Batch::new(topic, vec![chat_core::Item::Envelope(envelope, None)])
    }

    #[tokio::test]
    async fn message_is_reported_once_however_many_connections_drop_it() {
        let (drops, reports) = channel(Counter::default());
        let bob = User::new(UserId::new("bob").unwrap(), None);
        for at in [1, 1, 2, 1, 2] {
            drops.report(&bob, &direct(at));
        }
        drop(drops);
        let bus = MemoryBus::new();
        let (sender, mut events) = bus.connect();
        sender.subscribe(&[Topic::User(UserId::new("ann").unwrap())]).await.unwrap();
        publish(reports, Arc::new(bus.connect().0)).await;
        sender.close().await;
        let mut received = Vec::new();
        while events.recv(&mut received).await {}
        let is_publication =
            |event: &&BrokerEvent| matches!(event, BrokerEvent::Publication { .. });
        assert_eq!(received.iter().filter(is_publication).count(), 2);
    }

    #[test]
    fn reports_beyond_the_queue_are_counted() {
        let lost = Counter::default();
        let (drops, _reports) = channel(lost.clone());
        let bob = User::new(UserId::new("bob").unwrap(), None);
        for at in 0..QUEUE as u64 + 3 {
            drops.report(&bob, &direct(at));
        }
        assert_eq!(lost.get(), 3);
    }
}
