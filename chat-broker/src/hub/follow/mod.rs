//! Durable subscriptions: what is published to a topic as a stream, from a position on.
//!
//! ```text
//!  cut of the room, under its lock                            Follow::recv
//!     batch ───────▶ queue (Live) ───────────────────────────────▶ consumer
//!                      │     ▲                                        ▲
//!             is full  │     │ the rest is in the room's memory,      │
//!                      ▼     │ under its lock                         │
//!                    (Behind) ──── page of the history ───────────────┘
//! ```
//!
//! A follower is no member: it receives the items of a batch when the batch is cut, and takes no turn
//! of the fan-out. It works in the consumer's own task, and only while the consumer waits for an
//! item: a consumer that stops costs the memory of its queue, and holds up nothing.
//!
//! The repair of losses is the room's: what arrives in the queue is the sequence without hole or
//! repeat. The follower repairs what it did not take in time, as a member that
//! [catches up](super::catch_up) does.

mod follower;
mod queue;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use chat_core::{Deliver, Item, Position, Topic};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::config::RETRY_DELAY;
use super::pages::{PAGE, Reader};
use super::{Hub, Shared};
use crate::error::BrokerError;
use crate::history::HistoryRead;
use queue::{Next, Phase};

pub use follower::Follower;
pub(super) use queue::FollowQueue;

/// What was published to a topic, from a position on: a [`Stream`] of [`Followed`], which ends when
/// the broker is closed. Made by [`Hub::follow`] and [`Follower::follow`]. Dropping it unsubscribes,
/// if nothing else on this node needs the topic.
///
/// # Promises
/// In a topic with a history, each persistent publication arrives once and in order, whatever
/// this node missed, or there is a [gap](Followed::Gap). While the broker is unavailable the stream
/// waits, without an item, and continues after that; [`error`](Self::error) is the reason. An
/// ephemeral publication arrives at most once, and only while the consumer keeps up.
///
/// In a topic without a history (all topics of users, and rooms by
/// [`HubConfig::history`](super::HubConfig::history)) publications have no position, and after each
/// loss there is a gap without one.
///
/// # Slow consumers
/// The queue takes 1,024 publications and 1 MiB. When it is full, the consumer gets what is queued,
/// and what follows is read from the history in pages of at most 256 publications and 256 KiB, at
/// the consumer's own speed; what the history has trimmed by then is a gap.
/// [`HubStats::slow_followers`](super::HubStats::slow_followers) counts how often. No other
/// consumer, member or publisher waits.
pub struct Follow {
    /// Never locked: the lock makes the future of the next item [`Sync`], and so a future that holds a
    /// reference to the follow [`Send`].
    items: Mutex<BoxStream<'static, Followed>>,
    queue: Arc<FollowQueue>,
    /// What keeps the driver of a [`Follower`] running. Dropped after the items, which release the
    /// topic.
    _driver: Option<Arc<follower::DriverHandle>>,
}

/// An item of a [`Follow`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Followed {
    /// A publication.
    #[non_exhaustive]
    Publication {
        /// What was passed to [`Broker::publish`](crate::Broker::publish). For a message of a chat
        /// room, it is decoded by [`envelope::decode`](chat_core::envelope::decode).
        payload: Bytes,
        /// The position of the publication, which a consumer saves to continue after it; `None` for
        /// an ephemeral publication.
        position: Option<Position>,
    },
    /// Publications are missing: the history did not reach back to them, or the backend lost its
    /// data.
    #[non_exhaustive]
    Gap {
        /// The position up to which there was no hole; `None` in a topic without history.
        from: Option<Position>,
        /// The position after which the stream continues, which a consumer saves. If it is of the
        /// same epoch as `from`, the difference of the offsets is the number of missing
        /// publications; a lower offset is that of a backend which lost the end of the sequence, and
        /// assigns the offsets after it again. `None` in a topic without history: ephemeral publications may be missing.
        to: Option<Position>,
    },
}

impl Followed {
    /// The position to save: a [`follow`](Hub::follow) since it continues after this item. `None` for
    /// an item of a topic without history.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Publication { position, .. } => *position,
            Self::Gap { to, .. } => *to,
        }
    }
}

impl<M: Deliver + Clone + 'static> Hub<M> {
    /// Follows what is published to `topic`: after `since`, or from now on if that is `None`.
    ///
    /// The consumer saves the [position](Followed::position) of each item that it has processed, and
    /// after a restart continues from it: each publication arrives once, in order. What the history
    /// does not reach back to is one [`Followed::Gap`], and so is a sequence that the backend has
    /// lost. [`Position::default`] is before the first publication of a topic.
    ///
    /// The follow begins with the call, and is no member: it announces no user, and
    /// [`members`](Self::members) does not list it. A node that follows a user's topic counts as one
    /// that a direct message has reached.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use chat_broker::{Followed, Hub, HubConfig, MemoryBroker};
    /// # use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome};
    /// use chat_core::{Event, Position, RoomId, Topic, User, UserId, envelope};
    /// # #[derive(Clone)]
    /// # struct Member;
    /// # impl Deliver for Member {
    /// #     fn deliver(&self, _: &Batch) -> DeliveryOutcome { DeliveryOutcome::Queued }
    /// #     fn close(&self, _: CloseReason) {}
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (broker, events) = MemoryBroker::connect();
    /// let (hub, driver) = Hub::<Member>::new(Arc::new(broker), events, HubConfig::default());
    /// tokio::spawn(driver.run());
    /// let room = RoomId::new("support")?;
    /// let ann = User::new(UserId::new("ann")?, None);
    /// hub.publish(&room, ann.as_sender(), "hello").await?.await?;
    ///
    /// let mut archive = hub.follow(&Topic::Room(room), Some(Position::default()));
    /// let Some(Followed::Publication { payload, position, .. }) = archive.recv().await else { panic!() };
    /// let Event::Message(message) = envelope::decode(&payload)? else { panic!() };
    /// assert_eq!(message.text, "hello");
    /// assert_eq!(position.map(|position| position.offset), Some(1));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "dropping it unsubscribes"]
    pub fn follow(&self, topic: &Topic, since: Option<Position>) -> Follow {
        let shared = &self.shared;
        let queue = Arc::new(FollowQueue::new(since));
        let is_first = shared.registry.hold_with(topic, |room, is_first| {
            if is_first {
                shared.begin(topic, &mut room.state);
            }
            room.state.follow(Arc::clone(&queue));
            is_first
        });
        let subscription = Subscription {
            shared: Arc::clone(shared),
            topic: topic.clone(),
            queue: Arc::clone(&queue),
        };
        if is_first {
            shared.dirty_topics.membership_changed(topic.clone());
        }
        // After the follower was added: a driver that ends later ends it.
        if shared.ended.load(Ordering::Acquire) {
            queue.end();
        }
        let next = |subscription: Subscription<M>| async move {
            let item = subscription.next().await?;
            Some((item, subscription))
        };
        let items = stream::unfold(subscription, next).fuse().boxed();
        Follow { items: Mutex::new(items), queue, _driver: None }
    }
}

impl Follow {
    /// Waits for the next item; `None` after the broker was closed.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped has taken no item.
    pub async fn recv(&mut self) -> Option<Followed> {
        self.items.get_mut().next().await
    }

    /// Waits until the topic is subscribed, however long the broker is unavailable: what is
    /// published from then on arrives. Returns the [position](Self::position).
    ///
    /// ```
    /// # use chat_broker::{BrokerError, Follower};
    /// # use chat_core::Topic;
    /// # async fn example(follower: Follower, orders: Topic) -> Result<(), BrokerError> {
    /// let follow = follower.follow(&orders, None);
    /// if let Some(position) = follow.subscribed().await? {
    ///     println!("save {position}: what is published after it arrives");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker was closed.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn subscribed(&self) -> Result<Option<Position>, BrokerError> {
        match self.queue.wait_until(|phase, _| phase != Phase::Waiting).await {
            Phase::Ended => Err(BrokerError::Closed),
            _ => Ok(self.position()),
        }
    }

    /// The position after the last item that [`recv`](Self::recv) returned, or at which the follow
    /// began. `None` in a topic without history, and before the topic is
    /// [subscribed](Self::subscribed) if no position was given.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.queue.taken()
    }

    /// Why the latest call to the broker for this topic failed, while it is retried each second;
    /// `None` if it did not. Most errors end with an outage; [`BrokerError::Damaged`] needs an
    /// operator.
    #[must_use]
    pub fn error(&self) -> Option<BrokerError> {
        self.queue.error()
    }
}

impl Stream for Follow {
    type Item = Followed;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Followed>> {
        self.items.get_mut().as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("position", &self.position()).finish_non_exhaustive()
    }
}

/// The consumer's side of a follow.
struct Subscription<M: Deliver + Clone> {
    shared: Arc<Shared<M>>,
    topic: Topic,
    queue: Arc<FollowQueue>,
}

impl<M: Deliver + Clone> Subscription<M> {
    async fn next(&self) -> Option<Followed> {
        loop {
            match self.queue.next() {
                Next::Item(item) => return Some(item),
                Next::Empty(Phase::Ended) => return None,
                Next::Empty(Phase::Behind) => tokio::select! {
                    () = self.catch_up() => {}
                    _ = self.queue.wait_until(|phase, _| phase == Phase::Ended) => {}
                },
                Next::Empty(Phase::Waiting | Phase::Live) => {
                    let is_ready = |phase, is_empty: bool| {
                        !is_empty || matches!(phase, Phase::Behind | Phase::Ended)
                    };
                    self.queue.wait_until(is_ready).await;
                }
            }
        }
    }

    /// Queues a page of what follows on the last item, or attaches the follower to the room.
    async fn catch_up(&self) {
        let mut reader = Reader::new(self.queue.end_position());
        loop {
            let Err(room) = self.attach(&reader) else { return };
            if reader.wants_page(room) {
                let read = HistoryRead::new(self.topic.clone(), reader.range(), PAGE);
                let history = match self.shared.history(read).await {
                    Ok(history) => history,
                    Err(error) => {
                        tracing::debug!(%error, topic = %self.topic, "a follower's read failed, retrying");
                        self.queue.fail(&error);
                        sleep(RETRY_DELAY).await;
                        continue;
                    }
                };
                match reader.take(&history) {
                    Some(items) if items.is_empty() => continue,
                    Some(items) => return self.queue.extend(items),
                    None => {}
                }
            }
            self.shared.position_changed(&self.topic, room).await;
        }
    }

    /// Has the room queue its batches from now on, if the reader has all before them, or it is in the
    /// room's memory. Returns the room's position if not.
    fn attach(&self, reader: &Reader) -> Result<(), Option<Position>> {
        let attached = self.shared.registry.update(&self.topic, |room| {
            self.shared.expire(&mut room.state.sequence);
            let snapshot = room.state.snapshot(&self.topic, room.members()).ok_or(None)?;
            let rest = match snapshot.recent {
                Some(_) => reader.rest(&snapshot).ok_or(snapshot.position)?,
                // What the queue had no room for is stored nowhere.
                None => vec![Item::Gap(None)],
            };
            self.queue.attach(rest);
            Ok(())
        });
        attached.unwrap_or(Err(None))
    }
}

impl<M: Deliver + Clone> Drop for Subscription<M> {
    fn drop(&mut self) {
        self.shared.registry.update(&self.topic, |room| room.state.unfollow(&self.queue));
        if let Some(room) = self.shared.registry.release(&self.topic) {
            self.shared.retire(&self.topic, room);
        }
    }
}
