//! The users of one connection by what is to be sent of them.
//!
//! The [transition table](super::transition) says what each event makes of a user in a topic. This
//! file keeps the queues: they follow from the states, and [`Queues::apply`] alone changes either.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::changes::{Changes, Join, Key, Outcome};
use super::transition::{Event, Order, Stage, State, SyncState, Transition, transition};
use crate::error::BrokerError;
use crate::presence::{Departure, DepartureSender, EnterReceipt, EnterReceiptSender};

/// Maximum joins, and maximum leaves, per pipeline.
const MAX_CHANGES: usize = 256;

/// Maximum transient joins that wait to be sent: in an outage there would be ever more. Above it
/// the join and the leave cancel each other, whatever was published in between.
const MAX_TRANSIENT: usize = 1024;

/// Refused changes that wait for a retry, above which the leave of a user whose join was refused is
/// dropped when it is refused as well.
const MAX_REFUSED: usize = 1024;

/// The users of one connection. [`PresenceOutbox`](super::outbox) documents the methods.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// The name of the node in Redis; nothing is sent before it has a lease.
    node: Option<Arc<str>>,
    /// Ordered, so that the reconciler can compare them in parts.
    users: BTreeMap<Key, PendingPresence>,
    /// Users by the order of [`Index::Joins`].
    joins: BTreeMap<SeqKey, Key>,
    /// Users by the order of [`Index::Leaves`].
    leaves: BTreeMap<SeqKey, Key>,
    /// Users in [`Index::Refused`].
    refused: BTreeSet<Key>,
    /// How many are [`Stage::TransientQueued`].
    transient: usize,
    /// The latest sequence number that was given out.
    last_seq: u64,
    /// Nothing is sent any more.
    is_closed: bool,
}

#[derive(Debug)]
struct PendingPresence {
    state: State,
    info: Bytes,
    /// The info was set at this node since the last join that Redis took, and replaces what other
    /// nodes have set before.
    is_latest: bool,
    /// Boxed, and only until Redis holds the user: that is the state of almost all users.
    unsettled: Option<Box<Unsettled>>,
}

/// What is needed of a user whom Redis does not hold as the node wants it.
#[derive(Debug, Default)]
struct Unsettled {
    /// The place in the queue in which the change waits.
    order: SeqKey,
    /// Publications that were accepted before the latest join.
    joined_after: u64,
    /// Publications that were accepted before the latest leave.
    left_after: u64,
    /// Callers that wait until the leave is carried out.
    departures: Vec<DepartureSender>,
    /// The join has a maximum, and is not answered. Boxed: most joins have none.
    limit: Option<Box<Limit>>,
}

#[derive(Debug)]
struct Limit {
    /// `None` once a join without a maximum has followed.
    max: Option<u32>,
    /// Callers that wait for the answer.
    receipts: Vec<EnterReceiptSender>,
}

/// The number of publications accepted before, then a sequence number. A join is sent before the
/// publications that follow it, a leave after those that precede it; otherwise members would
/// receive a message of a user who is not there. The second number makes the keys of one moment
/// unique.
type SeqKey = (u64, u64);

/// The index that lists the key of an entry, besides `users`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    /// Joins that wait to be sent.
    Joins,
    /// Leaves that wait to be sent.
    Leaves,
    /// Refused changes that wait for a retry.
    Refused,
    None,
}

impl PendingPresence {
    fn absent() -> Self {
        Self { state: State::ABSENT, info: Bytes::new(), is_latest: true, unsettled: None }
    }

    fn unsettled(&mut self) -> &mut Unsettled {
        self.unsettled.get_or_insert_default()
    }

    fn order(&self) -> SeqKey {
        self.unsettled.as_ref().map(|unsettled| unsettled.order).unwrap_or_default()
    }

    /// Whether the node holds the user, or is about to whatever a maximum says.
    fn is_admitted(&self) -> bool {
        self.state.stage.is_present() && self.max().is_none()
    }

    /// The maximum of the join.
    fn max(&self) -> Option<u32> {
        self.unsettled.as_ref()?.limit.as_ref()?.max
    }

    fn limit(&mut self) -> Option<&mut Limit> {
        self.unsettled.as_mut()?.limit.as_deref_mut()
    }
}

impl Queues {
    pub(super) fn join(&mut self, key: Key, info: Bytes, accepted: u64) {
        let pending = self.users.entry(key.clone()).or_insert_with(PendingPresence::absent);
        (pending.info, pending.is_latest) = (info, true);
        if let Some(limit) = pending.limit() {
            limit.max = None;
        }
        // A queued join keeps its order: publications accepted since then must still follow it.
        if pending.state.stage != Stage::JoinQueued {
            pending.unsettled().joined_after = accepted;
        }
        self.apply(&key, Event::Join);
    }

    pub(super) fn join_limited(
        &mut self,
        key: Key,
        info: Bytes,
        accepted: u64,
        max: u32,
    ) -> EnterReceipt {
        let (sender, receipt) = EnterReceipt::pending();
        if self.is_closed {
            return receipt;
        }
        let is_admitted = self.users.get(&key).is_some_and(PendingPresence::is_admitted);
        self.join(key.clone(), info, accepted);
        if let Some(pending) = self.users.get_mut(&key) {
            let limit = || Box::new(Limit { max: None, receipts: Vec::new() });
            let limit = pending.unsettled().limit.get_or_insert_with(limit);
            limit.max = (!is_admitted).then_some(max);
            limit.receipts.push(sender);
        }
        receipt
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
        for pending in self.users.values_mut() {
            if let Some(unsettled) = &mut pending.unsettled {
                unsettled.departures.clear();
                if let Some(limit) = &mut unsettled.limit {
                    limit.receipts.clear();
                }
            }
        }
    }

    pub(super) fn fail_limited_joins(&mut self, key: &Key, error: &BrokerError) {
        // A later join that waits has an answer of its own.
        let pending = self.users.get_mut(key);
        let pending = pending.filter(|pending| !pending.state.stage.awaits_join());
        let limit = pending.and_then(PendingPresence::limit);
        for receipt in limit.into_iter().flat_map(|limit| limit.receipts.drain(..)) {
            receipt.resolve(Err(error.clone()));
        }
    }

    pub(super) fn leave(&mut self, key: &Key, accepted: u64) -> Departure {
        let (sender, departure) = Departure::pending();
        if self.is_closed {
            return departure;
        }
        let has_room = self.transient < MAX_TRANSIENT;
        let present = self.users.get_mut(key).filter(|pending| pending.state.stage.is_present());
        if let Some(pending) = present {
            let unsettled = pending.unsettled();
            unsettled.left_after = accepted;
            unsettled.departures.push(sender);
            if let Some(limit) = &mut unsettled.limit {
                // The maximum stays, for a join that is sent before the leave.
                limit.receipts.clear();
            }
            let published = has_room && unsettled.joined_after < accepted;
            self.apply(key, Event::Leave { published });
        }
        departure
    }

    pub(super) fn synced_after(
        &self,
        last: Option<&Key>,
        most: usize,
    ) -> Option<(Arc<str>, Vec<Key>)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.users.range((from, Bound::Unbounded));
        let is_synced = |pending: &PendingPresence| pending.state.sync == SyncState::Synced;
        let synced = next.filter(|(_, pending)| is_synced(pending)).map(|(key, _)| key.clone());
        Some((self.node.clone()?, synced.take(most).collect()))
    }

    pub(super) fn resend_lost(&mut self, keys: &[Key]) {
        for key in keys {
            self.apply(key, Event::Lost);
        }
    }

    pub(super) fn renamed(&mut self, key: &Key, info: &Bytes) {
        if let Some(pending) = self.users.get_mut(key)
            && pending.state.sync == SyncState::Synced
            && !pending.is_latest
        {
            pending.info = info.clone();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn has_changes(&self) -> bool {
        self.node.is_some() && !(self.joins.is_empty() && self.leaves.is_empty())
    }

    pub(super) fn restart_as(&mut self, node: &Arc<str>) {
        self.node = Some(Arc::clone(node));
        let keys: Vec<Key> = self.users.keys().cloned().collect();
        for key in &keys {
            self.apply(key, Event::NewNode);
        }
    }

    pub(super) fn take(&mut self, sent: u64) -> Changes {
        let Some(node) = self.node.clone() else { return Changes::default() };
        let mut changes = Changes { node, ..Changes::default() };
        while changes.joins.len() < MAX_CHANGES
            && let Some(key) = self.joins.first_key_value().map(|(_, key)| key.clone())
            && let Some(pending) = self.users.get(&key)
        {
            let (info, is_latest) = (pending.info.clone(), pending.is_latest);
            let max = pending.max();
            self.apply(&key, Event::JoinSent);
            changes.joins.push(Join { key, info, is_latest, max });
        }
        // In a burst of joins the publications must not wait for all of them, only for their own:
        // those up to the first join that did not fit are sent with this pipeline, the others with
        // a later one.
        changes.fence_at = self.joins.first_key_value().map(|((accepted, _), _)| *accepted);
        // A leave behind a publication that waits for the fence waits with it.
        let sent = changes.fence_at.map_or(sent, |fence| sent.min(fence));
        while changes.leaves.len() < MAX_CHANGES
            && let Some(((accepted, _), key)) = self.leaves.first_key_value()
            && *accepted <= sent
        {
            let key = key.clone();
            self.apply(&key, Event::LeaveSent);
            changes.leaves.push(key);
        }
        // One call of a script changes all users of a topic, in this order.
        changes.joins.sort_by(|a, b| a.key.address.cmp(&b.key.address));
        changes.leaves.sort_by(|a, b| a.address.cmp(&b.address));
        changes
    }

    pub(super) fn record(&mut self, changes: Changes, outcomes: impl IntoIterator<Item = Outcome>) {
        if self.node.as_ref() != Some(&changes.node) {
            // The node has got a new name since, and all joins were queued again under it. The
            // outcomes are of the old name: a join that Redis executed under it is none under the
            // new one.
            return;
        }
        let mut outcomes = outcomes.into_iter();
        for Join { key, max, .. } in &changes.joins {
            let mut outcome = outcomes.next().unwrap_or(Outcome::Unanswered);
            // The leave may have been accepted first, and frees a slot: the join is sent again, behind
            // it.
            if outcome == Outcome::RoomFull
                && (changes.leaves_from(&key.address) || self.has_leave_before(key))
            {
                outcome = Outcome::Unanswered;
            }
            self.answer_limited_joins(key, outcome, *max);
            self.record_join(key, outcome);
        }
        for key in changes.leaves {
            self.record_leave(&key, outcomes.next().unwrap_or(Outcome::Unanswered));
        }
    }

    /// Whether a leave from the topic waits that was accepted before the join of this user: behind
    /// publications, which other joins may hold up, or because too many leave. It is sent after
    /// finitely many pipelines: no join that follows it in the order, as this one does, holds it up.
    fn has_leave_before(&self, key: &Key) -> bool {
        let Some(unsettled) = self.users.get(key).and_then(|user| user.unsettled.as_ref()) else {
            return false;
        };
        let mut before = self.leaves.range(..=(unsettled.joined_after, u64::MAX));
        before.any(|(_, leave)| leave.address == key.address && leave.user != key.user)
    }

    fn record_join(&mut self, key: &Key, outcome: Outcome) {
        let event = match outcome {
            Outcome::Done | Outcome::Announced(_) => Event::JoinDone,
            Outcome::Unanswered => Event::JoinUnanswered,
            Outcome::Refused => Event::JoinRefused,
            Outcome::RoomFull => Event::RoomFull,
        };
        if event == Event::JoinDone
            && let Some(pending) = self.users.get_mut(key)
        {
            // Unless a join was queued while this one was in flight: its info is later, and must
            // replace what other nodes set.
            pending.is_latest &= pending.state.stage.awaits_join();
        }
        self.apply(key, event);
    }

    /// Answers the callers that wait for a join with this `max`. After an outcome that is none of
    /// these two, the join is sent again, or is [failed](Self::fail_limited_joins).
    fn answer_limited_joins(&mut self, key: &Key, outcome: Outcome, max: Option<u32>) {
        let Some(pending) = self.users.get_mut(key) else { return };
        let answer = match (outcome, max) {
            // The maximum is for a later join, which has an answer of its own: a leave may be in
            // flight behind this one, after which Redis does not hold the user.
            _ if pending.state.stage.awaits_join() => return,
            (Outcome::Done, _) => Ok(()),
            (Outcome::RoomFull, Some(max)) => Err(BrokerError::RoomFull { max }),
            _ => return,
        };
        if let Some(limit) = pending.unsettled.as_mut().and_then(|unsettled| unsettled.limit.take())
        {
            limit.receipts.into_iter().for_each(|one| one.resolve(answer.clone()));
        }
    }

    fn record_leave(&mut self, key: &Key, outcome: Outcome) {
        let event = match outcome {
            Outcome::Done | Outcome::Announced(_) => Event::LeaveDone,
            Outcome::Unanswered => Event::LeaveUnanswered,
            Outcome::Refused | Outcome::RoomFull => {
                Event::LeaveRefused { is_full: self.refused.len() >= MAX_REFUSED }
            }
        };
        let released = self.apply(key, event);
        if let Outcome::Announced(version) = outcome {
            released.into_iter().for_each(|departure| departure.resolve(version));
        }
    }

    pub(super) fn retry_refused(&mut self) {
        let refused: Vec<Key> = self.refused.iter().cloned().collect();
        for key in &refused {
            self.apply(key, Event::Retry);
        }
    }

    /// Applies an event to a user who has an entry, and lists the user where the new state belongs.
    /// Returns the departures that the event releases: one that is dropped announces no leave.
    fn apply(&mut self, key: &Key, event: Event) -> Vec<DepartureSender> {
        let Some(pending) = self.users.get_mut(key) else { return Vec::new() };
        let before = (pending.state.stage, pending.order());
        let Transition { state, order, releases } = transition(pending.state, event);
        self.last_seq += 1;
        pending.state = state;
        let unsettled = pending.unsettled();
        unsettled.order = match order {
            Order::Keep => unsettled.order,
            Order::AtJoin => (unsettled.joined_after, self.last_seq),
            Order::AtLeave => (unsettled.left_after, self.last_seq),
            Order::First => (0, self.last_seq),
        };
        let after = (state.stage, unsettled.order);
        let released =
            if releases { std::mem::take(&mut unsettled.departures) } else { Vec::new() };
        if state == State::SETTLED {
            // If the join must be sent again, its place is before all publications: those before it
            // have been sent long ago.
            pending.unsettled = None;
        }
        if state.stage == Stage::Absent {
            self.users.remove(key);
        }
        self.move_between_indexes(key, before, after);
        released
    }

    fn move_between_indexes(&mut self, key: &Key, before: (Stage, SeqKey), after: (Stage, SeqKey)) {
        if before == after {
            return;
        }
        match Index::of(before.0) {
            Index::Joins => drop(self.joins.remove(&before.1)),
            Index::Leaves => drop(self.leaves.remove(&before.1)),
            Index::Refused => drop(self.refused.remove(key)),
            Index::None => {}
        }
        match Index::of(after.0) {
            Index::Joins => drop(self.joins.insert(after.1, key.clone())),
            Index::Leaves => drop(self.leaves.insert(after.1, key.clone())),
            Index::Refused => drop(self.refused.insert(key.clone())),
            Index::None => {}
        }
        self.transient -= usize::from(before.0 == Stage::TransientQueued);
        self.transient += usize::from(after.0 == Stage::TransientQueued);
    }
}

impl Index {
    fn of(stage: Stage) -> Self {
        match stage {
            Stage::JoinQueued | Stage::TransientQueued => Self::Joins,
            Stage::LeaveQueued => Self::Leaves,
            Stage::JoinRefused | Stage::LeaveRefused => Self::Refused,
            Stage::Absent | Stage::Present | Stage::LeaveInFlight => Self::None,
        }
    }
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
