//! Delivers what a member has missed: the messages since a position, or the latest ones.
//!
//! ```text
//!                 in memory, under the room's lock
//!   CatchUp ──────────────────────────────────────────────────────▶ live
//!      │                                                              ▲
//!      │ else: the first page of the history                          │ the rest is in memory,
//!      └──▶ snapshot ──▶ page ──▶ page ──▶ … as fast as it drains them┘ under the room's lock
//! ```
//!
//! Until it is live, the member is detached: the room delivers nothing to it, so it needs no outbox
//! as large as what it missed. After each page one step under the room's lock decides: if the room
//! holds all that follows on the page in memory, the member gets that and is attached; if not, the
//! next page is read. So no message falls between the last page and the first delivery, and none is
//! in both. The same holds for the changes of the roster that the member has received with the
//! snapshot: it receives those that it missed with the next page, or when it is attached.

use std::sync::Arc;
use std::time::Duration;

use chat_core::{
    Batch, CloseReason, Deliver, DeliveryOutcome, History, HistoryEntry, HistoryRange, Item,
    Occupant, Position, Recent, Topic,
};
use tokio::time::timeout;

use super::joiner::{JoinState, Joiner, Snapshot};
use super::membership::Membership;
use super::pages::{PAGE, PAGE_BYTES, Reader, missed};
use super::presence_log::MissedPresence;
use super::{Counters, Shared};
use crate::error::BrokerError;
use crate::history::HistoryRead;

/// How many of the latest messages a member gets that could not recover and did not ask for a
/// number.
const DEFAULT_LATEST: u32 = 50;

/// How long a room that is behind the member may make no progress. A server that no longer receives
/// publications notices and reconnects within that time.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(10);

/// A member that catches up.
pub(super) struct CatchUp<M, J> {
    shared: Arc<Shared<M>>,
    topic: Topic,
    member: M,
    joiner: J,
    wanted: Wanted,
    /// The hub has closed the member, or the member has reported that it is closed.
    is_closed: bool,
}

/// The part of a room's history that a member wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// The position up to which the member has the room's messages.
    since: Option<Position>,
    /// How many of the latest messages the member wants, if the position cannot be continued.
    latest: u32,
}

/// The page that the member gets with the snapshot.
pub(super) struct FirstPage {
    history: History,
    /// The page follows on `since`.
    recovered: bool,
}

impl<M: Deliver + Clone, J: Joiner<M>> CatchUp<M, J> {
    pub(super) fn new(
        shared: &Arc<Shared<M>>,
        topic: Topic,
        member: M,
        joiner: J,
        wanted: Wanted,
    ) -> Self {
        Self { shared: Arc::clone(shared), topic, member, joiner, wanted, is_closed: false }
    }

    /// Sends the snapshot, if the room holds in memory all that the member wants. Called under the
    /// room's lock.
    pub(super) fn start(&mut self, snapshot: Snapshot<'_, M>) -> JoinState {
        let Some(messages) = self.wanted.in_memory(&snapshot) else { return JoinState::CatchingUp };
        self.send_snapshot(snapshot, messages);
        JoinState::Live
    }

    /// Sends the snapshot with all that the member [wants](Wanted::in_memory).
    pub(super) fn send_snapshot<'a>(
        &mut self,
        snapshot: Snapshot<'a, M>,
        messages: Vec<&'a HistoryEntry>,
    ) {
        // In a room without history there is nothing to continue.
        let recovered = self.wanted.since.is_some() && snapshot.recent.is_some();
        self.present(snapshot, messages, recovered);
    }

    /// Sends the snapshot with those of the latest messages that are in memory, to a member that is
    /// live already. Called under the room's lock.
    pub(super) fn send_latest(&mut self, snapshot: Snapshot<'_, M>) {
        let messages = match (snapshot.position, snapshot.recent) {
            (Some(position), Some(recent)) => self.wanted.latest(recent, position),
            _ => Vec::new(),
        };
        self.present(snapshot, messages, false);
    }

    fn present<'a>(
        &mut self,
        snapshot: Snapshot<'a, M>,
        messages: Vec<&'a HistoryEntry>,
        recovered: bool,
    ) {
        let since = self.wanted.since;
        let snapshot = Snapshot { messages, since, recovered, ..snapshot };
        let outcome = self.joiner.on_snapshot(&self.member, &snapshot);
        self.note(outcome);
    }

    /// Whether the member receives nothing more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn note(&mut self, outcome: DeliveryOutcome) {
        if outcome == DeliveryOutcome::Full {
            Counters::add(&self.shared.counters.slow_consumers, 1);
            self.member.close(CloseReason::SlowConsumer);
        }
        self.is_closed |= matches!(outcome, DeliveryOutcome::Full | DeliveryOutcome::Closed);
    }

    /// Attaches the member with all that it wants, if the room holds that in memory.
    pub(super) fn attach(&mut self, membership: &mut Membership<M>) -> JoinState {
        let (member, wanted) = (self.member.clone(), self.wanted);
        let in_memory = |snapshot: &Snapshot<'_, M>| -> Option<Vec<HistoryEntry>> {
            Some(wanted.in_memory(snapshot)?.into_iter().cloned().collect())
        };
        membership.attach(member, in_memory, |snapshot, messages| {
            let ahead = snapshot.presence_ahead();
            self.send_snapshot(snapshot, messages.iter().collect());
            (!self.is_closed).then_some(ahead)
        })
    }

    /// Starts a member that joins a room of at most `max` users, if the broker admits its user.
    ///
    /// # Errors
    /// The user was not admitted, or the first page could not be read. The member has received
    /// nothing, and is none.
    pub(super) async fn enter_limited(
        mut self: Box<Self>,
        mut membership: Membership<M>,
        occupant: Occupant,
        max: u32,
    ) -> Result<Membership<M>, BrokerError> {
        let user = occupant.user.clone();
        // From here on the membership, when it is dropped, takes the user out of the room.
        membership.user = Some(user.clone());
        let receipt = self.shared.enter_presence_limited(&self.topic, occupant, max);
        self.shared.in_time(receipt).await?;
        self.shared.set_admitted(&self.topic, &user);
        match self.attach(&mut membership) {
            JoinState::Live => Ok(membership),
            JoinState::CatchingUp => self.complete(membership).await,
        }
    }

    /// Delivers to a member that joins what was not in memory.
    ///
    /// # Errors
    /// The first page could not be read. The member has received nothing, and is none.
    pub(super) async fn complete(
        mut self: Box<Self>,
        mut membership: Membership<M>,
    ) -> Result<Membership<M>, BrokerError> {
        match self.first_page().await {
            Ok(page) => {
                self.run(&mut membership, page).await;
                Ok(membership)
            }
            Err(error) => {
                // The client will try again, so its user has a grace period.
                membership.disconnect();
                Err(error)
            }
        }
    }

    /// Reads the first page, if it was not in memory.
    pub(super) async fn first_page(&mut self) -> Result<FirstPage, BrokerError> {
        if let Some(since) = self.wanted.since {
            let history = self.read(HistoryRange::After(since.offset), PAGE).await?;
            if history.follows(since) {
                return Ok(FirstPage { history, recovered: true });
            }
        }
        // The position is needed even without messages, and a limit of 0 is no read.
        let latest = self.wanted.latest;
        let mut history = self.read(HistoryRange::Latest, latest.max(1)).await?;
        if latest == 0 {
            history.entries.clear();
        }
        Ok(FirstPage { history, recovered: false })
    }

    /// Sends the snapshot with the first page, then page after page until the member is live. If a
    /// later page cannot be read, the member is closed: it has a snapshot, and would not know that
    /// nothing follows.
    pub(super) async fn run(mut self, membership: &mut Membership<M>, page: FirstPage) {
        let FirstPage { history, recovered } = page;
        let here = Position { offset: last_offset(&history), ..history.position };
        let presence = membership.detach_at(|snapshot| {
            let snapshot = Snapshot { position: Some(here), ..snapshot };
            self.present(snapshot, history.entries.iter().collect(), recovered);
        });
        // A room in which a member has joined is live.
        let Some(presence) = presence else { return };
        if let Err(error) = self.follow(membership, here, presence).await {
            let connection = membership.id.get();
            tracing::debug!(connection, %error, topic = %self.topic, "member could not catch up, closing it");
            self.member.close(CloseReason::InternalError);
        }
    }

    /// Delivers page after page after `here`, until the member is live or closed.
    async fn follow(
        &mut self,
        membership: &mut Membership<M>,
        here: Position,
        mut presence: MissedPresence,
    ) -> Result<(), BrokerError> {
        // Mostly nothing was published during the first read. Then the member is attached at once,
        // even if its outbox still holds the page: it needs no room for another one.
        let is_complete = |snapshot: &Snapshot<'_, M>| {
            snapshot.position.is_none_or(|room| room == here).then(Vec::new)
        };
        if self.is_closed {
            return Ok(());
        }
        if self.attach_after_pages(membership, &mut presence, is_complete) == JoinState::Live {
            return Ok(());
        }
        let mut reader = Reader::after_page(here);
        loop {
            if !self.joiner.drained(&self.member).await {
                return Err(interrupted());
            }
            let mut room = None;
            let rest = |snapshot: &Snapshot<'_, M>| {
                room = snapshot.position;
                reader.rest(snapshot)
            };
            let state = self.attach_after_pages(membership, &mut presence, rest);
            if state == JoinState::Live || self.is_closed {
                return Ok(());
            }
            if reader.wants_page(room) {
                let history = self.read(reader.range(), PAGE).await?;
                if let Some(items) = reader.take(&history) {
                    self.deliver(&mut presence, items);
                    continue;
                }
            }
            self.wait_for_progress(membership, room).await?;
            // The client has drained all, so it is no slow consumer: it joins again from its last
            // message, and receives the roster.
            if !presence.is_complete() {
                return Err(BrokerError::unavailable(
                    "the server was behind the broker for more presence changes than it keeps",
                ));
            }
        }
    }

    /// Attaches the member with the items that follow on its pages, if `rest` finds them in memory.
    fn attach_after_pages(
        &mut self,
        membership: &mut Membership<M>,
        presence: &mut MissedPresence,
        rest: impl FnOnce(&Snapshot<'_, M>) -> Option<Vec<Item>>,
    ) -> JoinState {
        membership.attach(self.member.clone(), rest, |_, rest| {
            self.deliver(presence, rest);
            (!self.is_closed).then(|| presence.ahead())
        })
    }

    /// Waits until this server receives more, while it is behind a member that has received
    /// messages from another server. A poll would read the broker for each such member, 100 times a
    /// second, in the storm of reconnects in which servers are behind.
    async fn wait_for_progress(
        &mut self,
        membership: &Membership<M>,
        room: Option<Position>,
    ) -> Result<(), BrokerError> {
        tokio::select! {
            moved = timeout(BEHIND_TIMEOUT, membership.position_changed(room)) => {
                moved.map_err(|_| BrokerError::unavailable("the server fell behind the broker"))
            }
            () = self.joiner.interrupted(&self.member) => Err(interrupted()),
        }
    }

    /// Delivers the presence changes that the member has missed so far, and `items`.
    fn deliver(&mut self, presence: &mut MissedPresence, items: Vec<Item>) {
        let Some(mut changes) = presence.take() else { return self.note(DeliveryOutcome::Full) };
        changes.extend(items);
        if changes.is_empty() {
            return;
        }
        let batch = Batch::new(self.topic.clone(), changes);
        self.joiner.on_bytes(batch.payload_len());
        let outcome = self.member.deliver(&batch);
        self.note(outcome);
    }

    async fn read(&mut self, range: HistoryRange, limit: u32) -> Result<History, BrokerError> {
        let history =
            self.shared.history(HistoryRead { topic: self.topic.clone(), range, limit }).await?;
        self.joiner.on_bytes(history.entries.iter().map(|entry| entry.payload.len()).sum());
        Ok(history)
    }
}

impl Wanted {
    pub(super) fn new(since: Option<Position>, history: Option<u32>) -> Self {
        let unasked = if since.is_some() { DEFAULT_LATEST } else { 0 };
        Self { since, latest: history.unwrap_or(unasked).min(PAGE) }
    }

    /// All that the member wants; `None` if the room may not hold all of it.
    pub(super) fn in_memory<'a, M>(
        &self,
        snapshot: &Snapshot<'a, M>,
    ) -> Option<Vec<&'a HistoryEntry>> {
        let (Some(position), Some(recent)) = (snapshot.position, snapshot.recent) else {
            return Some(Vec::new());
        };
        match self.since {
            Some(since) => missed(recent, since, position),
            None => self.newest(recent, position),
        }
    }

    /// As many of the latest messages as the member wants and one page takes; `None` if the broker
    /// may have more than the room holds.
    fn newest<'a>(&self, recent: &'a Recent, position: Position) -> Option<Vec<&'a HistoryEntry>> {
        let newest = self.latest(recent, position);
        let oldest = newest.first().map_or(position.offset + 1, |first| first.offset);
        let is_cut_short = newest.first().is_some_and(|_| recent.oldest() < Some(oldest));
        // A room whose history is shorter than a page has no more.
        let is_enough = newest.len() >= (self.latest as usize).min(recent.max_entries());
        (is_enough || recent.begins_with(oldest) || is_cut_short).then_some(newest)
    }

    fn latest<'a>(&self, recent: &'a Recent, position: Position) -> Vec<&'a HistoryEntry> {
        recent.latest(position, self.latest as usize, PAGE_BYTES).collect()
    }
}

/// The error of a member that its owner has stopped, and that may have to join again.
fn interrupted() -> BrokerError {
    BrokerError::unavailable("the member was interrupted")
}

/// The offset at which a page ends.
fn last_offset(history: &History) -> u64 {
    history.entries.last().map_or(history.position.offset, |last| last.offset)
}
