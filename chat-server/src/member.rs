//! A connection as rooms see it.

use std::sync::Arc;
use std::time::Duration;

use chat_core::wire::{Goodbye, ServerFrame};
use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome, Dialect, Frames, Topic, User};
use chat_transport::Outbox;
use tokio::time::{Instant, timeout};

use crate::deadline::{Deadline, LATEST};
use crate::undelivered::Drops;

/// A handle on a connection: who it is, what it speaks, and the way to it. Actor value, since
/// whoever delivers to it goes by as few pointers as can be.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Who.
    pub(crate) user: Arc<User>,
    /// What the client speaks.
    pub(crate) dialect: Dialect,
    /// It is not told who is in the room.
    is_blind: bool,
    outbox: Outbox,
    drops: Drops,
}

impl Member {
    pub(crate) fn new(user: Arc<User>, dialect: Dialect, outbox: Outbox, drops: Drops) -> Self {
        Self { user, dialect, is_blind: false, outbox, drops }
    }

    /// The same connection, as one that is told who is in the room, or not.
    pub(crate) fn seeing(&self, presence: bool) -> Self {
        Self { is_blind: !presence, ..self.clone() }
    }

    /// The same connection under another name, or in another dialect.
    pub(crate) fn with(&self, user: Arc<User>, dialect: Dialect) -> Self {
        Self::new(user, dialect, self.outbox.clone(), self.drops.clone())
    }

    /// Says something to this client alone, if its dialect has a word for it. Returns how many
    /// bytes that took.
    pub(crate) fn reply(&self, reply: &ServerFrame<'_>) -> usize {
        let frames = self.dialect.reply(reply);
        frames.as_ref().map_or(0, |frames| {
            self.send(frames);
            frames.bytes().len()
        })
    }

    /// Takes events that are for this client alone.
    pub(crate) fn take(&self, batch: &Batch) {
        if self.deliver(batch) == DeliveryOutcome::Full {
            self.outbox.close(CloseReason::SlowConsumer);
        }
    }

    /// Closes the connection because its token has run out.
    pub(crate) fn expire(&self) {
        self.reply(&ServerFrame::Goodbye(Goodbye::new("token_expired", false)));
        self.close(CloseReason::TokenExpired);
    }

    pub(crate) fn is_native(&self) -> bool {
        self.dialect == Dialect::Native
    }

    pub(crate) fn sees_presence(&self) -> bool {
        !self.is_blind
    }

    /// Has the connection look at what concerns it.
    pub(crate) fn notify(&self) {
        self.outbox.notify();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.outbox.is_closed()
    }

    /// Waits until nothing waits for the client, or it is gone, or has to look around. Then it
    /// takes one answer of any size: however much it asks for at once, it is not cut as one that
    /// reads too slowly. It is, if as much waits for it after `patience` as before; and it is closed
    /// when its token ends, however fast it reads.
    pub(crate) async fn drained(&self, patience: Duration, ends: &mut Deadline) {
        loop {
            let (began, waited) = (Instant::now(), self.outbox.usage().bytes);
            let left = ends.at().map(|ends| ends.saturating_duration_since(began));
            let time = left.map_or(patience, |left| left.min(patience));
            if timeout(time, self.outbox.drained_to(0)).await.is_ok() {
                return;
            }
            if ends.has_passed() {
                return self.expire();
            }
            // A process that was stopped for longer has written nothing, whatever the client took.
            let is_timely = patience..=patience.saturating_add(LATEST);
            if is_timely.contains(&began.elapsed()) && self.outbox.usage().bytes >= waited {
                self.outbox.close(CloseReason::SlowConsumer);
                return;
            }
        }
    }

    /// Waits until the connection is closed (`false`), or has to look at what concerns it (`true`,
    /// once).
    pub(crate) async fn interrupted(&self) -> bool {
        self.outbox.interrupted().await
    }

    /// Something has changed that concerns the client, and it has not seen to it yet.
    pub(crate) fn is_notified(&self) -> bool {
        self.outbox.is_notified()
    }

    /// Sends frames that are ready. A client that does not take them is a slow consumer.
    pub(crate) fn send(&self, frames: &Frames) {
        if self.outbox.send(frames) == DeliveryOutcome::Full {
            self.outbox.close(CloseReason::SlowConsumer);
        }
    }
}

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        let frames = if self.is_blind {
            batch.frames_without_presence(self.dialect)
        } else {
            batch.frames(self.dialect)
        };
        let Some(frames) = frames else { return DeliveryOutcome::Skipped };
        if matches!(batch.topic(), Topic::Room(_)) {
            return self.outbox.send(frames);
        }
        // Any user may write to this one: what is too much is dropped, and does not close it.
        let delivery = self.outbox.send_droppable(frames);
        if delivery == DeliveryOutcome::Full {
            self.drops.report(&self.user, batch);
            return DeliveryOutcome::Dropped;
        }
        delivery
    }

    fn close(&self, reason: CloseReason) {
        self.outbox.close(reason);
    }
}
