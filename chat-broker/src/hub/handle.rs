//! The hub, as connections hold it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chat_core::{
    ConnectionId, Deliver, History, Members, Position, Retention, RoomId, Topic, UserId,
};

use super::Shared;
use super::awaited::RosterCondition;
use super::config::HubConfig;
use super::driver::HubDriver;
use super::joiner::Snapshot;
use super::member_slot::MemberSlot;
use super::membership::Membership;
use super::stats::HubStats;
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::events::BrokerEvents;
use crate::history::HistoryRead;

/// Topics that one call visits before it yields to other tasks.
const TOPICS_PER_TURN: usize = 256;

/// The members of all topics on this server, in step with a broker.
///
/// A clone is another handle on the same hub. `M` is the handle of a member and should be cheap to
/// clone, such as an [`Arc`].
pub struct Hub<M> {
    pub(super) shared: Arc<Shared<M>>,
}

impl<M: Deliver + Clone + 'static> Hub<M> {
    /// A hub over `broker`, whose events are `events`, and the driver, which the caller spawns. If
    /// the broker has no [presence](Broker::presence), the hub logs that once; then snapshots have
    /// no roster, and members receive no presence events.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use chat_broker::{Hub, HubConfig, MemoryBroker};
    /// use chat_core::{Batch, CloseReason, Deliver, DeliveryOutcome};
    ///
    /// #[derive(Clone)]
    /// struct Printer;
    ///
    /// impl Deliver for Printer {
    ///     fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
    ///         println!("{} bytes for {}", batch.payload_len(), batch.topic());
    ///         DeliveryOutcome::Queued
    ///     }
    ///     fn close(&self, _: CloseReason) {}
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (broker, events) = MemoryBroker::connect();
    /// let (hub, driver) = Hub::<Printer>::new(Arc::new(broker), events, HubConfig::default());
    /// tokio::spawn(driver.run());
    /// assert_eq!(hub.topics(), 0);
    /// # }
    /// ```
    #[must_use]
    pub fn new(
        broker: Arc<dyn Broker>,
        events: BrokerEvents,
        config: HubConfig,
    ) -> (Self, HubDriver<M>) {
        if broker.presence().is_none() {
            tracing::warn!(
                "the broker has no presence: rooms send no presence events, and a member list holds \
                 only the member that asks for it"
            );
        }
        let has_rosters = broker.presence().is_some();
        Self::with_rosters(broker, events, config, has_rosters)
    }

    pub(super) fn with_rosters(
        broker: Arc<dyn Broker>,
        events: BrokerEvents,
        config: HubConfig,
        has_rosters: bool,
    ) -> (Self, HubDriver<M>) {
        let shared = Arc::new(Shared::new(broker, config, has_rosters));
        (Self { shared: Arc::clone(&shared) }, HubDriver::new(shared, events))
    }

    /// Makes `member` a member of `topic` at once, until the [`Membership`] is dropped, without
    /// waiting for the broker; the topic is subscribed as soon as possible. For topics without a
    /// history, such as a user's own: see [`Membership::subscribed`].
    #[must_use = "dropping the membership leaves the topic"]
    pub fn attach(&self, topic: &Topic, id: ConnectionId, member: M) -> Membership<M> {
        let member_slot = MemberSlot::new(member);
        let first =
            self.shared.registry.join_with(topic, id, member_slot.clone(), |room, joined| {
                if joined.first {
                    self.shared.begin(topic, &mut room.state);
                }
                joined.first
            });
        if first {
            self.shared.dirty_topics.membership_changed(topic.clone());
        }
        self.membership(topic, id, member_slot)
    }

    pub(super) fn membership(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member_slot: MemberSlot<M>,
    ) -> Membership<M> {
        let shared = Arc::clone(&self.shared);
        let (topic, user) = (topic.clone(), None);
        Membership { shared, topic, id, member_slot, user, is_disconnected: false, has_left: false }
    }

    /// Ends the [grace](HubConfig::grace) of `user` in `topic`, or in all topics if that is `None`: if
    /// all connections of the user on this server were lost, the user leaves now. A user with a
    /// connection stays; a join that fails afterwards begins a new grace period.
    pub fn expire_grace(&self, topic: Option<&Topic>, user: &UserId) {
        self.shared.expire_grace(topic, user);
    }

    /// Waits until the roster of `topic` on this server does not list `user`. Returns at once if
    /// the topic has no members here, or too many to be listed. While the broker is unavailable it
    /// does not return: use a timeout.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use chat_broker::Hub;
    /// # use chat_core::{Deliver, Topic, UserId};
    /// # async fn example<M: Deliver + Clone + 'static>(hub: Hub<M>, lobby: Topic, ann: UserId) {
    /// // After ann was kicked on another server:
    /// let _ = tokio::time::timeout(Duration::from_secs(1), hub.absent(&lobby, &ann)).await;
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn absent(&self, topic: &Topic, user: &UserId) {
        self.shared.wait_until(topic, RosterCondition::Absence(user.clone())).await;
    }

    /// As [`absent`](Self::absent), for all topics with members here.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn absent_everywhere(&self, user: &UserId) {
        for (nth, topic) in self.shared.registry.topics().into_iter().enumerate() {
            if nth % TOPICS_PER_TURN == TOPICS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            self.absent(&topic, user).await;
        }
    }

    /// The rooms that each of these connections to this server is in, in order. Takes time for all topics
    /// of this server, and lets other tasks run in between.
    ///
    /// ```
    /// # use chat_broker::Hub;
    /// # use chat_core::{ConnectionId, Deliver};
    /// # async fn example<M: Deliver + Clone + 'static>(hub: Hub<M>, connection: ConnectionId) {
    /// let rooms = hub.rooms_of(&[connection]).await;
    /// println!("{} rooms", rooms[0].len());
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn rooms_of(&self, connections: &[ConnectionId]) -> Vec<Vec<RoomId>> {
        let mut rooms = vec![Vec::new(); connections.len()];
        if connections.is_empty() {
            return rooms;
        }
        for (nth, topic) in self.shared.registry.topics().into_iter().enumerate() {
            if nth % TOPICS_PER_TURN == TOPICS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let Topic::Room(room) = &topic else { continue };
            let members = self.members(&topic);
            for (id, rooms) in connections.iter().zip(&mut rooms) {
                if members.get(*id).is_some() {
                    rooms.push(room.clone());
                }
            }
        }
        rooms.iter_mut().for_each(|rooms| rooms.sort_unstable());
        rooms
    }

    /// A snapshot of the topic's members on this server. A member that was closed, for example as a
    /// slow consumer, stays one until its [`Membership`] is dropped.
    ///
    /// ```
    /// # fn example<M: chat_core::Deliver + Clone + 'static>(
    /// #     hub: chat_broker::Hub<M>, lobby: chat_core::Topic,
    /// # ) {
    /// for (id, slot) in hub.members(&lobby).iter() {
    ///     println!("{id:?} is connected: {}", slot.member().is_some());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn members(&self, topic: &Topic) -> Members<MemberSlot<M>> {
        self.shared.registry.members(topic)
    }

    /// What `read` returns for the state of `topic`, as [`Membership::with_snapshot`] for a caller
    /// that is no member; `None` if the topic has no members on this server, or is not live. The
    /// topic's lock is held: `read` must not block or call the hub.
    ///
    /// ```
    /// # fn example<M: chat_core::Deliver + Clone + 'static>(
    /// #     hub: chat_broker::Hub<M>, lobby: chat_core::Topic,
    /// # ) {
    /// let count = hub.with_snapshot(&lobby, |snapshot| snapshot.roster.map(|roster| roster.count()));
    /// println!("{:?} users on all servers", count.flatten());
    /// # }
    /// ```
    pub fn with_snapshot<R>(
        &self,
        topic: &Topic,
        read: impl FnOnce(Snapshot<'_, M>) -> R,
    ) -> Option<R> {
        self.shared.with_snapshot(topic, read)
    }

    /// Waits until the position of `topic` differs from `from`, as
    /// [`Membership::position_changed`] does. Returns at once if the topic has no members on this
    /// server.
    ///
    /// # Cancel safety
    /// Safe: nothing is taken.
    pub async fn position_changed(&self, topic: &Topic, from: Option<Position>) {
        self.shared.position_changed(topic, from).await;
    }
}

impl<M> Hub<M> {
    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.shared.broker
    }

    /// Reads a part of a topic's history, and [checks](HistoryRead::check) the answer.
    ///
    /// ```
    /// # use chat_broker::{BrokerError, HistoryRead, Hub};
    /// # use chat_core::{HistoryRange, Topic};
    /// # async fn example<M>(hub: Hub<M>, lobby: Topic) -> Result<(), BrokerError> {
    /// let history = hub.history(HistoryRead::new(lobby, HistoryRange::Latest, 50)).await?;
    /// println!("{} messages", history.entries.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What [`Broker::history`] reports; [`BrokerError::Damaged`] or [`BrokerError::Refused`] if
    /// the answer is malformed.
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn history(&self, read: HistoryRead) -> Result<History, BrokerError> {
        self.shared.history(read).await
    }

    /// What `room` keeps of its history; `None` if nothing.
    #[must_use]
    pub fn retention(&self, room: &RoomId) -> Option<Retention> {
        self.shared.config.history.of(room)
    }

    /// Waits until the broker's [shared table](Broker::table) should be read again: until a node
    /// has changed it, or may have while the connection was lost ([`BrokerEvent::Interrupted`]),
    /// since the last return. For one caller at a time, which reads the table once before the first
    /// call. It never returns after the broker's events have ended.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped loses no notification.
    ///
    /// [`BrokerEvent::Interrupted`]: crate::BrokerEvent::Interrupted
    pub async fn records_changed(&self) {
        self.shared.records_changed.notified().await;
    }

    /// What the hub has counted since it was made.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        self.shared.stats()
    }
}

impl<M: Deliver + Clone> Hub<M> {
    /// Has `member` [write](Deliver::flush) what it holds back, in a turn behind what waits for
    /// delivery: for an answer to a publication, which is then mostly one write with the publication
    /// itself. With several workers the turn may be earlier; then they are two writes.
    pub fn flush_after_pending(&self, member: M) {
        self.shared.fan_out.flush_after_pending(member.clone());
        // After the push: a check before it would miss an end in between, after which no worker
        // takes a turn.
        if self.shared.ended.load(Ordering::Acquire) {
            member.flush();
        }
    }

    /// How many topics have members or followers on this server.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.shared.registry.len()
    }

    /// How many rooms have members or followers on this server.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.shared.rooms.load(Ordering::Relaxed)
    }
}

impl<M> Clone for Hub<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M> fmt::Debug for Hub<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("broker", &self.shared.broker).finish_non_exhaustive()
    }
}
