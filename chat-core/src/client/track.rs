//! The position of a client in a room's sequence of messages.

use crate::{Epoch, Position, Step};

/// The position at which the application's copy of a room ends.
#[derive(Debug, Default)]
pub(super) struct Track {
    position: Option<Position>,
    has_joined: bool,
}

/// What to do with the entries of a `joined` frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entered {
    pub(super) continuity: Continuity,
    /// How many entries at the front are known.
    pub(super) known: usize,
}

/// How a `joined` frame continues the application's copy of a room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Continuity {
    /// The copy begins with it.
    First,
    /// Nothing was missed.
    Whole,
    /// Messages were missed: the next one is the one after this position, if the room has any.
    Gap(Option<Position>),
}

impl Track {
    /// A copy that an earlier client left at this position.
    pub(super) fn after(position: Position) -> Self {
        Self { position: Some(position), has_joined: false }
    }

    /// The position; `None` in a room without history, and before the first `joined` of a copy that
    /// begins with it.
    pub(super) fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether the client was ever in the room.
    pub(super) fn has_joined(&self) -> bool {
        self.has_joined
    }

    /// Classifies an entry with this offset, and advances to it if it is the next. `epoch` is that of
    /// the first entry of a sequence.
    pub(super) fn entry(&mut self, offset: u64, epoch: Option<Epoch>) -> Step {
        let Some(here) = self.position else { return Step::Next };
        let entry_position = Position { epoch: epoch.unwrap_or(here.epoch), offset };
        let step = here.step_to(entry_position);
        if step == Step::Next {
            self.position = Some(entry_position);
        }
        step
    }

    /// The server lost the messages up to here.
    pub(super) fn gap(&mut self, position: Option<Position>) {
        self.position = position;
    }

    /// Advances to the position of a `joined` frame whose entries have these offsets. Its `recovered`
    /// counts only if the offsets lead to that position.
    pub(super) fn joined(
        &mut self,
        position: Option<Position>,
        recovered: bool,
        offsets: &[u64],
    ) -> Entered {
        let has_joined = std::mem::replace(&mut self.has_joined, true);
        let before = std::mem::replace(&mut self.position, position);
        if !has_joined && before.is_none() {
            return Entered { continuity: Continuity::First, known: 0 };
        }
        let Some(now) = position else {
            return Entered { continuity: Continuity::Gap(None), known: 0 };
        };
        let known = match before {
            Some(before) if before.epoch == now.epoch => {
                offsets.partition_point(|offset| *offset <= before.offset)
            }
            _ => 0,
        };
        let fresh = &offsets[known..];
        let is_whole = recovered && before.is_some_and(|before| follows(before, now, fresh));
        let next = fresh.first().map_or(now.offset, |first| first.saturating_sub(1));
        let continuity = match is_whole {
            true => Continuity::Whole,
            false => Continuity::Gap(Some(Position { offset: next, ..now })),
        };
        Entered { continuity, known }
    }
}

/// Whether entries at these offsets lead from one position to another.
fn follows(before: Position, now: Position, offsets: &[u64]) -> bool {
    let same_sequence = before.epoch == now.epoch || before == Position::default();
    let mut here = before.offset;
    let no_hole = offsets.iter().all(|offset| {
        let is_next = Some(*offset) == here.checked_add(1);
        here = *offset;
        is_next
    });
    same_sequence && no_hole && here == now.offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(n: u64) -> Epoch {
        Epoch::from_random(n)
    }

    fn at(n: u64, offset: u64) -> Option<Position> {
        Some(Position { epoch: epoch(n), offset })
    }

    /// In a room, at this position.
    fn track(position: Option<Position>) -> Track {
        let mut track = Track::default();
        assert_eq!(track.joined(position, false, &[]), entered(Continuity::First, 0));
        track
    }

    fn entered(continuity: Continuity, known: usize) -> Entered {
        Entered { continuity, known }
    }

    #[test]
    fn live_messages() {
        let mut track = track(at(1, 5));
        assert_eq!(track.entry(6, None), Step::Next);
        assert_eq!(track.entry(6, None), Step::Repeat);
        assert_eq!(track.entry(8, None), Step::Gap);
        assert_eq!(track.position(), at(1, 6));
        assert_eq!(track.entry(1, Some(epoch(2))), Step::Gap);
        track.gap(at(2, 0));
        assert_eq!(track.entry(1, Some(epoch(2))), Step::Next);
        assert_eq!(track.position(), at(2, 1));
    }

    #[test]
    fn first_message_has_the_epoch() {
        let mut track = track(Some(Position::default()));
        assert_eq!(track.entry(1, Some(epoch(1))), Step::Next);
        assert_eq!(track.entry(2, None), Step::Next);
        assert_eq!(track.position(), at(1, 2));
    }

    #[test]
    fn without_history_every_message_is_the_next() {
        let mut track = track(None);
        assert_eq!(track.entry(1, None), Step::Next);
        assert_eq!(track.joined(None, false, &[]), entered(Continuity::Gap(None), 0));
        assert_eq!(track.entry(1, None), Step::Next);
    }

    #[test]
    fn first_page_is_new() {
        let mut track = Track::default();
        assert!(!track.has_joined());
        assert_eq!(track.joined(at(1, 9), false, &[8, 9]), entered(Continuity::First, 0));
        assert!(track.has_joined());
        assert_eq!(track.entry(9, None), Step::Repeat);
    }

    #[test]
    fn first_page_continues_an_earlier_copy() {
        let at_five = || Track::after(at(1, 5).unwrap());
        assert_eq!(at_five().joined(at(1, 7), true, &[6, 7]), entered(Continuity::Whole, 0));
        assert_eq!(
            at_five().joined(at(1, 90), false, &[89, 90]),
            entered(Continuity::Gap(at(1, 88)), 0)
        );
        assert_eq!(at_five().joined(None, false, &[]), entered(Continuity::Gap(None), 0));
        assert!(!at_five().has_joined());
    }

    #[test]
    fn recovered() {
        assert_eq!(track(at(1, 5)).joined(at(1, 7), true, &[6, 7]), entered(Continuity::Whole, 0));
        assert_eq!(track(at(1, 5)).joined(at(1, 5), true, &[]), entered(Continuity::Whole, 0));
        assert_eq!(
            track(at(1, 5)).joined(at(1, 7), true, &[4, 5, 6, 7]),
            entered(Continuity::Whole, 2)
        );
        let mut empty = track(Some(Position::default()));
        assert_eq!(empty.joined(at(1, 2), true, &[1, 2]), entered(Continuity::Whole, 0));
        assert_eq!(empty.entry(3, None), Step::Next);
    }

    #[test]
    fn recovered_is_not_believed_with_a_hole() {
        for (position, offsets) in [
            (at(1, 7), &[7][..]),
            (at(1, 7), &[]),
            (at(1, 8), &[6, 7]),
            (at(1, 8), &[6, 8]),
            (at(1, 4), &[]),
            (at(2, 7), &[6, 7]),
        ] {
            let entered = track(at(1, 5)).joined(position, true, offsets);
            assert!(matches!(entered.continuity, Continuity::Gap(_)), "{position:?} {offsets:?}");
        }
    }

    #[test]
    fn not_recovered() {
        // Messages were trimmed: the page is newer than the client's copy.
        assert_eq!(
            track(at(1, 5)).joined(at(1, 90), false, &[89, 90]),
            entered(Continuity::Gap(at(1, 88)), 0)
        );
        // Another sequence.
        assert_eq!(
            track(at(1, 5)).joined(at(2, 3), false, &[1, 2, 3]),
            entered(Continuity::Gap(at(2, 0)), 0)
        );
        // The page begins with what is known.
        assert_eq!(
            track(at(1, 5)).joined(at(1, 6), false, &[4, 5, 6]),
            entered(Continuity::Gap(at(1, 5)), 2)
        );
        // The room is behind, and the next message is new although its offset is not.
        let mut track = track(at(1, 5));
        assert_eq!(track.joined(at(1, 3), false, &[2, 3]), entered(Continuity::Gap(at(1, 3)), 2));
        assert_eq!(track.entry(4, None), Step::Next);
    }
}
