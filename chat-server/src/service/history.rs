//! Pages of a room's history.

use std::time::Duration;

use chat_broker::{BrokerError, HistoryRead, Snapshot};
use chat_core::{
    ErrorCode, History, HistoryEntry, HistoryRange, Position, Rejection, RoomId, Topic,
};
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::member::Member;
use crate::state::State;

/// The most messages in a page, and the default.
pub(crate) const MAX_PAGE: u32 = 256;

/// How long a page waits for the hub to catch up with the broker before it is read from the broker.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(100);

/// A page, and the position of the room when it was read.
pub(crate) struct Page {
    pub(crate) position: Position,
    pub(crate) entries: Vec<HistoryEntry>,
    /// Whether the history has further messages in the direction of reading.
    pub(crate) more: bool,
    /// Whether the page was read from the broker.
    pub(crate) is_from_broker: bool,
}

/// At most `limit` messages, 1 to [`MAX_PAGE`], of a room's history.
pub(crate) async fn page(
    state: &State,
    room: &RoomId,
    range: HistoryRange,
    limit: u32,
) -> Result<Page, Error> {
    if state.hub.retention(room).is_none() {
        return Err(
            Rejection::new(ErrorCode::HistoryDisabled, "This room keeps no history.").into()
        );
    }
    let (topic, limit) = (Topic::Room(room.clone()), limit.clamp(1, MAX_PAGE));
    match from_memory(state, &topic, range, limit).await {
        Some(page) => Ok(page),
        None => Ok(Box::pin(from_broker(state, &topic, range, limit)).await?),
    }
}

/// The page from this server's memory, if the memory has all of it: most pages are read without
/// the broker.
///
/// A sender whose message was acknowledged finds it in the page: the broker may acknowledge a
/// publication before it arrives at the hub, so the page waits until the hub has it.
async fn from_memory(
    state: &State,
    topic: &Topic,
    range: HistoryRange,
    limit: u32,
) -> Option<Page> {
    let known = state.hub.broker().known_position(topic).unwrap_or_default();
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        // `with_snapshot` holds the room's lock: the page is encoded after it.
        let lookup = |snapshot: Snapshot<'_, Member>| Lookup::of(&snapshot, known, range, limit);
        match state.hub.with_snapshot(topic, lookup)? {
            Lookup::Page(page) => return Some(page),
            Lookup::Behind(position) => {
                let moved = state.hub.position_changed(topic, Some(position));
                timeout_at(deadline, moved).await.ok()?;
            }
            Lookup::Missing => return None,
        }
    }
}

async fn from_broker(
    state: &State,
    topic: &Topic,
    range: HistoryRange,
    limit: u32,
) -> Result<Page, BrokerError> {
    // One more than asked for shows whether there are more.
    let History { position, mut entries, .. } = read(state, topic, range, limit + 1).await?;
    let is_cut_short = is_cut_short(&entries, limit);
    let more = match range {
        HistoryRange::After(_) => {
            entries.truncate(limit as usize);
            entries.last().is_some_and(|last| last.offset < position.offset)
        }
        HistoryRange::Before(_) | HistoryRange::Latest => {
            let surplus = entries.len().saturating_sub(limit as usize);
            entries.drain(..surplus);
            surplus > 0 || is_cut_short && has_before(state, topic, &entries).await
        }
    };
    Ok(Page { position, entries, more, is_from_broker: true })
}

async fn has_before(state: &State, topic: &Topic, entries: &[HistoryEntry]) -> bool {
    let Some(first) = entries.first().filter(|first| first.offset > 1) else { return false };
    let before = read(state, topic, HistoryRange::Before(first.offset), 1).await;
    before.is_ok_and(|history| !history.entries.is_empty())
}

async fn read(
    state: &State,
    topic: &Topic,
    range: HistoryRange,
    limit: u32,
) -> Result<History, BrokerError> {
    state.hub.history(HistoryRead::new(topic.clone(), range, limit)).await
}

/// A page as far as the hub has it in memory.
enum Lookup {
    Page(Page),
    /// The hub has yet to receive what the broker has acknowledged.
    Behind(Position),
    Missing,
}

impl Lookup {
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
        Self::Page(Page { position, entries, more: page.more, is_from_broker: false })
    }
}

/// Whether a read may have ended at its limit of bytes: then it does not show what precedes it. A read
/// with fewer messages may also have ended at a hole.
fn is_cut_short(entries: &[HistoryEntry], limit: u32) -> bool {
    let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
    entries.len() < limit as usize || bytes >= HistoryRead::MAX_BYTES
}
