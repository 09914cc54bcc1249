//! Messages that wait to be sent, or for their answers.
//!
//! One message per room is in flight at a time, so that those behind it never overtake one that is
//! sent again. The stages of the first message of a room:
//!
//! | stage | event | next stage |
//! |---|---|---|
//! | idle | the client is in the room | due: it has a turn |
//! | due | its turn | in flight |
//! | in flight | `ok`, or the message itself with its key | done |
//! | in flight | a final rejection | failed |
//! | in flight | a temporary rejection, or no answer | paused; `uncertain` unless it was not taken |
//! | paused | the pause is over | idle |
//! | due, in flight | the connection is lost | idle; `uncertain` if it was in flight |
//!
//! An `uncertain` message may have been published: it is sent again under its key, which prevents a
//! second publication, and if it fails in the end its outcome is unknown.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::value::RawValue;

use crate::{Position, RoomId};

use super::error::ClientError;
use super::events::Sent;
use super::output::{Answer, Answers, RequestId};
use super::requests::Turn;

/// The contents of a message.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) text: String,
    pub(super) data: Option<Box<RawValue>>,
    pub(super) key: String,
}

/// A message without an outcome.
#[derive(Debug)]
struct PendingSend {
    content: Content,
    queued_at: Duration,
    request: RequestId,
    stage: Stage,
    attempted: bool,
    /// A server received the message, and did not say whether it was published.
    uncertain: bool,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// The message has a turn.
    Due(Turn),
    /// The message was sent in the request with this id.
    InFlight(u64),
    /// The message is sent again after this time.
    Paused(Duration),
}

impl PendingSend {
    /// The message is no longer in flight.
    fn withdraw(&mut self, stage: Stage, uncertain: bool) {
        self.stage = stage;
        self.uncertain |= uncertain;
    }

    /// When the message times out, in a queue that has progressed at `since`. Never while it waits for
    /// its turn.
    fn late_at(&self, since: Duration, timeout: Duration) -> Option<Duration> {
        let is_due = matches!(self.stage, Stage::Due(_));
        (!is_due).then(|| self.queued_at.max(since).saturating_add(timeout))
    }

    fn succeed(self, position: Option<Position>, answers: &mut Answers) {
        let sent = Sent { position, key: self.content.key };
        answers.succeed(self.request, Answer::Sent(sent));
    }

    /// Fails for `why`, unless a server may have taken the message.
    fn fail(self, why: ClientError, answers: &mut Answers) {
        let is_unknown = self.uncertain || matches!(self.stage, Stage::InFlight(_));
        let unknown = ClientError::OutcomeUnknown { key: self.content.key };
        answers.fail(self.request, if is_unknown { unknown } else { why });
    }
}

/// The messages to one room, in order.
#[derive(Debug)]
struct Queue {
    sends: VecDeque<PendingSend>,
    /// When the first message was first sent, or the one before it was settled. The timeouts of the
    /// others start no earlier: they wait for the server's rate limits, not for an outage.
    since: Duration,
}

/// Messages without an outcome, by room, each room's in order.
#[derive(Debug)]
pub(super) struct Sends {
    rooms: BTreeMap<RoomId, Queue>,
    timeout: Duration,
}

impl Sends {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { rooms: BTreeMap::new(), timeout }
    }

    /// The number of messages.
    pub(super) fn len(&self) -> usize {
        self.rooms.values().map(|queue| queue.sends.len()).sum()
    }

    pub(super) fn push(
        &mut self,
        room: &RoomId,
        content: Content,
        request: RequestId,
        now: Duration,
    ) {
        let empty = || Queue { sends: VecDeque::new(), since: now };
        let queue = self.rooms.entry(room.clone()).or_insert_with(empty);
        queue.sends.push_back(PendingSend {
            content,
            queued_at: now,
            request,
            stage: Stage::Idle,
            attempted: false,
            uncertain: false,
        });
    }

    /// Gives a turn to the first message of each room that the client `is_in`. A message that `frame`
    /// rejects fails.
    pub(super) fn schedule(
        &mut self,
        mut is_in: impl FnMut(&str) -> bool,
        mut frame: impl FnMut(&RoomId, &Content) -> Result<Turn, ClientError>,
        answers: &mut Answers,
    ) {
        for (room, queue) in &mut self.rooms {
            while let Some(front) = queue.sends.front_mut()
                && matches!(front.stage, Stage::Idle)
                && is_in(room.as_str())
            {
                match frame(room, &front.content) {
                    Ok(turn) => front.stage = Stage::Due(turn),
                    Err(error) => {
                        if let Some(send) = queue.sends.pop_front() {
                            send.fail(error, answers);
                        }
                    }
                }
            }
        }
        self.rooms.retain(|_, queue| !queue.sends.is_empty());
    }

    /// The room, and the turn, of the message that has waited longest.
    pub(super) fn first_due(&self) -> Option<(&RoomId, &Turn)> {
        let due = self.rooms.iter().filter_map(|(room, queue)| match &queue.sends.front()?.stage {
            Stage::Due(turn) => Some((room, turn)),
            Stage::Idle | Stage::InFlight(_) | Stage::Paused(_) => None,
        });
        due.min_by_key(|(_, turn)| turn.number)
    }

    /// Puts the room's message that has a turn in flight, as the request with this id. Returns its
    /// frame.
    pub(super) fn dispatch(&mut self, room: &str, id: u64, now: Duration) -> Option<String> {
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
    pub(super) fn succeed(
        &mut self,
        room: &str,
        id: u64,
        position: Option<Position>,
        now: Duration,
        answers: &mut Answers,
    ) {
        if self.in_flight(room, id).is_some()
            && let Some(send) = self.remove(room, 0, now)
        {
            send.succeed(position, answers);
        }
    }

    /// The request with this id was refused.
    pub(super) fn reject(
        &mut self,
        room: &str,
        id: u64,
        error: ClientError,
        now: Duration,
        answers: &mut Answers,
    ) {
        if let Some(send) = self.in_flight(room, id) {
            send.withdraw(Stage::Idle, false);
            if let Some(send) = self.remove(room, 0, now) {
                send.fail(error, answers);
            }
        }
    }

    /// The request with this id is to be sent again, not before `until`. `uncertain`: the
    /// server may have taken the message.
    pub(super) fn pause(&mut self, room: &str, id: u64, until: Duration, uncertain: bool) {
        if let Some(send) = self.in_flight(room, id) {
            send.withdraw(Stage::Paused(until), uncertain);
        }
    }

    /// The client received its own message with this key: it is published, even if the answer was
    /// lost. Keys that the application chose may repeat, so it need not be the first of its queue.
    pub(super) fn settle_by_echo(
        &mut self,
        room: &str,
        key: &str,
        position: Option<Position>,
        now: Duration,
        answers: &mut Answers,
    ) {
        let Some(queue) = self.rooms.get(room) else { return };
        if let Some(index) = queue.sends.iter().position(|send| send.content.key == key)
            && let Some(send) = self.remove(room, index, now)
        {
            send.succeed(position, answers);
        }
    }

    /// The connection was lost: messages in flight are sent again.
    pub(super) fn connection_lost(&mut self) {
        for send in self.rooms.values_mut().filter_map(|queue| queue.sends.front_mut()) {
            match send.stage {
                Stage::InFlight(_) => send.withdraw(Stage::Idle, true),
                Stage::Due(_) => send.stage = Stage::Idle,
                Stage::Idle | Stage::Paused(_) => {}
            }
        }
    }

    /// The client is another user. Keys are compared within the messages of one user: a message that
    /// may have been published must not be sent again, it could be published twice. A user whom a token
    /// names is another person, who has not written the messages of the first: all of them fail.
    pub(super) fn user_changed(&mut self, is_named: bool, answers: &mut Answers) {
        self.fail_while(&ClientError::OtherUser, answers, |send, _| is_named || send.uncertain);
    }

    /// Fails the messages that timed out.
    pub(super) fn expire(&mut self, now: Duration, answers: &mut Answers) {
        let timeout = self.timeout;
        self.fail_while(&ClientError::Timeout, answers, |send, since| {
            send.late_at(since, timeout).is_some_and(|late_at| late_at <= now)
        });
    }

    /// Ends pauses, even if the room cannot send yet.
    pub(super) fn end_pauses(&mut self, now: Duration) {
        for send in self.rooms.values_mut().filter_map(|queue| queue.sends.front_mut()) {
            if matches!(send.stage, Stage::Paused(until) if until <= now) {
                send.stage = Stage::Idle;
            }
        }
    }

    /// Fails each room's first messages for which `is_over` holds.
    fn fail_while(
        &mut self,
        why: &ClientError,
        answers: &mut Answers,
        is_over: impl Fn(&PendingSend, Duration) -> bool,
    ) {
        for queue in self.rooms.values_mut() {
            while queue.sends.front().is_some_and(|send| is_over(send, queue.since)) {
                let Some(send) = queue.sends.pop_front() else { break };
                send.fail(why.clone(), answers);
            }
        }
        self.rooms.retain(|_, queue| !queue.sends.is_empty());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// When something is due next.
    pub(super) fn deadline(&self) -> Option<Duration> {
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
    pub(super) fn fail_room(&mut self, room: &str, error: &ClientError, answers: &mut Answers) {
        for send in self.rooms.remove(room).into_iter().flat_map(|queue| queue.sends) {
            send.fail(error.clone(), answers);
        }
    }

    /// The client is closed.
    pub(super) fn fail_all(&mut self, error: &ClientError, answers: &mut Answers) {
        for send in std::mem::take(&mut self.rooms).into_values().flat_map(|queue| queue.sends) {
            send.fail(error.clone(), answers);
        }
    }

    fn in_flight(&mut self, room: &str, id: u64) -> Option<&mut PendingSend> {
        let front = self.rooms.get_mut(room)?.sends.front_mut()?;
        matches!(front.stage, Stage::InFlight(in_flight) if in_flight == id).then_some(front)
    }

    /// Removes a message that is settled; the next one's timeout restarts.
    fn remove(&mut self, room: &str, index: usize, now: Duration) -> Option<PendingSend> {
        let queue = self.rooms.get_mut(room)?;
        let send = queue.sends.remove(index)?;
        queue.since = now;
        if queue.sends.is_empty() {
            self.rooms.remove(room);
        }
        Some(send)
    }
}

#[cfg(test)]
mod tests {
    use crate::Epoch;

    use super::*;

    const LIFE: Duration = Duration::from_secs(30);

    const START: Duration = Duration::from_secs(100);

    /// The queue, and the answers that it gave; requests are named by their keys.
    struct Test {
        sends: Sends,
        answers: Answers,
        keys: Vec<String>,
        now: Duration,
    }

    impl Test {
        fn new() -> Self {
            let (sends, answers) = (Sends::new(LIFE), Answers::default());
            Self { sends, answers, keys: Vec::new(), now: START }
        }

        /// Two messages to "r"; the first is in flight.
        fn one_in_flight() -> Self {
            let mut test = Self::new();
            test.push("r", "a");
            test.push("r", "b");
            assert_eq!(test.dispatch("r", 1).as_deref(), Some("a"));
            test
        }

        fn push(&mut self, room: &str, key: &str) {
            let content = Content { text: "hi".into(), data: None, key: key.into() };
            let request = RequestId(self.keys.len() as u64);
            self.keys.push(key.into());
            self.sends.push(&RoomId::new(room).unwrap(), content, request, self.now);
        }

        /// Has the first messages of all rooms wait for their turns.
        fn schedule(&mut self) {
            let mut number = 0;
            self.sends.schedule(
                |_| true,
                |_, content| {
                    number += 1;
                    Ok(Turn { number, frame: content.key.clone() })
                },
                &mut self.answers,
            );
        }

        /// The key of the message that is sent, if one is.
        fn dispatch(&mut self, room: &str, id: u64) -> Option<String> {
            self.schedule();
            self.sends.dispatch(room, id, self.now)
        }

        fn succeed(&mut self, room: &str, id: u64, position: Option<Position>) {
            self.sends.succeed(room, id, position, self.now, &mut self.answers);
        }

        fn reject(&mut self, room: &str, id: u64, error: ClientError) {
            self.sends.reject(room, id, error, self.now, &mut self.answers);
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.sends.expire(self.now, &mut self.answers);
        }

        /// The answers since the last time: the keys, and where the messages are or why not.
        fn answers(&mut self) -> Vec<(&str, Result<Option<Position>, ClientError>)> {
            let answers = std::iter::from_fn(|| self.answers.pop());
            let named = answers.map(|(RequestId(id), outcome)| {
                let position = outcome.map(|answer| match answer {
                    Answer::Sent(sent) => {
                        assert_eq!(sent.key, self.keys[id as usize]);
                        sent.position
                    }
                    other => panic!("{other:?}"),
                });
                (&*self.keys[id as usize], position)
            });
            named.collect()
        }
    }

    fn at(offset: u64) -> Option<Position> {
        Some(Position { epoch: Epoch::from_random(1), offset })
    }

    fn unknown(key: &str) -> ClientError {
        ClientError::OutcomeUnknown { key: key.into() }
    }

    #[test]
    fn one_per_room_is_in_flight() {
        let mut test = Test::one_in_flight();
        test.push("s", "c");
        assert_eq!(test.dispatch("r", 1), None);
        assert_eq!(test.dispatch("s", 2).as_deref(), Some("c"));

        test.succeed("r", 9, at(1));
        assert_eq!(test.answers(), [], "an answer to another request");
        test.succeed("r", 1, at(1));
        assert_eq!(test.answers(), [("a", Ok(at(1)))]);
        assert_eq!(test.dispatch("r", 3).as_deref(), Some("b"));
        test.reject("r", 3, ClientError::NotInRoom);
        assert_eq!(test.answers(), [("b", Err(ClientError::NotInRoom))]);
        assert_eq!((test.sends.len(), test.sends.rooms.contains_key("s")), (1, true));
    }

    #[test]
    fn rooms_take_turns() {
        let mut test = Test::new();
        for room in ["s", "r", "r"] {
            test.push(room, room);
        }
        let mut number = 0;
        let mut next = || {
            test.sends.schedule(
                |_| true,
                |_, content| {
                    number += 1;
                    Ok(Turn { number, frame: content.key.clone() })
                },
                &mut test.answers,
            );
            let room = test.sends.first_due().map(|(room, _)| room.to_string())?;
            test.sends.dispatch(&room, number, START)?;
            test.sends.succeed(&room, number, None, START, &mut test.answers);
            Some(room)
        };
        let rooms: Vec<_> = std::iter::from_fn(&mut next).collect();
        assert_eq!(rooms, ["r", "s", "r"]);
    }

    #[test]
    fn messages_wait_for_their_room() {
        let mut test = Test::new();
        test.push("r", "a");
        test.sends.schedule(|_| false, |_, _| unreachable!(), &mut test.answers);
        assert!(test.sends.first_due().is_none());
    }

    #[test]
    fn too_long_message_blocks_no_other() {
        let mut test = Test::new();
        test.push("r", "a");
        test.push("r", "b");
        let limit = ClientError::MessageTooLong { limit: 1 };
        let frame = |_: &RoomId, content: &Content| match &*content.key {
            "a" => Err(limit.clone()),
            key => Ok(Turn { number: 1, frame: key.into() }),
        };
        test.sends.schedule(|_| true, frame, &mut test.answers);
        assert_eq!(test.answers(), [("a", Err(limit))]);
        assert_eq!(test.dispatch("r", 1).as_deref(), Some("b"));
    }

    #[test]
    fn pause_holds_back_the_queue() {
        let mut test = Test::one_in_flight();
        let until = START + Duration::from_secs(1);
        test.sends.pause("r", 1, until, false);
        assert_eq!(test.dispatch("r", 2), None);
        assert_eq!(test.sends.deadline(), Some(until));
        test.sends.end_pauses(until);
        assert_eq!(test.dispatch("r", 2).as_deref(), Some("a"));
    }

    #[test]
    fn ended_pause_has_no_deadline() {
        let mut test = Test::one_in_flight();
        let until = START + Duration::from_secs(1);
        test.sends.pause("r", 1, until, false);
        test.sends.connection_lost();
        test.sends.end_pauses(until);
        assert_eq!(test.sends.deadline(), Some(START + LIFE));
        assert_eq!(test.dispatch("r", 2).as_deref(), Some("a"));
    }

    #[test]
    fn lost_message_is_sent_again_first() {
        let mut test = Test::one_in_flight();
        test.sends.connection_lost();
        assert_eq!(test.dispatch("r", 2).as_deref(), Some("a"));
        test.succeed("r", 1, at(1));
        assert_eq!(test.answers(), [], "an answer of the connection before");
        test.sends.settle_by_echo("r", "a", at(7), test.now, &mut test.answers);
        assert_eq!(test.answers(), [("a", Ok(at(7)))]);
        assert_eq!(test.dispatch("r", 3).as_deref(), Some("b"));
    }

    #[test]
    fn echo_settles_a_message_anywhere_in_its_queue() {
        let mut test = Test::one_in_flight();
        test.sends.settle_by_echo("r", "b", at(7), test.now, &mut test.answers);
        test.sends.settle_by_echo("s", "a", at(8), test.now, &mut test.answers);
        assert_eq!(test.answers(), [("b", Ok(at(7)))]);
        test.succeed("r", 1, at(8));
        assert_eq!(test.answers(), [("a", Ok(at(8)))]);
        assert!(test.sends.is_empty());
    }

    #[test]
    fn outcome_is_unknown_only_of_what_a_server_had() {
        let mut test = Test::one_in_flight();
        test.pass(LIFE / 2);
        test.push("r", "c");
        test.pass(LIFE / 2);
        assert_eq!(test.answers(), [("a", Err(unknown("a"))), ("b", Err(ClientError::Timeout))]);
        assert_eq!(test.dispatch("r", 2).as_deref(), Some("c"));
        test.sends.fail_all(&ClientError::Disconnected, &mut test.answers);
        assert_eq!(test.answers(), [("c", Err(unknown("c")))]);
        assert_eq!((test.sends.len(), test.sends.deadline()), (0, None));
    }

    #[test]
    fn waiting_for_its_turn_makes_no_message_late() {
        let mut test = Test::new();
        test.push("r", "a");
        test.push("r", "b");
        test.schedule();
        test.pass(2 * LIFE);
        assert_eq!(test.sends.deadline(), None);
        assert_eq!(test.dispatch("r", 1).as_deref(), Some("a"));
        test.succeed("r", 1, at(1));
        assert_eq!(test.answers(), [("a", Ok(at(1)))]);
        test.pass(LIFE - Duration::from_secs(1));
        assert_eq!(test.answers(), [], "the queue has moved on since");
        test.pass(Duration::from_secs(1));
        assert_eq!(test.answers(), [("b", Err(ClientError::Timeout))]);
    }

    #[test]
    fn refusal_is_certain_unless_an_earlier_attempt_is_not() {
        for (uncertain, error) in [(false, ClientError::NotInRoom), (true, unknown("a"))] {
            let mut test = Test::one_in_flight();
            test.sends.pause("r", 1, START, uncertain);
            test.sends.end_pauses(START);
            test.dispatch("r", 2);
            test.reject("r", 2, ClientError::NotInRoom);
            assert_eq!(test.answers(), [("a", Err(error))]);
        }
    }

    #[test]
    fn uncertain_message_of_another_user_is_not_resent() {
        let mut test = Test::one_in_flight();
        test.sends.connection_lost();
        test.sends.user_changed(false, &mut test.answers);
        assert_eq!(test.answers(), [("a", Err(unknown("a")))]);
        assert_eq!(test.dispatch("r", 2).as_deref(), Some("b"));
    }

    #[test]
    fn no_message_is_sent_as_the_user_of_another_token() {
        let mut test = Test::one_in_flight();
        test.sends.connection_lost();
        test.sends.user_changed(true, &mut test.answers);
        let expected = [("a", Err(unknown("a"))), ("b", Err(ClientError::OtherUser))];
        assert_eq!(test.answers(), expected);
        assert!(test.sends.is_empty());
    }
}
