//! Who is where at this node, and what Redis has not been told of it yet.
//!
//! What counts is what is wanted now: a user who left and came back before Redis was told
//! is no news, nor is one who came and left, unless something was published in between: a
//! visit. What was not answered is told again, which changes nothing if Redis knew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chat_core::UserId;
use tokio::sync::Notify;

use super::names::Address;
use crate::presence::{Departure, DepartureSender};

/// Comings, and goings, in one pipeline at most.
const MAX_CHANGES: usize = 256;

/// Visits that wait to be told at most; in an outage they would become ever more. Any other
/// is no news.
const MAX_VISITS: usize = 1024;

/// Refused changes that wait to be sent again, above which the leave of a user whose join was refused
/// is dropped when it is refused as well: clients that connect and disconnect while Redis refuses
/// would pile up.
const MAX_REFUSED: usize = 1024;

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
    /// In an order, so that they can be looked through in parts.
    claims: BTreeMap<Key, Claim>,
    entering: BTreeMap<Turn, Key>,
    leaving: BTreeMap<Turn, Key>,
    /// What Redis refused, until the next attempt.
    refused: HashSet<Key>,
    /// Callers that wait until leaves are sent.
    departures: HashMap<Key, Vec<DepartureSender>>,
    visits: usize,
    next: u64,
}

/// A user in a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) address: Address,
    pub(super) user: UserId,
}

#[derive(Debug)]
struct Claim {
    info: Bytes,
    /// It was said since Redis was told last, and replaces what other nodes said before.
    is_latest: bool,
    /// Otherwise the user has left.
    here: bool,
    /// Publications that were accepted before the coming.
    since: u64,
    /// The coming is to be told all the same, and the going after so many publications.
    visit: Option<u64>,
    told: Told,
    /// Where it waits to be told, coming or going.
    turn: Option<Turn>,
}

/// Whether Redis knows of a coming, with this info.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    /// It is told for the first time, and has not answered yet.
    Asked,
    /// Redis has refused it each time. Of a script that wrote before the refusal a part may be
    /// there, so a leave is sent.
    Refused,
    /// It has not answered.
    Maybe,
    Yes,
}

/// Publications that were accepted before, and a number: what comes first is told first. A
/// coming is told before the publications that come after it, a going after those that came
/// before it.
type Turn = (u64, u64);

/// What goes into one pipeline.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) node: Arc<str>,
    pub(super) enters: Vec<Enter>,
    pub(super) leaves: Vec<Key>,
    /// There are more comings than fit: they must be told before any publication after so many.
    pub(super) hold_after: Option<u64>,
}

/// A coming.
#[derive(Debug, Clone)]
pub(super) struct Enter {
    pub(super) key: Key,
    pub(super) info: Bytes,
    /// The info replaces what other nodes said before.
    pub(super) is_latest: bool,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// It is done, and nodes are told of it under this version.
    Announced(u64),
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
    /// See [`PresenceTracker::enter`](crate::PresenceTracker::enter); `accepted` publications came before.
    pub(super) fn enter(&self, key: Key, info: Bytes, accepted: u64) {
        self.state().enter(key, info, accepted);
        self.changed.notify_one();
    }

    /// See [`PresenceTracker::leave`](crate::PresenceTracker::leave); `accepted` publications came before.
    pub(super) fn leave(&self, key: Key, accepted: u64) -> Departure {
        let departure = self.state().leave(key, accepted);
        self.changed.notify_one();
        departure
    }

    /// The node, and the next so many users after `last`, in their order, of whom it has told
    /// Redis.
    pub(super) fn after(&self, last: Option<&Key>, most: usize) -> Option<(Arc<str>, Vec<Key>)> {
        let state = self.state();
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = state.claims.range((from, Bound::Unbounded));
        let told = next.filter(|(_, claim)| claim.told == Told::Yes).map(|(key, _)| key.clone());
        Some((state.node.clone()?, told.take(most).collect()))
    }

    /// Redis does not know of them: if they are still here, it is told again.
    pub(super) fn tell_again(&self, keys: Vec<Key>) {
        self.state().tell_again(keys);
        self.changed.notify_one();
    }

    /// Another node has said another info of a user: if this one has to tell Redis again, it is that.
    pub(super) fn renamed(&self, key: &Key, info: &Bytes) {
        if let Some(claim) = self.state().claims.get_mut(key)
            && claim.told == Told::Yes
            && !claim.is_latest
        {
            claim.info = info.clone();
        }
    }

    /// How many users are in topics, each counted once for each topic.
    pub(super) fn len(&self) -> usize {
        self.state().claims.len()
    }

    /// Begins anew as `node`, of which Redis knows nothing.
    pub(super) fn begin(&self, node: &Arc<str>) {
        self.state().begin(node);
        self.changed.notify_one();
    }

    /// What is to be told with, and after, `sent` publications.
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

impl Claim {
    /// Of somebody who is not here yet.
    fn new() -> Self {
        let (info, told) = (Bytes::new(), Told::No);
        Self { info, is_latest: true, here: false, since: 0, visit: None, told, turn: None }
    }
}

impl State {
    fn enter(&mut self, key: Key, info: Bytes, accepted: u64) {
        let turn = (accepted, self.turn());
        let claim = self.claims.entry(key.clone()).or_insert_with(Claim::new);
        let was_here = std::mem::replace(&mut claim.here, true);
        // Another node may have said another since: even the same is told.
        (claim.info, claim.is_latest) = (info, true);
        self.departures.remove(&key);
        if was_here && claim.turn.is_some() {
            return;
        }
        claim.since = accepted;
        if claim.visit.take().is_some() {
            self.visits -= 1;
            return;
        }
        if let Some(turn) = claim.turn.take() {
            // The going was not told yet, and is none.
            self.leaving.remove(&turn);
        }
        claim.turn = Some(turn);
        self.entering.insert(turn, key);
    }

    fn leave(&mut self, key: Key, accepted: u64) -> Departure {
        let turn = (accepted, self.turn());
        let (sender, departure) = Departure::pending();
        let Some(claim) = self.claims.get_mut(&key).filter(|claim| claim.here) else {
            return departure;
        };
        claim.here = false;
        if let Some(turn) = claim.turn {
            if claim.since < accepted && self.visits < MAX_VISITS {
                claim.visit = Some(accepted);
                self.visits += 1;
                self.departures.entry(key).or_default().push(sender);
                return departure;
            }
            claim.turn = None;
            self.entering.remove(&turn);
        }
        if claim.told == Told::No {
            self.claims.remove(&key);
        } else {
            claim.turn = Some(turn);
            self.departures.entry(key.clone()).or_default().push(sender);
            self.leaving.insert(turn, key);
        }
        departure
    }

    fn begin(&mut self, node: &Arc<str>) {
        self.node = Some(Arc::clone(node));
        self.entering.clear();
        self.leaving.clear();
        self.refused.clear();
        self.departures.clear();
        self.claims.retain(|_, claim| claim.here || claim.visit.is_some());
        for (key, claim) in &mut self.claims {
            self.next += 1;
            let turn = (claim.since, self.next);
            (claim.told, claim.turn) = (Told::No, Some(turn));
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
            let is_first = matches!(claim.told, Told::No | Told::Refused);
            claim.told = if is_first { Told::Asked } else { Told::Maybe };
            claim.turn = None;
            let (info, is_latest) = (claim.info.clone(), claim.is_latest);
            changes.enters.push(Enter { key: key.clone(), info, is_latest });
            if let Some(accepted) = claim.visit.take() {
                self.visits -= 1;
                let turn = (accepted, turn.1);
                claim.turn = Some(turn);
                self.leaving.insert(turn, key);
            }
        }
        changes.hold_after = self.entering.first_key_value().map(|((since, _), _)| *since);
        let sent = changes.hold_after.map_or(sent, |after| sent.min(after));
        while changes.leaves.len() < MAX_CHANGES
            && let Some(first) = self.leaving.first_entry().filter(|first| first.key().0 <= sent)
        {
            let (turn, key) = first.remove_entry();
            let waiting = self.claims.get_mut(&key).filter(|claim| claim.turn == Some(turn));
            let Some(claim) = waiting else { continue };
            claim.turn = None;
            if claim.told == Told::Yes {
                claim.told = Told::Maybe;
            }
            changes.leaves.push(key);
        }
        changes
    }

    fn settle(&mut self, changes: Changes, outcomes: impl IntoIterator<Item = Outcome>) {
        if self.node.as_ref() != Some(&changes.node) {
            // Of a node that this one was before.
            return;
        }
        let mut outcomes = outcomes.into_iter();
        for Enter { key, .. } in changes.enters {
            self.settle_enter(key, outcomes.next().unwrap_or(Outcome::Unanswered));
        }
        for key in changes.leaves {
            self.settle_leave(key, outcomes.next().unwrap_or(Outcome::Unanswered));
        }
    }

    fn settle_enter(&mut self, key: Key, outcome: Outcome) {
        let next = self.turn();
        let Some(claim) = self.claims.get_mut(&key) else { return };
        let is_first = claim.told == Told::Asked;
        match outcome {
            Outcome::Done | Outcome::Announced(_) => {
                claim.told = Told::Yes;
                // Otherwise a later one waits.
                claim.is_latest &= claim.here && claim.turn.is_some();
            }
            Outcome::Unanswered => {
                claim.told = Told::Maybe;
                // Otherwise the going waits, or is under way itself.
                if claim.here && claim.turn.is_none() {
                    let turn = (claim.since, next);
                    claim.turn = Some(turn);
                    self.entering.insert(turn, key);
                }
            }
            Outcome::Refused => {
                if is_first {
                    claim.told = Told::Refused;
                }
                self.refused.insert(key);
            }
        }
    }

    fn settle_leave(&mut self, key: Key, outcome: Outcome) {
        let turn = (0, self.turn());
        let Some(claim) = self.claims.get_mut(&key) else { return };
        let is_done = matches!(outcome, Outcome::Done | Outcome::Announced(_));
        claim.told = match claim.told {
            _ if is_done => Told::No,
            Told::Refused => Told::Refused,
            _ => Told::Maybe,
        };
        let is_absent = !claim.here && claim.visit.is_none();
        if is_done {
            for departure in self.departures.remove(&key).into_iter().flatten() {
                if let Outcome::Announced(version) = outcome {
                    departure.settle(version);
                }
            }
        }
        match outcome {
            _ if is_done && is_absent => {
                self.claims.remove(&key);
            }
            Outcome::Refused
                if is_absent
                    && claim.told == Told::Refused
                    && self.refused.len() >= MAX_REFUSED =>
            {
                self.claims.remove(&key);
                self.departures.remove(&key);
                self.refused.remove(&key);
            }
            // Otherwise the coming waits.
            Outcome::Unanswered if claim.turn.is_none() => {
                claim.turn = Some(turn);
                self.leaving.insert(turn, key);
            }
            Outcome::Done | Outcome::Announced(_) | Outcome::Unanswered => {}
            Outcome::Refused => {
                self.refused.insert(key);
            }
        }
    }

    fn tell_again(&mut self, keys: Vec<Key>) {
        for key in keys {
            let next = self.turn();
            let is_idle =
                |claim: &&mut Claim| claim.here && claim.told == Told::Yes && claim.turn.is_none();
            let Some(claim) = self.claims.get_mut(&key).filter(is_idle) else { continue };
            let turn = (claim.since, next);
            (claim.told, claim.turn) = (Told::Maybe, Some(turn));
            self.entering.insert(turn, key);
        }
    }

    fn retry(&mut self) {
        for key in std::mem::take(&mut self.refused) {
            let next = self.turn();
            let waiting = self.claims.get_mut(&key).filter(|claim| claim.turn.is_none());
            let Some(claim) = waiting else { continue };
            let (queue, turn) = match (claim.here, claim.told) {
                (true, Told::No | Told::Refused | Told::Maybe) => {
                    (&mut self.entering, (claim.since, next))
                }
                (false, Told::Refused | Told::Maybe | Told::Yes) => (&mut self.leaving, (0, next)),
                (true, Told::Yes) | (false, Told::No) | (_, Told::Asked) => continue,
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
#[path = "claims_tests.rs"]
mod tests;
