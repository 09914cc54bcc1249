//! Paging through a room's history.

use chat_core::reply::Page;
use chat_core::{Entry, ErrorCode, History, Position, Range, Rejection, Reply, RoomId};
use serde_json::value::RawValue;

use super::recovery::{PAGE, read};
use super::{Connection, unavailable};

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
        // One more than asked for says whether there are more.
        let read = read(&self.state.hub, room, range, limit + 1).await;
        let History { position, mut entries } = read.map_err(|error| unavailable(&error))?;
        let more = match range {
            Range::After(_) => {
                entries.truncate(limit as usize);
                entries.last().is_some_and(|last| last.offset < position.offset)
            }
            Range::Before(_) | Range::Latest => {
                let surplus = entries.len().saturating_sub(limit as usize);
                entries.drain(..surplus);
                surplus > 0 || self.is_cut_short(&entries, limit, room).await
            }
        };
        self.show(id, room, position, &entries, more);
        Ok(())
    }

    /// A page that is short by its bytes says nothing of what lies before it.
    async fn is_cut_short(&self, entries: &[Entry], limit: u32, room: &RoomId) -> bool {
        let Some(first) = entries.first().filter(|first| first.offset > 1) else { return false };
        if entries.len() >= limit as usize {
            return false;
        }
        let before = read(&self.state.hub, room, Range::Before(first.offset), 1).await;
        before.is_ok_and(|history| !history.entries.is_empty())
    }

    fn show(
        &self,
        id: Option<&RawValue>,
        room: &RoomId,
        position: Position,
        entries: &[Entry],
        more: bool,
    ) {
        let messages: Vec<&Entry> = entries.iter().collect();
        let messages = Page::new(room, position.epoch, &messages);
        self.member.reply(&Reply::History { id, room, position, messages, more });
    }
}
