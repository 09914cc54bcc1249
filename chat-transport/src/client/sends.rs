//! Messages that wait to be sent, or for the answer.
//!
//! One per room is on the wire at a time, so that one that is sent again is never overtaken
//! by those behind it.

use std::collections::{BTreeMap, VecDeque};

use chat_core::Position;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::error::ClientError;
use super::events::Sent;
use super::requests::Reply;

/// A message on its way.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) message: String,
    pub(super) data: Option<Box<RawValue>>,
    pub(super) key: String,
    /// When it is given up.
    pub(super) deadline: Instant,
    pub(super) reply: Reply<Sent>,
    stage: Stage,
    /// A server had it, and did not tell whether it was taken.
    uncertain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    /// On the wire, as the request with this id.
    InFlight(u64),
    /// The server wants it again later.
    Paused(Instant),
}

impl Send {
    pub(super) fn new(
        message: String,
        data: Option<Box<RawValue>>,
        key: String,
        deadline: Instant,
        reply: Reply<Sent>,
    ) -> Self {
        Self { message, data, key, deadline, reply, stage: Stage::Idle, uncertain: false }
    }

    /// It is on the wire.
    pub(super) fn dispatched(&mut self, id: u64) {
        self.stage = Stage::InFlight(id);
    }

    /// It is on the wire no more.
    fn withdrawn(&mut self, stage: Stage, uncertain: bool) {
        self.stage = stage;
        self.uncertain |= uncertain;
    }

    fn succeed(self, position: Option<Position>) {
        let _ = self.reply.send(Ok(Sent { position, key: self.key }));
    }

    /// Gives it up for `why`, unless a server may have taken it.
    fn give_up(self, why: ClientError) {
        let Self { key, stage, uncertain, reply, .. } = self;
        let unknown = uncertain || matches!(stage, Stage::InFlight(_));
        let _ = reply.send(Err(if unknown { ClientError::OutcomeUnknown { key } } else { why }));
    }
}

/// Messages on their way, by room, each room's in order.
#[derive(Debug)]
pub(super) struct Sends {
    rooms: BTreeMap<String, VecDeque<Send>>,
    len: usize,
    limit: usize,
}

impl Sends {
    pub(super) fn new(limit: usize) -> Self {
        Self { rooms: BTreeMap::new(), len: 0, limit }
    }

    /// Takes a message, or fails it if too many wait.
    pub(super) fn push(&mut self, room: &str, send: Send) {
        if self.len >= self.limit {
            send.give_up(ClientError::QueueFull);
            return;
        }
        self.len += 1;
        self.rooms.entry(room.to_owned()).or_default().push_back(send);
    }

    /// Rooms that something waits for.
    pub(super) fn rooms(&self) -> Vec<String> {
        self.rooms.keys().cloned().collect()
    }

    /// The message of the room that may go on the wire now.
    pub(super) fn next(&mut self, room: &str, now: Instant) -> Option<&mut Send> {
        let front = self.rooms.get_mut(room)?.front_mut()?;
        match front.stage {
            Stage::Idle => Some(front),
            Stage::Paused(until) if until <= now => Some(front),
            Stage::Paused(_) | Stage::InFlight(_) => None,
        }
    }

    /// The request with this id was carried out.
    pub(super) fn succeed(&mut self, room: &str, id: u64, position: Option<Position>) {
        if self.in_flight(room, id).is_some()
            && let Some(send) = self.remove(room, 0)
        {
            send.succeed(position);
        }
    }

    /// The request with this id was refused.
    pub(super) fn reject(&mut self, room: &str, id: u64, error: ClientError) {
        if let Some(send) = self.in_flight(room, id) {
            send.withdrawn(Stage::Idle, false);
            self.give_up(room, error);
        }
    }

    /// The room's next message cannot be sent.
    pub(super) fn give_up(&mut self, room: &str, why: ClientError) {
        if let Some(send) = self.remove(room, 0) {
            send.give_up(why);
        }
    }

    /// The request with this id is to be sent again, not before `until`. `uncertain`: the
    /// server may have taken the message.
    pub(super) fn pause(&mut self, room: &str, id: u64, until: Instant, uncertain: bool) {
        if let Some(send) = self.in_flight(room, id) {
            send.withdrawn(Stage::Paused(until), uncertain);
        }
    }

    /// One's own message came back: it was taken, even if the answer was lost.
    pub(super) fn came_back(&mut self, room: &str, key: &str, position: Option<Position>) {
        let Some(queue) = self.rooms.get(room) else { return };
        if let Some(index) = queue.iter().position(|send| send.key == key)
            && let Some(send) = self.remove(room, index)
        {
            send.succeed(position);
        }
    }

    /// The connection was lost: what was on the wire is sent again.
    pub(super) fn lost(&mut self) {
        for send in self.rooms.values_mut().filter_map(VecDeque::front_mut) {
            if let Stage::InFlight(_) = send.stage {
                send.withdrawn(Stage::Idle, true);
            }
        }
    }

    /// The client is another user, for whom the keys mean nothing: what a server may have
    /// taken must not be sent again.
    pub(super) fn user_changed(&mut self) {
        self.give_up_while(|send| send.uncertain);
    }

    /// Gives up what ran out of time, and ends pauses, even if the room cannot send yet.
    pub(super) fn expire(&mut self, now: Instant) {
        self.give_up_while(|send| send.deadline <= now);
        for send in self.rooms.values_mut().filter_map(VecDeque::front_mut) {
            if matches!(send.stage, Stage::Paused(until) if until <= now) {
                send.stage = Stage::Idle;
            }
        }
    }

    /// Gives up each room's messages up to the first that is none of these.
    fn give_up_while(&mut self, is_over: impl Fn(&Send) -> bool) {
        for queue in self.rooms.values_mut() {
            while queue.front().is_some_and(&is_over) {
                let Some(send) = queue.pop_front() else { break };
                self.len -= 1;
                send.give_up(ClientError::Timeout);
            }
        }
        self.rooms.retain(|_, queue| !queue.is_empty());
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = |send: &Send| match send.stage {
            Stage::Paused(until) => until.min(send.deadline),
            Stage::Idle | Stage::InFlight(_) => send.deadline,
        };
        self.rooms.values().filter_map(VecDeque::front).map(due).min()
    }

    /// The client left the room.
    pub(super) fn fail_room(&mut self, room: &str, error: &ClientError) {
        for send in self.rooms.remove(room).into_iter().flatten() {
            self.len -= 1;
            send.give_up(error.clone());
        }
    }

    /// The client is closed.
    pub(super) fn fail_all(&mut self, error: &ClientError) {
        for room in self.rooms() {
            self.fail_room(&room, error);
        }
    }

    fn in_flight(&mut self, room: &str, id: u64) -> Option<&mut Send> {
        let front = self.rooms.get_mut(room)?.front_mut()?;
        (front.stage == Stage::InFlight(id)).then_some(front)
    }

    fn remove(&mut self, room: &str, index: usize) -> Option<Send> {
        let queue = self.rooms.get_mut(room)?;
        let send = queue.remove(index)?;
        if queue.is_empty() {
            self.rooms.remove(room);
        }
        self.len -= 1;
        Some(send)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chat_core::Epoch;
    use tokio::sync::oneshot;

    use super::*;

    type Outcome = oneshot::Receiver<Result<Sent, ClientError>>;

    const LIFE: Duration = Duration::from_secs(30);

    fn push(sends: &mut Sends, room: &str, key: &str, now: Instant) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        sends.push(room, Send::new("hi".into(), None, key.into(), now + LIFE, reply));
        outcome
    }

    /// Of two messages to "r", the first is on its way.
    fn one_on_its_way(now: Instant) -> (Sends, Outcome, Outcome) {
        let mut sends = Sends::new(10);
        let a = push(&mut sends, "r", "a", now);
        let b = push(&mut sends, "r", "b", now);
        assert_eq!(dispatch(&mut sends, "r", 1, now), "a");
        (sends, a, b)
    }

    fn dispatch(sends: &mut Sends, room: &str, id: u64, now: Instant) -> String {
        let send = sends.next(room, now).expect("a message to send");
        send.dispatched(id);
        send.key.clone()
    }

    fn at(offset: u64) -> Option<Position> {
        Some(Position { epoch: Epoch::from_random(1), offset })
    }

    fn key_of(outcome: &mut Outcome) -> (String, Option<Position>) {
        let sent = outcome.try_recv().unwrap().unwrap();
        (sent.key, sent.position)
    }

    fn error_of(outcome: &mut Outcome) -> ClientError {
        outcome.try_recv().unwrap().unwrap_err()
    }

    fn unknown(key: &str) -> ClientError {
        ClientError::OutcomeUnknown { key: key.into() }
    }

    #[test]
    fn one_per_room_is_in_flight() {
        let now = Instant::now();
        let mut sends = Sends::new(10);
        let mut a = push(&mut sends, "r", "a", now);
        let mut b = push(&mut sends, "r", "b", now);
        let _other = push(&mut sends, "s", "c", now);
        assert_eq!(dispatch(&mut sends, "r", 1, now), "a");
        assert!(sends.next("r", now).is_none());
        assert_eq!(dispatch(&mut sends, "s", 2, now), "c");

        sends.succeed("r", 9, at(1));
        assert!(a.try_recv().is_err(), "an answer to another request");
        sends.succeed("r", 1, at(1));
        assert_eq!(key_of(&mut a), ("a".into(), at(1)));
        assert_eq!(dispatch(&mut sends, "r", 3, now), "b");
        sends.reject("r", 3, ClientError::NotInRoom);
        assert_eq!(error_of(&mut b), ClientError::NotInRoom);
        assert_eq!(sends.rooms(), ["s"]);
    }

    #[test]
    fn a_pause_holds_those_behind() {
        let now = Instant::now();
        let (mut sends, _a, _b) = one_on_its_way(now);
        let until = now + Duration::from_secs(1);
        sends.pause("r", 1, until, false);
        assert!(sends.next("r", now).is_none());
        assert_eq!(sends.deadline(), Some(until));
        assert_eq!(dispatch(&mut sends, "r", 2, until), "a");
    }

    #[test]
    fn a_pause_that_is_over_is_not_due_for_ever() {
        let now = Instant::now();
        let (mut sends, _a, _b) = one_on_its_way(now);
        let until = now + Duration::from_secs(1);
        sends.pause("r", 1, until, false);
        sends.lost();
        sends.expire(until);
        assert_eq!(sends.deadline(), Some(now + LIFE));
        assert_eq!(dispatch(&mut sends, "r", 2, until), "a");
    }

    #[test]
    fn what_was_lost_goes_first_and_again() {
        let now = Instant::now();
        let (mut sends, mut a, _b) = one_on_its_way(now);
        sends.lost();
        assert_eq!(dispatch(&mut sends, "r", 2, now), "a");
        sends.succeed("r", 1, at(1));
        assert!(a.try_recv().is_err(), "an answer of the connection before");
        sends.came_back("r", "a", at(7));
        assert_eq!(key_of(&mut a), ("a".into(), at(7)));
        assert_eq!(dispatch(&mut sends, "r", 3, now), "b");
    }

    #[test]
    fn the_queue_is_bounded() {
        let now = Instant::now();
        let mut sends = Sends::new(2);
        let _a = push(&mut sends, "r", "a", now);
        let mut b = push(&mut sends, "s", "b", now);
        assert_eq!(error_of(&mut push(&mut sends, "r", "c", now)), ClientError::QueueFull);
        sends.fail_room("s", &ClientError::NotInRoom);
        assert_eq!(error_of(&mut b), ClientError::NotInRoom);
        assert!(push(&mut sends, "r", "d", now).try_recv().is_err());
    }

    #[test]
    fn only_what_may_have_been_taken_is_of_unknown_outcome() {
        let now = Instant::now();
        let mut sends = Sends::new(10);
        let mut a = push(&mut sends, "r", "a", now);
        let mut b = push(&mut sends, "r", "b", now);
        let mut c = push(&mut sends, "r", "c", now + LIFE);
        dispatch(&mut sends, "r", 1, now);
        sends.expire(now + LIFE);
        assert_eq!(error_of(&mut a), unknown("a"));
        assert_eq!(error_of(&mut b), ClientError::Timeout);
        assert_eq!(dispatch(&mut sends, "r", 2, now), "c");
        sends.fail_all(&ClientError::Closed);
        assert_eq!(error_of(&mut c), unknown("c"));
        assert_eq!((sends.len, sends.deadline()), (0, None));
    }

    #[test]
    fn a_refusal_is_certain_unless_an_earlier_attempt_is_not() {
        let now = Instant::now();
        let mut sends = Sends::new(10);
        for (uncertain, error) in [(false, ClientError::NotInRoom), (true, unknown("a"))] {
            let mut a = push(&mut sends, "r", "a", now);
            dispatch(&mut sends, "r", 1, now);
            sends.pause("r", 1, now, uncertain);
            dispatch(&mut sends, "r", 2, now);
            sends.reject("r", 2, ClientError::NotInRoom);
            assert_eq!(error_of(&mut a), error);
        }
    }

    #[test]
    fn another_user_does_not_repeat() {
        let now = Instant::now();
        let (mut sends, mut a, _b) = one_on_its_way(now);
        sends.lost();
        sends.user_changed();
        assert_eq!(error_of(&mut a), unknown("a"));
        assert_eq!(dispatch(&mut sends, "r", 2, now), "b");
    }
}
