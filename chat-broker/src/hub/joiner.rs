//! What a member receives first when it joins a topic, and the part of the caller in that.

use chat_core::{
    Batch, Deliver, DeliveryOutcome, HistoryEntry, Item, Members, Position, Recent, Roster, Topic,
};

use super::member_slot::MemberSlot;
use super::presence_log::presence_changes;

/// A topic as a member joins it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Snapshot<'a, M> {
    /// The topic.
    pub topic: &'a Topic,
    /// The position of this member in the room's sequence, after [`messages`](Self::messages): the
    /// next delivery follows on it. `None` in a room without history.
    pub position: Option<Position>,
    /// The messages that the member asked for, oldest first: those that follow on
    /// [`since`](Self::since) if it is [recovered](Self::recovered), else the latest ones. Empty in
    /// [`Membership::with_snapshot`](super::Membership::with_snapshot).
    pub messages: Vec<&'a HistoryEntry>,
    /// [`JoinOptions::since`](super::JoinOptions::since).
    pub since: Option<Position>,
    /// Whether the messages follow on `since` without a gap.
    pub recovered: bool,
    /// The latest messages that the hub holds, up to the position and perhaps beyond it, as long as
    /// the room keeps them; `None` in a room without history.
    pub recent: Option<&'a Recent>,
    /// The room's occupants on all servers; `None` for a user's own topic, and if the broker has no
    /// [presence](crate::Broker::presence).
    ///
    /// The roster of a member that joins, and the joins, leaves, renames and counts that it receives
    /// afterwards, in order and each once, are the roster of the room; also if the member first reads
    /// the pages that it missed. A roster that is read at another time, with
    /// [`Membership::with_snapshot`](super::Membership::with_snapshot), is ahead of the changes that
    /// are on their way to the members.
    pub roster: Option<&'a Roster>,
    /// The items that no batch has taken yet: the roster contains their changes.
    pub(super) pending: &'a [Item],
    /// The members on this server, this one included.
    pub members: &'a Members<MemberSlot<M>>,
}

impl<M> Snapshot<'_, M> {
    /// How many changes of the roster are in no batch yet.
    pub(super) fn presence_ahead(&self) -> usize {
        presence_changes(self.pending)
    }

    /// The messages as one batch, after a gap if the member asked for those that follow on a
    /// position and some of these are missing. `None` if the batch would be empty.
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

/// The caller's part in a join: what the member receives first, and the pace of the pages after
/// that.
///
/// The defaults are those of [`Hub::join`](super::Hub::join), and `()` has all of them. A closure
/// that takes a [`Snapshot`] is a joiner: its [`on_snapshot`](Self::on_snapshot).
///
/// ```
/// # use chat_broker::{Hub, JoinOptions, Snapshot};
/// # use chat_core::{ConnectionId, Deliver, Topic};
/// # async fn example<M: Deliver + Clone + 'static>(hub: Hub<M>, lobby: Topic, member: M)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let greet = |snapshot: &Snapshot<'_, M>| println!("joined at {:?}", snapshot.position);
/// hub.join_with(&lobby, ConnectionId::new(1), member, JoinOptions::default(), greet).await?;
/// # Ok(())
/// # }
/// ```
pub trait Joiner<M: Deliver>: Send + 'static {
    /// Called once, before anything is delivered to the member: what is delivered afterwards
    /// follows on the position and on the [roster](Snapshot::roster) in the snapshot, with no gap and
    /// no repeat. By default the snapshot is delivered as a [batch](Snapshot::batch).
    ///
    /// In a [rejoin](super::Membership::rejoin) without [`since`](super::JoinOptions::since) the
    /// member continues to receive the room: batches that are on their way to it may arrive after the
    /// snapshot and repeat its messages and its changes.
    ///
    /// A member whose outbox is full ([`DeliveryOutcome::Full`]) is closed as a slow consumer, and
    /// receives nothing more.
    ///
    /// The topic's lock is held: the call may queue something in the member's outbox, and must not
    /// block or call the hub.
    fn on_snapshot(&mut self, member: &M, snapshot: &Snapshot<'_, M>) -> DeliveryOutcome {
        snapshot.batch().map_or(DeliveryOutcome::Skipped, |batch| member.deliver(&batch))
    }

    /// Called with the bytes of payload that were read from the broker for this member, and with
    /// those that were delivered to it after the snapshot. By default they are not counted.
    fn on_bytes(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// Waits until the outbox of `member` has room for a page of 256 messages and 256 KiB. Returns
    /// `false` to end the join: then the member is closed. By default it awaits
    /// [`Deliver::drained`] and returns `true`.
    fn drained(&mut self, member: &M) -> impl Future<Output = bool> + Send {
        async {
            member.drained().await;
            true
        }
    }

    /// Polled while this server is behind the member's position. If it resolves, the member is
    /// closed. By default it never does.
    ///
    /// # Cancel safety
    /// Must be safe: it is dropped when the server has more messages for the member.
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
