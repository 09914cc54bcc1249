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
//! one future, which the caller spawns.

mod call;
mod config;
mod edges;
mod fan_out;
mod ingest;
mod interest;
mod presence;
mod room;
mod seat;
mod stats;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chat_core::{
    ConnectionId, Deliver, Members, Occupant, Registry, Retention, RoomId, Topic, UserId,
};
use tokio::sync::oneshot;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::events::BrokerEvents;
use edges::Edges;
use fan_out::FanOut;
use presence::Presence;
use room::{RoomState, Waiter};
use stats::Counters;

pub use config::{HistoryRules, HubConfig};
pub use room::{Snapshot, Welcomed};
pub use seat::Seat;
pub use stats::HubStats;

/// The members of all topics on this server, kept in step with a broker.
///
/// A clone is another handle on the same hub. `M` is the handle on a member: cheap to
/// clone, an [`Arc`] for one.
pub struct Hub<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    registry: Registry<Seat<M>, RoomState<M>>,
    broker: Arc<dyn Broker>,
    config: HubConfig,
    edges: Edges,
    fan_out: FanOut<M>,
    presence: Presence,
    counters: Counters,
    /// Memory that all rooms hold for newcomers.
    recent_bytes: AtomicUsize,
    /// The driver is gone: nobody will be welcomed any more.
    ended: AtomicBool,
}

impl<M: Deliver + Clone + 'static> Hub<M> {
    /// A hub over `broker`, whose events are `events`; and the work behind it, to be
    /// spawned.
    #[must_use]
    pub fn new(
        broker: Arc<dyn Broker>,
        events: BrokerEvents,
        config: HubConfig,
    ) -> (Self, HubDriver<M>) {
        let shared = Arc::new(Shared {
            registry: Registry::new(),
            broker,
            config,
            edges: Edges::default(),
            fan_out: FanOut::default(),
            presence: Presence::default(),
            counters: Counters::default(),
            recent_bytes: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        (Self { shared: Arc::clone(&shared) }, HubDriver { shared, events })
    }

    /// Makes `member` a member of `topic` until the [`Membership`] is dropped.
    ///
    /// Returns when the topic is subscribed. `occupant` is who is told to be in the room
    /// from then on, to all servers; `None` for nobody.
    ///
    /// `welcome` is called once, before anything is delivered to the member for this topic:
    /// what is delivered afterwards follows on the position in the [`Snapshot`], with no gap
    /// and no repeat, unless it returns [`Welcomed::CatchingUp`] (to return nothing is to be
    /// up to date). It runs under the topic's lock: it may put something into the member's
    /// outbox, and must not block or call the hub.
    ///
    /// # Errors
    /// What [`Broker::subscribe`], [`Broker::history`] and [`Broker::occupancy`] report, if
    /// this is the first member of the topic here. Then `member` is not a member.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves the topic again.
    pub async fn join<W: Into<Welcomed>>(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member: M,
        occupant: Option<Occupant>,
        welcome: impl FnOnce(Snapshot<'_, M>) -> W + Send + 'static,
    ) -> Result<Membership<M>, BrokerError> {
        let seat = Seat::new(member);
        let newcomer = seat.clone();
        let welcome = move |snapshot: Snapshot<'_, M>| {
            if welcome(snapshot).into() == Welcomed::CatchingUp {
                newcomer.vacate();
            }
        };
        let entered = self.shared.registry.join_with(topic, id, seat.clone(), |room, joined| {
            if joined.first {
                room.state.begin(topic, &self.shared.config);
            }
            if let Some(snapshot) = room.state.snapshot(room.members()) {
                welcome(snapshot);
                return None;
            }
            let (done, waiting) = oneshot::channel();
            room.state.wait(Waiter { id, welcome: Box::new(welcome), stays: false, done });
            Some((joined.first, waiting))
        });
        let mut membership = self.membership(topic, id, seat);
        if let Some((first, waiting)) = entered {
            if first {
                self.shared.edges.moved(topic.clone());
            }
            self.shared.answer(waiting).await?;
        }
        if let Some(occupant) = occupant {
            membership.user = Some(occupant.user.clone());
            self.shared.enter(topic, occupant);
        }
        Ok(membership)
    }

    /// Makes `member` a member of `topic` at once, until the [`Membership`] is dropped,
    /// without waiting for the broker: the topic is subscribed as soon as that can be
    /// done. For topics that have no sequence to be in step with.
    #[must_use = "dropping the membership leaves the topic"]
    pub fn attach(&self, topic: &Topic, id: ConnectionId, member: M) -> Membership<M> {
        let seat = Seat::new(member);
        let first = self.shared.registry.join_with(topic, id, seat.clone(), |room, joined| {
            if joined.first {
                room.state.begin(topic, &self.shared.config);
            }
            joined.first
        });
        if first {
            self.shared.edges.moved(topic.clone());
        }
        self.membership(topic, id, seat)
    }

    fn membership(&self, topic: &Topic, id: ConnectionId, seat: Seat<M>) -> Membership<M> {
        let shared = Arc::clone(&self.shared);
        Membership { shared, topic: topic.clone(), id, seat, user: None, is_lost: false }
    }

    /// A snapshot of the topic's members on this server.
    #[must_use]
    pub fn members(&self, topic: &Topic) -> Members<Seat<M>> {
        self.shared.registry.members(topic)
    }
}

impl<M> Hub<M> {
    /// The broker, to publish through.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.shared.broker
    }

    /// What `room` keeps of its history; `None` if nothing.
    #[must_use]
    pub fn retention(&self, room: &RoomId) -> Option<Retention> {
        self.shared.config.history.of(room)
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

impl<M: Deliver + Clone> Shared<M> {
    /// The answer to somebody who waits for a room; none will come once the driver is gone.
    async fn answer(
        &self,
        mut waiting: oneshot::Receiver<Result<(), BrokerError>>,
    ) -> Result<(), BrokerError> {
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

    fn leave(&self, topic: &Topic, id: ConnectionId) {
        if let Some(room) = self.registry.leave(topic, id).last {
            self.recent_bytes.fetch_sub(room.recent_bytes(), Ordering::Relaxed);
            self.fan_out.forget(room);
            self.edges.moved(topic.clone());
        }
    }

    /// Changes a room that has members, and has it served what it is given to tell. Keeps
    /// the account of the memory that rooms hold for newcomers.
    fn update<R>(
        &self,
        topic: &Topic,
        change: impl FnOnce(&mut RoomState<M>, &Members<Seat<M>>) -> R,
    ) -> Option<R> {
        self.registry.update(topic, |room| {
            let (members, state) = room.split();
            let before = state.recent_bytes();
            let result = change(state, members);
            self.account(before, state);
            self.fan_out.enqueue(topic, state);
            result
        })
    }

    fn account(&self, before: usize, room: &mut RoomState<M>) {
        let after = room.recent_bytes();
        let total = self.recent_bytes.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        if after > before
            && total.wrapping_add(after).wrapping_sub(before) > self.config.recent_bytes
        {
            room.shed();
            let freed = after - room.recent_bytes();
            self.recent_bytes.fetch_sub(freed, Ordering::Relaxed);
        }
    }
}

/// A place in a topic. Dropping it leaves the topic: nothing is delivered afterwards, and
/// the others are told at once that the user has left, if this was the user's last place.
pub struct Membership<M: Deliver + Clone> {
    shared: Arc<Shared<M>>,
    topic: Topic,
    id: ConnectionId,
    seat: Seat<M>,
    /// Who is told to be in the room by this.
    user: Option<UserId>,
    is_lost: bool,
}

impl<M: Deliver + Clone> Membership<M> {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Looks at the topic as [`Hub::join`]'s `welcome` does, under the same rules.
    pub fn look(&self, look: impl FnOnce(Snapshot<'_, M>)) {
        self.shared.registry.update(&self.topic, |room| {
            room.state.snapshot(room.members()).map(look);
        });
    }

    /// Whether the member hears nothing yet; see [`Welcomed::CatchingUp`].
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.seat.is_vacant()
    }

    /// Begins anew to listen: calls `catch_up` as [`Hub::join`] calls `welcome`. If it says
    /// that the member is up to date, what follows on the snapshot is delivered to `member`,
    /// and nothing else; if not, the member hears nothing until another call. Returns what
    /// it said.
    pub fn listen(
        &mut self,
        member: M,
        catch_up: impl FnOnce(Snapshot<'_, M>) -> Welcomed,
    ) -> Welcomed {
        let welcomed = self.shared.registry.update(&self.topic, |room| {
            let welcomed = catch_up(room.state.snapshot(room.members())?);
            // Another seat: the one before stands in batches that are on their way.
            self.seat.vacate();
            if welcomed == Welcomed::UpToDate {
                let seat = Seat::new(member);
                room.replace(self.id, seat.clone());
                self.seat = seat;
            }
            Some(welcomed)
        });
        welcomed.flatten().unwrap_or(Welcomed::CatchingUp)
    }

    /// Waits until the topic is subscribed: what is published from then on arrives. Only
    /// for a member that was [attached](Hub::attach) is it not so already.
    ///
    /// # Errors
    /// What [`Broker::subscribe`] reports. The member stays, and so does the wish: the hub
    /// tries again by itself.
    ///
    /// # Cancel safety
    /// Safe: the membership does not depend on it.
    pub async fn subscribed(&self) -> Result<(), BrokerError> {
        let waiting = self.shared.registry.update(&self.topic, |room| {
            if !room.state.is_waiting() {
                return None;
            }
            let (done, waiting) = oneshot::channel();
            room.state.wait(Waiter { id: self.id, welcome: Box::new(|_| {}), stays: true, done });
            Some(waiting)
        });
        match waiting.flatten() {
            Some(waiting) => self.shared.answer(waiting).await,
            None => Ok(()),
        }
    }

    /// Puts another handle in the place of this member's.
    pub fn replace(&self, member: M) {
        self.seat.replace(member);
    }

    /// Leaves the topic as one whose connection was lost: the others are told only if the
    /// user is not back in time, here or on another server; see [`HubConfig::grace`].
    pub fn lose(mut self) {
        self.is_lost = true;
    }
}

impl<M: Deliver + Clone> Drop for Membership<M> {
    fn drop(&mut self) {
        self.seat.vacate();
        self.shared.leave(&self.topic, self.id);
        if let Some(user) = &self.user {
            self.shared.exit(&self.topic, user, self.is_lost);
        }
    }
}

impl<M: Deliver + Clone> fmt::Debug for Membership<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("topic", &self.topic).field("id", &self.id).finish()
    }
}

/// The work behind a [`Hub`]. Nothing is delivered unless [`run`](Self::run) is.
pub struct HubDriver<M> {
    shared: Arc<Shared<M>>,
    events: BrokerEvents,
}

impl<M: Deliver + Clone + 'static> HubDriver<M> {
    /// Works until the broker's events end, that is until the broker is closed.
    ///
    /// # Cancel safety
    /// Not safe: what it had taken from the broker is lost. Drop it only with the hub.
    pub async fn run(self) {
        let Self { shared, events } = self;
        let shared = EndGuard(shared);
        tokio::select! {
            () = ingest::run(&shared.0, events) => {}
            () = fan_out::run(&shared.0) => {}
            () = interest::run(&shared.0) => {}
            () = presence::run(&shared.0) => {}
        }
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
