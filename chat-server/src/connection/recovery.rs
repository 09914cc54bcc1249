//! What a newcomer to a room has missed.
//!
//! Mostly the server holds it, and the newcomer is told under the room's lock. Else the
//! newcomer becomes a member who hears nothing yet, reads page after page of the history as
//! fast as the client takes them, and begins to listen where the last page ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chat_broker::{BrokerError, HistoryRead, Hub, Membership, Snapshot, Welcomed};
use chat_core::wire::{self, Joined, PageFrame, ServerFrame};
use chat_core::{
    Batch, CloseReason, Deliver, Entry, History, Item, Position, Range, Recent, RoomId, Topic,
};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::deadline::Deadline;
use super::members::{self, Asker};
use crate::member::Member;

/// Payload of messages in one page, in bytes: as much as a read of the broker brings.
const PAGE_BYTES: usize = HistoryRead::MAX_BYTES;

/// Messages in one page, at most.
pub(super) const PAGE: u32 = 256;

/// Messages for whoever could not recover and did not say how many.
const NEWEST: u32 = 50;

/// How long a room may stand still that is behind the client: a server that hears nothing of the
/// broker has given up by then.
const BEHIND: Duration = Duration::from_secs(10);

/// What the client wants to know of the room's past.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wish {
    /// Where its copy ends.
    pub(super) since: Option<Position>,
    /// How many of the latest messages it wants.
    pub(super) history: Option<u32>,
}

impl Wish {
    /// For those who may not know it.
    pub(super) fn nothing() -> Self {
        Self { since: None, history: Some(0) }
    }
}

/// Somebody on the way into a room.
#[derive(Debug, Clone)]
pub(super) struct Newcomer {
    pub(super) member: Member,
    pub(super) id: Option<Box<RawValue>>,
    pub(super) room: RoomId,
    pub(super) wish: Wish,
    /// It is not in the room yet; else it joins again.
    pub(super) is_joining: bool,
    /// How long it may take to read what waits for it.
    pub(super) patience: Duration,
    /// When its connection ends.
    pub(super) ends: Deadline,
    pub(super) max_listed: usize,
    /// What its answers cost, in bytes.
    pub(super) answered: Arc<AtomicUsize>,
}

impl Newcomer {
    /// Tells the newcomer of the room, if all that it has to be told is at hand.
    pub(super) fn welcome(&self, snapshot: &Snapshot<'_, Member>) -> Welcomed {
        let (Some(position), Some(recent)) = (snapshot.position, snapshot.recent) else {
            self.tell_joined(snapshot, None, &[], false);
            return Welcomed::UpToDate;
        };
        let Some(messages) = self.at_hand(recent, position) else { return Welcomed::CatchingUp };
        self.tell_joined(snapshot, Some(position), &messages, self.wish.since.is_some());
        Welcomed::UpToDate
    }

    /// Whether [`welcome`](Self::welcome) would find all that it needs.
    pub(super) fn is_at_hand(&self, snapshot: &Snapshot<'_, Member>) -> bool {
        let room = snapshot.position.zip(snapshot.recent);
        room.is_none_or(|(position, recent)| self.at_hand(recent, position).is_some())
    }

    fn at_hand<'a>(&self, recent: &'a Recent, position: Position) -> Option<Vec<&'a Entry>> {
        match self.wish.since {
            Some(since) => missed(recent, since, position),
            None => self.newest(recent, position),
        }
    }

    /// Tells of the room somebody who is in it, with as much of its past as is at hand.
    pub(super) fn tell_of_room(&self, snapshot: &Snapshot<'_, Member>) {
        let (position, wanted) = (snapshot.position, self.latest());
        let messages: Vec<_> = match (position, snapshot.recent) {
            (Some(position), Some(recent)) => recent.latest(position, wanted, PAGE_BYTES).collect(),
            _ => Vec::new(),
        };
        self.tell_joined(snapshot, position, &messages, false);
    }

    /// As many of the newest messages as the client wants, or as a frame takes; `None` if
    /// there may be more than are at hand.
    fn newest<'a>(&self, recent: &'a Recent, position: Position) -> Option<Vec<&'a Entry>> {
        let wanted = self.latest();
        let newest: Vec<_> = recent.latest(position, wanted, PAGE_BYTES).collect();
        let oldest = newest.first().map_or(position.offset + 1, |first| first.offset);
        let is_cut_short = newest.first().is_some_and(|_| recent.oldest() < Some(oldest));
        // A room that keeps fewer than a page has no more.
        let is_enough = newest.len() >= wanted.min(recent.max_entries());
        (is_enough || recent.begins_with(oldest) || is_cut_short).then_some(newest)
    }

    /// Tells the newcomer of the room and of its past, from the history, and lets it listen.
    ///
    /// A client that was told of the room and then cannot be told the rest is closed, so
    /// that it comes back with its place.
    pub(super) async fn catch_up(
        &self,
        hub: &Hub<Member>,
        membership: &mut Membership<Member>,
    ) -> Result<(), BrokerError> {
        let page = self.first_page(hub).await?;
        self.catch_up_from(page, hub, membership).await;
        Ok(())
    }

    /// [`catch_up`](Self::catch_up), with what [`first_page`](Self::first_page) has read.
    pub(super) async fn catch_up_from(
        &self,
        (history, recovered): (History, bool),
        hub: &Hub<Member>,
        membership: &mut Membership<Member>,
    ) {
        let here = Position { offset: last_offset(&history), ..history.position };
        let messages: Vec<&Entry> = history.entries.iter().collect();
        membership.look(|snapshot| self.tell_joined(&snapshot, Some(here), &messages, recovered));
        if let Err(error) = self.follow(hub, membership, here).await {
            tracing::debug!(%error, room = %self.room.escaped(), "a client could not catch up");
            self.member.close(CloseReason::InternalError);
        }
    }

    /// The page that the client is told of first, and whether its copy goes on there.
    pub(super) async fn first_page(
        &self,
        hub: &Hub<Member>,
    ) -> Result<(History, bool), BrokerError> {
        if let Some(since) = self.wish.since {
            let history = self.read(hub, Range::After(since.offset), PAGE).await?;
            if history.follows(since) {
                return Ok((history, true));
            }
        }
        let wanted = self.latest() as u32;
        if wanted == 0 {
            let history = self.read(hub, Range::Latest, 1).await?;
            return Ok((History { entries: Vec::new(), ..history }, false));
        }
        Ok((self.read(hub, Range::Latest, wanted).await?, false))
    }

    /// Reads on from `here` until the room can be listened to.
    async fn follow(
        &self,
        hub: &Hub<Member>,
        membership: &mut Membership<Member>,
        mut here: Position,
    ) -> Result<(), BrokerError> {
        let mut ends = self.ends;
        loop {
            self.member.drained(self.patience, &mut ends).await;
            if self.member.is_notified() {
                return Err(has_changed());
            }
            let mut room = None;
            let listening = membership.listen(self.member.clone(), |snapshot| {
                room = snapshot.position;
                self.go_on(&snapshot, here)
            });
            if listening == Welcomed::UpToDate || self.member.is_closed() {
                return Ok(());
            }
            if !is_behind(room, here) {
                let history = self.read(hub, Range::After(here.offset), PAGE).await?;
                let next = self.tell_page(here, &history);
                if next != here {
                    here = next;
                    continue;
                }
            }
            self.until_moved_on(membership, room).await?;
        }
    }

    /// This server has yet to receive what the client has received from another.
    async fn until_moved_on(
        &self,
        membership: &Membership<Member>,
        room: Option<Position>,
    ) -> Result<(), BrokerError> {
        tokio::select! {
            moved = timeout(BEHIND, membership.moved_on(room)) => {
                moved.map_err(|_| BrokerError::unavailable("the server fell behind the broker"))
            }
            is_notified = self.member.interrupted() => {
                if is_notified { Err(has_changed()) } else { Ok(()) }
            }
        }
    }

    /// Tells what lies between `here` and the room, if it is at hand.
    fn go_on(&self, snapshot: &Snapshot<'_, Member>, here: Position) -> Welcomed {
        let (Some(position), Some(recent)) = (snapshot.position, snapshot.recent) else {
            return Welcomed::UpToDate;
        };
        let Some(missed) = missed(recent, here, position) else { return Welcomed::CatchingUp };
        self.tell_messages(position, missed.into_iter());
        Welcomed::UpToDate
    }

    /// Tells the messages of a page that follows on `here`, or that they do not follow.
    /// Returns where the client stands then.
    fn tell_page(&self, here: Position, history: &History) -> Position {
        let is_same = here.epoch == history.position.epoch || here == Position::default();
        if !is_same {
            // The next page is read from the beginning of the new sequence.
            let begins = Position { offset: 0, ..history.position };
            self.tell(vec![Item::Gap(Some(begins))]);
            return begins;
        }
        let first = history.entries.first().map_or(history.position.offset + 1, |e| e.offset);
        if first > here.offset + 1 {
            let before = Position { offset: first - 1, ..history.position };
            self.tell(vec![Item::Gap(Some(before))]);
        }
        self.tell_messages(history.position, history.entries.iter());
        let offset = last_offset(history).max(here.offset);
        // In an empty room there is no sequence to stand in.
        if offset == 0 { here } else { Position { offset, ..history.position } }
    }

    fn tell_joined(
        &self,
        snapshot: &Snapshot<'_, Member>,
        position: Option<Position>,
        messages: &[&Entry],
        recovered: bool,
    ) {
        let epoch = position.unwrap_or_default().epoch;
        let tell = |members: Vec<wire::User<'_>>, count| {
            let mut joined = Joined::new(&self.room, position, recovered);
            (joined.members, joined.count) = (members, count);
            joined.messages = PageFrame::page(&self.room, epoch, messages.iter().copied());
            self.count(
                self.member.reply(&ServerFrame::Joined(joined).to_request(self.id.as_deref())),
            );
        };
        if self.member.sees_presence() {
            let asker = Asker { user: &self.member.user, is_joining: self.is_joining };
            members::list(snapshot, asker, self.max_listed, tell);
        } else {
            tell(vec![wire::User::from(&*self.member.user)], 1);
        }
        // In the native protocol they are part of the frame.
        if !self.member.is_native() {
            self.tell_messages(position.unwrap_or_default(), messages.iter().copied());
        }
    }

    fn tell_messages<'a>(&self, position: Position, entries: impl Iterator<Item = &'a Entry>) {
        let item = |entry: &Entry| {
            let position = Position { offset: entry.offset, ..position };
            Item::Envelope(entry.payload.clone(), Some(position))
        };
        self.tell(entries.map(item).collect());
    }

    fn tell(&self, items: Vec<Item>) {
        if !items.is_empty() {
            let batch = Batch::new(Topic::Room(self.room.clone()), items);
            self.count(batch.payload_len());
            self.member.take(&batch);
        }
    }

    fn count(&self, bytes: usize) {
        self.answered.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many of the latest messages the client is told of, when it cannot recover.
    fn latest(&self) -> usize {
        let unasked = if self.wish.since.is_some() { NEWEST } else { 0 };
        self.wish.history.unwrap_or(unasked).min(PAGE) as usize
    }

    async fn read(
        &self,
        hub: &Hub<Member>,
        range: Range,
        limit: u32,
    ) -> Result<History, BrokerError> {
        let history = read(hub, &self.room, range, limit).await?;
        self.count(history.entries.iter().map(|entry| entry.payload.len()).sum());
        Ok(history)
    }
}

/// The client has to join again, if it still may.
fn has_changed() -> BrokerError {
    BrokerError::unavailable("something has changed for the client")
}

/// Whether a room has less than a client of the same sequence: there is nothing to be read then.
fn is_behind(room: Option<Position>, client: Position) -> bool {
    room.is_some_and(|room| room.epoch == client.epoch && room.offset < client.offset)
}

/// What lies between two positions; `None` if it is not at hand, or more than a frame takes.
fn missed(recent: &Recent, since: Position, upto: Position) -> Option<Vec<&Entry>> {
    // Whoever saw nothing of any sequence has missed this one from its beginning.
    let is_same = since.epoch == upto.epoch || since == Position::default();
    if !is_same || since.offset > upto.offset {
        return None;
    }
    let missed: Vec<_> = recent.between(since.offset, upto)?.collect();
    let bytes: usize = missed.iter().map(|entry| entry.payload.len()).sum();
    (bytes <= PAGE_BYTES).then_some(missed)
}

/// One page of a room's history.
pub(super) async fn read(
    hub: &Hub<Member>,
    room: &RoomId,
    range: Range,
    limit: u32,
) -> Result<History, BrokerError> {
    let read = HistoryRead { topic: Topic::Room(room.clone()), range, limit };
    hub.history(read).await
}

/// Where a page ends.
fn last_offset(history: &History) -> u64 {
    history.entries.last().map_or(history.position.offset, |last| last.offset)
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
