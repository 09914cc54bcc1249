//! The optional part of a broker that tracks which users are in which topics.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use chat_core::{Occupancy, Occupant, Topic, UserId};
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
///   only if the topic has a place left: counting and adding is one atomic step on the bus.
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
    /// [`Admission`] resolves with the backend's answer. Until then the user has no place: call
    /// [`leave`](Self::leave) if the answer is an error, or is no longer wanted. An
    /// [`enter`](Self::enter) of the same user before the answer adds the user whatever the maximum.
    ///
    /// The maximum is that of this call: nothing is stored, and users who were added by `enter`
    /// count. After the backend has lost data, nodes send it the users that they hold, which may
    /// then be more. The default answers [`BrokerError::Unsupported`].
    fn enter_limited(&self, topic: &Topic, occupant: Occupant, max: u32) -> Admission {
        let _ = (topic, occupant, max);
        Admission::ready(Err(BrokerError::Unsupported("maximum of users in a topic")))
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
}

/// The pending answer to a [`PresenceTracker::enter_limited`]. [`BrokerError::Closed`] if the node
/// stopped holding the user before the answer, or the broker was closed.
///
/// ```
/// use chat_broker::{Admission, BrokerError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (sender, admission) = Admission::pending();
/// sender.resolve(Err(BrokerError::RoomFull { max: 8 }));
/// assert!(matches!(admission.await, Err(BrokerError::RoomFull { max: 8 })));
/// assert!(Admission::ready(Ok(())).await.is_ok());
/// # }
/// ```
///
/// # Cancel safety
/// Dropping it does not cancel the call.
#[derive(Debug)]
pub struct Admission(oneshot::Receiver<Result<(), BrokerError>>);

/// Resolves an [`Admission`]; if it is dropped, to [`BrokerError::Closed`].
#[derive(Debug)]
pub struct AdmissionSender(oneshot::Sender<Result<(), BrokerError>>);

impl Admission {
    /// An admission that is resolved already.
    #[must_use]
    pub fn ready(answer: Result<(), BrokerError>) -> Self {
        let (sender, admission) = Self::pending();
        sender.resolve(answer);
        admission
    }

    /// An admission, and the sender that resolves it.
    #[must_use]
    pub fn pending() -> (AdmissionSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (AdmissionSender(sender), Self(receiver))
    }
}

impl AdmissionSender {
    /// Resolves the admission, if it was not dropped.
    pub fn resolve(self, answer: Result<(), BrokerError>) {
        let _ = self.0.send(answer);
    }
}

impl Future for Admission {
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
