//! Reports to the senders of direct messages that were dropped because the recipient's outbox was full.
//! A report is published to the sender's own topic, so it arrives on every server.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use chat_broker::{Broker, PublishOptions};
use chat_core::{Batch, Direct, Event, Topic, Undelivered, User, UserId, envelope};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

/// Reports that may wait to be published. Further ones are lost and counted: the sender then takes the
/// message for delivered.
const QUEUE_CAPACITY: usize = 1024;

/// Reports that are remembered: each connection of the recipient may drop the same message, and its
/// sender must receive one report.
const REMEMBERED: usize = 1024;

/// Queues reports of dropped messages. Called by the fan-out, which must not wait.
#[derive(Debug, Clone)]
pub(crate) struct DropReporter(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    reports: mpsc::Sender<Report>,
    lost: Counter,
    hasher: RandomState,
}

/// A report to the sender of a dropped message.
#[derive(Debug)]
pub(crate) struct Report {
    sender: UserId,
    envelope: Bytes,
    /// A hash that is the same for all connections that dropped the message.
    message: u64,
}

/// The queue of reports. `lost` counts those that found it full.
pub(crate) fn channel(lost: Counter) -> (DropReporter, mpsc::Receiver<Report>) {
    let (reports, receiver) = mpsc::channel(QUEUE_CAPACITY);
    (DropReporter(Arc::new(Queue { reports, lost, hasher: RandomState::new() })), receiver)
}

impl DropReporter {
    /// Reports that `recipient` did not receive the direct messages of `batch`.
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
    /// `None` if the message has no request that a report could name.
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

/// Publishes reports until the server is dropped.
pub(crate) async fn publish(mut reports: mpsc::Receiver<Report>, broker: Arc<dyn Broker>) {
    let mut published = VecDeque::with_capacity(REMEMBERED);
    while let Some(Report { sender, envelope, message }) = reports.recv().await {
        // A linear search of 8 KB, in a task of its own, for what occurs only if outboxes overflow.
        if published.contains(&message) {
            continue;
        }
        published.truncate(REMEMBERED - 1);
        published.push_front(message);
        let sent = broker.publish(&Topic::User(sender), envelope, PublishOptions::default()).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "report of a dropped message not published");
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
    async fn message_dropped_by_many_connections_is_reported_once() {
        let (reporter, reports) = channel(Counter::default());
        let bob = User::new(UserId::new("bob").unwrap(), None);
        for at in [1, 1, 2, 1, 2] {
            reporter.report(&bob, &direct(at));
        }
        drop(reporter);
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
        let (reporter, _reports) = channel(lost.clone());
        let bob = User::new(UserId::new("bob").unwrap(), None);
        for at in 0..QUEUE_CAPACITY as u64 + 3 {
            reporter.report(&bob, &direct(at));
        }
        assert_eq!(lost.get(), 3);
    }
}
