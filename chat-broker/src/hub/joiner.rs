//! What a member that joins a topic gets first, and how its owner takes part in that.

use chat_core::{
    Batch, Deliver, DeliveryOutcome, HistoryEntry, Item, Members, Position, Recent, Roster, Topic,
};

use super::member_slot::MemberSlot;

/// A topic as a member joins it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Snapshot<'a, M> {
    /// The topic.
    pub topic: &'a Topic,
    /// Where the room's sequence stands for this member, after [`messages`](Self::messages): what
    /// is delivered next follows on it. `None` in a room without history.
    pub position: Option<Position>,
    /// What the member asked for, oldest first: the messages that follow on
    /// [`since`](Self::since) if it is [recovered](Self::recovered), else the latest ones. Empty
    /// for a [look](super::Membership::look).
    pub messages: Vec<&'a HistoryEntry>,
    /// [`JoinOptions::since`](super::JoinOptions::since).
    pub since: Option<Position>,
    /// Whether the messages follow on `since` without a gap.
    pub recovered: bool,
    /// The latest messages that the hub holds, up to the position and perhaps beyond it, as long as
    /// the room keeps them; `None` in a room without history.
    pub recent: Option<&'a Recent>,
    /// Who is in the room on all servers; `None` for a user's own topic, and if the broker has no
    /// [presence](crate::Broker::presence).
    pub roster: Option<&'a Roster>,
    /// The members on this server, this one included.
    pub members: &'a Members<MemberSlot<M>>,
}

impl<M> Snapshot<'_, M> {
    /// The messages as one batch; before them a gap, if the member asked for those that follow on a
    /// position and this is not all of them. `None` if it would be empty.
    #[must_use]
    pub fn batch(&self) -> Option<Batch> {
        let mut items = Vec::with_capacity(self.messages.len() + 1);
        if self.since.is_some() && !self.recovered {
            let first = self.messages.first().map(|first| first.offset);
            let before = self.position.map(|position| match first {
                Some(first) => Position { offset: first - 1, ..position },
                None => position,
            });
            items.push(Item::Gap(before));
        }
        items.extend(envelopes(self.position.unwrap_or_default(), self.messages.iter().copied()));
        (!items.is_empty()).then(|| Batch::new(self.topic.clone(), items))
    }
}

/// Messages of the sequence of `position` as items of a batch.
pub(super) fn envelopes<'a>(
    position: Position,
    entries: impl Iterator<Item = &'a HistoryEntry>,
) -> impl Iterator<Item = Item> {
    entries.map(move |entry| {
        let position = Position { offset: entry.offset, ..position };
        Item::Envelope(entry.payload.clone(), Some(position))
    })
}

/// Whether a member receives what is published to its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinState {
    /// The member receives it.
    Live,
    /// The member receives nothing until it has the messages that it missed.
    CatchingUp,
}

/// The owner's part in a join: what the member is given first, and at what pace it gets the rest.
///
/// The defaults are those of [`Hub::join`](super::Hub::join), and `()` has all of them. A closure
/// that takes a [`Snapshot`] is a joiner whose [`on_snapshot`](Self::on_snapshot) it is.
pub trait Joiner<M: Deliver>: Send + 'static {
    /// Called once, before anything is delivered to the member: what is delivered afterwards
    /// follows on the position in the snapshot, with no gap and no repeat. By default the snapshot
    /// is delivered as a [batch](Snapshot::batch).
    ///
    /// In a [rejoin](super::Membership::rejoin) without
    /// [`since`](super::JoinOptions::since) the member goes on to receive the room instead: messages
    /// up to the position may still be on their way to it, and arrive after the snapshot, also those
    /// that are in it.
    ///
    /// A member that has no room for it ([`DeliveryOutcome::Full`]) is closed as a slow consumer, and gets
    /// nothing more: what follows would hide what it has not received.
    ///
    /// The call is made under the topic's lock: it may put something into the member's outbox, and must not
    /// block or call the hub.
    fn on_snapshot(&mut self, member: &M, snapshot: &Snapshot<'_, M>) -> DeliveryOutcome {
        snapshot.batch().map_or(DeliveryOutcome::Skipped, |batch| member.deliver(&batch))
    }

    /// So many bytes of payload were read from the broker for this member, or delivered to it
    /// beyond the snapshot. By default they are not counted.
    fn on_bytes(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// Waits until `member` can take a page of 256 messages and 256 KiB. `false` if it is to get no
    /// more: then it is closed. By default [`Deliver::drained`], and `true`.
    fn drained(&mut self, member: &M) -> impl Future<Output = bool> + Send {
        async {
            member.drained().await;
            true
        }
    }

    /// Waits until `member` is to get no more, while this server has nothing for it: then it is
    /// closed. By default that never happens.
    ///
    /// # Cancel safety
    /// To be safe: it is dropped when the server has something.
    fn interrupted(&mut self, member: &M) -> impl Future<Output = ()> + Send {
        let _ = member;
        std::future::pending()
    }
}

impl<M: Deliver> Joiner<M> for () {}

impl<M: Deliver, F> Joiner<M> for F
where
    F: FnMut(&Snapshot<'_, M>) + Send + 'static,
{
    fn on_snapshot(&mut self, _: &M, snapshot: &Snapshot<'_, M>) -> DeliveryOutcome {
        self(snapshot);
        DeliveryOutcome::Queued
    }
}
