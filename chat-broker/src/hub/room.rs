//! A room on this server, between the broker and its members.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_core::{
    ConnectionId, History, Item, Members, Occupancy, Occupant, Position, PresenceChange, Recent,
    Roster, Timeline, Topic, UserId, timeline,
};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::call::Reads;
use super::config::HubConfig;
use super::joiner::Snapshot;
use super::seat::Seat;
use crate::error::BrokerError;
use crate::history::HistoryRead;

/// What arrives without a place in the sequence before the room is live is kept for the
/// members who wait, up to this many; beyond it the oldest go.
const MAX_HELD: usize = 1024;

/// Publications in one batch, and their bytes but for the last one's: a batch fits into an
/// outbox that is not empty.
const BATCH_ITEMS: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;

/// The latest messages of one room that are held for newcomers, and their payload.
const RECENT_MESSAGES: usize = 256;
const RECENT_BYTES: usize = 512 * 1024;

/// Messages in one read of a history.
const READ_LIMIT: u32 = 256;

/// What the hub keeps of a topic while it has members.
pub(super) struct RoomState<M> {
    pub(super) phase: Phase<M>,
    /// The room's sequence; `None` without history.
    timeline: Option<Timeline>,
    /// When the history expires; `None` without history, and if that is too far ahead for a clock.
    expires: Option<Instant>,
    /// Who is in the room; `None` for a user's own topic, and on a broker without presence.
    roster: Option<Roster>,
    /// Who waits for the roster to show something.
    awaited: Vec<(Awaited, oneshot::Sender<()>)>,
    /// What the members have not been given yet, oldest first.
    pub(super) pending: Vec<Item>,
    /// Since when something has been pending in a room that is live.
    pub(super) pending_since: Option<Instant>,
    /// The topic stands in the fan-out's queue, or is being served.
    pub(super) queued: bool,
    /// Tells it from others, of the same topic too; says in which of the fan-out's queues it
    /// stands.
    pub(super) nth: usize,
    /// How many of `pending` the fan-out counts in its backlog.
    pub(super) counted: usize,
    /// Reads are under way, and for this room: not for one of the same name before it.
    reading: bool,
    /// Wakes those who wait for the next cut, if there are any.
    moved: Option<Arc<Notify>>,
    /// Since when messages are known to be missing.
    missing_since: Option<Instant>,
    /// The broker was away, and other servers may have yet to tell it of their users: until
    /// then they are not asked for.
    unsettled: bool,
}

pub(super) enum Phase<M> {
    /// Not subscribed yet, or not read yet. Nothing is delivered: every member is waiting.
    Waiting(Vec<Waiter<M>>),
    /// In step with the broker.
    Live {
        /// The latest message given to the fan-out: where a newcomer joins.
        cut: Option<Position>,
    },
}

/// A member that waits for the room to go live.
pub(super) struct Waiter<M> {
    pub(super) id: ConnectionId,
    /// Remains a member even if the room cannot go live for now.
    pub(super) stays: bool,
    /// Called with the room as it goes live, under its lock: nothing is delivered to the member
    /// before. Or with why it cannot go live.
    pub(super) opened: Opened<M>,
}

type Opened<M> = Box<dyn FnOnce(Result<Snapshot<'_, M>, BrokerError>) + Send>;

/// What a roster is to show.
#[derive(Debug)]
pub(super) enum Awaited {
    /// All changes up to this version.
    Version(u64),
    /// That a user is not listed.
    Absence(UserId),
}

impl Awaited {
    fn is_shown_by(&self, roster: &Roster) -> bool {
        match self {
            Self::Version(version) => roster.has_reached(*version),
            Self::Absence(user) => roster.listed().is_none_or(|listed| !listed.contains_key(user)),
        }
    }
}

/// What became of something that the room took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    /// A repeat, dropped.
    pub(super) repeat: bool,
    /// Gaps that the members will be told of.
    pub(super) gaps: u64,
    /// Messages that had been missed and were read.
    pub(super) repaired: u64,
    /// How long they had been known to be missing.
    pub(super) missing_for: Option<Duration>,
}

impl<M> RoomState<M> {
    /// The room begins: what is kept of it depends on what it is.
    pub(super) fn begin(&mut self, topic: &Topic, config: &HubConfig, has_presence: bool) {
        if let Some(room) = topic.as_room() {
            let recent = |retention| Recent::new(retention, RECENT_MESSAGES, RECENT_BYTES);
            self.timeline = config.history.of(room).map(recent).map(Timeline::new);
            self.roster = has_presence.then(|| Roster::new(config.presence_limit));
        }
    }

    /// Adds somebody to those who wait for the room to go live.
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
        members: &'a Members<Seat<M>>,
    ) -> Option<Snapshot<'a, M>> {
        let Phase::Live { cut } = self.phase else { return None };
        Some(Snapshot {
            topic,
            position: cut,
            messages: Vec::new(),
            since: None,
            recovered: false,
            recent: self.timeline.as_ref().map(Timeline::recent),
            roster: self.roster.as_ref(),
            members,
        })
    }

    /// Drops the messages whose time is over, as the broker does: before a
    /// [`snapshot`](Self::snapshot) of the room.
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
        let ttl = self.timeline.as_ref().map(|timeline| timeline.recent().retention().ttl);
        self.expires = ttl.and_then(|ttl| now.checked_add(ttl));
    }

    /// Takes a publication from the broker.
    pub(super) fn accept(&mut self, payload: Bytes, position: Option<Position>) -> Taken {
        let mut taken = Taken::default();
        let now = Instant::now();
        self.expire(now);
        if let (Some(timeline), Some(position)) = (&mut self.timeline, position) {
            let accepted = timeline.accept(position, payload, &mut self.pending);
            taken.repeat = accepted == timeline::Accepted::Repeat;
            if timeline.seen().is_some() && timeline.wants_read() {
                self.missing_since.get_or_insert(now);
            }
            if accepted == timeline::Accepted::InOrder {
                self.renew(now);
            }
        } else {
            self.push(Item::Envelope(payload, None));
        }
        taken
    }

    /// Takes a coming or going.
    pub(super) fn change_presence(
        &mut self,
        version: u64,
        count: u32,
        change: PresenceChange,
        occupant: Occupant,
    ) {
        if let Some(roster) = &mut self.roster {
            roster.change(version, count, change, occupant, &mut self.pending);
            self.tell_awaited();
        }
    }

    /// Whether the roster lists a user with this info, and nothing suggests that it has missed a
    /// change: no snapshot is wanted or being read, and the broker has not just been away.
    pub(super) fn lists(&self, Occupant { user, info }: &Occupant) -> bool {
        let is_current = |roster: &&Roster| !roster.wants_snapshot();
        let listed = self.roster.as_ref().filter(is_current).and_then(Roster::listed);
        let is_settled = !(self.unsettled || self.reading);
        is_settled && listed.is_some_and(|listed| listed.get(user) == Some(info))
    }

    /// Waits until the roster shows something; `None` if it does, or is not read yet.
    pub(super) fn until(&mut self, awaited: Awaited) -> Option<oneshot::Receiver<()>> {
        let roster = self.roster.as_ref()?;
        if roster.is_unknown() || awaited.is_shown_by(roster) {
            return None;
        }
        // Of those who stopped waiting, who would pile up while the broker is away.
        self.awaited.retain(|(_, shown)| !shown.is_closed());
        let (shown, waiting) = oneshot::channel();
        self.awaited.push((awaited, shown));
        Some(waiting)
    }

    fn tell_awaited(&mut self) {
        let Some(roster) = &self.roster else { return };
        let is_shown = |(awaited, _): &mut (Awaited, _)| awaited.is_shown_by(roster);
        for (_, shown) in self.awaited.extract_if(.., is_shown) {
            // A caller that stopped waiting needs no answer.
            let _ = shown.send(());
        }
    }

    /// A read has shown that the room is empty: it has no version, so none that a departure waits
    /// for would be reached. Not for a roster that was empty before, which may be yet to receive the
    /// join of the user that left.
    fn tell_all_awaited(&mut self) {
        for (_, shown) in self.awaited.drain(..) {
            // A caller that stopped waiting needs no answer.
            let _ = shown.send(());
        }
    }

    /// Publications may have been missed. A room without history can only say so.
    pub(super) fn suspect(&mut self) -> Taken {
        if let Some(roster) = &mut self.roster {
            roster.suspect();
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.suspect();
            return Taken::default();
        }
        let is_told = self.roster.is_some() && !self.is_waiting();
        if is_told {
            self.push(Item::Gap(None));
        }
        Taken { gaps: u64::from(is_told), ..Taken::default() }
    }

    /// The broker was away, for this server if not for all: in a room without history
    /// members can only be told.
    pub(super) fn interrupt(&mut self) -> Taken {
        let taken = if self.timeline.is_none() { self.suspect() } else { Taken::default() };
        self.unsettled = !self.is_waiting();
        taken
    }

    /// All servers have had time to tell the broker of their users.
    pub(super) fn settle(&mut self) {
        self.unsettled = false;
        if let Some(roster) = &mut self.roster {
            roster.suspect();
        }
    }

    /// The broker's sequence stands at `position`.
    pub(super) fn check(&mut self, position: Position) {
        if let Some(timeline) = &mut self.timeline
            && timeline.is_behind(position)
        {
            timeline.suspect();
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

    /// Adds what the room wants to read.
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

    /// Takes what was read; the first time, the room goes live.
    pub(super) fn finish_reads(
        &mut self,
        topic: &Topic,
        history: Option<History>,
        occupancy: Option<Occupancy>,
        members: &Members<Seat<M>>,
    ) -> Taken {
        let mut taken = Taken::default();
        if !std::mem::take(&mut self.reading) {
            return taken;
        }
        if let (Some(roster), Some(occupancy)) = (&mut self.roster, occupancy) {
            roster.set(occupancy, &mut self.pending);
            if !roster.has_reached(1) {
                self.tell_all_awaited();
            }
            self.tell_awaited();
        }
        let mut opened = None;
        if let (Some(timeline), Some(history)) = (&mut self.timeline, history) {
            let seen = timeline.seen();
            match timeline.finish_read(history, &mut self.pending) {
                timeline::Finished::Opened(position) => opened = Some(position),
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
        let is_known = opened.is_some() || self.timeline.is_none();
        if self.is_waiting() && is_known && !self.roster.as_ref().is_some_and(Roster::is_unknown) {
            self.go_live(topic, opened, members);
        }
        taken
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
            roster.suspect();
        }
    }

    /// All who wait join here. What arrived since the subscription stays pending, and follows.
    pub(super) fn go_live(
        &mut self,
        topic: &Topic,
        cut: Option<Position>,
        members: &Members<Seat<M>>,
    ) {
        let live = Phase::Live { cut };
        let Phase::Waiting(waiters) = std::mem::replace(&mut self.phase, live) else { return };
        for Waiter { opened, .. } in waiters {
            if let Some(snapshot) = self.snapshot(topic, members) {
                opened(Ok(snapshot));
            }
        }
    }

    /// Whether the members of a big room have a count to be told.
    pub(super) fn has_news(&self) -> bool {
        self.roster.as_ref().is_some_and(Roster::has_news)
    }

    /// Tells the members of a big room how many there are.
    pub(super) fn tell_count(&mut self) {
        if let Some(roster) = &mut self.roster {
            roster.tell_count(&mut self.pending);
        }
    }

    /// Memory held for newcomers.
    pub(super) fn recent_bytes(&self) -> usize {
        self.timeline.as_ref().map_or(0, |timeline| timeline.recent().bytes())
    }

    /// Gives up some of it.
    pub(super) fn shed(&mut self) {
        if let Some(timeline) = &mut self.timeline {
            timeline.shed();
        }
    }

    /// Takes what is pending, oldest first, for the members of this moment: as much as
    /// makes one batch.
    pub(super) fn cut(&mut self) -> Vec<Item> {
        let Phase::Live { cut, .. } = &mut self.phase else { return Vec::new() };
        let mut bytes = 0;
        let mut fits = |item: &Item| {
            let before = bytes;
            bytes += item.size();
            before < BATCH_BYTES
        };
        let count = self.pending.iter().take(BATCH_ITEMS).take_while(|item| fits(item)).count();
        let rest = self.pending.split_off(count);
        let items = std::mem::replace(&mut self.pending, rest);
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

    /// Nobody will be welcomed any more: those who wait are let go.
    pub(super) fn give_up(&mut self) {
        if let Phase::Waiting(waiters) = &mut self.phase {
            waiters.clear();
        }
    }

    fn push(&mut self, item: Item) {
        if self.is_waiting() && self.pending.len() >= MAX_HELD {
            self.pending.remove(0);
        }
        self.pending.push(item);
    }
}

impl<M> Default for RoomState<M> {
    fn default() -> Self {
        Self {
            phase: Phase::Waiting(Vec::new()),
            timeline: None,
            expires: None,
            roster: None,
            awaited: Vec::new(),
            pending: Vec::new(),
            pending_since: None,
            queued: false,
            nth: 0,
            counted: 0,
            reading: false,
            moved: None,
            missing_since: None,
            unsettled: false,
        }
    }
}

impl<M> fmt::Debug for RoomState<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Waiting(waiters) => format!("waiting: {}", waiters.len()),
            Phase::Live { cut } => format!("live: cut {cut:?}"),
        };
        let seen = self.timeline.as_ref().and_then(Timeline::seen);
        f.debug_struct("RoomState")
            .field("phase", &phase)
            .field("seen", &seen)
            .finish_non_exhaustive()
    }
}
