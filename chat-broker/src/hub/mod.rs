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
mod driver;
mod fan_out;
mod follow;
mod handle;
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
mod traffic;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chat_core::{ConnectionId, Deliver, History, Members, Position, Registry, Topic};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use crate::broker::{Broker, Status};
use crate::error::BrokerError;
use crate::history::HistoryRead;
use awaited::RosterCondition;
use dirty_topics::DirtyTopics;
use fan_out::FanOut;
use presence::Presence;
use room::RoomState;
use sequence::RoomSequence;
use stats::Counters;
use traffic::Traffic;

pub use config::{HistoryRules, HubConfig};
pub use driver::HubDriver;
pub use follow::{Follow, Followed, Follower};
pub use handle::Hub;
pub use join::JoinOptions;
pub use joiner::{Joiner, Snapshot};
pub use member_slot::MemberSlot;
pub use membership::Membership;
pub use publish::unix_millis;
pub use stats::HubStats;
pub use traffic::RoomTraffic;

/// What the handles of a hub and its loops share: this file has the steps that several of them take.
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
    traffic: Traffic,
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

impl<M> Shared<M> {
    fn new(broker: Arc<dyn Broker>, config: HubConfig, has_rosters: bool) -> Self {
        Self {
            registry: Registry::new(),
            broker,
            dirty_topics: DirtyTopics::default(),
            fan_out: FanOut::new(config.workers),
            config,
            presence: Presence::default(),
            has_rosters,
            counters: Counters::default(),
            traffic: Traffic::new(),
            records_changed: Notify::new(),
            rooms: AtomicUsize::new(0),
            recent_bytes: AtomicUsize::new(0),
            stopping: Notify::new(),
            ended: AtomicBool::new(false),
        }
    }

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
