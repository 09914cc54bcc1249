//! The rooms that a client wants to be in.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::RoomId;

use super::error::ClientError;
use super::events::Joined;
use super::output::{Answer, Answers, RequestId};
use super::track::Track;

/// The same typing state is sent at most once in this time.
const TYPING_REPEAT: Duration = Duration::from_secs(2);

/// A room, from the first `join` to `leave`.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// How many of the latest messages the first `join` asks for.
    pub(super) history: u32,
    pub(super) status: RoomStatus,
    pub(super) track: Track,
    /// Whether a join was sent on the present connection: the client may be in the room on the
    /// server even if the answer was lost or late.
    pub(super) was_asked: bool,
    /// Requests to join that wait for the answer, and their deadlines.
    waiting: Vec<(Duration, RequestId)>,
    /// The typing state that was last sent, and when.
    typing: Option<(bool, Duration)>,
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
        /// Since when the join waits for it.
        since: Duration,
    },
    /// The request with this id asks to join.
    Asked(u64),
    /// The server rejected the join for now. It is sent again later.
    Paused(Duration),
    /// The client is in the room.
    In,
}

impl Room {
    pub(super) fn is_in(&self) -> bool {
        self.status == RoomStatus::In
    }

    /// The join is sent, with this id. The time that each request waited for its turn is added to its
    /// deadline, which is then at most `timeout` from now.
    pub(super) fn ask(&mut self, id: u64, timeout: Duration, now: Duration) {
        if let RoomStatus::Due { since, .. } = self.status {
            let latest = now.saturating_add(timeout);
            for (deadline, _) in &mut self.waiting {
                *deadline = deadline.saturating_add(now - since).min(latest);
            }
        }
        self.status = RoomStatus::Asked(id);
        self.was_asked = true;
    }

    pub(super) fn wait(&mut self, deadline: Duration, request: RequestId) {
        self.waiting.push((deadline, request));
    }

    /// How many requests to join wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Answers the requests to join.
    pub(super) fn answer(&mut self, outcome: &Result<Joined, ClientError>, answers: &mut Answers) {
        for (_, request) in self.waiting.drain(..) {
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

    pub(super) fn get_or_add(&mut self, room: &RoomId, history: u32) -> &mut Room {
        let add = || Room { history, ..Room::default() };
        self.0.entry(room.clone()).or_insert_with(add)
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
            RoomStatus::Due { turn, .. } => Some((turn, name)),
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

    /// Fails the requests to join that timed out, which they do not while the room waits for its
    /// turn. Returns the rooms that were never joined and that no request waits for.
    pub(super) fn expire(&mut self, now: Duration, answers: &mut Answers) -> Vec<RoomId> {
        let mut abandoned = Vec::new();
        for (name, room) in &mut self.0 {
            if matches!(room.status, RoomStatus::Due { .. }) {
                continue;
            }
            let expired = room.waiting.iter().take_while(|(until, _)| *until <= now).count();
            for (_, request) in room.waiting.drain(..expired) {
                answers.fail(request, ClientError::Timeout);
            }
            if expired > 0 && room.waiting.is_empty() && !room.track.has_joined() {
                abandoned.push(name.clone());
            }
        }
        abandoned
    }

    /// Whether requests to join wait.
    pub(super) fn has_waiting_joins(&self) -> bool {
        self.0.values().any(|room| room.waiting() > 0)
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.0
            .values()
            .flat_map(|room| {
                let call = room.waiting.first().map(|(until, _)| *until);
                let (pause, call) = match room.status {
                    RoomStatus::Paused(until) => (Some(until), call),
                    RoomStatus::Due { .. } => (None, None),
                    RoomStatus::Out | RoomStatus::Asked(_) | RoomStatus::In => (None, call),
                };
                pause.into_iter().chain(call)
            })
            .min()
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

    const TIMEOUT: Duration = Duration::from_secs(15);

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
    fn join_timeout_drops_the_room_unless_it_was_joined_before() {
        let now = Duration::from_secs(100);
        let later = now + Duration::from_secs(1);
        let mut rooms = Rooms::default();
        for (name, until, id) in [("new", now, 1), ("new", later, 2), ("old", now, 3)] {
            rooms.get_or_add(&room(name), 0).wait(until, RequestId(id));
        }
        rooms.get_mut("old").unwrap().track.joined(None, false, &[]);
        assert_eq!(rooms.deadline(), Some(now));

        let mut answers = Answers::default();
        assert!(rooms.expire(now, &mut answers).is_empty());
        assert_eq!(timed_out(&mut answers), [1, 3]);
        assert_eq!(rooms.expire(later, &mut answers), [room("new")]);
        assert_eq!(timed_out(&mut answers), [2]);
    }

    fn room(name: &str) -> RoomId {
        RoomId::new(name).unwrap()
    }

    fn timed_out(answers: &mut Answers) -> Vec<u64> {
        let failed = std::iter::from_fn(|| answers.pop());
        let timed_out = failed.map(|(RequestId(id), outcome)| {
            assert_eq!(outcome.unwrap_err(), ClientError::Timeout);
            id
        });
        timed_out.collect()
    }

    #[test]
    fn waiting_for_its_turn_takes_no_time_from_a_join() {
        let now = Duration::from_secs(100);
        let later = now + Duration::from_secs(60);
        let mut rooms = Rooms::default();
        let room = rooms.get_or_add(&room("r"), 0);
        room.wait(now + TIMEOUT, RequestId(1));
        room.status = RoomStatus::Due { turn: 1, since: now };
        assert!(rooms.expire(later, &mut Answers::default()).is_empty());
        assert_eq!(rooms.deadline(), None);
        rooms.get_mut("r").unwrap().ask(1, TIMEOUT, later);
        assert_eq!(rooms.deadline(), Some(later + TIMEOUT));
    }

    #[test]
    fn join_deadline_is_extended_by_the_time_it_waited() {
        let now = Duration::from_secs(100);
        let later = now + Duration::from_secs(60);
        let mut rooms = Rooms::default();
        let room = rooms.get_or_add(&room("r"), 0);
        room.status = RoomStatus::Due { turn: 1, since: now };
        room.wait(now + TIMEOUT, RequestId(1));
        room.wait(later + TIMEOUT, RequestId(2));
        room.ask(1, TIMEOUT, later);
        room.wait(later + TIMEOUT, RequestId(3));

        let mut answers = Answers::default();
        rooms.expire(later + TIMEOUT, &mut answers);
        assert_eq!(timed_out(&mut answers), [1, 2, 3]);
    }

    #[test]
    fn paused_join_is_due_after_its_pause() {
        let now = Duration::from_secs(100);
        let mut rooms = Rooms::default();
        rooms.get_or_add(&room("r"), 0).status = RoomStatus::Paused(now + Duration::from_secs(1));
        assert!(rooms.take_due(now).is_empty());
        assert_eq!(rooms.deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!(rooms.take_due(now + Duration::from_secs(1)), [room("r")]);
        assert!(rooms.take_due(now + Duration::from_secs(1)).is_empty());
    }
}
