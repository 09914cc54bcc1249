//! What this server knows of a topic, in step with the broker: the sequence of its messages and who
//! is in it.
//!
//! Events and reads go in, in whatever order they arrive; what the members are to get comes out, in
//! order, into the queue that is handed in.

use std::time::Duration;

use bytes::Bytes;
use chat_core::timeline::Timeline;
use chat_core::{
    History, Item, Occupancy, Occupant, Position, PresenceChange, Recent, Roster, Topic, timeline,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::awaited::{Awaited, Waiting};
use super::call::Reads;
use super::config::HubConfig;
use crate::history::HistoryRead;

/// The latest messages of one room that are held for members that join, and their payload.
const RECENT_MESSAGES: usize = 256;
const RECENT_BYTES: usize = 512 * 1024;

/// Messages in one read of a history.
const READ_LIMIT: u32 = 256;

#[derive(Debug, Default)]
pub(super) struct RoomSequence {
    /// The messages; `None` without history.
    timeline: Option<Timeline>,
    /// When the history expires; `None` without history, and if that is too far ahead for a clock.
    expires: Option<Instant>,
    /// Who is in the room; `None` for a user's own topic, and on a broker without presence.
    roster: Option<Roster>,
    /// Those who wait for the roster to show something.
    waiting: Waiting,
    /// Reads are under way, and for this room: not for one of the same name before it.
    reading: bool,
    /// Since when messages are known to be missing.
    missing_since: Option<Instant>,
    /// The broker was away, and other servers may have yet to give it their users: until then they
    /// are not asked for.
    unsettled: bool,
}

/// What became of something that the room took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    /// A repeat, dropped.
    pub(super) repeat: bool,
    /// Gaps that the members get.
    pub(super) gaps: u64,
    /// Messages that had been missed and were read.
    pub(super) repaired: u64,
    /// How long they had been known to be missing.
    pub(super) missing_for: Option<Duration>,
}

/// What a read has come to.
#[derive(Debug, Default)]
pub(super) struct FinishedRead {
    pub(super) taken: Taken,
    /// All is known that members have to be told of when they join.
    pub(super) is_known: bool,
    /// Where the sequence begins for them, if this was its first read.
    pub(super) opened: Option<Position>,
}

impl RoomSequence {
    /// What is kept of a topic depends on what it is.
    pub(super) fn new(topic: &Topic, config: &HubConfig, has_presence: bool) -> Self {
        let Some(room) = topic.as_room() else { return Self::default() };
        let recent = |retention| Recent::new(retention, RECENT_MESSAGES, RECENT_BYTES);
        Self {
            timeline: config.history.of(room).map(recent).map(Timeline::new),
            roster: has_presence.then(|| Roster::new(config.presence_limit)),
            ..Self::default()
        }
    }

    pub(super) fn recent(&self) -> Option<&Recent> {
        self.timeline.as_ref().map(Timeline::recent)
    }

    pub(super) fn roster(&self) -> Option<&Roster> {
        self.roster.as_ref()
    }

    /// Drops the messages whose time is over, as the broker does: before a member joins.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Some(timeline) = &mut self.timeline
            && self.expires.take_if(|expires| *expires <= now).is_some()
        {
            timeline.expire();
        }
    }

    /// Each new message extends the lifetime of all. The age of messages that a room was opened
    /// with is not known: it counts from then.
    fn renew(&mut self, now: Instant) {
        let ttl = self.recent().map(|recent| recent.retention().ttl);
        self.expires = ttl.and_then(|ttl| now.checked_add(ttl));
    }

    /// Takes a publication from the broker.
    pub(super) fn accept(
        &mut self,
        payload: Bytes,
        position: Option<Position>,
        out: &mut Vec<Item>,
    ) -> Taken {
        let mut taken = Taken::default();
        let now = Instant::now();
        self.expire(now);
        if let (Some(timeline), Some(position)) = (&mut self.timeline, position) {
            let accepted = timeline.accept(position, payload, out);
            taken.repeat = accepted == timeline::Accepted::Repeat;
            if timeline.seen().is_some() && timeline.wants_read() {
                self.missing_since.get_or_insert(now);
            }
            if accepted == timeline::Accepted::InOrder {
                self.renew(now);
            }
        } else {
            out.push(Item::Envelope(payload, None));
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
        out: &mut Vec<Item>,
    ) {
        if let Some(roster) = &mut self.roster {
            roster.change(version, count, change, occupant, out);
            self.waiting.answer(roster);
        }
    }

    /// Whether the roster lists a user with this info, and nothing suggests that it has missed a
    /// change: no snapshot is wanted or being read, and the broker has not just been away.
    pub(super) fn lists(&self, Occupant { user, info, .. }: &Occupant) -> bool {
        let is_current = |roster: &&Roster| !roster.wants_snapshot();
        let listed = self.roster.as_ref().filter(is_current).and_then(Roster::listed);
        let is_settled = !(self.unsettled || self.reading);
        is_settled && listed.is_some_and(|listed| listed.get(user) == Some(info))
    }

    /// Waits until the roster shows something; `None` if it does, or is not read yet.
    pub(super) fn until(&mut self, awaited: Awaited) -> Option<oneshot::Receiver<()>> {
        self.waiting.until(awaited, self.roster.as_ref()?)
    }

    /// Publications may have been missed. A room without history can only say so, if it is live.
    pub(super) fn mark_stale(&mut self, is_live: bool, out: &mut Vec<Item>) -> Taken {
        if let Some(roster) = &mut self.roster {
            roster.mark_stale();
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.mark_stale();
            return Taken::default();
        }
        let is_gap = self.roster.is_some() && is_live;
        if is_gap {
            out.push(Item::Gap(None));
        }
        Taken { gaps: u64::from(is_gap), ..Taken::default() }
    }

    /// The broker was away, for this server if not for all. A room with history is compared with
    /// the broker; one without can only say so.
    pub(super) fn interrupt(&mut self, is_live: bool, out: &mut Vec<Item>) -> Taken {
        self.unsettled = is_live;
        if self.timeline.is_some() { Taken::default() } else { self.mark_stale(is_live, out) }
    }

    /// All servers have had time to give the broker their users.
    pub(super) fn settle(&mut self) {
        self.unsettled = false;
        if let Some(roster) = &mut self.roster {
            roster.mark_stale();
        }
    }

    /// The broker's sequence stands at `position`.
    pub(super) fn check(&mut self, position: Position) {
        if let Some(timeline) = &mut self.timeline
            && timeline.is_behind(position)
        {
            timeline.mark_stale();
            self.missing_since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether [`begin_reads`](Self::begin_reads) would begin one.
    pub(super) fn wants_reads(&self) -> bool {
        self.timeline.as_ref().is_some_and(Timeline::wants_read) || self.wants_occupancy()
    }

    /// Whether there is nothing of this topic that could be read: no history, and no presence.
    pub(super) fn reads_nothing(&self) -> bool {
        self.timeline.is_none() && self.roster.is_none()
    }

    fn wants_occupancy(&self) -> bool {
        !self.unsettled && self.roster.as_ref().is_some_and(Roster::wants_snapshot)
    }

    /// Adds what is to be read.
    pub(super) fn begin_reads(&mut self, topic: &Topic, reads: &mut Reads) {
        self.reading = true;
        if let Some(range) = self.timeline.as_mut().and_then(Timeline::begin_read) {
            reads.histories.push(HistoryRead { topic: topic.clone(), range, limit: READ_LIMIT });
        }
        if self.wants_occupancy()
            && let Some(roster) = &mut self.roster
        {
            roster.ask();
            reads.occupancies.push(topic.clone());
        }
    }

    /// Takes what was read.
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
            if !roster.has_reached(1) {
                self.waiting.answer_all();
            }
            self.waiting.answer(roster);
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
                taken.missing_for = self.missing_since.take().map(|since| since.elapsed());
            }
            if timeline.seen() != seen {
                self.renew(Instant::now());
            }
        }
        let has_position = finished.opened.is_some() || self.timeline.is_none();
        finished.is_known = has_position && !self.roster.as_ref().is_some_and(Roster::is_unknown);
        finished
    }

    /// The reads came to nothing.
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

    /// Whether the members of a big room have yet to get its count.
    pub(super) fn has_news(&self) -> bool {
        self.roster.as_ref().is_some_and(Roster::has_news)
    }

    /// Gives the members of a big room its count.
    pub(super) fn tell_count(&mut self, out: &mut Vec<Item>) {
        if let Some(roster) = &mut self.roster {
            roster.tell_count(out);
        }
    }

    /// Memory held for members that join, in bytes.
    pub(super) fn recent_bytes(&self) -> usize {
        self.recent().map_or(0, Recent::bytes)
    }

    /// Drops the older half of it.
    pub(super) fn evict(&mut self) {
        if let Some(timeline) = &mut self.timeline {
            timeline.evict();
        }
    }
}
