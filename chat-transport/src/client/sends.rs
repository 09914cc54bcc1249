//! Messages that wait to be sent, or for the answer.
//!
//! One per room is on the wire at a time, so that one that is sent again is never overtaken
//! by those behind it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chat_core::Position;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::backoff::FOREVER;
use super::error::ClientError;
use super::events::Sent;
use super::requests::Reply;
use super::turns::Turn;

/// What a message consists of, and what it holds until its outcome is known.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) message: String,
    pub(super) data: Option<Box<RawValue>>,
    pub(super) key: String,
    /// A part of the send queue.
    pub(super) place: OwnedSemaphorePermit,
}

/// A message on its way.
#[derive(Debug)]
struct Send {
    content: Content,
    queued_at: Instant,
    reply: Reply<Sent>,
    stage: Stage,
    attempted: bool,
    /// A server had it, and did not tell whether it was taken.
    uncertain: bool,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// It leaves when it is its turn.
    Due(Turn),
    /// On the wire, as the request with this id.
    InFlight(u64),
    /// The server wants it again later.
    Paused(Instant),
}

impl Send {
    /// It is on the wire no more.
    fn withdrawn(&mut self, stage: Stage, uncertain: bool) {
        self.stage = stage;
        self.uncertain |= uncertain;
    }

    /// When it is late, in a queue that has moved at `since`. Never while it waits for its turn.
    fn late_at(&self, since: Instant, timeout: Duration) -> Option<Instant> {
        let is_due = matches!(self.stage, Stage::Due(_));
        (!is_due).then(|| self.queued_at.max(since) + timeout)
    }

    fn succeed(self, position: Option<Position>) {
        let (key, reply) = self.leave_queue();
        let _ = reply.send(Ok(Sent { position, key }));
    }

    /// Gives it up for `why`, unless a server may have taken it.
    fn give_up(self, why: ClientError) {
        let unknown = self.uncertain || matches!(self.stage, Stage::InFlight(_));
        let (key, reply) = self.leave_queue();
        let _ = reply.send(Err(if unknown { ClientError::OutcomeUnknown { key } } else { why }));
    }

    /// The place is free before the caller gets the outcome, and may send the next message.
    fn leave_queue(self) -> (String, Reply<Sent>) {
        drop(self.content.place);
        (self.content.key, self.reply)
    }
}

/// The messages to one room, in order.
#[derive(Debug)]
struct Queue {
    sends: VecDeque<Send>,
    /// When the first message was first sent, or the one before it had its outcome. The timeout
    /// of the others begins no earlier: they wait for the server's rates, not for an outage.
    since: Instant,
}

/// Messages on their way, by room, each room's in order.
#[derive(Debug)]
pub(super) struct Sends {
    rooms: BTreeMap<String, Queue>,
    /// As many as messages may wait; held by those that do. Closed with the client.
    places: Arc<Semaphore>,
    timeout: Duration,
}

/// Calls that wait for a place fail, also if the client ends by a panic.
impl Drop for Sends {
    fn drop(&mut self) {
        self.places.close();
    }
}

impl Sends {
    pub(super) fn new(places: Arc<Semaphore>, timeout: Duration) -> Self {
        Self { rooms: BTreeMap::new(), places, timeout: timeout.min(FOREVER) }
    }

    pub(super) fn push(&mut self, room: &str, content: Content, reply: Reply<Sent>) {
        let queued_at = Instant::now();
        let queue = self
            .rooms
            .entry(room.to_owned())
            .or_insert_with(|| Queue { sends: VecDeque::new(), since: queued_at });
        queue.sends.push_back(Send {
            content,
            queued_at,
            reply,
            stage: Stage::Idle,
            attempted: false,
            uncertain: false,
        });
    }

    /// Queues the first message of each room that the client `is_in` for its turn. A message that
    /// `frame` rejects fails.
    pub(super) fn line_up(
        &mut self,
        mut is_in: impl FnMut(&str) -> bool,
        mut frame: impl FnMut(&str, &Content) -> Result<Turn, ClientError>,
    ) {
        for (room, queue) in &mut self.rooms {
            while let Some(front) = queue.sends.front_mut()
                && matches!(front.stage, Stage::Idle)
                && is_in(room)
            {
                match frame(room, &front.content) {
                    Ok(turn) => front.stage = Stage::Due(turn),
                    Err(error) => {
                        if let Some(send) = queue.sends.pop_front() {
                            send.give_up(error);
                        }
                    }
                }
            }
        }
        self.rooms.retain(|_, queue| !queue.sends.is_empty());
    }

    /// The room, and the turn, of the message that has waited longest.
    pub(super) fn first_due(&self) -> Option<(&str, &Turn)> {
        let due = self.rooms.iter().filter_map(|(room, queue)| match &queue.sends.front()?.stage {
            Stage::Due(turn) => Some((room.as_str(), turn)),
            Stage::Idle | Stage::InFlight(_) | Stage::Paused(_) => None,
        });
        due.min_by_key(|(_, turn)| turn.number)
    }

    /// Puts the room's message that waits for its turn on the wire, as the request with this
    /// id. Returns its frame.
    pub(super) fn dispatch(&mut self, room: &str, id: u64, now: Instant) -> Option<String> {
        let queue = self.rooms.get_mut(room)?;
        let front = queue.sends.front_mut()?;
        let before = std::mem::replace(&mut front.stage, Stage::InFlight(id));
        let Stage::Due(turn) = before else {
            front.stage = before;
            return None;
        };
        if !std::mem::replace(&mut front.attempted, true) {
            queue.since = now;
        }
        Some(turn.frame)
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
            if let Some(send) = self.remove(room, 0) {
                send.give_up(error);
            }
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
        if let Some(index) = queue.sends.iter().position(|send| send.content.key == key)
            && let Some(send) = self.remove(room, index)
        {
            send.succeed(position);
        }
    }

    /// The connection was lost: what was on the wire is sent again.
    pub(super) fn lost(&mut self) {
        for send in self.rooms.values_mut().filter_map(|queue| queue.sends.front_mut()) {
            match send.stage {
                Stage::InFlight(_) => send.withdrawn(Stage::Idle, true),
                Stage::Due(_) => send.stage = Stage::Idle,
                Stage::Idle | Stage::Paused(_) => {}
            }
        }
    }

    /// The client is another user, for whom the keys mean nothing: what a server may have
    /// taken must not be sent again.
    pub(super) fn user_changed(&mut self) {
        self.give_up_while(|send, _| send.uncertain);
    }

    /// Gives up what ran out of time.
    pub(super) fn expire(&mut self, now: Instant) {
        let timeout = self.timeout;
        self.give_up_while(|send, since| {
            send.late_at(since, timeout).is_some_and(|late_at| late_at <= now)
        });
    }

    /// Ends pauses, even if the room cannot send yet.
    pub(super) fn end_pauses(&mut self, now: Instant) {
        for send in self.rooms.values_mut().filter_map(|queue| queue.sends.front_mut()) {
            if matches!(send.stage, Stage::Paused(until) if until <= now) {
                send.stage = Stage::Idle;
            }
        }
    }

    /// Gives up each room's messages up to the first that is none of these.
    fn give_up_while(&mut self, is_over: impl Fn(&Send, Instant) -> bool) {
        for queue in self.rooms.values_mut() {
            while queue.sends.front().is_some_and(|send| is_over(send, queue.since)) {
                let Some(send) = queue.sends.pop_front() else { break };
                send.give_up(ClientError::Timeout);
            }
        }
        self.rooms.retain(|_, queue| !queue.sends.is_empty());
    }

    /// Whether callers wait for their outcomes.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = |queue: &Queue| {
            let front = queue.sends.front()?;
            let resumes_at = match front.stage {
                Stage::Paused(until) => Some(until),
                Stage::Idle | Stage::Due(_) | Stage::InFlight(_) => None,
            };
            resumes_at.into_iter().chain(front.late_at(queue.since, self.timeout)).min()
        };
        self.rooms.values().filter_map(due).min()
    }

    /// The client left the room.
    pub(super) fn fail_room(&mut self, room: &str, error: &ClientError) {
        for send in self.rooms.remove(room).into_iter().flat_map(|queue| queue.sends) {
            send.give_up(error.clone());
        }
    }

    /// The client is closed.
    pub(super) fn fail_all(&mut self, error: &ClientError) {
        self.places.close();
        for send in std::mem::take(&mut self.rooms).into_values().flat_map(|queue| queue.sends) {
            send.give_up(error.clone());
        }
    }

    fn in_flight(&mut self, room: &str, id: u64) -> Option<&mut Send> {
        let front = self.rooms.get_mut(room)?.sends.front_mut()?;
        matches!(front.stage, Stage::InFlight(in_flight) if in_flight == id).then_some(front)
    }

    /// Removes a message whose outcome the server has sent.
    fn remove(&mut self, room: &str, index: usize) -> Option<Send> {
        let queue = self.rooms.get_mut(room)?;
        let send = queue.sends.remove(index)?;
        queue.since = Instant::now();
        if queue.sends.is_empty() {
            self.rooms.remove(room);
        }
        Some(send)
    }
}

#[cfg(test)]
mod tests {
    use chat_core::Epoch;
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;

    type Outcome = oneshot::Receiver<Result<Sent, ClientError>>;

    const LIFE: Duration = Duration::from_secs(30);

    fn sends(places: usize) -> Sends {
        Sends::new(Arc::new(Semaphore::new(places)), LIFE)
    }

    fn push(sends: &mut Sends, room: &str, key: &str) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let place = Arc::clone(&sends.places).try_acquire_owned().expect("a place");
        let content = Content { message: "hi".into(), data: None, key: key.into(), place };
        sends.push(room, content, reply);
        outcome
    }

    /// Has the first messages of all rooms wait for their turns.
    fn line_up(sends: &mut Sends) {
        let mut number = 0;
        sends.line_up(
            |_| true,
            |_, content| {
                number += 1;
                Ok(Turn { number, frame: content.key.clone() })
            },
        );
    }

    /// Of two messages to "r", the first is on its way.
    fn one_on_its_way() -> (Sends, Outcome, Outcome) {
        let mut sends = sends(10);
        let a = push(&mut sends, "r", "a");
        let b = push(&mut sends, "r", "b");
        assert_eq!(dispatch(&mut sends, "r", 1).as_deref(), Some("a"));
        (sends, a, b)
    }

    /// The key of the message that leaves, if one does.
    fn dispatch(sends: &mut Sends, room: &str, id: u64) -> Option<String> {
        line_up(sends);
        sends.dispatch(room, id, Instant::now())
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
        let mut sends = sends(10);
        let mut a = push(&mut sends, "r", "a");
        let mut b = push(&mut sends, "r", "b");
        let _other = push(&mut sends, "s", "c");
        assert_eq!(dispatch(&mut sends, "r", 1).as_deref(), Some("a"));
        assert_eq!(dispatch(&mut sends, "r", 1), None);
        assert_eq!(dispatch(&mut sends, "s", 2).as_deref(), Some("c"));

        sends.succeed("r", 9, at(1));
        assert!(a.try_recv().is_err(), "an answer to another request");
        sends.succeed("r", 1, at(1));
        assert_eq!(key_of(&mut a), ("a".into(), at(1)));
        assert_eq!(dispatch(&mut sends, "r", 3).as_deref(), Some("b"));
        sends.reject("r", 3, ClientError::NotInRoom);
        assert_eq!(error_of(&mut b), ClientError::NotInRoom);
        assert_eq!(sends.rooms.keys().collect::<Vec<_>>(), ["s"]);
    }

    #[test]
    fn rooms_take_turns() {
        let mut sends = sends(10);
        let _outcomes: Vec<_> =
            ["s", "r", "r"].iter().map(|room| push(&mut sends, room, "k")).collect();
        let mut number = 0;
        let mut next = |sends: &mut Sends| {
            sends.line_up(
                |_| true,
                |_, content| {
                    number += 1;
                    Ok(Turn { number, frame: content.key.clone() })
                },
            );
            let room = sends.first_due().map(|(room, _)| room.to_owned())?;
            sends.dispatch(&room, number, Instant::now())?;
            sends.succeed(&room, number, None);
            Some(room)
        };
        let rooms: Vec<_> = std::iter::from_fn(|| next(&mut sends)).collect();
        assert_eq!(rooms, ["r", "s", "r"]);
    }

    #[test]
    fn rooms_that_the_client_is_not_in_wait() {
        let mut sends = sends(10);
        let _a = push(&mut sends, "r", "a");
        sends.line_up(|_| false, |_, _| unreachable!());
        assert!(sends.first_due().is_none());
    }

    #[test]
    fn what_is_too_long_holds_nothing_up() {
        let mut sends = sends(10);
        let mut a = push(&mut sends, "r", "a");
        let _b = push(&mut sends, "r", "b");
        let limit = ClientError::MessageTooLong { limit: 1 };
        sends.line_up(
            |_| true,
            |_, content| match &*content.key {
                "a" => Err(limit.clone()),
                key => Ok(Turn { number: 1, frame: key.into() }),
            },
        );
        assert_eq!(error_of(&mut a), limit);
        assert_eq!(dispatch(&mut sends, "r", 1).as_deref(), Some("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_those_behind() {
        let (mut sends, _a, _b) = one_on_its_way();
        let until = Instant::now() + Duration::from_secs(1);
        sends.pause("r", 1, until, false);
        assert_eq!(dispatch(&mut sends, "r", 2), None);
        assert_eq!(sends.deadline(), Some(until));
        sends.end_pauses(until);
        assert_eq!(dispatch(&mut sends, "r", 2).as_deref(), Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_is_over_is_not_due_for_ever() {
        let now = Instant::now();
        let (mut sends, _a, _b) = one_on_its_way();
        let until = now + Duration::from_secs(1);
        sends.pause("r", 1, until, false);
        sends.lost();
        sends.end_pauses(until);
        assert_eq!(sends.deadline(), Some(now + LIFE));
        assert_eq!(dispatch(&mut sends, "r", 2).as_deref(), Some("a"));
    }

    #[test]
    fn what_was_lost_goes_first_and_again() {
        let (mut sends, mut a, _b) = one_on_its_way();
        sends.lost();
        assert_eq!(dispatch(&mut sends, "r", 2).as_deref(), Some("a"));
        sends.succeed("r", 1, at(1));
        assert!(a.try_recv().is_err(), "an answer of the connection before");
        sends.came_back("r", "a", at(7));
        assert_eq!(key_of(&mut a), ("a".into(), at(7)));
        assert_eq!(dispatch(&mut sends, "r", 3).as_deref(), Some("b"));
    }

    #[test]
    fn a_place_is_held_until_the_outcome() {
        let mut sends = sends(2);
        let _a = push(&mut sends, "r", "a");
        let mut b = push(&mut sends, "s", "b");
        assert_eq!(sends.places.available_permits(), 0);
        sends.fail_room("s", &ClientError::NotInRoom);
        assert_eq!(error_of(&mut b), ClientError::NotInRoom);
        assert_eq!(sends.places.available_permits(), 1);
        sends.fail_all(&ClientError::Closed);
        assert!(sends.places.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_have_been_taken_is_of_unknown_outcome() {
        let mut sends = sends(10);
        let mut a = push(&mut sends, "r", "a");
        let mut b = push(&mut sends, "r", "b");
        dispatch(&mut sends, "r", 1);
        advance(LIFE / 2).await;
        let mut c = push(&mut sends, "r", "c");
        advance(LIFE / 2).await;
        sends.expire(Instant::now());
        assert_eq!(error_of(&mut a), unknown("a"));
        assert_eq!(error_of(&mut b), ClientError::Timeout);
        assert_eq!(dispatch(&mut sends, "r", 2).as_deref(), Some("c"));
        sends.fail_all(&ClientError::Closed);
        assert_eq!(error_of(&mut c), unknown("c"));
        assert_eq!((sends.places.available_permits(), sends.deadline()), (10, None));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_its_turn_makes_no_message_late() {
        let mut sends = sends(10);
        let mut a = push(&mut sends, "r", "a");
        let mut b = push(&mut sends, "r", "b");
        line_up(&mut sends);
        advance(2 * LIFE).await;
        sends.expire(Instant::now());
        assert_eq!(sends.deadline(), None);
        assert_eq!(dispatch(&mut sends, "r", 1).as_deref(), Some("a"));
        sends.succeed("r", 1, at(1));
        assert_eq!(key_of(&mut a), ("a".into(), at(1)));
        advance(LIFE - Duration::from_secs(1)).await;
        sends.expire(Instant::now());
        assert!(b.try_recv().is_err(), "the queue has moved on since");
        advance(Duration::from_secs(1)).await;
        sends.expire(Instant::now());
        assert_eq!(error_of(&mut b), ClientError::Timeout);
    }

    #[test]
    fn a_refusal_is_certain_unless_an_earlier_attempt_is_not() {
        let mut sends = sends(10);
        for (uncertain, error) in [(false, ClientError::NotInRoom), (true, unknown("a"))] {
            let mut a = push(&mut sends, "r", "a");
            dispatch(&mut sends, "r", 1);
            sends.pause("r", 1, Instant::now(), uncertain);
            sends.end_pauses(Instant::now());
            dispatch(&mut sends, "r", 2);
            sends.reject("r", 2, ClientError::NotInRoom);
            assert_eq!(error_of(&mut a), error);
        }
    }

    #[test]
    fn another_user_does_not_repeat() {
        let (mut sends, mut a, _b) = one_on_its_way();
        sends.lost();
        sends.user_changed();
        assert_eq!(error_of(&mut a), unknown("a"));
        assert_eq!(dispatch(&mut sends, "r", 2).as_deref(), Some("b"));
    }
}
