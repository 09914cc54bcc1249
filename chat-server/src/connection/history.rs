//! Paging through a room's history.

use chat_broker::{BrokerError, HistoryRead, Snapshot};
use chat_core::reply::Page;
use chat_core::{Entry, ErrorCode, History, Position, Range, Rejection, Reply, RoomId};
use serde_json::value::RawValue;

use super::recovery::{PAGE, read};
use super::{Connection, unavailable};
use crate::member::Member;

/// A page, and where the room stood then.
struct HistoryPage {
    position: Position,
    entries: Vec<Entry>,
    /// Whether there is more in the direction of reading.
    more: bool,
}

impl Connection {
    pub(super) async fn history(
        &self,
        id: Option<&RawValue>,
        room: &RoomId,
        range: Range,
        limit: Option<u32>,
    ) -> Result<(), Rejection> {
        self.must_be_in(room)?;
        if self.state.hub.retention(room).is_none() {
            return Err(Rejection::new(ErrorCode::HistoryDisabled, "This room keeps no history."));
        }
        self.member.drained(self.patience()).await;
        let limit = limit.unwrap_or(PAGE).clamp(1, PAGE);
        let page = match self.held_page(room, range, limit) {
            Some(page) => page,
            None => {
                self.read_page(room, range, limit).await.map_err(|error| unavailable(&error))?
            }
        };
        self.show(id, room, &page);
        Ok(())
    }

    /// The page from this server's memory, if all of it is there: what most clients ask for costs
    /// the broker nothing, however often they do.
    fn held_page(&self, room: &RoomId, range: Range, limit: u32) -> Option<HistoryPage> {
        let place = self.place(room).filter(|place| !place.membership.is_catching_up())?;
        let mut page = None;
        // Encoded later, outside of the room's lock.
        place.membership.look(|snapshot| page = page_of(&snapshot, range, limit));
        page
    }

    async fn read_page(
        &self,
        room: &RoomId,
        range: Range,
        limit: u32,
    ) -> Result<HistoryPage, BrokerError> {
        // One more than asked for says whether there are more.
        let read = read(&self.state.hub, room, range, limit + 1).await?;
        let History { position, mut entries } = read;
        let is_cut_short = is_cut_short(&entries, limit);
        let more = match range {
            Range::After(_) => {
                entries.truncate(limit as usize);
                entries.last().is_some_and(|last| last.offset < position.offset)
            }
            Range::Before(_) | Range::Latest => {
                let surplus = entries.len().saturating_sub(limit as usize);
                entries.drain(..surplus);
                surplus > 0 || is_cut_short && self.has_before(&entries, room).await
            }
        };
        Ok(HistoryPage { position, entries, more })
    }

    async fn has_before(&self, entries: &[Entry], room: &RoomId) -> bool {
        let Some(first) = entries.first().filter(|first| first.offset > 1) else { return false };
        let before = read(&self.state.hub, room, Range::Before(first.offset), 1).await;
        before.is_ok_and(|history| !history.entries.is_empty())
    }

    fn show(&self, id: Option<&RawValue>, room: &RoomId, page: &HistoryPage) {
        let HistoryPage { position, ref entries, more } = *page;
        let messages: Vec<&Entry> = entries.iter().collect();
        let messages = Page::new(room, position.epoch, &messages);
        self.member.reply(&Reply::History { id, room, position, messages, more });
    }
}

fn page_of(snapshot: &Snapshot<'_, Member>, range: Range, limit: u32) -> Option<HistoryPage> {
    let (position, recent) = (snapshot.position?, snapshot.recent?);
    let page = recent.page(range, position, limit as usize, HistoryRead::MAX_BYTES)?;
    let entries = page.entries.into_iter().cloned().collect();
    Some(HistoryPage { position, entries, more: page.more })
}

/// Whether a read may have ended for its bytes: then it says nothing of what lies before it. One
/// with fewer messages may also have ended at a hole.
fn is_cut_short(entries: &[Entry], limit: u32) -> bool {
    let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
    entries.len() < limit as usize || bytes >= HistoryRead::MAX_BYTES
}
