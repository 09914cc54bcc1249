//! A broker with injected faults.

mod lossy_link;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chat_core::{History, Occupancy, Occupant, Position, RoomId, Topic, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

pub use self::lossy_link::LossNotice;
use self::lossy_link::LossyLink;
use crate::broker::{Broker, Status};
use crate::error::BrokerError;
use crate::events::BrokerEvents;
use crate::history::HistoryRead;
use crate::presence::{Departure, EnterReceipt, OccupiedRooms, PresenceTracker};
use crate::publish::{PublishOptions, Receipt};
use crate::stats::BrokerStats;
use crate::table::{Records, SetOptions, SharedTable};

/// Any broker and its events, with faults: calls of one kind fail, hang or take their time,
/// answers are held back, events are lost or late.
///
/// Without a fault everything passes unchanged. All times are tokio's, so they can be
/// paused. Made for tests: the list of [calls](Self::calls) grows without bound.
///
/// ```
/// use std::sync::Arc;
/// use bytes::Bytes;
/// use chat_broker::testing::{Call, FaultyBroker, LossNotice};
/// use chat_broker::{Broker, BrokerEvent, MemoryBroker, PublishOptions};
/// use chat_core::{RoomId, Topic};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (broker, events) = MemoryBroker::connect();
/// let (broker, mut events) = FaultyBroker::new(Arc::new(broker), events);
/// let room = Topic::Room(RoomId::new("room1")?);
///
/// broker.fail_next(Call::Subscribe, 1);
/// assert!(broker.subscribe(&[room.clone()]).await.is_err());
/// broker.subscribe(&[room.clone()]).await?;
/// assert_eq!(broker.calls(), [(Call::Subscribe, 1), (Call::Subscribe, 1)]);
///
/// broker.lose_publications(1, LossNotice::Interrupted);
/// broker.publish(&room, Bytes::new(), PublishOptions::default()).await?.await?;
/// let mut got = Vec::new();
/// assert!(events.recv(&mut got).await);
/// assert_eq!(got, [BrokerEvent::Interrupted]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FaultyBroker {
    inner: Arc<dyn Broker>,
    calls: Mutex<Vec<(Call, usize)>>,
    faults: watch::Sender<HashMap<Call, Faults>>,
    damaged: Mutex<HashSet<Topic>>,
    lacks_presence: AtomicBool,
    lacks_table: AtomicBool,
    lossy_link: LossyLink,
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Broker::publish`], up to the place in the queue.
    Publish,
    /// The [`Receipt`] of a publication that was made: if it fails, the publisher does not know.
    Receipt,
    /// [`Broker::subscribe`].
    Subscribe,
    /// [`Broker::unsubscribe`].
    Unsubscribe,
    /// [`Broker::positions`].
    Positions,
    /// [`Broker::history`].
    History,
    /// [`Broker::subscribers`].
    Subscribers,
    /// [`PresenceTracker::enter`], which is counted and has no faults.
    Enter,
    /// [`PresenceTracker::enter_limited`], which reaches the broker at once: the faults are those of
    /// its answer.
    EnterLimited,
    /// [`PresenceTracker::leave`], which is counted and has no faults.
    Leave,
    /// [`PresenceTracker::occupancy`].
    Occupancy,
    /// [`PresenceTracker::rooms`].
    Rooms,
    /// [`SharedTable::secret`].
    Secret,
    /// [`SharedTable::set`].
    SetRecord,
    /// [`SharedTable::remove`].
    RemoveRecord,
    /// [`SharedTable::changes_since`].
    Records,
}

/// The faults of one kind of call.
#[derive(Debug, Default)]
struct Faults {
    /// How many calls fail.
    fail: usize,
    /// How many calls hang before they are made.
    hang: usize,
    /// How many calls are made, and answered only when released.
    hold: usize,
    /// How many calls are made, and lack the last of their answers.
    shorten: usize,
    /// How many calls are made, and have the last of their answers twice.
    lengthen: usize,
    /// The topic that the next one names as damaged.
    blamed: Option<Topic>,
    /// How often waiting calls were released.
    released: u64,
    delay: Duration,
}

/// The fault of one call.
struct InjectedFault {
    fails: bool,
    hangs: bool,
    is_held: bool,
    /// The call waits until the count of releases exceeds this.
    released: u64,
    delay: Duration,
}

impl FaultyBroker {
    /// Wraps a broker. The events pass through a task on the current runtime, which ends
    /// with them.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>, events: BrokerEvents) -> (Arc<Self>, BrokerEvents) {
        let (lossy_link, events) = LossyLink::new(events);
        let faulty = Self {
            inner: broker,
            calls: Mutex::default(),
            faults: watch::Sender::default(),
            damaged: Mutex::default(),
            lacks_presence: AtomicBool::new(false),
            lacks_table: AtomicBool::new(false),
            lossy_link,
        };
        (Arc::new(faulty), events)
    }

    /// From now on it is a broker without [presence](Broker::presence). Call it before anything
    /// uses the broker.
    pub fn leave_out_presence(&self) {
        self.lacks_presence.store(true, Ordering::Relaxed);
    }

    /// From now on it is a broker without a [shared table](Broker::table). Call it before anything
    /// uses the broker.
    pub fn leave_out_table(&self) {
        self.lacks_table.store(true, Ordering::Relaxed);
    }

    /// The calls so far, in order, each with how many topics it was for. A receipt is no
    /// call.
    #[must_use]
    pub fn calls(&self) -> Vec<(Call, usize)> {
        self.log().clone()
    }

    /// How many calls of this kind there were.
    #[must_use]
    pub fn count(&self, call: Call) -> usize {
        self.log().iter().filter(|(made, _)| *made == call).count()
    }

    /// The next `n` calls fail with [`BrokerError::Unavailable`] and do not reach the broker.
    pub fn fail_next(&self, call: Call, n: usize) {
        self.fault(call, |faults| faults.fail = n);
    }

    /// The next `n` calls hang, before they reach the broker, until they are
    /// [released](Self::release).
    pub fn hang_next(&self, call: Call, n: usize) {
        self.fault(call, |faults| faults.hang = n);
    }

    /// The next `n` calls reach the broker at once, and their answers are held back until
    /// they are [released](Self::release).
    pub fn hold_next(&self, call: Call, n: usize) {
        self.fault(call, |faults| faults.hold = n);
    }

    /// Calls of [`Broker::positions`], [`Broker::history`] and [`PresenceTracker::occupancy`] for
    /// one of these topics fail with [`BrokerError::Damaged`] from now on; for others they do not
    /// any more.
    pub fn damage(&self, topics: &[Topic]) {
        *self.damaged.lock() = topics.iter().cloned().collect();
    }

    /// The next call fails with [`BrokerError::Damaged`] for `topic`, which need not be one of the
    /// call's. For [`Call::Positions`], [`Call::History`] and [`Call::Occupancy`].
    pub fn blame_next(&self, call: Call, topic: Topic) {
        self.fault(call, |faults| faults.blamed = Some(topic));
    }

    /// The next `n` calls lack the last of their answers. For
    /// [`Call::Positions`], [`Call::History`] and [`Call::Occupancy`].
    pub fn shorten_next(&self, call: Call, n: usize) {
        self.fault(call, |faults| faults.shorten = n);
    }

    /// The next `n` calls give the last of their answers twice. For
    /// [`Call::Positions`], [`Call::History`] and [`Call::Occupancy`].
    pub fn lengthen_next(&self, call: Call, n: usize) {
        self.fault(call, |faults| faults.lengthen = n);
    }

    /// Releases all calls of this kind that hang or are held. Later ones neither wait nor give too
    /// few answers or too many.
    pub fn release(&self, call: Call) {
        self.fault(call, |faults| {
            faults.released += 1;
            (faults.hang, faults.hold, faults.shorten, faults.lengthen) = (0, 0, 0, 0);
        });
    }

    /// From now on such a call takes so much longer, before it reaches the broker.
    pub fn delay(&self, call: Call, delay: Duration) {
        self.fault(call, |faults| faults.delay = delay);
    }

    /// The next `n` publications are lost on their way to the node. Another number replaces
    /// what is left of the last.
    pub fn lose_publications(&self, n: usize, notice: LossNotice) {
        self.lossy_link.lose_publications(n, notice);
    }

    /// The next `n` changes of presence are lost on their way to the node.
    pub fn lose_presence(&self, n: usize, notice: LossNotice) {
        self.lossy_link.lose_presence(n, notice);
    }

    /// Holds all events until [`release_events`](Self::release_events).
    pub fn hold_events(&self) {
        self.lossy_link.hold(true);
    }

    /// Delivers the held events, then later ones.
    pub fn release_events(&self) {
        self.lossy_link.hold(false);
    }

    fn log(&self) -> MutexGuard<'_, Vec<(Call, usize)>> {
        self.calls.lock()
    }

    fn fault(&self, call: Call, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(|faults| change(faults.entry(call).or_default()));
    }

    fn next_fault(&self, call: Call) -> InjectedFault {
        let mut fault = None;
        self.fault(call, |faults| {
            fault = Some(InjectedFault {
                fails: take(&mut faults.fail),
                hangs: take(&mut faults.hang),
                is_held: take(&mut faults.hold),
                released: faults.released,
                delay: faults.delay,
            });
        });
        fault.expect("the change is made at once")
    }

    /// Makes a call, with the next fault of its kind.
    async fn make<T>(
        &self,
        call: Call,
        topics: usize,
        work: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        self.log().push((call, topics));
        self.next_fault(call).apply(call, self.faults.subscribe(), work).await
    }

    /// Makes a call that gives an answer for each topic, and perhaps one too few or too many.
    async fn make_for_each<T: Clone>(
        &self,
        call: Call,
        topics: impl ExactSizeIterator<Item = &Topic>,
        work: impl Future<Output = Result<Vec<T>, BrokerError>>,
    ) -> Result<Vec<T>, BrokerError> {
        let count = topics.len();
        let damaged = {
            let damaged = self.damaged.lock();
            topics.into_iter().find(|topic| damaged.contains(*topic)).cloned()
        };
        let mut answers = self.make(call, count, work).await?;
        let mut blamed = None;
        self.fault(call, |faults| blamed = faults.blamed.take());
        if let Some(topic) = blamed.or(damaged) {
            return Err(BrokerError::damaged(topic, "injected damage"));
        }
        self.fault(call, |faults| {
            if take(&mut faults.shorten) {
                answers.pop();
            }
            if take(&mut faults.lengthen) {
                answers.extend(answers.last().cloned());
            }
        });
        Ok(answers)
    }

    /// The presence of the broker behind this one. Callers reach it through
    /// [`presence`](Broker::presence), which is `None` unless it is there.
    fn inner_presence(&self) -> &dyn PresenceTracker {
        self.inner.presence().expect("a call of presence needs a broker that has it")
    }

    /// As [`inner_presence`](Self::inner_presence).
    fn inner_table(&self) -> &dyn SharedTable {
        self.inner.table().expect("a call of the table needs a broker that has one")
    }

    fn receipt(&self, receipt: Receipt) -> Receipt {
        let fault = self.next_fault(Call::Receipt);
        if !(fault.fails || fault.hangs || fault.is_held || fault.delay > Duration::ZERO) {
            return receipt;
        }
        let (sender, late) = Receipt::pending();
        let faults = self.faults.subscribe();
        tokio::spawn(async move {
            sender.resolve(fault.apply(Call::Receipt, faults, receipt).await);
        });
        late
    }
}

/// Takes one of so many; returns whether there was one.
fn take(n: &mut usize) -> bool {
    let is_left = *n > 0;
    *n -= usize::from(is_left);
    is_left
}

impl InjectedFault {
    async fn apply<T>(
        self,
        call: Call,
        mut faults: watch::Receiver<HashMap<Call, Faults>>,
        work: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let mut released = async || {
            let is_past = |faults: &HashMap<_, Faults>| {
                faults.get(&call).is_some_and(|faults| faults.released > self.released)
            };
            // An error means that the broker was dropped: no release follows.
            let _ = faults.wait_for(is_past).await;
        };
        if self.delay > Duration::ZERO {
            tokio::time::sleep(self.delay).await;
        }
        if self.hangs {
            released().await;
        }
        if self.fails {
            return Err(BrokerError::unavailable("injected fault"));
        }
        let outcome = work.await;
        if self.is_held {
            released().await;
        }
        outcome
    }
}

#[async_trait]
impl Broker for FaultyBroker {
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Receipt, BrokerError> {
        let work = self.inner.publish(topic, payload, options);
        self.make(Call::Publish, 1, work).await.map(|receipt| self.receipt(receipt))
    }

    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        self.make(Call::Subscribe, topics.len(), self.inner.subscribe(topics)).await
    }

    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        self.make(Call::Unsubscribe, topics.len(), self.inner.unsubscribe(topics)).await
    }

    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
        self.make_for_each(Call::Positions, topics.iter(), self.inner.positions(topics)).await
    }

    fn known_position(&self, topic: &Topic) -> Option<Position> {
        self.inner.known_position(topic)
    }

    async fn history(&self, reads: &[HistoryRead]) -> Result<Vec<History>, BrokerError> {
        self.make_for_each(
            Call::History,
            reads.iter().map(|read| &read.topic),
            self.inner.history(reads),
        )
        .await
    }

    async fn subscribers(&self, topics: &[Topic]) -> Result<Vec<u32>, BrokerError> {
        self.make_for_each(Call::Subscribers, topics.iter(), self.inner.subscribers(topics)).await
    }

    fn presence(&self) -> Option<&dyn PresenceTracker> {
        let is_there =
            self.inner.presence().is_some() && !self.lacks_presence.load(Ordering::Relaxed);
        is_there.then_some(self)
    }

    fn table(&self) -> Option<&dyn SharedTable> {
        let is_there = self.inner.table().is_some() && !self.lacks_table.load(Ordering::Relaxed);
        is_there.then_some(self)
    }

    fn node(&self) -> Option<&str> {
        self.inner.node()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn stats(&self) -> BrokerStats {
        self.inner.stats()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl PresenceTracker for FaultyBroker {
    fn enter(&self, topic: &Topic, occupant: Occupant) {
        self.log().push((Call::Enter, 1));
        self.inner_presence().enter(topic, occupant);
    }

    fn enter_limited(&self, topic: &Topic, occupant: Occupant, max: u32) -> EnterReceipt {
        self.log().push((Call::EnterLimited, 1));
        let admitted = self.inner_presence().enter_limited(topic, occupant, max);
        let (fault, released) = (self.next_fault(Call::EnterLimited), self.faults.subscribe());
        let (sender, receipt) = EnterReceipt::pending();
        tokio::spawn(async move {
            sender.resolve(fault.apply(Call::EnterLimited, released, admitted).await);
        });
        receipt
    }

    fn leave(&self, topic: &Topic, user: &UserId) -> Departure {
        self.log().push((Call::Leave, 1));
        self.inner_presence().leave(topic, user)
    }

    async fn occupancy(
        &self,
        topics: &[Topic],
        limit: usize,
    ) -> Result<Vec<Occupancy>, BrokerError> {
        let work = self.inner_presence().occupancy(topics, limit);
        self.make_for_each(Call::Occupancy, topics.iter(), work).await
    }

    async fn rooms(
        &self,
        prefix: &str,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<OccupiedRooms, BrokerError> {
        self.make(Call::Rooms, 0, self.inner_presence().rooms(prefix, after, limit)).await
    }
}

#[async_trait]
impl SharedTable for FaultyBroker {
    async fn set(&self, key: &str, value: Bytes, options: SetOptions) -> Result<(), BrokerError> {
        self.make(Call::SetRecord, 0, self.inner_table().set(key, value, options)).await
    }

    async fn remove(&self, key: &str) -> Result<(), BrokerError> {
        self.make(Call::RemoveRecord, 0, self.inner_table().remove(key)).await
    }

    async fn changes_since(&self, after: u64) -> Result<Records, BrokerError> {
        self.make(Call::Records, 0, self.inner_table().changes_since(after)).await
    }

    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        self.make(Call::Secret, 0, self.inner_table().secret()).await
    }
}
