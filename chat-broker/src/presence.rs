//! The optional part of a broker that tracks which users are in which topics.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use chat_core::{Occupancy, Occupant, RoomId, Topic, UserId};
use tokio::sync::oneshot;

use crate::error::BrokerError;

/// Which users are in which topics, on all nodes of the bus:
/// [`Broker::presence`](crate::Broker::presence).
///
/// # What an implementation promises
/// * **State.** A user is in a topic while at least one node holds the user there, with the
///   information that any node set last. A node holds a user until it calls [`leave`](Self::leave),
///   through lost connections and lost data of the backend.
/// * **Events.** Each join, leave and change of the information is a
///   [`BrokerEvent::Presence`](crate::BrokerEvent::Presence) to the nodes that are subscribed to
///   the topic. Events are numbered without a hole as long as the topic has occupants, and a
///   topic's numbers never decrease.
/// * **Order.** A join precedes what its node publishes to the topic afterwards; a leave follows
///   what its node has published to the topic before.
/// * **Failure.** When a node ends without leaving, its users leave within 15 seconds.
/// * **Maximum.** An implementation may have [`enter_limited`](Self::enter_limited), which adds a user
///   only if the topic has fewer than a maximum: counting and adding is one atomic step on the bus.
/// * **The end.** After [`close`](crate::Broker::close), users that the node still holds leave
///   within ten seconds. No leave is published for a user whom another node holds by then.
#[async_trait]
pub trait PresenceTracker: fmt::Debug + Send + Sync + 'static {
    /// This node holds `occupant` in `topic` from now on. Returns at once. The broker sends the
    /// join to the backend before what is published to the topic after this call, if the backend
    /// can be reached. Repeating a call changes nothing. Other information replaces what any node
    /// set before, which is a [`PresenceChange::Renamed`](chat_core::PresenceChange::Renamed). Has
    /// no effect once the broker is closed.
    fn enter(&self, topic: &Topic, occupant: Occupant);

    /// [`enter`](Self::enter), unless the user is in `topic` on no node and `max` users are: then the
    /// answer is [`BrokerError::RoomFull`], and no event is published. Returns at once; the
    /// [`EnterReceipt`] resolves with the backend's answer. Until then the user is not added: call
    /// [`leave`](Self::leave) if the answer is an error, or is no longer wanted. An
    /// [`enter`](Self::enter) of the same user before the answer adds the user whatever the maximum.
    ///
    /// The maximum is that of this call: nothing is stored, and users who were added by `enter`
    /// count. After the backend has lost data, or a node its lease, nodes send the users that they hold
    /// again, which may then be more. The default answers [`BrokerError::Unsupported`].
    fn enter_limited(&self, topic: &Topic, occupant: Occupant, max: u32) -> EnterReceipt {
        let _ = (topic, occupant, max);
        EnterReceipt::ready(Err(BrokerError::Unsupported("maximum of users in a topic")))
    }

    /// This node stops holding `user` in `topic`. Returns at once; the broker sends the leave after
    /// what was published to the topic before this call. The [`Departure`] resolves with the
    /// backend's answer, and may be dropped.
    fn leave(&self, topic: &Topic, user: &UserId) -> Departure;

    /// The users in each topic, on all nodes: one answer for each of `topics`, in their order. Of a
    /// topic with more than `limit` occupants only the count. Never creates anything.
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

    /// A page of the rooms that have occupants on any node: those whose names begin with `prefix`,
    /// after the room `after`, at most `limit` of them, which is 1 at least and
    /// [`OccupiedRooms::MAX`] at most. A room that has occupants while all pages are read is in one of
    /// them.
    ///
    /// The order is the same for all calls: that of the bytes of the names, but for characters other
    /// than ASCII letters, digits, `-`, `.`, `_` and `~`, which may be sorted otherwise.
    ///
    /// ```
    /// # use chat_broker::{BrokerError, PresenceTracker};
    /// # async fn example(presence: &dyn PresenceTracker) -> Result<(), BrokerError> {
    /// let mut after = None;
    /// loop {
    ///     let page = presence.rooms("game-", after.as_ref(), 100).await?;
    ///     for room in page.rooms {
    ///         println!("{}: {} users", room.room, room.count);
    ///     }
    ///     after = page.next;
    ///     if after.is_none() {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time;
    /// [`BrokerError::Unsupported`], which is the default, if the broker cannot list them.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn rooms(
        &self,
        prefix: &str,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<OccupiedRooms, BrokerError> {
        let _ = (prefix, after, limit);
        Err(BrokerError::Unsupported("list of rooms"))
    }
}

/// A page of [`PresenceTracker::rooms`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OccupiedRooms {
    /// The rooms, in order. Fewer than the limit, or none, may have a next page.
    pub rooms: Vec<OccupiedRoom>,
    /// The room after which the next page begins; `None` if this page is the last.
    pub next: Option<RoomId>,
}

impl OccupiedRooms {
    /// Maximum rooms in a page.
    pub const MAX: usize = 1000;

    /// These rooms, and the one after which the next page begins.
    #[must_use]
    pub fn new(rooms: Vec<OccupiedRoom>, next: Option<RoomId>) -> Self {
        Self { rooms, next }
    }
}

/// A room that has occupants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OccupiedRoom {
    /// The room.
    pub room: RoomId,
    /// How many users are in it, on all nodes; at least 1.
    pub count: u32,
}

impl OccupiedRoom {
    /// A room with this many occupants.
    #[must_use]
    pub fn new(room: RoomId, count: u32) -> Self {
        Self { room, count }
    }
}

/// The pending answer to a [`PresenceTracker::enter_limited`]. [`BrokerError::Closed`] if the node
/// stopped holding the user before the answer, or the broker was closed.
///
/// ```
/// use chat_broker::{EnterReceipt, BrokerError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (sender, receipt) = EnterReceipt::pending();
/// sender.resolve(Err(BrokerError::RoomFull { max: 8 }));
/// assert!(matches!(receipt.await, Err(BrokerError::RoomFull { max: 8 })));
/// assert!(EnterReceipt::ready(Ok(())).await.is_ok());
/// # }
/// ```
///
/// # Cancel safety
/// Dropping it does not cancel the call.
#[derive(Debug)]
pub struct EnterReceipt(oneshot::Receiver<Result<(), BrokerError>>);

/// Resolves an [`EnterReceipt`]; if it is dropped, to [`BrokerError::Closed`].
#[derive(Debug)]
pub struct EnterReceiptSender(oneshot::Sender<Result<(), BrokerError>>);

impl EnterReceipt {
    /// A receipt that is resolved already.
    #[must_use]
    pub fn ready(answer: Result<(), BrokerError>) -> Self {
        let (sender, receipt) = Self::pending();
        sender.resolve(answer);
        receipt
    }

    /// A receipt, and the sender that resolves it.
    #[must_use]
    pub fn pending() -> (EnterReceiptSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (EnterReceiptSender(sender), Self(receiver))
    }
}

impl EnterReceiptSender {
    /// Resolves the receipt, if it was not dropped.
    pub fn resolve(self, answer: Result<(), BrokerError>) {
        let _ = self.0.send(answer);
    }
}

impl Future for EnterReceipt {
    type Output = Result<(), BrokerError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.get_mut().0).poll(cx);
        answer.map(|answer| answer.unwrap_or(Err(BrokerError::Closed)))
    }
}

/// The pending answer to a [`PresenceTracker::leave`]: the version of the event that announces it.
/// It is `None` if no event does: another node holds the user, the user was not there, or the
/// broker was closed. It may also be `None` if this node holds the user again before the answer.
///
/// ```
/// use chat_broker::Departure;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (sender, departure) = Departure::pending();
/// sender.resolve(7);
/// assert_eq!(departure.await, Some(7));
/// assert_eq!(Departure::ready(None).await, None);
/// # }
/// ```
///
/// # Cancel safety
/// Dropping it does not cancel the leave.
#[derive(Debug)]
pub struct Departure(oneshot::Receiver<u64>);

/// Resolves a [`Departure`]; if it is dropped, to `None`.
#[derive(Debug)]
pub struct DepartureSender(oneshot::Sender<u64>);

impl Departure {
    /// A departure that is resolved already.
    #[must_use]
    pub fn ready(version: Option<u64>) -> Self {
        let (sender, departure) = Self::pending();
        if let Some(version) = version {
            sender.resolve(version);
        }
        departure
    }

    /// A departure, and the sender that resolves it.
    #[must_use]
    pub fn pending() -> (DepartureSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (DepartureSender(sender), Self(receiver))
    }
}

impl DepartureSender {
    /// Resolves the departure, if it was not dropped.
    pub fn resolve(self, version: u64) {
        let _ = self.0.send(version);
    }
}

impl Future for Departure {
    type Output = Option<u64>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.get_mut().0).poll(cx).map(Result::ok)
    }
}
