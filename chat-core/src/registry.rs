//! The members of each topic on this server.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::id::ConnectionId;
use crate::members::Members;
use crate::topic::Topic;

/// Locks over the table of topics. A lock is held for one look-up.
const SHARDS: usize = 64;

/// A concurrent table of topics and their members.
///
/// `M` is the handle on a member; it is cloned into snapshots, so make it cheap (an
/// [`Arc`]). `S` is state of the caller's own that each topic has while it has members or is
/// [held](Registry::hold_with), guarded by the topic's lock: a change of the members and of `S` is one step.
///
/// [`Registry::join`] and [`Registry::leave`] report the first and the last member of a topic, at
/// which a server subscribes and unsubscribes.
///
/// ```
/// use chat_core::{ConnectionId, Registry, RoomId, Topic};
///
/// let registry = Registry::<&str, u32>::new();
/// let topic = Topic::from(RoomId::new("general")?);
/// assert!(registry.join(&topic, ConnectionId::new(1), "ann").first);
/// registry.update(&topic, |entry| entry.state += 1);
/// assert_eq!(registry.members(&topic).get(ConnectionId::new(1)), Some(&"ann"));
/// let left = registry.leave(&topic, ConnectionId::new(1));
/// assert_eq!((left.was_member, left.last), (true, Some(1)));
/// assert!(registry.is_empty());
/// # Ok::<(), chat_core::InvalidName>(())
/// ```
///
/// # Locks
/// Each topic has its own. Closures run under it: keep them short, and do not call the
/// registry from one.
pub struct Registry<M, S = ()> {
    shards: Box<[Shard<M, S>]>,
    hasher: RandomState,
}

type Shard<M, S> = Mutex<HashMap<Topic, Arc<Mutex<RegistryEntry<M, S>>>>>;

/// The members of a topic, and the caller's state for it.
#[derive(Debug)]
pub struct RegistryEntry<M, S> {
    members: Members<M>,
    /// The caller's own.
    pub state: S,
    /// Set when the last member left: the entry is removed from the table, and a thread that has
    /// found it before must look again.
    retired: bool,
    /// How often the topic is [held](Registry::hold_with) without a member.
    holds: u32,
}

impl<M, S> RegistryEntry<M, S> {
    /// The members.
    #[must_use]
    pub fn members(&self) -> &Members<M> {
        &self.members
    }

    /// The members, and the state to be changed.
    #[must_use]
    pub fn split(&mut self) -> (&Members<M>, &mut S) {
        (&self.members, &mut self.state)
    }

    /// Replaces the handle of a member; does nothing if `id` is no member.
    pub fn replace(&mut self, id: ConnectionId, member: M)
    where
        M: Clone,
    {
        if self.members.get(id).is_some() {
            self.members.insert(id, member);
        }
    }

    fn is_unused(&self) -> bool {
        self.members.is_empty() && self.holds == 0
    }
}

/// What [`Registry::join`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinOutcome {
    /// This is the first member on this server, and the topic was not held: subscribe.
    pub first: bool,
    /// The connection was a member before; its handle was replaced.
    pub again: bool,
}

/// What [`Registry::leave`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaveOutcome<S = ()> {
    /// The connection was a member.
    pub was_member: bool,
    /// It was the last one on this server, and the topic is not held: unsubscribe. The topic's state
    /// is handed over.
    pub last: Option<S>,
}

impl<M, S> Default for Registry<M, S> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

impl<M: Clone, S: Default> Registry<M, S> {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member. Joining twice replaces the handle.
    pub fn join(&self, topic: &Topic, id: ConnectionId, member: M) -> JoinOutcome {
        self.join_with(topic, id, member, |_, joined| joined)
    }

    /// [`join`](Self::join), and in the same step `then`, under the topic's lock.
    pub fn join_with<R>(
        &self,
        topic: &Topic,
        id: ConnectionId,
        member: M,
        then: impl FnOnce(&mut RegistryEntry<M, S>, JoinOutcome) -> R,
    ) -> R {
        self.enter(topic, |room| {
            let first = room.is_unused();
            let again = room.members.insert(id, member).is_some();
            then(room, JoinOutcome { first, again })
        })
    }

    /// Keeps a topic and its state without a member, until it is [released](Self::release) as often
    /// as it was held. In the same step it runs `then` under the topic's lock; the flag is whether
    /// the topic had neither a member nor a hold before.
    ///
    /// ```
    /// use chat_core::{ConnectionId, Registry, RoomId, Topic};
    ///
    /// let registry = Registry::<(), u32>::new();
    /// let topic = Topic::from(RoomId::new("general")?);
    /// assert!(registry.hold_with(&topic, |_, first| first));
    /// assert!(!registry.join(&topic, ConnectionId::new(1), ()).first);
    /// assert_eq!(registry.leave(&topic, ConnectionId::new(1)).last, None);
    /// assert_eq!(registry.release(&topic), Some(0));
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    pub fn hold_with<R>(
        &self,
        topic: &Topic,
        then: impl FnOnce(&mut RegistryEntry<M, S>, bool) -> R,
    ) -> R {
        self.enter(topic, |room| {
            let first = room.is_unused();
            room.holds += 1;
            then(room, first)
        })
    }

    /// Ends one [hold](Self::hold_with) of a topic. The last one of a topic without members takes
    /// the topic's state with it. A topic without a hold is left as it is.
    pub fn release(&self, topic: &Topic) -> Option<S> {
        let room = self.room(topic)?;
        let mut room = room.lock();
        room.holds = room.holds.checked_sub(1)?;
        self.retire(topic, room)
    }

    /// Runs `f` under the topic's lock, in an entry that was not retired.
    fn enter<R>(&self, topic: &Topic, f: impl FnOnce(&mut RegistryEntry<M, S>) -> R) -> R {
        loop {
            let room = Arc::clone(self.shard(topic).lock().entry(topic.clone()).or_default());
            let mut room = room.lock();
            // The last member may have left between the two locks.
            if !room.retired {
                return f(&mut room);
            }
        }
    }

    /// Removes a member. Leaving twice does nothing. The last member takes the topic's state with it.
    pub fn leave(&self, topic: &Topic, id: ConnectionId) -> LeaveOutcome<S> {
        let Some(room) = self.room(topic) else {
            return LeaveOutcome { was_member: false, last: None };
        };
        let mut room = room.lock();
        let was_member = room.members.remove(id).is_some();
        let last = if was_member { self.retire(topic, room) } else { None };
        LeaveOutcome { was_member, last }
    }

    /// Removes the topic if it has neither a member nor a hold left; returns its state.
    fn retire(&self, topic: &Topic, mut room: MutexGuard<'_, RegistryEntry<M, S>>) -> Option<S> {
        if !room.is_unused() {
            return None;
        }
        room.retired = true;
        let state = std::mem::take(&mut room.state);
        drop(room);
        self.remove_retired(topic);
        Some(state)
    }

    /// Runs `f` under the topic's lock, if the topic has members or is held.
    pub fn update<R>(
        &self,
        topic: &Topic,
        f: impl FnOnce(&mut RegistryEntry<M, S>) -> R,
    ) -> Option<R> {
        let room = self.room(topic)?;
        let mut room = room.lock();
        (!room.retired).then(|| f(&mut room))
    }

    /// A snapshot of the members.
    #[must_use]
    pub fn members(&self, topic: &Topic) -> Members<M> {
        self.update(topic, |room| room.members.clone()).unwrap_or_default()
    }

    /// Whether the topic has members or is held.
    #[must_use]
    pub fn contains(&self, topic: &Topic) -> bool {
        self.shard(topic).lock().contains_key(topic)
    }

    /// All topics that have members or are held.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().keys().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// How many topics have members or are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether no topic has members or is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, topic: &Topic) -> &Shard<M, S> {
        &self.shards[self.hasher.hash_one(topic) as usize % SHARDS]
    }

    fn room(&self, topic: &Topic) -> Option<Arc<Mutex<RegistryEntry<M, S>>>> {
        self.shard(topic).lock().get(topic).cloned()
    }

    fn remove_retired(&self, topic: &Topic) {
        // A join may have replaced the retired entry by a new one already.
        if let Entry::Occupied(entry) = self.shard(topic).lock().entry(topic.clone())
            && entry.get().lock().retired
        {
            entry.remove();
        }
    }
}

impl<M, S: Default> Default for RegistryEntry<M, S> {
    fn default() -> Self {
        Self { members: Members::default(), state: S::default(), retired: false, holds: 0 }
    }
}

impl<M, S> fmt::Debug for Registry<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicI64, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::id::RoomId;

    fn room(n: u8) -> Topic {
        Topic::Room(RoomId::new(format!("room-{n}")).unwrap())
    }

    #[test]
    fn joins_and_leaves_report_first_and_last() {
        let registry = Registry::<_>::new();
        let (a, b) = (ConnectionId::new(1), ConnectionId::new(2));
        assert_eq!(registry.join(&room(1), a, "a"), JoinOutcome { first: true, again: false });
        assert_eq!(registry.join(&room(1), a, "A"), JoinOutcome { first: false, again: true });
        assert_eq!(registry.join(&room(1), b, "b"), JoinOutcome { first: false, again: false });
        assert_eq!(registry.leave(&room(1), a), LeaveOutcome { was_member: true, last: None });
        assert_eq!(registry.leave(&room(1), a), LeaveOutcome { was_member: false, last: None });
        assert_eq!(registry.leave(&room(1), b), LeaveOutcome { was_member: true, last: Some(()) });
        assert_eq!(registry.leave(&room(2), b), LeaveOutcome { was_member: false, last: None });
        assert!(registry.is_empty());
    }

    #[test]
    fn state_lives_as_long_as_there_are_members() {
        let registry = Registry::<(), u32>::new();
        registry.join(&room(1), ConnectionId::new(1), ());
        registry.update(&room(1), |room| room.state = 7);
        assert_eq!(registry.update(&room(1), |room| room.state), Some(7));
        assert_eq!(registry.leave(&room(1), ConnectionId::new(1)).last, Some(7));
        assert_eq!(registry.update(&room(1), |room| room.state), None);
        registry.join(&room(1), ConnectionId::new(1), ());
        assert_eq!(registry.update(&room(1), |room| room.state), Some(0));
    }

    #[test]
    fn topics_are_those_with_members() {
        let registry = Registry::<_>::new();
        registry.join(&room(1), ConnectionId::new(1), ());
        assert!(registry.contains(&room(1)) && !registry.contains(&room(2)));
        assert_eq!(registry.topics(), [room(1)]);
        assert!(!registry.is_empty());
        registry.leave(&room(1), ConnectionId::new(1));
        assert!(registry.topics().is_empty() && !registry.contains(&room(1)));
    }

    #[test]
    fn handle_of_a_member_alone_is_replaced() {
        let registry = Registry::<&str>::new();
        let (member, stranger) = (ConnectionId::new(1), ConnectionId::new(2));
        registry.join(&room(1), member, "before");
        registry.update(&room(1), |room| {
            room.replace(member, "after");
            room.replace(stranger, "none");
            assert_eq!(room.members().get(member), Some(&"after"));
            assert_eq!(room.members().len(), 1);
        });
        assert_eq!(registry.members(&room(1)).get(member), Some(&"after"));
    }

    #[test]
    fn first_and_last_balance_under_contention() {
        let registry = Registry::<_>::new();
        let subscribed = AtomicI64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (registry, subscribed) = (&registry, &subscribed);
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        if registry.join(&room(1), ConnectionId::new(thread), ()).first {
                            subscribed.fetch_add(1, Ordering::SeqCst);
                        }
                        if registry.leave(&room(1), ConnectionId::new(thread)).last.is_some() {
                            subscribed.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(subscribed.into_inner(), 0);
        assert!(registry.is_empty());
    }

    proptest! {
        #[test]
        fn like_a_plain_map(
            changes in prop::collection::vec((any::<bool>(), 0u8..6, 0u64..9), 0..400),
        ) {
            let registry = Registry::<_>::new();
            let mut model: BTreeMap<Topic, (BTreeSet<ConnectionId>, u32)> = BTreeMap::new();
            for (join, n, id) in changes {
                let (topic, is_hold, id) = (room(n), id == 8, ConnectionId::new(id));
                let (members, holds) = model.entry(topic.clone()).or_default();
                let unused = |members: &BTreeSet<_>, holds: u32| members.is_empty() && holds == 0;
                let first = unused(members, *holds);
                match (is_hold, join) {
                    (true, true) => {
                        *holds += 1;
                        prop_assert_eq!(registry.hold_with(&topic, |_, first| first), first);
                    }
                    (true, false) => {
                        let was_held = *holds > 0;
                        *holds = holds.saturating_sub(1);
                        let last = (was_held && unused(members, *holds)).then_some(());
                        prop_assert_eq!(registry.release(&topic), last);
                    }
                    (false, true) => {
                        let again = !members.insert(id);
                        prop_assert_eq!(registry.join(&topic, id, ()), JoinOutcome { first, again });
                    }
                    (false, false) => {
                        let was_member = members.remove(&id);
                        let last = (was_member && unused(members, *holds)).then_some(());
                        prop_assert_eq!(registry.leave(&topic, id), LeaveOutcome { was_member, last });
                    }
                }
                model.retain(|_, (members, holds)| !unused(members, *holds));
                prop_assert_eq!(registry.len(), model.len());
            }
            for (topic, (members, _)) in model {
                let ids: BTreeSet<_> = registry.members(&topic).iter().map(|m| m.0).collect();
                prop_assert_eq!(ids, members);
            }
        }
    }
}
