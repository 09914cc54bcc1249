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

/// The most messages in a page, and the default.
const MAX_PAGE: u32 = 256;

/// How long a page waits for the hub to catch up with the broker before it is read from the broker.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(100);

/// How many times its bytes a page costs that was read from the broker.
const READ_COST_FACTOR: usize = 2;

/// A page, and the position of the room when it was read.
struct HistoryPage {
    position: Position,
    entries: Vec<HistoryEntry>,
    /// Whether the history has further messages in the direction of reading.
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
        self.member.drained(self.time_limit(), &mut self.deadline).await;
        if self.member.is_closed() {
            return Ok(());
        }
        let limit = limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
        let (page, factor) = match self.page_from_memory(room, range, limit).await {
            Some(page) => (page, 1),
            None => {
                let page = Box::pin(self.page_from_broker(room, range, limit)).await;
                (page.map_err(|error| unavailable(&error))?, READ_COST_FACTOR)
            }
        };
        let bytes = self.send_page(id, room, &page);
        self.charge_answer(factor * bytes);
        Ok(())
    }

    /// The page from this server's memory, if the memory has all of it: most pages are read without
    /// the broker.
    ///
    /// A client that received `ok` finds its message in the page: the broker may acknowledge a
    /// publication before it arrives at the hub, so the page waits until the hub has it.
    async fn page_from_memory(
        &self,
        room: &RoomId,
        range: HistoryRange,
        limit: u32,
    ) -> Option<HistoryPage> {
        let membership = &self.joined_room(room)?.membership;
        let known = self.state.hub.broker().known_position(membership.topic()).unwrap_or_default();
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        loop {
            let mut held = PageLookup::Missing;
            // `with_snapshot` holds the room's lock: the page is encoded after it.
            membership
                .with_snapshot(|snapshot| held = PageLookup::of(&snapshot, known, range, limit));
            match held {
                PageLookup::Page(page) => return Some(page),
                PageLookup::Behind(position) => {
                    timeout_at(deadline, membership.position_changed(Some(position))).await.ok()?;
                }
                PageLookup::Missing => return None,
            }
        }
    }

    async fn page_from_broker(
        &self,
        room: &RoomId,
        range: HistoryRange,
        limit: u32,
    ) -> Result<HistoryPage, BrokerError> {
        // One more than asked for shows whether there are more.
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

    /// Returns the bytes of the frame.
    fn send_page(&self, id: Option<&RawValue>, room: &RoomId, page: &HistoryPage) -> usize {
        let HistoryPage { position, ref entries, more } = *page;
        let messages = PageFrame::page(room, position.epoch, entries);
        let history = wire::History::new(room, position, messages, more);
        self.member.reply(&ServerFrame::History(history).to_request(id))
    }
}

/// A page as far as the hub has it in memory.
enum PageLookup {
    Page(HistoryPage),
    /// The hub has yet to receive what the broker has acknowledged.
    Behind(Position),
    Missing,
}

impl PageLookup {
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

/// Whether a read may have ended at its limit of bytes: then it does not show what precedes it. A read
/// with fewer messages may also have ended at a hole.
fn is_cut_short(entries: &[HistoryEntry], limit: u32) -> bool {
    let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
    entries.len() < limit as usize || bytes >= HistoryRead::MAX_BYTES
}
