//! A room on this server, between the broker and its members.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use chat_core::{History, Item, Members, Occupancy, Occupant, Position, PresenceChange, Topic};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::backlog::RoomBacklog;
use super::follow::FollowQueue;
use super::joiner::Snapshot;
use super::member_slot::MemberSlot;
use super::presence_log::{MissedPresence, PresenceLog};
use super::sequence::{Ingested, RoomSequence};
use crate::error::BrokerError;

/// The state of a topic while it has members: what this server knows of it, what the members have
/// yet to receive, and the position at which a member joins.
pub(super) struct RoomState<M> {
    pub(super) phase: Phase<M>,
    pub(super) sequence: RoomSequence,
    pub(super) backlog: RoomBacklog,
    /// `None` in most rooms, and in users' own topics.
    observers: Option<Box<Observers>>,
}

/// What receives a room's batches, or waits for one, and is no member.
#[derive(Default)]
struct Observers {
    /// Wakes the tasks that wait for the next cut, if there are any.
    cut_notify: Option<Arc<Notify>>,
    followers: Vec<Arc<FollowQueue>>,
    /// What members that read pages miss, as long as there are any.
    presence_log: Weak<PresenceLog>,
}

pub(super) enum Phase<M> {
    /// The topic is not subscribed yet, or not read yet. Nothing is delivered; every member waits.
    Waiting(Vec<Waiter<M>>),
    /// The topic is in step with the broker.
    Live {
        /// The position of the latest message in a batch. A member joins there: it receives the
        /// next batch, and earlier messages are in its snapshot.
        cut: Option<Position>,
    },
}

/// The callback of a member that waits for the room to go live. It is called under the room's lock
/// when the room does, before anything is delivered to the member; or with the reason why the room
/// cannot go live.
pub(super) type Waiter<M> = Box<dyn FnOnce(Result<Snapshot<'_, M>, BrokerError>) + Send>;

impl<M> RoomState<M> {
    /// Adds a member to those that wait for the room to go live.
    pub(super) fn wait(&mut self, waiter: Waiter<M>) {
        if let Phase::Waiting(waiters) = &mut self.phase {
            waiters.push(waiter);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting(_))
    }

    /// The room as a member joins it, if it is live.
    pub(super) fn snapshot<'a>(
        &'a self,
        topic: &'a Topic,
        members: &'a Members<MemberSlot<M>>,
    ) -> Option<Snapshot<'a, M>> {
        let Phase::Live { cut } = self.phase else { return None };
        Some(Snapshot {
            topic,
            position: cut,
            messages: Vec::new(),
            since: None,
            recovered: false,
            recent: self.sequence.recent(),
            roster: self.sequence.roster(),
            pending: &self.backlog.pending,
            members,
        })
    }

    /// Accepts a publication from the broker.
    pub(super) fn accept(&mut self, payload: Bytes, position: Option<Position>) -> Ingested {
        let taken = self.sequence.accept(payload, position, &mut self.backlog.pending);
        if self.is_waiting() {
            self.backlog.drop_excess();
        }
        taken
    }

    /// Accepts a change of the room's occupants.
    pub(super) fn change_presence(
        &mut self,
        version: u64,
        count: u32,
        change: PresenceChange,
        occupant: Occupant,
    ) {
        let out = &mut self.backlog.pending;
        self.sequence.change_presence(version, count, change, occupant, out);
    }

    /// Publications may have been missed.
    pub(super) fn mark_stale(&mut self) -> Ingested {
        self.report_loss();
        let is_live = !self.is_waiting();
        self.sequence.mark_stale(is_live, &mut self.backlog.pending)
    }

    /// The connection to the broker was lost and is back.
    pub(super) fn interrupt(&mut self) -> Ingested {
        self.report_loss();
        let is_live = !self.is_waiting();
        self.sequence.interrupt(is_live, &mut self.backlog.pending)
    }

    /// The followers of a topic without history get a gap: also those of a user's topic, of whose
    /// losses the members are not informed.
    fn report_loss(&self) {
        if self.sequence.recent().is_none() {
            self.followers().iter().for_each(|follower| follower.report_loss());
        }
    }

    /// Adds a follower, which is attached when the room goes live.
    pub(super) fn follow(&mut self, follower: Arc<FollowQueue>) {
        if let Phase::Live { cut } = self.phase {
            follower.go_live(cut);
        }
        self.observers.get_or_insert_default().followers.push(follower);
    }

    pub(super) fn unfollow(&mut self, follower: &Arc<FollowQueue>) {
        if let Some(observers) = &mut self.observers {
            observers.followers.retain(|other| !Arc::ptr_eq(other, follower));
        }
    }

    pub(super) fn followers(&self) -> &[Arc<FollowQueue>] {
        self.observers.as_deref().map_or(&[], |observers| &observers.followers)
    }

    /// Queues the items of a batch for the followers. Returns how many had no room for all of them.
    pub(super) fn feed_followers(&self, items: &[Item]) -> u64 {
        self.followers().iter().map(|follower| u64::from(!follower.push(items))).sum()
    }

    /// The changes that follow on the roster of a snapshot that is taken now.
    pub(super) fn log_presence(&mut self) -> MissedPresence {
        let known = &mut self.observers.get_or_insert_default().presence_log;
        let log = known.upgrade().unwrap_or_else(|| {
            let log = Arc::default();
            *known = Arc::downgrade(&log);
            log
        });
        MissedPresence::new(log, &self.backlog.pending)
    }

    /// Accepts the result of a read. The first makes the room live.
    pub(super) fn finish_reads(
        &mut self,
        topic: &Topic,
        history: Option<History>,
        occupancy: Option<Occupancy>,
        members: &Members<MemberSlot<M>>,
    ) -> Ingested {
        self.followers().iter().for_each(|follower| follower.recover());
        let read = self.sequence.finish_reads(history, occupancy, &mut self.backlog.pending);
        if read.is_known && self.is_waiting() {
            self.go_live(topic, read.opened, members);
        }
        read.taken
    }

    /// Makes the room live: all members that wait join at `cut`. Items that arrived since the
    /// subscription stay pending, and are delivered next.
    pub(super) fn go_live(
        &mut self,
        topic: &Topic,
        cut: Option<Position>,
        members: &Members<MemberSlot<M>>,
    ) {
        let live = Phase::Live { cut };
        let Phase::Waiting(waiters) = std::mem::replace(&mut self.phase, live) else { return };
        self.followers().iter().for_each(|follower| follower.go_live(cut));
        // The phase is live by now, so the snapshot of each waiter is that of a join to a live
        // room.
        for waiter in waiters {
            if let Some(snapshot) = self.snapshot(topic, members) {
                waiter(Ok(snapshot));
            }
        }
    }

    /// Sends the members of a large room the number of its occupants.
    pub(super) fn send_count(&mut self) {
        self.sequence.send_count(&mut self.backlog.pending);
    }

    /// Takes the items of one batch, and moves the cut to its last position.
    pub(super) fn cut(&mut self) -> Vec<Item> {
        let Phase::Live { cut } = &mut self.phase else { return Vec::new() };
        let items = self.backlog.cut();
        let last = items.iter().rev().find_map(Item::position);
        if last.is_some() {
            *cut = last;
        }
        if let Some(observers) = &mut self.observers {
            if last.is_some()
                && let Some(notify) = observers.cut_notify.take()
            {
                notify.notify_waiters();
            }
            if let Some(log) = observers.presence_log.upgrade() {
                log.append(&items);
            }
        }
        items
    }

    /// Waits for the next cut with a position, if the cut is at `from`.
    pub(super) fn position_changed(&mut self, from: Option<Position>) -> Option<OwnedNotified> {
        let is_there = matches!(self.phase, Phase::Live { cut } if cut == from);
        is_there.then(|| {
            let observers = self.observers.get_or_insert_default();
            Arc::clone(observers.cut_notify.get_or_insert_default()).notified_owned()
        })
    }

    /// The driver has ended, so the room receives nothing more: drops the waiters, whose joins then
    /// fail, and ends the followers.
    pub(super) fn end(&mut self) {
        if let Phase::Waiting(waiters) = &mut self.phase {
            waiters.clear();
        }
        self.followers().iter().for_each(|follower| follower.end());
    }
}

impl<M> Default for RoomState<M> {
    fn default() -> Self {
        Self {
            phase: Phase::Waiting(Vec::new()),
            sequence: RoomSequence::default(),
            backlog: RoomBacklog::default(),
            observers: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_of_a_users_own_topic_is_small() {
        assert!(size_of::<RoomState<()>>() <= 168, "{} bytes", size_of::<RoomState<()>>());
    }
}
