//! The contract between servers and what carries messages from one to the other.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_core::{History, Occupancy, Occupant, Position, Range, Retention, Topic, UserId};
use tokio::sync::oneshot;

use crate::error::BrokerError;
use crate::records::Records;
use crate::stats::BrokerStats;

/// A bus for many servers: whatever one publishes to a topic reaches every server that
/// is subscribed to it, the publisher included.
///
/// A broker knows topics and bytes. It knows nothing of rooms' members, of sockets or of
/// what the bytes mean.
///
/// A constructor gives the broker together with its
/// [`BrokerEvents`](crate::BrokerEvents), the one ordered stream of all that this node is
/// subscribed to. Make them with [`events::channel`](crate::events::channel).
///
/// # What an implementation promises
/// * **Order.** All nodes see the publications of a topic in one order. What one task
///   publishes to a topic stands in that order as it was handed over.
/// * **Positions.** A [`Delivery::Kept`] publication gets the next offset of its topic, one
///   above the last, in an epoch that changes only when the counter or what it counted was
///   lost: no offset of an epoch ever means two publications. Giving the offset, keeping the
///   publication and handing it on is one atomic step.
/// * **History.** What was acknowledged as kept can be read, by any node, as long as its
///   [`Retention`] says.
/// * **Keys.** A publication with the key of an earlier one of the last five minutes in the
///   same topic is answered as that was, and neither kept nor handed on.
/// * **At most once.** A publication reaches a subscribed node once or not at all, and a
///   node that may have missed some is told by
///   [`BrokerEvent::Interrupted`](crate::BrokerEvent::Interrupted) or
///   [`BrokerEvent::Lagged`](crate::BrokerEvent::Lagged); it reads the history.
/// * **Interest.** A node gets nothing of a topic that it has not asked for. After
///   `subscribe` has returned, everything published later arrives; after `unsubscribe`
///   has returned, nothing does.
/// * **Presence.** A user is in a topic while at least one node says so, with the
///   information that any node gave last. Each coming and going, and each change of the
///   information, is an event to the subscribed nodes, numbered without a hole as long as
///   there is anybody, and never lower than before. What a node said
///   holds until it says otherwise, whatever becomes of connections and of the backend's
///   data; when the node is gone without a word, its users are, within 15 seconds.
/// * **Records.** All nodes share one small table. What is set in it is there, and in a place
///   of the one order that all nodes see, before
///   [`BrokerEvent::RecordsChanged`](crate::BrokerEvent::RecordsChanged) tells every node of
///   it; a node that may have missed that is told so as of publications, and reads on from
///   where it was.
/// * **Outages.** However long the backend is away, the broker reconnects and subscribes
///   again by itself. Meanwhile calls fail with
///   [`BrokerError::Unavailable`] within a bounded time; none waits for ever.
/// * **Memory.** Every queue is bounded.
///
/// [`testing::conformance`](crate::testing) (feature `testing`) checks these promises for
/// any implementation.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Hands `payload` over for `topic`, and returns once it has its place in the queue.
    ///
    /// The [`Receipt`] resolves when the backend has taken the message. To wait for the
    /// place first and for the receipt later keeps one sender's order with many messages
    /// under way.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] after [`close`](Self::close);
    /// [`BrokerError::Unavailable`] if there was no place within the broker's deadline.
    ///
    /// # Cancel safety
    /// A call that is dropped before it returns has published nothing. Dropping the
    /// receipt does not take the message back.
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        delivery: Delivery,
    ) -> Result<Receipt, BrokerError>;

    /// Starts to receive `topics`; returns when the backend has confirmed all of them.
    /// A topic that is subscribed already is no error.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not confirm in time. Then none of
    /// `topics` counts as subscribed, and the caller may ask again.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves it open which topics are subscribed: unsubscribe
    /// from all of them, or subscribe again.
    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError>;

    /// Stops receiving `topics`. A topic that is not subscribed is no error.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not confirm in time. The topics are
    /// not subscribed again after a reconnect all the same.
    ///
    /// # Cancel safety
    /// As for [`subscribe`](Self::subscribe).
    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError>;

    /// The place after the latest kept publication of each topic, in the order asked;
    /// [`Position::default`] for a topic that has none. Never creates anything.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError>;

    /// The position of `topic` as far as this node knows it, without asking the backend. It covers
    /// each publication whose [`Receipt`] this node has resolved, so a server that answers from its
    /// own memory can check whether a client has been acknowledged a later one. `None`, which is the
    /// default, if the node does not know it; a node need not know topics that it is not subscribed
    /// to.
    fn known_position(&self, topic: &Topic) -> Option<Position> {
        let _ = topic;
        None
    }

    /// Parts of the histories of topics, in the order asked, each as it stood at one moment
    /// between the call and its return. Never creates anything.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn history(&self, reads: &[HistoryRead]) -> Result<Vec<History>, BrokerError>;

    /// Says that `occupant` is in `topic` at this node, from now on. Returns at once: the
    /// broker sees to it that the backend agrees, before what is published to the topic
    /// after this call, if it can be reached. Saying the same again changes nothing; other
    /// information replaces what any node said before, which is a
    /// [`PresenceChange::Renamed`](chat_core::PresenceChange::Renamed).
    fn enter(&self, topic: &Topic, occupant: Occupant);

    /// Says that `user` is in `topic` at this node no more. As [`enter`](Self::enter), but
    /// the backend learns of it after what was published to the topic before this call.
    /// The [`Departure`] resolves when it has, and may be dropped.
    fn leave(&self, topic: &Topic, user: &UserId) -> Departure;

    /// Who is in each topic, at all nodes, in the order asked. Of a topic with more than
    /// `limit` occupants only the count. Never creates anything.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn occupancy(
        &self,
        topics: &[Topic],
        limit: usize,
    ) -> Result<Vec<Occupancy>, BrokerError>;

    /// 32 random bytes that all nodes of this bus share and nobody else knows; made by
    /// whichever node asks first. For signing what one node says and another must believe.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time.
    ///
    /// # Cancel safety
    /// Safe: asking again gives the same bytes.
    async fn secret(&self) -> Result<[u8; 32], BrokerError>;

    /// Sets a record of the table that all nodes of this bus share: a few things that must not
    /// be forgotten, whichever node learned of them. It replaces the record of the same key;
    /// `value` is `None` to remove that, which is no error if there is none.
    ///
    /// Every node is told by
    /// [`BrokerEvent::RecordsChanged`](crate::BrokerEvent::RecordsChanged), this one included,
    /// unless there was nothing to remove: to set and to tell is one atomic step. The record is
    /// gone after `expires_in`, which is cut to
    /// [`Record::MAX_LIFETIME`](crate::Record::MAX_LIFETIME) and counted by the backend's
    /// clock, in whole milliseconds and one at least; nobody is told of that. A value of
    /// nothing needs no time.
    ///
    /// # Errors
    /// [`BrokerError::Refused`] if [`Record::check`](crate::Record::check) refuses key or
    /// value, and if it would be one more than [`Records::MAX`].
    /// [`BrokerError::Unavailable`] if the backend did not answer in time: it may have been
    /// set all the same. Setting it again does no harm.
    ///
    /// # Cancel safety
    /// A call that is dropped may have set the record.
    async fn set_record(
        &self,
        key: &str,
        value: Option<Bytes>,
        expires_in: Duration,
    ) -> Result<(), BrokerError>;

    /// What has changed in the table of records since an earlier call returned the version
    /// `after`: the latest of each key, in the order in which they were set.
    ///
    /// It is the whole table, without what is no more, and [`complete`](Records::complete)
    /// says so, if `after` is 0, and whenever the backend cannot tell what has changed: it
    /// remembers only for [`Records::REMEMBERED`] that a record was removed, and may have lost
    /// what it knew. This node writes what it has read of that again, unless another node knows of
    /// a later change. So a record lasts until it is removed or expires, as long as one node that
    /// has read it runs and keeps reading. Versions rise with each change, also after the backend
    /// has lost everything.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn records(&self, after: u64) -> Result<Records, BrokerError>;

    /// Whether the backend answers, as far as this node knows. A backend that is
    /// [full](BrokerStats::full) is [`Status::Ready`]: no other node has more room.
    fn status(&self) -> Status;

    /// What this node has counted since it was made. Unless an implementation says otherwise,
    /// nothing.
    fn stats(&self) -> BrokerStats {
        BrokerStats::default()
    }

    /// Ends the broker: what was accepted is sent, if the backend takes it within the
    /// deadline; later calls fail with [`BrokerError::Closed`], and the events end.
    /// Whoever is still said to be in a topic leaves it within ten seconds, unannounced if
    /// another node says the same by then. Closing twice is no error.
    ///
    /// # Cancel safety
    /// A call that is dropped may leave accepted messages unsent.
    async fn close(&self);
}

/// How a publication is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// With a place in the topic's sequence, and kept in its history: what people said.
    Kept {
        /// How much of the topic's history is kept from here on.
        retention: Retention,
        /// Names the publication within its topic, for whoever may publish it again; see
        /// [`Broker`]. It should hold who publishes.
        key: Option<Arc<str>>,
    },
    /// Without a place, and forgotten at once: typing, direct messages, and all in topics
    /// without history. The cheaper way.
    Ephemeral,
}

impl Delivery {
    /// [`Delivery::Kept`] without a key, as long as by default.
    #[must_use]
    pub fn kept() -> Self {
        Self::Kept { retention: Retention::default(), key: None }
    }
}

/// What the backend said of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its place in the topic's sequence; `None` for [`Delivery::Ephemeral`].
    pub position: Option<Position>,
    /// How many nodes it was handed to; 0 for a repeated one.
    pub nodes: u32,
    /// It was published before, under the same key: the position is that of the first time.
    pub repeated: bool,
}

/// A part of a topic's history to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRead {
    /// Of which topic.
    pub topic: Topic,
    /// Which part.
    pub range: Range,
    /// How many publications at most. A read ends early, but never empty, once it holds
    /// more than [`HistoryRead::MAX_BYTES`].
    pub limit: u32,
}

impl HistoryRead {
    /// Whether `history` can be an answer to this: entries without a hole, oldest first, as many as
    /// were asked for at most, within the range and up to the position.
    ///
    /// # Errors
    /// [`BrokerError::Damaged`]: it is malformed, and a reader that continued from it might never end.
    pub fn check(&self, history: &History) -> Result<(), BrokerError> {
        let History { position, entries } = history;
        let offsets = || entries.iter().map(|entry| entry.offset);
        let (first, last) = (offsets().next().unwrap_or(1), offsets().last().unwrap_or(0));
        let is_in_range = match self.range {
            _ if entries.is_empty() => true,
            Range::After(offset) => first > offset,
            Range::Before(offset) => last < offset,
            Range::Latest => true,
        };
        let wrong = if position.offset > Position::MAX_OFFSET {
            "a position beyond all"
        } else if entries.len() > self.limit as usize {
            "more messages than were asked for"
        } else if first == 0 || last > position.offset {
            "messages outside of the sequence"
        } else if !offsets()
            .zip(offsets().skip(1))
            .all(|(one, next)| one.checked_add(1) == Some(next))
        {
            "messages that do not follow on each other"
        } else if !is_in_range {
            "messages that were not asked for"
        } else {
            return Ok(());
        };
        Err(BrokerError::damaged(self.topic.clone(), format!("its history has {wrong}")))
    }

    /// Payload of one read, in bytes; the publication that reaches it is the last.
    pub const MAX_BYTES: usize = 256 * 1024;
}

/// Whether the backend answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does, for publishing and for receiving.
    Ready,
    /// It does not, and the broker tries to reach it.
    Away,
    /// The broker was closed.
    Closed,
}

/// The pending answer to a publication.
///
/// An error means that the outcome is unknown: the message may have been delivered.
///
/// # Cancel safety
/// Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "whether the backend took the message is known only from the receipt"]
pub struct Receipt(ReceiptState);

#[derive(Debug)]
enum ReceiptState {
    Ready(Option<Result<Published, BrokerError>>),
    Pending(oneshot::Receiver<Result<Published, BrokerError>>),
}

/// Settles a [`Receipt`]. Dropped unused, the receipt fails with
/// [`BrokerError::Closed`].
#[derive(Debug)]
pub struct ReceiptSender(oneshot::Sender<Result<Published, BrokerError>>);

impl Receipt {
    /// A receipt that is settled already.
    pub fn ready(outcome: Result<Published, BrokerError>) -> Self {
        Self(ReceiptState::Ready(Some(outcome)))
    }

    /// A receipt, and what settles it.
    pub fn pending() -> (ReceiptSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (ReceiptSender(sender), Self(ReceiptState::Pending(receiver)))
    }
}

impl ReceiptSender {
    /// Settles the receipt. Nobody may be waiting any more; that is no error.
    pub fn settle(self, outcome: Result<Published, BrokerError>) {
        let _ = self.0.send(outcome);
    }
}

/// The pending answer to a [`Broker::leave`]: the version of the event that tells the nodes of it.
/// `None` if no event does: another node says that the user is there, the user is back, or was
/// never there, or the broker was closed.
///
/// # Cancel safety
/// Dropping it does not take the leave back.
#[derive(Debug)]
pub struct Departure(oneshot::Receiver<u64>);

/// Settles a [`Departure`]; dropped unused, there is no event.
#[derive(Debug)]
pub struct DepartureSender(oneshot::Sender<u64>);

impl Departure {
    /// A departure that is settled already.
    #[must_use]
    pub fn ready(version: Option<u64>) -> Self {
        let (sender, departure) = Self::pending();
        if let Some(version) = version {
            sender.settle(version);
        }
        departure
    }

    /// A departure, and what settles it.
    #[must_use]
    pub fn pending() -> (DepartureSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (DepartureSender(sender), Self(receiver))
    }
}

impl DepartureSender {
    /// Settles the departure. Nobody may be waiting any more; that is no error.
    pub fn settle(self, version: u64) {
        let _ = self.0.send(version);
    }
}

impl Future for Departure {
    type Output = Option<u64>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.get_mut().0).poll(cx).map(Result::ok)
    }
}

impl Future for Receipt {
    type Output = Result<Published, BrokerError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            ReceiptState::Ready(outcome) => {
                Poll::Ready(outcome.take().unwrap_or(Err(BrokerError::Closed)))
            }
            ReceiptState::Pending(receiver) => {
                Pin::new(receiver).poll(cx).map(|sent| sent.unwrap_or(Err(BrokerError::Closed)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chat_core::{Entry, Epoch, RoomId};

    use super::*;

    #[test]
    fn history_that_cannot_be_an_answer_is_none() {
        let read = |range| {
            let topic = Topic::Room(RoomId::new("r").expect("a name"));
            HistoryRead { topic, range, limit: 3 }
        };
        let history = |offset, offsets: &[u64]| History {
            position: Position { epoch: Epoch::from_random(1), offset },
            entries: offsets.iter().map(|n| Entry { offset: *n, payload: Bytes::new() }).collect(),
        };
        for (range, offset, offsets) in [
            (Range::Latest, 0, &[][..]),
            (Range::Latest, 9, &[7, 8, 9]),
            (Range::After(2), 9, &[5, 6]),
            (Range::After(9), 9, &[]),
            (Range::Before(9), 9, &[8]),
            (Range::Before(u64::MAX), 1, &[1]),
        ] {
            let outcome = read(range).check(&history(offset, offsets));
            assert!(outcome.is_ok(), "{range:?}: {offsets:?} of {offset}: {outcome:?}");
        }
        for (range, offset, offsets) in [
            (Range::Latest, 9, &[6, 7, 8, 9][..]),
            (Range::Latest, 9, &[9, 8]),
            (Range::Latest, 9, &[8, 8]),
            (Range::Latest, 9, &[7, 9]),
            (Range::Latest, 9, &[9, 10]),
            (Range::Latest, 9, &[0, 1]),
            (Range::Latest, u64::MAX, &[u64::MAX]),
            (Range::After(3), 9, &[3, 4]),
            (Range::After(3), 9, &[1]),
            (Range::Before(3), 9, &[2, 3]),
            (Range::Before(3), 9, &[7]),
        ] {
            let outcome = read(range).check(&history(offset, offsets));
            assert!(outcome.is_err(), "{range:?}: {offsets:?} of {offset}");
        }
    }
}
