//! A room on this server, between the broker and its members.

use std::sync::Arc;

use bytes::Bytes;
use chat_core::{History, Item, Members, Occupancy, Occupant, Position, PresenceChange, Topic};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::joiner::Snapshot;
use super::member_slot::MemberSlot;
use super::sequence::{RoomSequence, Taken};
use super::slot::FanOutSlot;
use crate::error::BrokerError;

/// What the hub keeps of a topic while it has members: what is known of it, what the members have
/// yet to get, and where those who join begin.
pub(super) struct RoomState<M> {
    pub(super) phase: Phase<M>,
    pub(super) sequence: RoomSequence,
    pub(super) slot: FanOutSlot,
    /// Wakes those who wait for the next cut, if there are any.
    moved: Option<Arc<Notify>>,
}

pub(super) enum Phase<M> {
    /// Not subscribed yet, or not read yet. Nothing is delivered: every member is waiting.
    Waiting(Vec<Waiter<M>>),
    /// In step with the broker.
    Live {
        /// The latest message given to the fan-out: where a member joins.
        cut: Option<Position>,
    },
}

/// A member that waits for the room to go live. Called with the room as it does, under its lock:
/// nothing is delivered to the member before. Or with why it cannot go live for now.
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
            members,
        })
    }

    /// Takes a publication from the broker.
    pub(super) fn accept(&mut self, payload: Bytes, position: Option<Position>) -> Taken {
        let taken = self.sequence.accept(payload, position, &mut self.slot.pending);
        if self.is_waiting() {
            self.slot.drop_excess();
        }
        taken
    }

    /// Takes a change of who is in the room.
    pub(super) fn change_presence(
        &mut self,
        version: u64,
        count: u32,
        change: PresenceChange,
        occupant: Occupant,
    ) {
        let out = &mut self.slot.pending;
        self.sequence.change_presence(version, count, change, occupant, out);
    }

    /// Publications may have been missed.
    pub(super) fn mark_stale(&mut self) -> Taken {
        let is_live = !self.is_waiting();
        self.sequence.mark_stale(is_live, &mut self.slot.pending)
    }

    /// The broker was away, for this server if not for all.
    pub(super) fn interrupt(&mut self) -> Taken {
        let is_live = !self.is_waiting();
        self.sequence.interrupt(is_live, &mut self.slot.pending)
    }

    /// Takes what was read; the first time, the room goes live.
    pub(super) fn finish_reads(
        &mut self,
        topic: &Topic,
        history: Option<History>,
        occupancy: Option<Occupancy>,
        members: &Members<MemberSlot<M>>,
    ) -> Taken {
        let read = self.sequence.finish_reads(history, occupancy, &mut self.slot.pending);
        if read.is_known && self.is_waiting() {
            self.go_live(topic, read.opened, members);
        }
        read.taken
    }

    /// All who wait join here. What arrived since the subscription stays pending, and follows.
    pub(super) fn go_live(
        &mut self,
        topic: &Topic,
        cut: Option<Position>,
        members: &Members<MemberSlot<M>>,
    ) {
        let live = Phase::Live { cut };
        let Phase::Waiting(waiters) = std::mem::replace(&mut self.phase, live) else { return };
        for waiter in waiters {
            if let Some(snapshot) = self.snapshot(topic, members) {
                waiter(Ok(snapshot));
            }
        }
    }

    /// Gives the members of a big room its count.
    pub(super) fn tell_count(&mut self) {
        self.sequence.tell_count(&mut self.slot.pending);
    }

    /// Takes one batch of what is pending, and moves on to its end.
    pub(super) fn cut(&mut self) -> Vec<Item> {
        let Phase::Live { cut } = &mut self.phase else { return Vec::new() };
        let items = self.slot.cut();
        let last = items.iter().rev().find_map(|item| match item {
            Item::Envelope(_, position) | Item::Gap(position) => *position,
            Item::Presence(..) | Item::Count(_) => None,
        });
        if last.is_some() {
            *cut = last;
            if let Some(moved) = self.moved.take() {
                moved.notify_waiters();
            }
        }
        items
    }

    /// Waits for the next cut that moves the room on, if it stands at `from`.
    pub(super) fn moved_on(&mut self, from: Option<Position>) -> Option<OwnedNotified> {
        let stands = matches!(self.phase, Phase::Live { cut } if cut == from);
        stands.then(|| Arc::clone(self.moved.get_or_insert_default()).notified_owned())
    }

    /// The room never goes live: those who wait get no answer.
    pub(super) fn give_up(&mut self) {
        if let Phase::Waiting(waiters) = &mut self.phase {
            waiters.clear();
        }
    }
}

impl<M> Default for RoomState<M> {
    fn default() -> Self {
        Self {
            phase: Phase::Waiting(Vec::new()),
            sequence: RoomSequence::default(),
            slot: FanOutSlot::default(),
            moved: None,
        }
    }
}
