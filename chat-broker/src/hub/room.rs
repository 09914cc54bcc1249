//! A room on this server, between the broker and its members.

use std::fmt;

use bytes::Bytes;
use chat_core::{ConnectionId, Item, Members, Position, Step};
use tokio::sync::oneshot;

use super::seat::Seat;
use crate::error::BrokerError;

/// What arrives before the room's position is known is kept for the members who wait, up
/// to this many publications; beyond it the oldest go, and the members are told of a gap.
const MAX_HELD: usize = 1024;

/// Publications in one batch, and their bytes but for the last one's: a batch fits into an
/// outbox that is not empty.
const BATCH_ITEMS: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;

/// What a newcomer is told of a room.
#[derive(Debug)]
pub struct Snapshot<'a, M> {
    /// Where the room's sequence stands for this member.
    pub position: Position,
    /// The members on this server, the newcomer included.
    pub members: &'a Members<Seat<M>>,
}

/// What the hub keeps of a topic while it has members.
pub(super) struct RoomState<M> {
    pub(super) phase: Phase<M>,
    /// What the members have not been given yet, oldest first.
    pub(super) pending: Vec<Item>,
    /// The topic stands in the fan-out's queue, or is being served.
    pub(super) queued: bool,
    /// How many of `pending` the fan-out counts in its backlog.
    pub(super) counted: usize,
}

pub(super) enum Phase<M> {
    /// Not subscribed yet, or the position is not known yet. Nothing is delivered: every
    /// member is waiting.
    Waiting(Vec<Waiter<M>>),
    /// In step with the broker.
    Live {
        /// The latest publication accepted.
        seen: Position,
        /// The latest publication given to the fan-out: where a newcomer joins.
        cut: Position,
    },
}

/// Somebody whose [`join`](super::Hub::join) is under way.
pub(super) struct Waiter<M> {
    pub(super) id: ConnectionId,
    pub(super) welcome: Welcome<M>,
    /// Remains a member even if the room cannot go live for now.
    pub(super) stays: bool,
    pub(super) done: oneshot::Sender<Result<(), BrokerError>>,
}

type Welcome<M> = Box<dyn FnOnce(Snapshot<'_, M>) + Send>;

/// What [`RoomState::accept`] made of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepted {
    /// It follows on the one before, or has no place in the sequence.
    InOrder,
    /// The room had it already.
    Repeat,
    /// Some before it are missing; the members will be told.
    AfterGap,
}

impl<M> RoomState<M> {
    /// Adds somebody to those who wait for the room to go live.
    pub(super) fn wait(&mut self, waiter: Waiter<M>) {
        if let Phase::Waiting(waiters) = &mut self.phase {
            waiters.push(waiter);
        }
    }

    /// Takes a publication from the broker.
    pub(super) fn accept(&mut self, payload: Bytes, position: Option<Position>) -> Accepted {
        let item = Item::Envelope(payload, position);
        let (Phase::Live { seen, .. }, Some(next)) = (&mut self.phase, position) else {
            if matches!(self.phase, Phase::Waiting(_)) && self.pending.len() >= MAX_HELD {
                self.pending.remove(0);
            }
            self.pending.push(item);
            return Accepted::InOrder;
        };
        let step = seen.step_to(next);
        match step {
            Step::Repeat => return Accepted::Repeat,
            Step::Gap => {
                let before = Position { offset: next.offset - 1, ..next };
                self.pending.push(Item::Gap(Some(before)));
            }
            Step::Next => {}
        }
        *seen = next;
        self.pending.push(item);
        if step == Step::Gap { Accepted::AfterGap } else { Accepted::InOrder }
    }

    /// The topic is subscribed and stands at `position`: welcomes everybody who waits.
    /// What arrived since the subscription and lies after `position` stays pending.
    pub(super) fn go_live(&mut self, position: Position, members: &Members<Seat<M>>) {
        let live = Phase::Live { seen: position, cut: position };
        let Phase::Waiting(waiters) = std::mem::replace(&mut self.phase, live) else { return };
        for Waiter { welcome, done, .. } in waiters {
            welcome(Snapshot { position, members });
            // Whoever stopped waiting has left the topic, or is about to.
            let _ = done.send(Ok(()));
        }
        for item in std::mem::take(&mut self.pending) {
            if let Item::Envelope(payload, position) = item {
                self.accept(payload, position);
            }
        }
    }

    /// The latest publication accepted, if the room is live.
    pub(super) fn seen(&self) -> Option<Position> {
        match self.phase {
            Phase::Live { seen, .. } => Some(seen),
            Phase::Waiting(_) => None,
        }
    }

    /// Says whether the members have missed something, given that the broker's sequence
    /// stood at `position` when the room had seen `then`; if so they will be told.
    pub(super) fn check(&mut self, position: Position, then: Position) -> bool {
        let Phase::Live { seen, .. } = &mut self.phase else { return false };
        // A sequence that began in between has told of itself.
        let began_anew = seen.epoch != then.epoch;
        if began_anew || *seen == position || seen.step_to(position) == Step::Repeat {
            return false;
        }
        *seen = position;
        self.pending.push(Item::Gap(Some(position)));
        true
    }

    /// Takes what is pending, oldest first, for the members of this moment: as much as
    /// makes one batch.
    pub(super) fn cut(&mut self) -> Vec<Item> {
        let Phase::Live { cut, .. } = &mut self.phase else { return Vec::new() };
        let mut bytes = 0;
        let mut fits = |item: &Item| {
            let before = bytes;
            bytes += item.size();
            before < BATCH_BYTES
        };
        let count = self.pending.iter().take(BATCH_ITEMS).take_while(|item| fits(item)).count();
        let rest = self.pending.split_off(count);
        let items = std::mem::replace(&mut self.pending, rest);
        let last = items.iter().rev().find_map(|item| match item {
            Item::Envelope(_, position) => *position,
            Item::Gap(position) => *position,
            Item::Presence(..) | Item::Count(_) => None,
        });
        *cut = last.unwrap_or(*cut);
        items
    }

    /// Nobody will be welcomed any more: those who wait are let go.
    pub(super) fn give_up(&mut self) {
        if let Phase::Waiting(waiters) = &mut self.phase {
            waiters.clear();
        }
    }
}

impl<M> Default for RoomState<M> {
    fn default() -> Self {
        Self { phase: Phase::Waiting(Vec::new()), pending: Vec::new(), queued: false, counted: 0 }
    }
}

impl<M> fmt::Debug for RoomState<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.phase {
            Phase::Waiting(waiters) => format!("waiting: {}", waiters.len()),
            Phase::Live { seen, cut } => format!("live: seen {seen:?}, cut {cut:?}"),
        };
        f.debug_struct("RoomState").field("phase", &phase).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use chat_core::Epoch;

    use super::*;

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch::from_random(7), offset }
    }

    fn accept(room: &mut RoomState<()>, offset: u64) -> Accepted {
        room.accept(Bytes::new(), Some(at(offset)))
    }

    /// The offsets that members see; a gap as its negative.
    fn cut(room: &mut RoomState<()>) -> Vec<i64> {
        let offset = |item: Item| match item {
            Item::Envelope(_, position) => position.unwrap().offset as i64,
            Item::Gap(position) => -(position.unwrap().offset as i64),
            other => panic!("{other:?}"),
        };
        room.cut().into_iter().map(offset).collect()
    }

    fn live_at(offset: u64) -> RoomState<()> {
        let mut room = RoomState::default();
        room.go_live(at(offset), &Members::default());
        room
    }

    #[test]
    fn what_came_before_the_position_was_known_is_sorted_out() {
        let mut room = RoomState::default();
        for offset in 8..=12 {
            accept(&mut room, offset);
        }
        assert!(cut(&mut room).is_empty(), "nobody is served while they wait");
        room.go_live(at(10), &Members::default());
        assert_eq!(cut(&mut room), [11, 12]);
        assert_eq!(accept(&mut room, 12), Accepted::Repeat);
    }

    #[test]
    fn gaps_are_told_once_and_repeats_dropped() {
        let mut room = live_at(5);
        assert_eq!(accept(&mut room, 6), Accepted::InOrder);
        assert_eq!(accept(&mut room, 9), Accepted::AfterGap);
        assert_eq!(accept(&mut room, 8), Accepted::Repeat);
        assert_eq!(accept(&mut room, 10), Accepted::InOrder);
        assert_eq!(cut(&mut room), [6, -8, 9, 10]);
    }

    #[test]
    fn a_check_finds_what_was_missed_at_the_end() {
        let mut room = live_at(5);
        assert!(!room.check(at(5), at(5)));
        assert!(!room.check(at(4), at(5)), "what was read before the latest arrived");
        assert!(room.check(at(7), at(5)));
        assert!(!room.check(at(7), at(7)));
        assert_eq!(cut(&mut room), [-7]);
        assert!(room.check(Position::default(), at(7)), "the broker was emptied");
    }

    #[test]
    fn a_check_does_not_undo_a_sequence_that_began_since() {
        let mut room = live_at(5);
        let anew = Position { epoch: Epoch::from_random(8), offset: 1 };
        assert_eq!(room.accept(Bytes::new(), Some(anew)), Accepted::AfterGap);
        assert!(!room.check(Position::default(), at(5)));
        assert!(!room.check(at(9), at(5)));
        assert_eq!(room.seen(), Some(anew));
    }

    #[test]
    fn a_burst_is_cut_into_batches_and_newcomers_join_between_them() {
        let mut room = live_at(0);
        for offset in 1..=300 {
            accept(&mut room, offset);
        }
        assert_eq!(cut(&mut room).len(), BATCH_ITEMS);
        let Phase::Live { cut: joins_at, .. } = room.phase else { panic!() };
        assert_eq!(joins_at, at(256));
        assert_eq!(cut(&mut room).len(), 44);

        for offset in 301..=303 {
            room.accept(Bytes::from(vec![0; BATCH_BYTES - 1]), Some(at(offset)));
        }
        assert_eq!(cut(&mut room), [301, 302]);
        assert_eq!(cut(&mut room), [303]);
    }

    #[test]
    fn held_publications_are_bounded_and_the_loss_is_told() {
        let mut room = RoomState::default();
        for offset in 1..=(MAX_HELD as u64 + 2) {
            accept(&mut room, offset);
        }
        room.go_live(at(0), &Members::default());
        assert_eq!(cut(&mut room)[..2], [-2, 3]);
    }
}
