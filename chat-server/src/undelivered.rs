//! Direct messages that were dropped because the recipient's outbox was full: their senders are
//! informed, whichever server they are on.

use std::sync::Arc;

use bytes::Bytes;
use chat_broker::{Broker, Delivery};
use chat_core::{Batch, Event, Topic, Undelivered, User, UserId, envelope};
use tokio::sync::mpsc;

/// Reports that may wait to be published. Beyond it they are lost: a sender that is not
/// informed takes the message for delivered.
const QUEUE: usize = 1024;

/// Takes reports of dropped messages from the fan-out, which must not wait.
#[derive(Debug, Clone)]
pub(crate) struct Drops(mpsc::Sender<Report>);

/// What is to be published to the sender of a dropped message.
#[derive(Debug)]
pub(crate) struct Report {
    sender: UserId,
    envelope: Bytes,
}

/// Reports, and what [`publish`] takes them from.
pub(crate) fn channel() -> (Drops, mpsc::Receiver<Report>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Drops(sender), receiver)
}

impl Drops {
    /// `recipient` did not get the direct messages of `batch`.
    pub(crate) fn report(&self, recipient: &User, batch: &Batch) {
        for (event, _) in batch.events() {
            let Event::Direct(direct) = event else { continue };
            let (Some(request), Ok(sender)) = (direct.request, UserId::new(direct.user.id)) else {
                continue;
            };
            let to = recipient.as_sender();
            let envelope = envelope::encode(&Event::Undelivered(Undelivered { to, request }));
            // Full, or the server is at its end: the report is lost.
            let _ = self.0.try_send(Report { sender, envelope });
        }
    }
}

/// Publishes reports as they come, until the server is dropped.
pub(crate) async fn publish(mut reports: mpsc::Receiver<Report>, broker: Arc<dyn Broker>) {
    while let Some(Report { sender, envelope }) = reports.recv().await {
        let published = broker.publish(&Topic::User(sender), envelope, Delivery::Ephemeral).await;
        if let Err(error) = published {
            tracing::debug!(%error, "a dropped message was not reported to its sender");
        }
    }
}
