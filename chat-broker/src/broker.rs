//! The contract between servers and the backend that carries messages between them.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use chat_core::{History, Position, Topic};

use crate::error::BrokerError;
use crate::history::HistoryRead;
use crate::presence::PresenceTracker;
use crate::publish::{PublishOptions, Receipt};
use crate::stats::BrokerStats;
use crate::table::SharedTable;

/// A bus for many servers: what one server publishes to a topic reaches every server that is
/// subscribed to the topic, the publisher included.
///
/// A broker knows topics and bytes. It knows nothing of the members of rooms, of sockets, or of the
/// meaning of the bytes.
///
/// A constructor returns the broker together with its [`BrokerEvents`](crate::BrokerEvents), the
/// one ordered stream of all that this node receives; see
/// [`events::channel`](crate::events::channel).
///
/// ```
/// use bytes::Bytes;
/// use chat_broker::{Broker, BrokerEvent, MemoryBroker, PublishOptions};
/// use chat_core::{Retention, RoomId, Topic};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (broker, mut events) = MemoryBroker::connect();
/// let lobby = Topic::Room(RoomId::new("lobby")?);
/// broker.subscribe(std::slice::from_ref(&lobby)).await?;
///
/// let options = PublishOptions::default().retention(Retention::default());
/// let receipt = broker.publish(&lobby, Bytes::from_static(b"hi"), options).await?;
/// assert_eq!(receipt.await?.position.map(|position| position.offset), Some(1));
///
/// let mut batch = Vec::new();
/// assert!(events.recv(&mut batch).await);
/// assert!(matches!(&batch[..], [BrokerEvent::Publication { topic, .. }] if *topic == lobby));
/// # Ok(())
/// # }
/// ```
///
/// # Parts
/// Every broker publishes, subscribes and has histories. Two parts are optional, each with a
/// contract of its own:
///
/// | part | contract | without it |
/// |---|---|---|
/// | [`presence`](Self::presence) | [`PresenceTracker`] | rooms have no presence events, and a client that asks for a room's members gets itself alone |
/// | [`table`](Self::table) | [`SharedTable`] | the server refuses kicks and bans, and a resume secret is valid on the server alone that issued it, until that restarts |
///
/// # What an implementation promises
/// * **Order.** All nodes see the publications of a topic in one order. What one task
///   publishes to a topic keeps its order.
/// * **Positions.** A [persistent](PublishOptions::retention) publication gets the next offset of
///   its topic, one above the last, in an epoch that changes only when the position or what it
///   counted was lost: no offset of an epoch ever means two publications. Assigning the offset,
///   storing the publication and handing it on is one atomic step.
/// * **History.** A persistent publication that was acknowledged can be read, by any node, as long
///   as its [`Retention`](chat_core::Retention) says.
/// * **Keys.** A publication with the key of an earlier one of the last five minutes in the
///   same topic is answered as that was, and neither stored nor handed on.
/// * **At most once.** A publication reaches a subscribed node once or not at all. A
///   node that may have missed some receives
///   [`BrokerEvent::Interrupted`](crate::BrokerEvent::Interrupted) or
///   [`BrokerEvent::Lagged`](crate::BrokerEvent::Lagged), and reads the history.
/// * **Interest.** A node receives nothing of a topic that it is not subscribed to, and nothing
///   that was acknowledged before `subscribe` was called. After
///   `subscribe` has returned, everything published later arrives; after `unsubscribe`
///   has returned, nothing does.
/// * **Answers.** A call for several topics has one answer for each, in the order asked. A hub
///   fails a call with too few answers or too many.
/// * **Outages.** However long the backend is unavailable, the broker reconnects and subscribes
///   again by itself. Until then calls fail with
///   [`BrokerError::Unavailable`] within a bounded time; none waits without end.
/// * **Memory.** Every queue is bounded.
///
/// [`testing::conformance`](crate::testing) (feature `testing`) checks these promises, and those of
/// the parts that a broker has, for any implementation.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync + 'static {
    /// Publishes `payload` to `topic`, and returns once it is queued.
    ///
    /// The [`Receipt`] resolves when the backend has taken the message. To wait for the
    /// queue first and for the receipt later keeps one sender's order with many messages
    /// in flight.
    ///
    /// # Errors
    /// [`BrokerError::Closed`] after [`close`](Self::close);
    /// [`BrokerError::Unavailable`] if the queue stayed full for the broker's deadline.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped before it returns has published nothing. Dropping the receipt
    /// does not cancel the publication.
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Receipt, BrokerError>;

    /// Starts to receive `topics`; returns when the backend has confirmed all of them.
    /// Subscribing to a topic again is no error.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not confirm in time. Then none of
    /// `topics` counts as subscribed, and the caller may ask again.
    ///
    /// # Cancel safety
    /// Not safe: after a dropped call any of the topics may be subscribed. Unsubscribe from all of
    /// them, or subscribe again.
    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError>;

    /// Stops receiving `topics`. A topic that is not subscribed is no error.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not confirm in time. The topics are
    /// not subscribed again after a reconnect even so.
    ///
    /// # Cancel safety
    /// As for [`subscribe`](Self::subscribe).
    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError>;

    /// The position of the latest persistent publication of each topic, in the order asked;
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
    /// own memory can check whether a client has been acknowledged a later one. `None`, which is
    /// the default, if the node does not know it; a node need not know topics that it is not
    /// subscribed to.
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

    /// How many nodes are subscribed to each of `topics` at this moment, in the order asked. A server is
    /// subscribed to the topic of each user who is connected to it, so the count shows who is online.
    /// Another node's subscription counts as soon as that node's [`subscribe`](Self::subscribe) has
    /// returned. Any number of topics may be asked for; a thousand take Redis 0.1 to 0.2 ms.
    ///
    /// ```
    /// # use chat_broker::{Broker, BrokerError};
    /// # use chat_core::{Topic, UserId};
    /// # async fn example(broker: &dyn Broker, ann: UserId) -> Result<(), BrokerError> {
    /// let is_online = broker.subscribers(&[Topic::User(ann)]).await? != [0];
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if the backend did not answer in time;
    /// [`BrokerError::Unsupported`], which is the default, if the broker cannot count them.
    ///
    /// # Cancel safety
    /// Safe: a read.
    async fn subscribers(&self, topics: &[Topic]) -> Result<Vec<u32>, BrokerError> {
        let _ = topics;
        Err(BrokerError::Unsupported("count of subscribers"))
    }

    /// Which users are in which topics: `Some(self)` for a broker that implements
    /// [`PresenceTracker`]; `None`, which is the default, for one that does not. The answer never
    /// changes.
    fn presence(&self) -> Option<&dyn PresenceTracker> {
        None
    }

    /// The table that all nodes share: `Some(self)` for a broker that implements [`SharedTable`];
    /// `None`, which is the default, for one that does not. The answer never changes.
    fn table(&self) -> Option<&dyn SharedTable> {
        None
    }

    /// The id of this node, by which the logs of other nodes name it, such as when its lease has expired:
    /// 1 to 32 ASCII letters and digits, random, and never that of another node. A server takes it as
    /// its own id. `None`, which is the default, if the broker has none. The answer never changes.
    fn node(&self) -> Option<&str> {
        None
    }

    /// Whether the backend answers, as far as this node knows. A backend that is
    /// [full](BrokerStats::full) is [`Status::Ready`]: no other node has more room.
    fn status(&self) -> Status;

    /// What this node has counted since it was made. The default counts nothing.
    fn stats(&self) -> BrokerStats {
        BrokerStats::default()
    }

    /// Closes the broker: it sends accepted publications, if the backend takes them within the
    /// deadline; later calls fail with [`BrokerError::Closed`], and the events end. Closing twice
    /// is no error.
    ///
    /// # Cancel safety
    /// Not safe: a call that is dropped may leave accepted publications unsent.
    async fn close(&self);
}

/// Whether the backend answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The backend answers, for publishing and for receiving.
    Ready,
    /// The backend does not answer or refuses, and the broker keeps retrying.
    Unavailable,
    /// The broker was closed.
    Closed,
}
