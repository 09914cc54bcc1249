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
//! [`Hub`] is what connections hold. [`HubDriver`] is the work behind it: three loops in
//! one future, which the caller spawns.

mod call;
mod fan_out;
mod ingest;
mod interest;
mod room;
mod seat;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chat_core::{ConnectionId, Deliver, Members, Registry, Topic};
use tokio::sync::oneshot;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::events::BrokerEvents;
use fan_out::FanOut;
use interest::Edges;
use room::{Phase, RoomState, Waiter};

pub use room::Snapshot;
pub use seat::Seat;

/// Settings of a [`Hub`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HubConfig {
    /// How long a room stays subscribed after its last member left, in case somebody
    /// comes back. Default 1 s. Longer spares the broker work when people come and go;
    /// meanwhile their messages arrive for nobody.
    pub linger: Duration,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self { linger: Duration::from_secs(1) }
    }
}

impl HubConfig {
    /// Sets [`linger`](Self::linger).
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }
}

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
    counters: Counters,
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
            counters: Counters::default(),
            ended: AtomicBool::new(false),
        });
        (Self { shared: Arc::clone(&shared) }, HubDriver { shared, events })
    }

    /// Makes `member` a member of `topic` until the [`Membership`] is dropped.
    ///
    /// Returns when the topic is subscribed. `welcome` is called once, before anything is
    /// delivered to the member for this topic: what is delivered afterwards follows on the
    /// position in the [`Snapshot`], with no gap and no repeat. It runs under the topic's
    /// lock: it may put something into the member's outbox, and must not block or call the
    /// hub.
    ///
    /// # Errors
    /// What [`Broker::subscribe`] and [`Broker::positions`] report, if this is the first
    /// member of the topic here. Then `member` is not a member.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves the topic again.
    pub async fn join(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member: M,
        welcome: impl FnOnce(Snapshot<'_, M>) + Send + 'static,
    ) -> Result<Membership<M>, BrokerError> {
        let seat = Seat::new(member);
        let entered = self.shared.registry.join_with(topic, id, seat.clone(), |room, joined| {
            if let Phase::Live { cut, .. } = room.state.phase {
                welcome(Snapshot { position: cut, members: room.members() });
                return None;
            }
            let (done, waiting) = oneshot::channel();
            room.state.wait(Waiter { id, welcome: Box::new(welcome), stays: false, done });
            Some((joined.first, waiting))
        });
        let membership = self.membership(topic, id, seat);
        if let Some((first, waiting)) = entered {
            if first {
                self.shared.edges.push(topic.clone());
            }
            self.shared.answer(waiting).await?;
        }
        Ok(membership)
    }

    /// Makes `member` a member of `topic` at once, until the [`Membership`] is dropped,
    /// without waiting for the broker: the topic is subscribed as soon as that can be
    /// done. For topics that have no sequence to be in step with.
    #[must_use = "dropping the membership leaves the topic"]
    pub fn attach(&self, topic: &Topic, id: ConnectionId, member: M) -> Membership<M> {
        let seat = Seat::new(member);
        if self.shared.registry.join(topic, id, seat.clone()).first {
            self.shared.edges.push(topic.clone());
        }
        self.membership(topic, id, seat)
    }

    fn membership(&self, topic: &Topic, id: ConnectionId, seat: Seat<M>) -> Membership<M> {
        Membership { shared: Arc::clone(&self.shared), topic: topic.clone(), id, seat }
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

    /// What the hub has counted since it was made.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        self.shared.counters.read()
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
            self.fan_out.forget(room);
            self.edges.push(topic.clone());
        }
    }
}

/// A place in a topic. Dropping it leaves the topic: nothing is delivered afterwards.
pub struct Membership<M: Deliver + Clone> {
    shared: Arc<Shared<M>>,
    topic: Topic,
    id: ConnectionId,
    seat: Seat<M>,
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
            if let Phase::Live { cut, .. } = room.state.phase {
                look(Snapshot { position: cut, members: room.members() });
            }
        });
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
            if let Phase::Live { .. } = room.state.phase {
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
}

impl<M: Deliver + Clone> Drop for Membership<M> {
    fn drop(&mut self) {
        self.seat.vacate();
        self.shared.leave(&self.topic, self.id);
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

/// What a [`Hub`] has counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HubStats {
    /// Publications that came from the broker.
    pub received: u64,
    /// Batches handed to members: one for each member and batch.
    pub deliveries: u64,
    /// Members closed because they read too slowly.
    pub slow_consumers: u64,
    /// Gaps that members were told of: one for each room and gap.
    pub gaps: u64,
    /// Publications dropped because the room had them already.
    pub repeats: u64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    deliveries: AtomicU64,
    slow_consumers: AtomicU64,
    gaps: AtomicU64,
    repeats: AtomicU64,
    /// Takings from the events queue that have been worked through.
    rounds: AtomicU64,
    /// A taking is being worked through.
    ingesting: AtomicBool,
}

impl Counters {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    fn read(&self) -> HubStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HubStats {
            received: get(&self.received),
            deliveries: get(&self.deliveries),
            slow_consumers: get(&self.slow_consumers),
            gaps: get(&self.gaps),
            repeats: get(&self.repeats),
        }
    }
}
