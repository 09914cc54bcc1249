//! The rooms that a client wants to be in.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Position, RoomId};

use super::error::ClientError;
use super::events::Joined;
use super::output::{Answer, Answers, RequestId};
use super::track::Track;

/// The same typing state is sent at most once in this time.
const TYPING_REPEAT: Duration = Duration::from_secs(2);

/// Messages that the answer to a join has at most.
const MAX_HISTORY: u32 = 256;

/// A room, from the first `join` to `leave`.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// How many of the latest messages a first `join` without a position asks for.
    history: u32,
    pub(super) status: RoomStatus,
    pub(super) track: Track,
    /// Whether a join was sent on the present connection: the client may be in the room on the
    /// server even if the answer was lost or late.
    pub(super) was_asked: bool,
    /// Requests to join that wait for the answer. They have no deadline: while the room is wanted,
    /// the client joins it, be it on a later connection.
    waiting: Vec<RequestId>,
    /// The typing state that was last sent, and when.
    typing: Option<(bool, Duration)>,
}

/// The messages that the first `join` of a room asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// The latest ones, as many.
    Latest(u32),
    /// Those after this position.
    After(Position),
}

/// The status of a room.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoomStatus {
    /// The client is not in the room.
    #[default]
    Out,
    /// The join has a turn.
    Due {
        /// The number of its turn.
        turn: u64,
    },
    /// The request with this id asks to join.
    Asked(u64),
    /// The server rejected the join for now. It is sent again later.
    Paused(Duration),
    /// The client is in the room.
    In,
}

impl Room {
    fn new(start: Start) -> Self {
        match start {
            Start::Latest(history) => Self { history, ..Self::default() },
            Start::After(position) => Self { track: Track::after(position), ..Self::default() },
        }
    }

    /// How many of the latest messages the next join asks for. With a position they are the answer
    /// only if the room cannot continue there: then they are as many as it has, so that no more are
    /// missed than have to be.
    pub(super) fn history(&self) -> Option<u32> {
        if self.track.position().is_some() {
            Some(MAX_HISTORY)
        } else {
            (!self.track.has_joined() && self.history > 0).then_some(self.history)
        }
    }

    pub(super) fn is_in(&self) -> bool {
        self.status == RoomStatus::In
    }

    /// The join is sent, with this id.
    pub(super) fn ask(&mut self, id: u64) {
        self.status = RoomStatus::Asked(id);
        self.was_asked = true;
    }

    pub(super) fn wait(&mut self, request: RequestId) {
        self.waiting.push(request);
    }

    /// How many requests to join wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Answers the requests to join.
    pub(super) fn answer(&mut self, outcome: &Result<Joined, ClientError>, answers: &mut Answers) {
        for request in self.waiting.drain(..) {
            match outcome {
                Ok(joined) => answers.succeed(request, Answer::Joined(joined.clone())),
                Err(error) => answers.fail(request, error.clone()),
            }
        }
    }

    /// Whether a typing state is to be sent: it has changed, or was last sent long ago.
    pub(super) fn types(&mut self, typing: bool, now: Duration) -> bool {
        let is_old = match self.typing {
            None => !typing,
            Some((before, at)) => before == typing && (!typing || now - at < TYPING_REPEAT),
        };
        if !is_old {
            self.typing = Some((typing, now));
        }
        !is_old
    }
}

/// Rooms by name.
#[derive(Debug, Default)]
pub(super) struct Rooms(BTreeMap<RoomId, Room>);

impl Rooms {
    pub(super) fn get_mut(&mut self, room: &str) -> Option<&mut Room> {
        self.0.get_mut(room)
    }

    pub(super) fn get_or_insert(&mut self, room: &RoomId, start: Start) -> &mut Room {
        self.0.entry(room.clone()).or_insert_with(|| Room::new(start))
    }

    pub(super) fn remove(&mut self, room: &str) -> Option<(RoomId, Room)> {
        self.0.remove_entry(room)
    }

    pub(super) fn names(&self) -> Vec<RoomId> {
        self.0.keys().cloned().collect()
    }

    /// The connection was lost.
    pub(super) fn connection_lost(&mut self) {
        for room in self.0.values_mut() {
            room.status = RoomStatus::Out;
            room.was_asked = false;
            room.typing = None;
        }
    }

    /// The turn, and the room, of the join that has waited longest.
    pub(super) fn first_due(&self) -> Option<(u64, &RoomId)> {
        let due = self.0.iter().filter_map(|(name, room)| match room.status {
            RoomStatus::Due { turn } => Some((turn, name)),
            RoomStatus::Out | RoomStatus::Asked(_) | RoomStatus::Paused(_) | RoomStatus::In => None,
        });
        due.min()
    }

    /// Rooms whose pause is over.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<RoomId> {
        let mut due = Vec::new();
        for (name, room) in &mut self.0 {
            if matches!(room.status, RoomStatus::Paused(until) if until <= now) {
                room.status = RoomStatus::Out;
                due.push(name.clone());
            }
        }
        due
    }

    /// Whether requests to join wait.
    pub(super) fn has_waiting_joins(&self) -> bool {
        self.0.values().any(|room| room.waiting() > 0)
    }

    /// When the next pause is over.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let pauses = self.0.values().filter_map(|room| match room.status {
            RoomStatus::Paused(until) => Some(until),
            RoomStatus::Out | RoomStatus::Due { .. } | RoomStatus::Asked(_) | RoomStatus::In => {
                None
            }
        });
        pauses.min()
    }

    /// The client is closed.
    pub(super) fn fail_all(&mut self, error: &ClientError, answers: &mut Answers) {
        for room in std::mem::take(&mut self.0).values_mut() {
            room.answer(&Err(error.clone()), answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_typing_state_is_sent_seldom() {
        let now = Duration::from_secs(100);
        let soon = now + Duration::from_secs(1);
        let mut room = Room::default();
        assert!(!room.types(false, now));
        assert!(room.types(true, now));
        assert!(!room.types(true, soon));
        assert!(room.types(false, soon));
        assert!(!room.types(false, soon + TYPING_REPEAT));
        assert!(room.types(true, soon));
        assert!(room.types(true, soon + TYPING_REPEAT));
    }

    #[test]
    fn paused_join_is_due_after_its_pause() {
        let now = Duration::from_secs(100);
        let mut rooms = Rooms::default();
        rooms.get_or_insert(&room("r"), Start::Latest(0)).status =
            RoomStatus::Paused(now + Duration::from_secs(1));
        assert!(rooms.take_due(now).is_empty());
        assert_eq!(rooms.deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(rooms.take_due(now + Duration::from_secs(1)), [room("r")]);
        assert!(rooms.take_due(now + Duration::from_secs(1)).is_empty());
    }

    fn room(name: &str) -> RoomId {
        RoomId::new(name).unwrap()
    }
}
