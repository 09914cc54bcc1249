//! Who is where at this node, and what Redis has not been told of it yet.
//!
//! What counts is what is wanted now: a user who left and came back before Redis was told
//! is no news. What was not answered is told again, which changes nothing if Redis knew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chat_core::UserId;
use tokio::sync::Notify;

use super::names::Address;

/// Comings, and goings, in one pipeline at most.
const MAX_CHANGES: usize = 256;

/// The claims that one connection tells Redis of.
#[derive(Debug, Default)]
pub(super) struct Claims {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// As which node; nothing is told before it has a lease.
    node: Option<Arc<str>>,
    claims: HashMap<Key, Claim>,
    entering: BTreeMap<Turn, Key>,
    leaving: BTreeMap<Turn, Key>,
    /// What Redis refused, until the next attempt.
    refused: HashSet<Key>,
    next: u64,
}

/// A user in a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) address: Address,
    pub(super) user: UserId,
}

#[derive(Debug)]
struct Claim {
    /// `None`: the user has left.
    info: Option<Bytes>,
    told: Told,
    /// Where it waits to be told, coming or going.
    turn: Option<Turn>,
}

/// Whether Redis knows of a coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    /// It has not answered, or not yet.
    Maybe,
    Yes,
}

/// What comes first is told first. A going waits until as many publications were sent as
/// had been accepted before it.
type Turn = (u64, u64);

/// What goes into one pipeline.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) node: Arc<str>,
    pub(super) enters: Vec<(Key, Bytes)>,
    pub(super) leaves: Vec<Key>,
    /// There are more comings than fit: they must be told before any publication.
    pub(super) more: bool,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// It is to be told again.
    Unanswered,
    /// It is to be told again, but not at once.
    Refused,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.enters.is_empty() && self.leaves.is_empty()
    }
}

impl Claims {
    /// See [`Broker::enter`](crate::Broker::enter).
    pub(super) fn enter(&self, key: Key, info: Bytes) {
        self.state().enter(key, info);
        self.changed.notify_one();
    }

    /// See [`Broker::leave`](crate::Broker::leave); `accepted` publications came before.
    pub(super) fn leave(&self, key: Key, accepted: u64) {
        self.state().leave(key, accepted);
        self.changed.notify_one();
    }

    /// Begins anew as `node`, of which Redis knows nothing.
    pub(super) fn begin(&self, node: &Arc<str>) {
        self.state().begin(node);
        self.changed.notify_one();
    }

    /// What is to be told after `sent` publications.
    pub(super) fn take(&self, sent: u64) -> Changes {
        self.state().take(sent)
    }

    /// Takes note of what became of changes, in their order.
    pub(super) fn settle(&self, changes: Changes, outcomes: impl IntoIterator<Item = Outcome>) {
        self.state().settle(changes, outcomes);
        if self.has_changes() {
            self.changed.notify_one();
        }
    }

    /// What was refused is told again.
    pub(super) fn retry(&self) {
        self.state().retry();
        if self.has_changes() {
            self.changed.notify_one();
        }
    }

    /// Whether something is to be told now or after some publications.
    pub(super) fn has_changes(&self) -> bool {
        let state = self.state();
        state.node.is_some() && !(state.entering.is_empty() && state.leaving.is_empty())
    }

    /// Waits until something is to be told.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether Redis holds nobody for this node.
    pub(super) fn is_empty(&self) -> bool {
        self.state().claims.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, key: Key, info: Bytes) {
        let turn = (0, self.turn());
        let new = || Claim { info: None, told: Told::No, turn: None };
        let claim = self.claims.entry(key.clone()).or_insert_with(new);
        if claim.info.is_some() {
            return;
        }
        claim.info = Some(info);
        if let Some(turn) = claim.turn.take() {
            // The going was not told yet, and is none.
            self.leaving.remove(&turn);
            if claim.told == Told::Yes {
                return;
            }
        }
        claim.turn = Some(turn);
        self.entering.insert(turn, key);
    }

    fn leave(&mut self, key: Key, accepted: u64) {
        let turn = (accepted, self.turn());
        let Some(claim) = self.claims.get_mut(&key).filter(|claim| claim.info.is_some()) else {
            return;
        };
        claim.info = None;
        if let Some(turn) = claim.turn.take() {
            self.entering.remove(&turn);
        }
        if claim.told == Told::No {
            self.claims.remove(&key);
        } else {
            claim.turn = Some(turn);
            self.leaving.insert(turn, key);
        }
    }

    fn begin(&mut self, node: &Arc<str>) {
        self.node = Some(Arc::clone(node));
        self.entering.clear();
        self.leaving.clear();
        self.refused.clear();
        self.claims.retain(|_, claim| claim.info.is_some());
        for (key, claim) in &mut self.claims {
            self.next += 1;
            let turn = (0, self.next);
            *claim = Claim { info: claim.info.take(), told: Told::No, turn: Some(turn) };
            self.entering.insert(turn, key.clone());
        }
    }

    fn take(&mut self, sent: u64) -> Changes {
        let Some(node) = self.node.clone() else { return Changes::default() };
        let mut changes = Changes { node, ..Changes::default() };
        while changes.enters.len() < MAX_CHANGES
            && let Some((turn, key)) = self.entering.pop_first()
        {
            let waiting = self.claims.get_mut(&key).filter(|claim| claim.turn == Some(turn));
            let Some(claim) = waiting else { continue };
            (claim.turn, claim.told) = (None, Told::Maybe);
            changes.enters.extend(claim.info.clone().map(|info| (key, info)));
        }
        changes.more = !self.entering.is_empty();
        while !changes.more
            && changes.leaves.len() < MAX_CHANGES
            && let Some(first) = self.leaving.first_entry().filter(|first| first.key().0 <= sent)
        {
            let (turn, key) = first.remove_entry();
            let waiting = self.claims.get_mut(&key).filter(|claim| claim.turn == Some(turn));
            let Some(claim) = waiting else { continue };
            claim.turn = None;
            if claim.told == Told::No {
                self.claims.remove(&key);
            } else {
                claim.told = Told::Maybe;
                changes.leaves.push(key);
            }
        }
        changes
    }

    fn settle(&mut self, changes: Changes, outcomes: impl IntoIterator<Item = Outcome>) {
        if self.node.as_ref() != Some(&changes.node) {
            // Of a node that this one was before.
            return;
        }
        let mut outcomes = outcomes.into_iter();
        for (key, _) in changes.enters {
            self.settle_enter(key, outcomes.next().unwrap_or(Outcome::Unanswered));
        }
        for key in changes.leaves {
            self.settle_leave(key, outcomes.next().unwrap_or(Outcome::Unanswered));
        }
    }

    fn settle_enter(&mut self, key: Key, outcome: Outcome) {
        let turn = (0, self.turn());
        let Some(claim) = self.claims.get_mut(&key) else { return };
        match outcome {
            Outcome::Done => claim.told = Told::Yes,
            Outcome::Unanswered if claim.info.is_some() && claim.turn.is_none() => {
                claim.turn = Some(turn);
                self.entering.insert(turn, key);
            }
            // The going will be told.
            Outcome::Unanswered => {}
            // An earlier attempt may have gone through.
            Outcome::Refused => {
                self.refused.insert(key);
            }
        }
    }

    fn settle_leave(&mut self, key: Key, outcome: Outcome) {
        let turn = (0, self.turn());
        let Some(claim) = self.claims.get_mut(&key) else { return };
        match outcome {
            Outcome::Done => {
                claim.told = Told::No;
                if claim.info.is_none() {
                    self.claims.remove(&key);
                }
            }
            Outcome::Unanswered if claim.info.is_none() && claim.turn.is_none() => {
                claim.turn = Some(turn);
                self.leaving.insert(turn, key);
            }
            // The coming will be told.
            Outcome::Unanswered => {}
            Outcome::Refused => {
                self.refused.insert(key);
            }
        }
    }

    fn retry(&mut self) {
        for key in std::mem::take(&mut self.refused) {
            let turn = (0, self.turn());
            let waiting = self.claims.get_mut(&key).filter(|claim| claim.turn.is_none());
            let Some(claim) = waiting else { continue };
            let queue = match (claim.info.is_some(), claim.told) {
                (true, Told::No | Told::Maybe) => &mut self.entering,
                (false, Told::Maybe | Told::Yes) => &mut self.leaving,
                _ => continue,
            };
            claim.turn = Some(turn);
            queue.insert(turn, key);
        }
    }

    fn turn(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chat_core::{RoomId, Topic};
    use proptest::prelude::*;

    use super::*;
    use crate::redis::names::Names;

    fn key(user: u8) -> Key {
        let address = Names::new("chat", 0).address(&Topic::Room(RoomId::new("r").unwrap()));
        Key { address, user: UserId::new(format!("u{user}")).unwrap() }
    }

    fn claims() -> Claims {
        let claims = Claims::default();
        claims.begin(&"node".into());
        claims
    }

    fn users(keys: &[Key]) -> Vec<&str> {
        keys.iter().map(|key| key.user.as_str()).collect()
    }

    fn done(claims: &Claims, sent: u64) -> Changes {
        let changes = claims.take(sent);
        let told = Changes {
            node: Arc::clone(&changes.node),
            enters: changes.enters.clone(),
            leaves: changes.leaves.clone(),
            more: changes.more,
        };
        claims.settle(changes, std::iter::repeat(Outcome::Done));
        told
    }

    #[test]
    fn nothing_is_told_before_there_is_a_node() {
        let claims = Claims::default();
        claims.enter(key(1), Bytes::new());
        assert!(claims.take(0).is_empty() && !claims.has_changes());
        claims.begin(&"node".into());
        assert_eq!(done(&claims, 0).enters.len(), 1);
        assert!(!claims.has_changes() && !claims.is_empty());
    }

    #[test]
    fn a_going_waits_for_what_was_published_before_it() {
        let claims = claims();
        for user in 1..=3 {
            claims.enter(key(user), Bytes::new());
        }
        done(&claims, 0);
        claims.leave(key(1), 5);
        claims.leave(key(2), 7);
        assert!(done(&claims, 4).is_empty());
        assert_eq!(users(&done(&claims, 6).leaves), ["u1"]);
        claims.enter(key(2), Bytes::new());
        assert!(done(&claims, 9).is_empty(), "who came back in time has not left");
        claims.leave(key(3), 9);
        claims.leave(key(2), 9);
        assert_eq!(users(&done(&claims, 9).leaves), ["u3", "u2"]);
        assert!(claims.is_empty());
    }

    #[test]
    fn comings_come_first_however_many() {
        let claims = claims();
        claims.enter(key(0), Bytes::new());
        done(&claims, 0);
        claims.leave(key(0), 0);
        for user in 1..=200 {
            let address = key(0).address;
            for room in 0..3 {
                let user = UserId::new(format!("{user} {room}")).unwrap();
                claims.enter(Key { address: address.clone(), user }, Bytes::new());
            }
        }
        let sizes: Vec<_> = std::iter::repeat_with(|| done(&claims, 0))
            .map(|changes| (changes.enters.len(), changes.leaves.len(), changes.more))
            .take(3)
            .collect();
        assert_eq!(sizes, [(256, 0, true), (256, 0, true), (88, 1, false)]);
    }

    /// What Redis holds for a node, and what happens to it.
    #[derive(Debug, Clone)]
    enum Step {
        Enter(u8),
        Leave(u8),
        /// Takes changes that are settled by the next of these.
        Tell(Vec<u8>),
        Retry,
        Begin,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..4).prop_map(Step::Enter),
            4 => (0u8..4).prop_map(Step::Leave),
            4 => prop::collection::vec(0u8..5, 8).prop_map(Step::Tell),
            1 => Just(Step::Retry),
            1 => Just(Step::Begin),
        ]
    }

    /// Settles `changes` by fate: done, unanswered though done, unanswered, refused.
    fn settle(claims: &Claims, changes: Changes, fates: &[u8], held: &mut BTreeSet<String>) {
        let mut outcomes = Vec::new();
        let enters = changes.enters.iter().map(|(key, _)| (key, true));
        let all = enters.chain(changes.leaves.iter().map(|key| (key, false)));
        for ((key, comes), fate) in all.zip(fates.iter().cycle()) {
            if *fate < 3 {
                let user = key.user.as_str().to_owned();
                if comes {
                    held.insert(user)
                } else {
                    held.remove(&user)
                };
            }
            outcomes.push(match fate {
                0 | 1 => Outcome::Done,
                2 | 3 => Outcome::Unanswered,
                _ => Outcome::Refused,
            });
        }
        claims.settle(changes, outcomes);
    }

    proptest! {
        /// Whatever is lost and refused on the way, Redis comes to hold what is wanted.
        #[test]
        fn redis_comes_to_the_truth(steps in prop::collection::vec(step(), 0..60)) {
            let (claims, mut wanted, mut held) = (claims(), BTreeSet::new(), BTreeSet::new());
            let mut under_way: Option<(Changes, Vec<u8>)> = None;
            let mut nodes = 0;
            for step in steps {
                match step {
                    Step::Enter(user) => {
                        wanted.insert(format!("u{user}"));
                        claims.enter(key(user), Bytes::new());
                    }
                    Step::Leave(user) => {
                        wanted.remove(&format!("u{user}"));
                        claims.leave(key(user), 0);
                    }
                    Step::Tell(fates) => {
                        if let Some((changes, fates)) = under_way.take() {
                            settle(&claims, changes, &fates, &mut held);
                        }
                        under_way = Some((claims.take(0), fates));
                    }
                    Step::Retry => claims.retry(),
                    Step::Begin => {
                        if let Some((changes, fates)) = under_way.take() {
                            claims.begin(&format!("node {nodes}").into());
                            settle(&claims, changes, &fates, &mut held);
                        }
                        nodes += 1;
                        claims.begin(&format!("node {nodes}").into());
                        held.clear();
                    }
                }
                let state = claims.state();
                prop_assert!(state.entering.len() + state.leaving.len() <= 4);
                prop_assert!(state.claims.len() <= 4 && state.refused.len() <= 4);
            }
            if let Some((changes, fates)) = under_way.take() {
                settle(&claims, changes, &fates, &mut held);
            }
            claims.retry();
            while claims.has_changes() {
                settle(&claims, claims.take(0), &[0], &mut held);
            }
            prop_assert_eq!(&held, &wanted);
            prop_assert_eq!(claims.is_empty(), wanted.is_empty());
        }
    }
}
