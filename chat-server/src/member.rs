//! A connection, as the hub delivers to it.

use std::sync::Arc;
use std::time::Duration;

use chat_core::wire::{Goodbye, ServerFrame};
use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome, Dialect, Frames, Topic, User};
use chat_transport::Outbox;
use tokio::time::{Instant, timeout};

use crate::deadline::{Deadline, MAX_TIMER_DELAY};
use crate::undelivered::DropReporter;

/// A connection of a client, as the [hub](crate::Server::hub) of a server delivers to it.
// Its user, its dialect and its outbox. The hub keeps it by value, so that the fan-out follows as few
// pointers as possible.
#[derive(Debug, Clone)]
pub struct Member {
    /// The user of the connection.
    pub(crate) user: Arc<User>,
    /// The dialect of the client.
    pub(crate) dialect: Dialect,
    /// Whether the client receives no members and no presence events.
    hides_presence: bool,
    outbox: Outbox,
    drop_reporter: DropReporter,
}

impl Member {
    /// The user of the connection.
    #[must_use]
    pub fn user(&self) -> &User {
        &self.user
    }

    pub(crate) fn new(
        user: Arc<User>,
        dialect: Dialect,
        outbox: Outbox,
        drop_reporter: DropReporter,
    ) -> Self {
        Self { user, dialect, hides_presence: false, outbox, drop_reporter }
    }

    /// The same connection, with or without presence events.
    pub(crate) fn with_presence(&self, presence: bool) -> Self {
        Self { hides_presence: !presence, ..self.clone() }
    }

    /// The same connection with another user or dialect, and with presence events.
    pub(crate) fn with_identity(&self, user: Arc<User>, dialect: Dialect) -> Self {
        Self::new(user, dialect, self.outbox.clone(), self.drop_reporter.clone())
    }

    /// Sends a frame to this client, if its dialect has one for it. Returns the bytes of the frame.
    pub(crate) fn reply(&self, reply: &ServerFrame<'_>) -> usize {
        let frames = self.dialect.reply(reply);
        frames.as_ref().map_or(0, |frames| {
            self.send(frames);
            frames.bytes().len()
        })
    }

    /// As [`reply`](Self::reply), but leaves the write to the next frame, or to a
    /// [`flush`](Deliver::flush). Returns whether the caller has to arrange that: frames that were
    /// held before have theirs.
    pub(crate) fn hold_reply(&self, reply: &ServerFrame<'_>) -> bool {
        let Some(frames) = self.dialect.reply(reply) else { return false };
        if self.outbox.hold(&frames) == DeliveryOutcome::Full {
            self.outbox.close(CloseReason::SlowConsumer);
        }
        self.outbox.usage().frames == frames.count() as usize
    }

    /// Sends events to this client. A full outbox closes the connection.
    pub(crate) fn send_batch(&self, batch: &Batch) {
        if self.deliver(batch) == DeliveryOutcome::Full {
            self.outbox.close(CloseReason::SlowConsumer);
        }
    }

    /// Closes the connection because its token has expired.
    pub(crate) fn expire(&self) {
        self.reply(&ServerFrame::Goodbye(Goodbye::new("token_expired", false)));
        self.close(CloseReason::TokenExpired);
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn is_native(&self) -> bool {
        self.dialect == Dialect::Native
    }

    pub(crate) fn sees_presence(&self) -> bool {
        !self.hides_presence
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.outbox.is_closed()
    }

    /// Whether something waits in the outbox.
    pub(crate) fn has_unsent(&self) -> bool {
        self.outbox.usage().bytes > 0
    }

    /// Waits until the outbox is empty, the connection is closed, or it is notified. An empty outbox
    /// takes one answer of any size, so a client that asks for much at once is not closed as a slow
    /// consumer. It is closed if its outbox has not shrunk within `time_limit`, and at `deadline`.
    pub(crate) async fn drained(&self, time_limit: Duration, deadline: &mut Deadline) {
        // What is held waits for the hub, not for the client.
        self.outbox.flush();
        loop {
            let (began, waited) = (Instant::now(), self.outbox.usage().bytes);
            let left = deadline.at().map(|deadline| deadline.saturating_duration_since(began));
            let time = left.map_or(time_limit, |left| left.min(time_limit));
            if timeout(time, self.outbox.drained_to(0)).await.is_ok() {
                return;
            }
            if deadline.has_passed() {
                return self.expire();
            }
            // If this process was stopped for longer, it has written nothing: the client is not slow.
            let is_timely = time_limit..=time_limit.saturating_add(MAX_TIMER_DELAY);
            if is_timely.contains(&began.elapsed()) && self.outbox.usage().bytes >= waited {
                self.outbox.close(CloseReason::SlowConsumer);
                return;
            }
        }
    }

    /// Waits until the connection is closed (`false`), or notified (`true`, once for each notification).
    pub(crate) async fn interrupted(&self) -> bool {
        self.outbox.interrupted().await
    }

    /// Whether the connection is notified, and has not handled it yet.
    pub(crate) fn is_notified(&self) -> bool {
        self.outbox.is_notified()
    }

    /// Sends encoded frames. A client whose outbox is full is closed as a slow consumer.
    pub(crate) fn send(&self, frames: &Frames) {
        if self.outbox.send(frames) == DeliveryOutcome::Full {
            self.outbox.close(CloseReason::SlowConsumer);
        }
    }
}

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        let frames = if self.hides_presence {
            batch.frames_without_presence(self.dialect)
        } else {
            batch.frames(self.dialect)
        };
        let Some(frames) = frames else { return DeliveryOutcome::Skipped };
        if matches!(batch.topic(), Topic::Room(_)) {
            return self.outbox.send(frames);
        }
        // Any user may send direct messages to this one, so a full outbox must not close it: the
        // messages are dropped, and their senders receive a report.
        let delivery = self.outbox.send_droppable(frames);
        if delivery == DeliveryOutcome::Full {
            self.drop_reporter.report(&self.user, batch);
            return DeliveryOutcome::Dropped;
        }
        delivery
    }

    fn flush(&self) {
        self.outbox.flush();
    }

    fn close(&self, reason: CloseReason) {
        self.outbox.close(reason);
    }
}
