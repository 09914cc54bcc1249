//! Paging through a room's history.

use std::time::Duration;

use chat_broker::{BrokerError, HistoryRead, Snapshot};
use chat_core::wire::{self, PageFrame, ServerFrame};
use chat_core::{
    ErrorCode, History, HistoryEntry, HistoryRange, Position, Rejection, RoomId, Topic,
};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::{Connection, unavailable};
use crate::member::Member;

/// Messages in one page at most, and if the client does not say how many.
const PAGE: u32 = 256;

/// How long a page waits for the hub to catch up with the broker before it is read from the broker.
const BEHIND: Duration = Duration::from_millis(100);

/// How many times as much a page costs that the broker has to read.
const READ: usize = 2;

/// A page, and where the room stood then.
struct HistoryPage {
    position: Position,
    entries: Vec<HistoryEntry>,
    /// Whether there is more in the direction of reading.
    more: bool,
}

impl Connection {
    pub(super) async fn history(
        &mut self,
        id: Option<&RawValue>,
        room: &RoomId,
        range: HistoryRange,
        limit: Option<u32>,
    ) -> Result<(), Rejection> {
        self.must_be_in(room)?;
        if self.state.hub.retention(room).is_none() {
            return Err(Rejection::new(ErrorCode::HistoryDisabled, "This room keeps no history."));
        }
        self.member.drained(self.time_limit(), &mut self.ends).await;
        if self.member.is_closed() {
            return Ok(());
        }
        let limit = limit.unwrap_or(PAGE).clamp(1, PAGE);
        let (page, factor) = match self.held_page(room, range, limit).await {
            Some(page) => (page, 1),
            None => {
                let page = self.read_page(room, range, limit).await;
                (page.map_err(|error| unavailable(&error))?, READ)
            }
        };
        let bytes = self.show(id, room, &page);
        self.pay_for_answer(factor * bytes);
        Ok(())
    }

    /// The page from this server's memory, if all of it is there: what most clients ask for costs
    /// the broker nothing, however often they do.
    ///
    /// A client that received `ok` finds its message in the page: the broker may acknowledge a
    /// publication before it arrives at the hub, so the page waits until the hub has it.
    async fn held_page(
        &self,
        room: &RoomId,
        range: HistoryRange,
        limit: u32,
    ) -> Option<HistoryPage> {
        let membership = &self.joined_room(room)?.membership;
        let known = self.state.hub.broker().known_position(membership.topic()).unwrap_or_default();
        let deadline = Instant::now() + BEHIND;
        loop {
            let mut held = Held::Missing;
            // Encoded later, outside of the room's lock.
            membership.with_snapshot(|snapshot| held = Held::of(&snapshot, known, range, limit));
            match held {
                Held::Page(page) => return Some(page),
                Held::Behind(position) => {
                    timeout_at(deadline, membership.position_changed(Some(position))).await.ok()?;
                }
                Held::Missing => return None,
            }
        }
    }

    async fn read_page(
        &self,
        room: &RoomId,
        range: HistoryRange,
        limit: u32,
    ) -> Result<HistoryPage, BrokerError> {
        // One more than asked for says whether there are more.
        let History { position, mut entries, .. } = self.read(room, range, limit + 1).await?;
        let is_cut_short = is_cut_short(&entries, limit);
        let more = match range {
            HistoryRange::After(_) => {
                entries.truncate(limit as usize);
                entries.last().is_some_and(|last| last.offset < position.offset)
            }
            HistoryRange::Before(_) | HistoryRange::Latest => {
                let surplus = entries.len().saturating_sub(limit as usize);
                entries.drain(..surplus);
                surplus > 0 || is_cut_short && self.has_before(&entries, room).await
            }
        };
        Ok(HistoryPage { position, entries, more })
    }

    async fn has_before(&self, entries: &[HistoryEntry], room: &RoomId) -> bool {
        let Some(first) = entries.first().filter(|first| first.offset > 1) else { return false };
        let before = self.read(room, HistoryRange::Before(first.offset), 1).await;
        before.is_ok_and(|history| !history.entries.is_empty())
    }

    async fn read(
        &self,
        room: &RoomId,
        range: HistoryRange,
        limit: u32,
    ) -> Result<History, BrokerError> {
        self.state.hub.history(HistoryRead::new(Topic::Room(room.clone()), range, limit)).await
    }

    /// Returns how many bytes that took.
    fn show(&self, id: Option<&RawValue>, room: &RoomId, page: &HistoryPage) -> usize {
        let HistoryPage { position, ref entries, more } = *page;
        let messages = PageFrame::page(room, position.epoch, entries);
        let history = wire::History::new(room, position, messages, more);
        self.member.reply(&ServerFrame::History(history).to_request(id))
    }
}

/// What the hub holds of a page.
enum Held {
    Page(HistoryPage),
    /// The hub has yet to receive what the broker has acknowledged.
    Behind(Position),
    Missing,
}

impl Held {
    fn of(
        snapshot: &Snapshot<'_, Member>,
        known: Position,
        range: HistoryRange,
        limit: u32,
    ) -> Self {
        let (Some(position), Some(recent)) = (snapshot.position, snapshot.recent) else {
            return Self::Missing;
        };
        if known != Position::default() && position.epoch != known.epoch {
            return Self::Missing;
        }
        if position.offset < known.offset {
            return Self::Behind(position);
        }
        let Some(page) = recent.page(range, position, limit as usize, HistoryRead::MAX_BYTES)
        else {
            return Self::Missing;
        };
        let entries = page.entries.into_iter().cloned().collect();
        Self::Page(HistoryPage { position, entries, more: page.more })
    }
}

/// Whether a read may have ended for its bytes: then it says nothing of what lies before it. One
/// with fewer messages may also have ended at a hole.
fn is_cut_short(entries: &[HistoryEntry], limit: u32) -> bool {
    let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
    entries.len() < limit as usize || bytes >= HistoryRead::MAX_BYTES
}
