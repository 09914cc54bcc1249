//! Rooms on this server over any broker.
//!
//! ```text
//!            join, leave                                 publish
//!                │                                          │
//!                ▼                                          ▼
//!  ┌── Registry: topic → members, RoomState ──┐          Broker
//!  │ first member / last member               │             │
//!  │        │ DirtyTopics                     │             │ BrokerEvents
//!  │        ▼                                 │             ▼
//!  │    Interest ── subscribe, positions ───────────▶   Ingest
//!  │        │ the room goes live              │             │ publications
//!  │        └───────────▶ pending items ◀─────────────────--┘
//!  │                          │ cut: one Batch, one snapshot of the members ──▶ queue of each Follow
//!  │                          ▼
//!  │                       FanOut ── deliver(batch) ──▶ each member
//!  └──────────────────────────────────────────┘
//! ```
//!
//! Connections hold a [`Hub`]. [`HubDriver`] does its work: four loops in one future, which the
//! caller spawns, and the further [`workers`](HubConfig::workers) of the fan-out on threads of
//! their own.

mod awaited;
mod backlog;
mod call;
mod catch_up;
mod config;
mod dirty_topics;
mod fan_out;
mod follow;
mod ingest;
mod interest;
mod join;
mod joiner;
mod log_budget;
mod member_slot;
mod membership;
mod pages;
mod presence;
mod presence_log;
mod publish;
mod room;
mod sequence;
mod stats;

use std::fmt;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chat_core::{
    ConnectionId, Deliver, History, Members, Position, Registry, Retention, RoomId, Topic, UserId,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::broker::{Broker, Status};
use crate::error::BrokerError;
use crate::events::BrokerEvents;
use crate::history::HistoryRead;
use awaited::RosterCondition;
use dirty_topics::DirtyTopics;
use fan_out::FanOut;
use presence::Presence;
use room::RoomState;
use sequence::RoomSequence;
use stats::Counters;

pub use config::{HistoryRules, HubConfig};
pub use follow::{Follow, Followed, Follower};
pub use join::JoinOptions;
pub use joiner::{Joiner, Snapshot};
pub use member_slot::MemberSlot;
pub use membership::Membership;
pub use publish::unix_millis;
pub use stats::HubStats;

/// Topics that one call visits before it yields to other tasks.
const TOPICS_PER_TURN: usize = 256;

/// The members of all topics on this server, in step with a broker.
///
/// A clone is another handle on the same hub. `M` is the handle of a member and should be cheap to
/// clone, such as an [`Arc`].
pub struct Hub<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    registry: Registry<MemberSlot<M>, RoomState<M>>,
    broker: Arc<dyn Broker>,
    config: HubConfig,
    dirty_topics: DirtyTopics,
    fan_out: FanOut<M>,
    presence: Presence,
    /// Rooms have a roster. `false` for a hub of followers alone, who do not read it, and on a broker
    /// without presence.
    has_rosters: bool,
    counters: Counters,
    /// The broker's records have changed, or may have.
    records_changed: Notify,
    /// Rooms with members or followers.
    rooms: AtomicUsize,
    /// Payload that all rooms hold for joins, in bytes.
    recent_bytes: AtomicUsize,
    /// The driver unsubscribes all topics and ends. Only a [`Follower`] stops its driver.
    stopping: Notify,
    /// The driver has ended: no join completes any more.
    ended: AtomicBool,
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

    fn with_rosters(
        broker: Arc<dyn Broker>,
        events: BrokerEvents,
        config: HubConfig,
        has_rosters: bool,
    ) -> (Self, HubDriver<M>) {
        let shared = Arc::new(Shared {
            registry: Registry::new(),
            broker,
            dirty_topics: DirtyTopics::default(),
            fan_out: FanOut::new(config.workers),
            config,
            presence: Presence::default(),
            has_rosters,
            counters: Counters::default(),
            records_changed: Notify::new(),
            rooms: AtomicUsize::new(0),
            recent_bytes: AtomicUsize::new(0),
            stopping: Notify::new(),
            ended: AtomicBool::new(false),
        });
        (Self { shared: Arc::clone(&shared) }, HubDriver { shared, events })
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

    fn membership(
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

impl<M> Shared<M> {
    async fn history(&self, read: HistoryRead) -> Result<History, BrokerError> {
        let histories = call::histories(&*self.broker, &[read]).await?;
        histories.into_iter().next().ok_or_else(|| BrokerError::refused("no history was read"))
    }
}

impl<M: Deliver + Clone> Shared<M> {
    /// What `read` returns for the state of a topic, if the topic is live.
    fn with_snapshot<R>(
        &self,
        topic: &Topic,
        read: impl FnOnce(Snapshot<'_, M>) -> R,
    ) -> Option<R> {
        let read = self.registry.update(topic, |room| {
            self.expire(&mut room.state.sequence);
            room.state.snapshot(topic, room.members()).map(read)
        });
        read.flatten()
    }

    /// Waits until the position of a topic differs from `from`.
    async fn position_changed(&self, topic: &Topic, from: Option<Position>) {
        let moved = self.registry.update(topic, |room| room.state.position_changed(from));
        if let Some(moved) = moved.flatten() {
            moved.await;
        }
    }

    /// Waits until the roster of a topic meets a condition, if this server has the topic.
    async fn wait_until(&self, topic: &Topic, awaited: RosterCondition) {
        let shown = self.registry.update(topic, |room| room.state.sequence.wait_until(awaited));
        if let Some(Some(shown)) = shown {
            // An error means that the room has ended on this server: nothing shows the roster.
            let _ = shown.await;
        }
    }

    /// The answer to a member that waits for a room; [`BrokerError::Closed`] once the driver has
    /// ended.
    async fn answer<T>(
        &self,
        mut waiting: oneshot::Receiver<Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        if self.ended.load(Ordering::Acquire) {
            return waiting.try_recv().unwrap_or(Err(BrokerError::Closed));
        }
        waiting.await.unwrap_or(Err(BrokerError::Closed))
    }

    /// The answer to a join, or an error after the join timeout if the broker is unavailable. The
    /// broker limits the time of each of its calls; but the hub makes few at a time, so a join may
    /// wait for several. Joins of a broker that is ready are not failed: when many members join at
    /// once, the last answers are late, and a retry would make them later.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let limit = self.config.join_timeout.max(Duration::from_millis(1));
        let mut answer = pin!(answer);
        loop {
            match timeout(limit, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) if self.broker.status() != Status::Ready => {
                    return Err(BrokerError::unavailable(
                        "the broker did not answer the join in time",
                    ));
                }
                Err(_) => {}
            }
        }
    }

    /// Fails all waiting joins, and ends all followers: the driver has ended, with the events or by a
    /// panic.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        for topic in self.registry.topics() {
            self.registry.update(&topic, |room| room.state.end());
        }
    }

    fn begin(&self, topic: &Topic, room: &mut RoomState<M>) {
        if topic.as_room().is_some() {
            self.rooms.fetch_add(1, Ordering::Relaxed);
        }
        room.backlog.serial = self.fan_out.next_room();
        room.sequence = RoomSequence::new(topic, &self.config, self.has_rosters);
    }

    fn leave(&self, topic: &Topic, id: ConnectionId) {
        if let Some(room) = self.registry.leave(topic, id).last {
            self.retire(topic, room);
        }
    }

    /// The last member or follower has left.
    fn retire(&self, topic: &Topic, room: RoomState<M>) {
        if topic.as_room().is_some() {
            self.rooms.fetch_sub(1, Ordering::Relaxed);
        }
        self.recent_bytes.fetch_sub(room.sequence.recent_bytes(), Ordering::Relaxed);
        self.fan_out.forget(room.backlog);
        self.dirty_topics.membership_changed(topic.clone());
    }

    /// Changes a room that has members, queues it for fan-out if something is pending, and accounts
    /// for the memory that it holds for joins.
    fn update<R>(
        &self,
        topic: &Topic,
        change: impl FnOnce(&mut RoomState<M>, &Members<MemberSlot<M>>) -> R,
    ) -> Option<R> {
        self.registry.update(topic, |room| {
            let (members, state) = room.split();
            let before = state.sequence.recent_bytes();
            let result = change(state, members);
            self.account(before, &mut state.sequence);
            self.fan_out.enqueue(topic, state);
            result
        })
    }

    /// Drops the expired messages of a room, which a joiner must not get.
    fn expire(&self, sequence: &mut RoomSequence) {
        let before = sequence.recent_bytes();
        sequence.expire(Instant::now());
        self.account(before, sequence);
    }

    /// Accounts for a change of the memory that a room holds. Above the budget a room that grows
    /// evicts half, unless it holds less than its share: quiet rooms that fill the budget do not
    /// starve a busy one.
    fn account(&self, before: usize, sequence: &mut RoomSequence) {
        let (budget, after) = (self.config.recent_bytes, sequence.recent_bytes());
        let grown = after.wrapping_sub(before);
        let total = self.recent_bytes.fetch_add(grown, Ordering::Relaxed).wrapping_add(grown);
        let share = budget / self.rooms.load(Ordering::Relaxed).max(1);
        if after > before && total > budget && after > share {
            sequence.evict();
            let freed = after - sequence.recent_bytes();
            self.recent_bytes.fetch_sub(freed, Ordering::Relaxed);
        }
    }
}

/// Does the work of a [`Hub`]: without [`run`](Self::run) nothing is delivered.
pub struct HubDriver<M> {
    shared: Arc<Shared<M>>,
    events: BrokerEvents,
}

impl<M: Deliver + Clone + 'static> HubDriver<M> {
    /// Runs until the broker's events end, that is until the broker is closed. All
    /// [`workers`](HubConfig::workers) but one run on threads of their own.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if there are several workers; and if a member's
    /// [`deliver`](Deliver::deliver) does.
    ///
    /// # Cancel safety
    /// Not safe: events that it had taken from the broker are lost. Drop it only with the hub.
    pub async fn run(self) {
        let Self { shared, events } = self;
        let shared = EndGuard(shared);
        // Dropped with this future, however it ends.
        let (_working, over) = watch::channel(());
        let mut helpers = JoinSet::new();
        for worker in 1..shared.0.fan_out.workers() {
            helpers.spawn_blocking(helper(Arc::clone(&shared.0), worker, over.clone()));
        }
        tokio::select! {
            biased;
            // First: what is taken in now is delivered in the next poll of this task, after the
            // tasks that were woken before. Among them are the connections of the senders, whose
            // acknowledgements then wait for the copies.
            () = fan_out::run(&shared.0, 0) => {}
            () = ingest::run(&shared.0, events) => {}
            // A helper ends only by a panic, which this task passes on.
            Some(Err(error)) = helpers.join_next() => {
                if let Ok(panic) = error.try_into_panic() {
                    resume_unwind(panic);
                }
            }
            () = interest::run(&shared.0) => {}
            () = presence::run(&shared.0) => {}
        }
    }
}

/// A further worker of the fan-out, on a thread of its own. A task would be scheduled on the thread
/// of the task that wakes it, and wait behind it.
fn helper<M: Deliver + Clone + 'static>(
    shared: Arc<Shared<M>>,
    worker: usize,
    mut over: watch::Receiver<()>,
) -> impl FnOnce() {
    let runtime = Handle::current();
    move || {
        runtime.block_on(async {
            tokio::select! {
                () = fan_out::run(&shared, worker) => {}
                _ = over.changed() => {}
            }
        });
    }
}

/// Fails the waiting joins however the driver ends: by its return, by a panic, or by a drop.
struct EndGuard<M: Deliver + Clone>(Arc<Shared<M>>);

impl<M: Deliver + Clone> Drop for EndGuard<M> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<M> fmt::Debug for HubDriver<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubDriver").finish_non_exhaustive()
    }
}
