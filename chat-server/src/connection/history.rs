//! Paging through a room's history.

use chat_core::wire::{self, PageFrame, ServerFrame};
use chat_core::{Event, HistoryRange, Position, Rejection, RoomId, UserId, envelope};
use serde_json::value::RawValue;

use super::Connection;
use crate::service::history::{self, MAX_PAGE, Page};

/// How many times its bytes a page costs that was read from the broker.
const READ_COST_FACTOR: usize = 2;

impl Connection {
    pub(super) async fn history(
        &mut self,
        id: Option<&RawValue>,
        room: &RoomId,
        range: HistoryRange,
        limit: Option<u32>,
    ) -> Result<(), Rejection> {
        self.must_be_in(room)?;
        self.member.drained(self.time_limit(), &mut self.read_deadline()).await;
        if self.member.is_closed() {
            return Ok(());
        }
        let page = history::page(&self.state, room, range, limit.unwrap_or(MAX_PAGE)).await?;
        let factor = if page.is_from_broker { READ_COST_FACTOR } else { 1 };
        let bytes = self.send_page(id, room, &page);
        self.charge_answer(factor * bytes);
        Ok(())
    }

    /// The position of a user's message with this key, if it is among the latest ones of the room.
    pub(super) async fn find_published(
        &mut self,
        room: &RoomId,
        user: &UserId,
        key: &str,
    ) -> Result<Option<Position>, Rejection> {
        if self.state.hub.retention(room).is_none() {
            return Ok(None);
        }
        let page = history::page(&self.state, room, HistoryRange::Latest, MAX_PAGE).await?;
        if page.is_from_broker {
            let bytes: usize = page.entries.iter().map(|entry| entry.payload.len()).sum();
            self.charge_answer(READ_COST_FACTOR * bytes);
        }
        let found = page.entries.iter().rev().find(|entry| {
            matches!(envelope::decode(&entry.payload), Ok(Event::Message(message))
                if message.user.id == user.as_str() && message.key == Some(key))
        });
        let epoch = page.position.epoch;
        Ok(found.map(|entry| Position { epoch, offset: entry.offset }))
    }

    /// Returns the bytes of the frame.
    fn send_page(&self, id: Option<&RawValue>, room: &RoomId, page: &Page) -> usize {
        let Page { position, ref entries, more, .. } = *page;
        let messages = PageFrame::page(room, position.epoch, entries);
        let history = wire::History::new(room, position, messages, more);
        self.member.reply(&ServerFrame::History(history).to_request(id))
    }
}
