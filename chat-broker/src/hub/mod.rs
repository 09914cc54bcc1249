//! Rooms on this server over any broker.
//!
//! ```text
//!            join, leave                                 publish
//!                │                                          │
//!                ▼                                          ▼
//!  ┌── Registry: topic → members, RoomState ──┐          Broker
//!  │ first member / last member               │             │
//!  │        │ edges                           │             │ BrokerEvents
//!  │        ▼                                 │             ▼
//!  │    Interest ── subscribe, positions ───────────▶   Ingest
//!  │        │ the room goes live              │             │ publications
//!  │        └───────────▶ pending items ◀─────────────────--┘
//!  │                          │ cut: one Batch, one snapshot of the members
//!  │                          ▼
//!  │                       FanOut ── deliver(batch) ──▶ each member
//!  └──────────────────────────────────────────┘
//! ```
//!
//! [`Hub`] is what connections hold. [`HubDriver`] is the work behind it: four loops in
//! one future, which the caller spawns; and further [`workers`](HubConfig::workers) of the
//! fan-out, on a machine with many cores.

mod awaited;
mod call;
mod catch_up;
mod config;
mod dirty_topics;
mod fan_out;
mod ingest;
mod interest;
mod join;
mod joiner;
mod log_budget;
mod member_slot;
mod membership;
mod presence;
mod publish;
mod room;
mod sequence;
mod slot;
mod stats;

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chat_core::{
    ConnectionId, Deliver, History, Members, Registry, Retention, RoomId, Topic, UserId,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::events::BrokerEvents;
use crate::history::HistoryRead;
use awaited::Awaited;
use dirty_topics::DirtyTopics;
use fan_out::FanOut;
use presence::Presence;
use room::RoomState;
use sequence::RoomSequence;
use stats::Counters;

pub use config::{HistoryRules, HubConfig};
pub use join::JoinOptions;
pub use joiner::{Joiner, Snapshot};
pub use member_slot::MemberSlot;
pub use membership::Membership;
pub use publish::unix_millis;
pub use stats::HubStats;

/// Topics that one call looks at before it lets other tasks run.
const TOPICS_PER_TURN: usize = 256;

/// The members of all topics on this server, kept in step with a broker.
///
/// A clone is another handle on the same hub. `M` is the handle on a member: cheap to
/// clone, an [`Arc`] for one.
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
    counters: Counters,
    /// The broker's records have changed, or may have.
    records_changed: Notify,
    /// Rooms with members.
    rooms: AtomicUsize,
    /// Memory that all rooms hold for newcomers.
    recent_bytes: AtomicUsize,
    /// The driver is gone: no join completes any more.
    ended: AtomicBool,
}

impl<M: Deliver + Clone + 'static> Hub<M> {
    /// A hub over `broker`, whose events are `events`; and the work behind it, to be
    /// spawned. If the broker has no [presence](Broker::presence), the hub logs so once and does
    /// without: snapshots have no roster, and members receive no presence events.
    #[must_use]
    pub fn new(
        broker: Arc<dyn Broker>,
        events: BrokerEvents,
        config: HubConfig,
    ) -> (Self, HubDriver<M>) {
        if broker.presence().is_none() {
            tracing::warn!(
                "the broker has no presence: no presence events, and a member that asks who is in a \
                 room gets itself alone"
            );
        }
        let shared = Arc::new(Shared {
            registry: Registry::new(),
            broker,
            dirty_topics: DirtyTopics::default(),
            fan_out: FanOut::new(config.workers),
            config,
            presence: Presence::default(),
            counters: Counters::default(),
            records_changed: Notify::new(),
            rooms: AtomicUsize::new(0),
            recent_bytes: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        (Self { shared: Arc::clone(&shared) }, HubDriver { shared, events })
    }

    /// Makes `member` a member of `topic` at once, until the [`Membership`] is dropped,
    /// without waiting for the broker: the topic is subscribed as soon as that can be
    /// done. For topics that have no sequence to be in step with.
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
            self.shared.dirty_topics.moved(topic.clone());
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
        Membership { shared, topic, id, member_slot, user, is_lost: false, has_left: false }
    }

    /// Ends the [grace](HubConfig::grace) of `user` in `topic`, or in all topics if that is `None`: where
    /// all connections of the user on this server were lost, the user leaves now. A user who has a
    /// connection stays.
    pub fn expire_grace(&self, topic: Option<&Topic>, user: &UserId) {
        self.shared.expire_grace(topic, user);
    }

    /// Waits until the roster of `topic` on this server does not list `user`; not at all if the topic
    /// has no members here, or too many to be listed. While the broker is away that takes as long,
    /// so give it a time limit.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn absent(&self, topic: &Topic, user: &UserId) {
        self.shared.until(topic, Awaited::Absence(user.clone())).await;
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

    /// A snapshot of the topic's members on this server.
    #[must_use]
    pub fn members(&self, topic: &Topic) -> Members<MemberSlot<M>> {
        self.shared.registry.members(topic)
    }
}

impl<M> Hub<M> {
    /// The broker, to publish through.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.shared.broker
    }

    /// A part of a topic's history, as [`Broker::history`] gives it: an answer to another question is
    /// an error.
    ///
    /// # Errors
    /// What [`Broker::history`] reports; and if the answer is none, [`BrokerError::Damaged`] or
    /// [`BrokerError::Refused`].
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

    /// Waits until the [shared table](Broker::table) of the broker is to be read again: until a
    /// node has changed it, or may have unnoticed ([`BrokerEvent::Interrupted`]), since this
    /// returned the last time. For one caller at a time, who reads them once before the first
    /// call; it never returns after the broker's events have ended.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped has taken nothing.
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
    /// How many topics have members on this server.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.shared.registry.len()
    }

    /// How many of them are rooms.
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
    /// Waits until the roster of a topic shows something, if it is known here.
    async fn until(&self, topic: &Topic, awaited: Awaited) {
        let shown = self.registry.update(topic, |room| room.state.sequence.until(awaited));
        if let Some(Some(shown)) = shown {
            // It fails if the room has ended here, and is known to nobody.
            let _ = shown.await;
        }
    }

    /// The answer to a member that waits for a room; none comes once the driver is gone.
    async fn answer<T>(
        &self,
        mut waiting: oneshot::Receiver<Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        if self.ended.load(Ordering::Acquire) {
            return waiting.try_recv().unwrap_or(Err(BrokerError::Closed));
        }
        waiting.await.unwrap_or(Err(BrokerError::Closed))
    }

    /// The driver is gone, by the end of the events or by a panic.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        for topic in self.registry.topics() {
            self.registry.update(&topic, |room| room.state.give_up());
        }
    }

    fn begin(&self, topic: &Topic, room: &mut RoomState<M>) {
        if topic.as_room().is_some() {
            self.rooms.fetch_add(1, Ordering::Relaxed);
        }
        let has_presence = self.broker.presence().is_some();
        room.slot.nth = self.fan_out.next_room();
        room.sequence = RoomSequence::new(topic, &self.config, has_presence);
    }

    fn leave(&self, topic: &Topic, id: ConnectionId) {
        if let Some(room) = self.registry.leave(topic, id).last {
            if topic.as_room().is_some() {
                self.rooms.fetch_sub(1, Ordering::Relaxed);
            }
            self.recent_bytes.fetch_sub(room.sequence.recent_bytes(), Ordering::Relaxed);
            self.fan_out.forget(room.slot);
            self.dirty_topics.moved(topic.clone());
        }
    }

    /// Changes a room that has members, and has it served what it is given to tell. Keeps
    /// the account of the memory that rooms hold for newcomers.
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

    /// When all rooms together hold too much, a room that grows gives up half of what it
    /// holds, but keeps its fair share: rooms that are quiet do not starve those that are not.
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

/// The work behind a [`Hub`]. Nothing is delivered unless [`run`](Self::run) is.
pub struct HubDriver<M> {
    shared: Arc<Shared<M>>,
    events: BrokerEvents,
}

impl<M: Deliver + Clone + 'static> HubDriver<M> {
    /// Works until the broker's events end, that is until the broker is closed. All
    /// [`workers`](HubConfig::workers) but one are threads of their own.
    ///
    /// # Panics
    /// Outside of a tokio runtime, if there are several workers; and if a member's
    /// [`deliver`](Deliver::deliver) does.
    ///
    /// # Cancel safety
    /// Not safe: what it had taken from the broker is lost. Drop it only with the hub.
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
            () = ingest::run(&shared.0, events) => {}
            () = fan_out::run(&shared.0, 0) => {}
            // They work for ever, unless one panics: so does this.
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

/// A further worker of the fan-out, on a thread of its own: a task would stand behind the
/// task that wakes it, on the thread of that one.
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

/// However the work ends, nobody is left waiting for it.
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
