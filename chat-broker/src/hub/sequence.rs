//! The sequence of a topic's messages, and its occupants, in step with the broker.
//!
//! It accepts events and results of reads in any order, and appends the items for the members, in
//! order, to the queue that each call is given.

use std::time::Duration;

use bytes::Bytes;
use chat_core::timeline::Timeline;
use chat_core::{
    History, Item, Occupancy, Occupant, Position, PresenceChange, Recent, Roster, Topic, timeline,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::awaited::{RosterCondition, Waiting};
use super::call::Reads;
use super::config::HubConfig;
use crate::history::HistoryRead;

/// Maximum messages of one room that are held for joins, and bytes of their payload.
const RECENT_MESSAGES: usize = 256;
const RECENT_BYTES: usize = 512 * 1024;

/// Maximum messages in one read of a history.
const READ_LIMIT: u32 = 256;

/// A user's own topic has the struct too, and each connection of the native protocol has one: what
/// only rooms have is boxed.
#[derive(Debug, Default)]
pub(super) struct RoomSequence {
    /// The messages; `None` without history.
    timeline: Option<Box<Timeline>>,
    /// When the history expires; `None` without history, and if an `Instant` cannot hold the time.
    expires: Option<Instant>,
    /// The room's occupants; `None` for a user's own topic, and on a broker without presence.
    roster: Option<Box<Roster>>,
    /// Callers that wait for the roster to meet a condition; `None` before the first.
    waiting: Option<Box<Waiting>>,
    /// A read is under way that this room began. The result of one that an earlier room of the same
    /// topic began is dropped: it may be older than this room's subscription.
    reading: bool,
    /// When messages were first known to be missing.
    gap_since: Option<Instant>,
    /// The connection to the broker was lost, and other servers may have yet to send their users to
    /// a broker that lost its data. Until they had the time, the roster is not read: members would
    /// get a leave, and then a join, for each user.
    presence_stale: bool,
}

/// What the hub counts after an event or a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ingested {
    /// The publication was a repeat, and dropped.
    pub(super) repeat: bool,
    /// Gaps that the members receive.
    pub(super) gaps: u64,
    /// Missed messages that were read.
    pub(super) repaired: u64,
    /// How long messages were known to be missing.
    pub(super) missing_for: Option<Duration>,
    /// The broker has lost the room's sequence, and begins another one.
    pub(super) is_lost: bool,
}

/// The result of a read.
#[derive(Debug, Default)]
pub(super) struct FinishedRead {
    pub(super) taken: Ingested,
    /// The position and the roster are known: members can join.
    pub(super) is_known: bool,
    /// The position at which members join, if this was the first read.
    pub(super) opened: Option<Position>,
}

impl RoomSequence {
    /// The state of a topic that begins: a user's topic has neither history nor roster.
    pub(super) fn new(topic: &Topic, config: &HubConfig, has_presence: bool) -> Self {
        let Some(room) = topic.as_room() else { return Self::default() };
        let recent = |retention| Recent::new(retention, RECENT_MESSAGES, RECENT_BYTES);
        Self {
            timeline: config.history.of(room).map(recent).map(Timeline::new).map(Box::new),
            roster: has_presence.then(|| Box::new(Roster::new(config.presence_limit))),
            ..Self::default()
        }
    }

    pub(super) fn recent(&self) -> Option<&Recent> {
        self.timeline.as_deref().map(Timeline::recent)
    }

    pub(super) fn roster(&self) -> Option<&Roster> {
        self.roster.as_deref()
    }

    /// Drops expired messages before a member joins, as the broker does.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Some(timeline) = &mut self.timeline
            && self.expires.take_if(|expires| *expires <= now).is_some()
        {
            timeline.expire();
        }
    }

    /// Extends the lifetime of all messages, as each new one does. The age of those that the first
    /// read returned is not known: their lifetime starts with the read.
    fn renew(&mut self, now: Instant) {
        let ttl = self.recent().map(|recent| recent.retention().ttl);
        self.expires = ttl.and_then(|ttl| now.checked_add(ttl));
    }

    /// Accepts a publication from the broker.
    pub(super) fn accept(
        &mut self,
        payload: Bytes,
        position: Option<Position>,
        out: &mut Vec<Item>,
    ) -> Ingested {
        let mut taken = Ingested::default();
        let now = Instant::now();
        self.expire(now);
        if let (Some(timeline), Some(position)) = (&mut self.timeline, position) {
            let accepted = timeline.accept(position, payload, out);
            taken.repeat = accepted == timeline::Accepted::Repeat;
            if timeline.seen().is_some() && timeline.wants_read() {
                self.gap_since.get_or_insert(now);
            }
            if accepted == timeline::Accepted::InOrder {
                self.renew(now);
            }
        } else {
            out.push(Item::Envelope(payload, None));
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
        out: &mut Vec<Item>,
    ) {
        if let Some(roster) = &mut self.roster {
            roster.change(version, count, change, occupant, out);
            if let Some(waiting) = &mut self.waiting {
                waiting.answer(roster);
            }
        }
    }

    /// Whether the roster lists the user with this info and is up to date: no snapshot is needed or
    /// being read, and the connection to the broker was not just lost.
    pub(super) fn lists(&self, Occupant { user, info, .. }: &Occupant) -> bool {
        let is_current = |roster: &&Roster| !roster.wants_snapshot();
        let listed = self.roster().filter(is_current).and_then(Roster::listed);
        let is_steady = !(self.presence_stale || self.reading);
        is_steady && listed.is_some_and(|listed| listed.get(user) == Some(info))
    }

    /// Waits until the roster meets a condition; `None` if it does already, or is not read yet.
    pub(super) fn wait_until(&mut self, awaited: RosterCondition) -> Option<oneshot::Receiver<()>> {
        let roster = self.roster.as_deref()?;
        self.waiting.get_or_insert_default().wait_until(awaited, roster)
    }

    /// Publications may have been missed. A room without history sends a gap, if it is live.
    pub(super) fn mark_stale(&mut self, is_live: bool, out: &mut Vec<Item>) -> Ingested {
        if let Some(roster) = &mut self.roster {
            roster.mark_stale();
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.mark_stale();
            return Ingested::default();
        }
        let is_gap = self.roster.is_some() && is_live;
        if is_gap {
            out.push(Item::Gap(None));
        }
        Ingested { gaps: u64::from(is_gap), ..Ingested::default() }
    }

    /// The connection to the broker was lost and is back. The hub compares the position of a room
    /// with history with the broker's; a room without history sends a gap.
    pub(super) fn interrupt(&mut self, is_live: bool, out: &mut Vec<Item>) -> Ingested {
        self.presence_stale = is_live;
        if self.timeline.is_some() { Ingested::default() } else { self.mark_stale(is_live, out) }
    }

    /// All servers have had the time to send the broker their users: the roster needs a read.
    pub(super) fn refresh_roster(&mut self) {
        self.presence_stale = false;
        if let Some(roster) = &mut self.roster {
            roster.mark_stale();
        }
    }

    /// Compares the sequence with the broker's, which is at `position`.
    pub(super) fn check(&mut self, position: Position) {
        if let Some(timeline) = &mut self.timeline
            && timeline.is_behind(position)
        {
            timeline.mark_stale();
            self.gap_since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether [`begin_reads`](Self::begin_reads) would begin one.
    pub(super) fn wants_reads(&self) -> bool {
        self.timeline.as_deref().is_some_and(Timeline::wants_read) || self.wants_occupancy()
    }

    /// Whether the topic has nothing to read: no history, and no presence.
    pub(super) fn reads_nothing(&self) -> bool {
        self.timeline.is_none() && self.roster.is_none()
    }

    fn wants_occupancy(&self) -> bool {
        !self.presence_stale && self.roster().is_some_and(Roster::wants_snapshot)
    }

    /// Adds the reads that this room needs, and marks them as under way.
    pub(super) fn begin_reads(&mut self, topic: &Topic, reads: &mut Reads) {
        self.reading = true;
        if let Some(range) = self.timeline.as_deref_mut().and_then(Timeline::begin_read) {
            reads.histories.push(HistoryRead { topic: topic.clone(), range, limit: READ_LIMIT });
        }
        if self.wants_occupancy()
            && let Some(roster) = &mut self.roster
        {
            roster.begin_snapshot();
            reads.occupancies.push(topic.clone());
        }
    }

    /// Accepts the results of reads.
    pub(super) fn finish_reads(
        &mut self,
        history: Option<History>,
        occupancy: Option<Occupancy>,
        out: &mut Vec<Item>,
    ) -> FinishedRead {
        let mut finished = FinishedRead::default();
        if !std::mem::take(&mut self.reading) {
            return finished;
        }
        if let (Some(roster), Some(occupancy)) = (&mut self.roster, occupancy) {
            roster.set(occupancy, out);
            if let Some(waiting) = &mut self.waiting {
                if !roster.has_reached(1) {
                    waiting.answer_all();
                }
                waiting.answer(roster);
            }
        }
        let taken = &mut finished.taken;
        if let (Some(timeline), Some(history)) = (&mut self.timeline, history) {
            let seen = timeline.seen();
            match timeline.finish_read(history, out) {
                timeline::Finished::Opened(position) => finished.opened = Some(position),
                timeline::Finished::Repaired(messages) => taken.repaired = messages as u64,
                timeline::Finished::Gap => taken.gaps = 1,
            }
            if !timeline.wants_read() {
                taken.missing_for = self.gap_since.take().map(|since| since.elapsed());
            }
            if let (Some(before), Some(now)) = (seen, timeline.seen()) {
                // A sequence without messages has lost none.
                taken.is_lost = before.offset > 0 && now.epoch != before.epoch;
            }
            if timeline.seen() != seen {
                self.renew(Instant::now());
            }
        }
        let has_position = finished.opened.is_some() || self.timeline.is_none();
        finished.is_known = has_position && !self.roster().is_some_and(Roster::is_unknown);
        finished
    }

    /// The reads failed: they are needed again.
    pub(super) fn fail_reads(&mut self) {
        if !std::mem::take(&mut self.reading) {
            return;
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.fail_read();
        }
        if let Some(roster) = &mut self.roster {
            roster.mark_stale();
        }
    }

    /// Whether the members of a large room have yet to receive the number of its occupants.
    pub(super) fn count_changed(&self) -> bool {
        self.roster().is_some_and(Roster::has_unannounced_count)
    }

    /// Sends the members of a large room the number of its occupants.
    pub(super) fn send_count(&mut self, out: &mut Vec<Item>) {
        if let Some(roster) = &mut self.roster {
            roster.announce_count(out);
        }
    }

    /// Payload held for joins, in bytes.
    pub(super) fn recent_bytes(&self) -> usize {
        self.recent().map_or(0, Recent::bytes)
    }

    /// Drops the older half of the messages held for joins.
    pub(super) fn evict(&mut self) {
        if let Some(timeline) = &mut self.timeline {
            timeline.evict();
        }
    }
}
