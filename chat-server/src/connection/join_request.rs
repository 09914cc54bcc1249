//! A client's request to join a room: the `joined` frame, its cost, and how long the client may take
//! to read missed messages. The hub recovers those.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chat_broker::{Joiner, Snapshot};
use chat_core::wire::{Joined, PageFrame, ServerFrame, User};
use chat_core::{Capabilities, Capability, DeliveryOutcome, RoomId};
use serde_json::value::RawValue;

use crate::deadline::Deadline;
use crate::member::Member;
use crate::moderation::Moderation;
use crate::service::members::{self, Requester};

/// A join that is under way.
#[derive(Debug)]
pub(super) struct JoinRequest {
    pub(super) id: Option<Box<RawValue>>,
    pub(super) room: RoomId,
    /// Whether the client is not in the room yet. Otherwise it joins again.
    pub(super) is_joining: bool,
    /// What the client may do in the room.
    pub(super) can: Capabilities,
    /// How long the client may take to read its outbox.
    pub(super) time_limit: Duration,
    /// When the wait for the client ends.
    pub(super) deadline: Deadline,
    /// The most members in `joined`.
    pub(super) max_listed: usize,
    /// Bytes of answers so far. Shared, so that a join that fails is charged as well.
    pub(super) answered: Arc<AtomicUsize>,
    pub(super) moderation: Arc<Moderation>,
    /// The moderation clock when the join began.
    pub(super) since: u32,
}

impl Joiner<Member> for JoinRequest {
    fn on_snapshot(&mut self, member: &Member, snapshot: &Snapshot<'_, Member>) -> DeliveryOutcome {
        if member.sees_presence() {
            let requester = Requester { user: &member.user, is_joining: self.is_joining };
            members::list(snapshot, Some(requester), self.max_listed, |members, count| {
                self.reply(member, snapshot, members, count);
            });
        } else {
            self.reply(member, snapshot, vec![User::from(&*member.user)], 1);
        }
        // In the native protocol the messages are part of the frame.
        if !member.is_native()
            && let Some(batch) = snapshot.batch()
        {
            self.count(batch.payload_len());
            member.send_batch(&batch);
        }
        // `reply` and `send_batch` close the member if its outbox is full.
        if member.is_closed() { DeliveryOutcome::Closed } else { DeliveryOutcome::Queued }
    }

    fn on_bytes(&mut self, bytes: usize) {
        self.count(bytes);
    }

    async fn drained(&mut self, member: &Member) -> bool {
        loop {
            member.drained(self.time_limit, &mut self.deadline).await;
            if !member.is_notified() {
                return !member.is_closed();
            }
            if !member.interrupted().await || self.is_sanctioned(member) {
                return false;
            }
        }
    }

    async fn interrupted(&mut self, member: &Member) {
        while member.interrupted().await && !self.is_sanctioned(member) {}
    }
}

impl JoinRequest {
    /// Whether a notification is of a sanction. The room is not in `Connection::rooms` yet, so a sanction
    /// on it cannot be enforced there: the client is closed, and joins again if it may. A request of a
    /// backend waits until the join has ended.
    fn is_sanctioned(&self, member: &Member) -> bool {
        self.moderation.has_sanctioned_since(&member.user.id, self.since)
    }

    fn reply(
        &self,
        member: &Member,
        snapshot: &Snapshot<'_, Member>,
        members: Vec<User<'_>>,
        count: u32,
    ) {
        let epoch = snapshot.position.unwrap_or_default().epoch;
        let mut joined = Joined::new(&self.room, snapshot.position, snapshot.recovered);
        (joined.members, joined.count) = (members, count);
        joined.can = Some(self.can);
        joined.messages = PageFrame::page(&self.room, epoch, snapshot.messages.iter().copied());
        joined.more = self.has_more(snapshot);
        let joined = ServerFrame::Joined(joined).to_request(self.id.as_deref());
        self.count(member.reply(&joined));
    }

    /// Whether the client can page back from the answer; `None` in a room without history.
    fn has_more(&self, snapshot: &Snapshot<'_, Member>) -> Option<bool> {
        let (recent, position) = (snapshot.recent?, snapshot.position?);
        let first = snapshot
            .messages
            .first()
            .map_or(position.offset.saturating_add(1), |first| first.offset);
        Some(self.can.contains(Capability::History) && !recent.begins_with(first))
    }

    fn count(&self, bytes: usize) {
        self.answered.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "join_request_tests.rs"]
mod tests;
