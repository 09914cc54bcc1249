//! What is sent next: requests, joins and messages are sent in the order in which they were ready,
//! at the [pace](super::pace) of the connection.
//!
//! A join that its own rate holds back is passed over, and so are messages while too many are
//! unanswered. All others wait for the first, however large it is: small frames do not starve a
//! large one.

use std::collections::VecDeque;
use std::time::Duration;

use crate::RoomId;
use crate::wire::{ClientRequest, Limits};

use super::error::ClientError;
use super::limits::{check_frame, default_limits};
use super::output::{Action, Answers, RequestId};
use super::pace::Pace;
use super::requests::{ID_BYTES, Request, Requests, Turn, encode, with_id};

/// Bytes of messages that may be unanswered, but for one that is larger: what the server reads
/// at its own rate is then read, and answered, long before a request times out.
const UNANSWERED_BYTES: usize = 64 * 1024;

/// Requests of all kinds that may be unanswered, for the same reason: a server that shares a
/// rate among the connections of a user reads each of them more slowly than it said.
const UNANSWERED: usize = 128;

/// A request of the application that waits for its turn.
#[derive(Debug)]
struct Call {
    request: Request,
    turn: Turn,
}

/// What is sent next.
#[derive(Debug)]
pub(super) enum Next {
    /// The request of the application at this index of those that wait.
    Call(usize),
    /// The join of this room.
    Join(RoomId),
    /// The first message to this room.
    Send(RoomId),
}

/// The way of frames to the connection: turns, rates, and requests that wait for their answers.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) actions: VecDeque<Action>,
    pub(super) requests: Requests,
    pub(super) limits: Limits,
    /// In the order of their turns.
    calls: VecDeque<Call>,
    turns: u64,
    /// Of the present connection.
    pace: Pace,
}

impl Outbox {
    pub(super) fn new(request_timeout: Duration, now: Duration) -> Self {
        Self {
            actions: VecDeque::new(),
            requests: Requests::new(request_timeout),
            limits: default_limits(),
            calls: VecDeque::new(),
            turns: 0,
            pace: Pace::new(&default_limits(), now),
        }
    }

    /// A connection begins, with all that its rates allow but for the `hello`.
    pub(super) fn begin_pace(&mut self, limits: &Limits, hello_bytes: usize, now: Duration) {
        self.pace = Pace::new(limits, now);
        self.pace.spend(hello_bytes, now);
    }

    pub(super) fn next_turn_number(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Has a request to leave a room wait for its turn. Its frame is small, whatever the room.
    pub(super) fn queue_leave(&mut self, request: Option<RequestId>, frame: &ClientRequest<'_>) {
        self.push(Request::Leave(request), encode(frame));
    }

    /// Has a request of the application wait for its turn.
    pub(super) fn queue(
        &mut self,
        request: Request,
        frame: &ClientRequest<'_>,
    ) -> Result<(), ClientError> {
        let frame = encode(frame);
        check_frame(&self.limits, frame.len() + ID_BYTES)?;
        self.push(request, frame);
        Ok(())
    }

    fn push(&mut self, request: Request, frame: String) {
        let number = self.next_turn_number();
        self.calls.push_back(Call { request, turn: Turn { number, frame } });
    }

    /// How many requests of the application wait for their turns or answers.
    pub(super) fn waiting(&self) -> usize {
        self.requests.called() + self.calls.len()
    }

    /// What is sent next, and when it may be; `None`: at once. `join` and `send`: the turns of the
    /// first join and the first message.
    pub(super) fn next(
        &self,
        join: Option<(u64, &RoomId)>,
        send: Option<(&RoomId, &Turn)>,
        now: Duration,
    ) -> Option<(Next, Option<Duration>)> {
        if self.requests.len() >= UNANSWERED {
            return None;
        }
        let call = self
            .next_call()
            .map(|(index, Turn { number, frame })| (*number, frame.len(), Next::Call(index)));
        let is_join_ready = self.join_ready_at().is_none_or(|at| at <= now);
        let join = join.filter(|_| is_join_ready);
        // Joins are small: their bytes count when they are sent.
        let join = join.map(|(turn, room)| (turn, 0, Next::Join(room.clone())));
        let send = send.map(|(room, turn)| (room, turn.number, turn.frame.len()));
        let send = send.filter(|(_, _, bytes)| self.may_be_unanswered(*bytes));
        let send = send.map(|(room, turn, bytes)| (turn, bytes, Next::Send(room.clone())));

        let all = call.into_iter().chain(join).chain(send);
        let (_, bytes, next) = all.min_by_key(|(turn, ..)| *turn)?;
        Some((next, self.ready_at(bytes + ID_BYTES)))
    }

    /// The first request of the application that may be sent, and its index. Direct messages that
    /// wait for answers hold back no other request, and do not overtake each other.
    fn next_call(&self) -> Option<(usize, &Turn)> {
        let first = |is_message: bool| {
            self.calls.iter().position(|call| call.request.is_message() == is_message)
        };
        let message =
            first(true).filter(|index| self.may_be_unanswered(self.calls[*index].turn.frame.len()));
        let index = first(false).into_iter().chain(message).min()?;
        Some((index, &self.calls[index].turn))
    }

    /// Whether one more message, in a frame of so many bytes, may be unanswered.
    fn may_be_unanswered(&self, bytes: usize) -> bool {
        let unanswered = self.requests.unanswered();
        let fits = unanswered.bytes + bytes + ID_BYTES <= UNANSWERED_BYTES;
        unanswered.messages == 0 || (fits && unanswered.messages < self.limits.in_flight)
    }

    /// When a frame of so many bytes may be sent; `None`: at once.
    pub(super) fn ready_at(&self, bytes: usize) -> Option<Duration> {
        self.pace.ready_at(bytes)
    }

    /// When the next join may be sent, as far as the rate of joins goes.
    pub(super) fn join_ready_at(&self) -> Option<Duration> {
        self.pace.join_ready_at()
    }

    /// Sends the request of the application at this index.
    pub(super) fn send_call(&mut self, index: usize, now: Duration) {
        if let Some(Call { request, turn }) = self.calls.remove(index) {
            self.send_request(request, &turn.frame, now);
        }
    }

    /// Sends a request to join a room.
    pub(super) fn send_join(&mut self, room: RoomId, frame: &str, now: Duration) {
        self.pace.spend_join(now);
        self.send_request(Request::Join(room), frame, now);
    }

    /// Sends a request, under the next id.
    pub(super) fn send_request(&mut self, request: Request, frame: &str, now: Duration) {
        let frame = with_id(frame, self.requests.next_id());
        self.requests.add(request, frame.len(), now);
        self.send(frame, now);
    }

    /// Sends a frame.
    pub(super) fn send(&mut self, frame: String, now: Duration) {
        self.pace.spend(frame.len(), now);
        self.actions.push_back(Action::Send(frame));
    }

    /// The connection is gone: fails what waits for an answer, and what was not sent. The latter
    /// has not been carried out, so a lost connection leaves nothing about it unknown.
    pub(super) fn fail_all(&mut self, error: &ClientError, answers: &mut Answers) {
        self.actions.retain(|action| !matches!(action, Action::Send(_) | Action::Ping));
        self.requests.fail_all(error, answers);
        let never_sent = match error {
            ClientError::Disconnected => &ClientError::Offline,
            error => error,
        };
        for call in self.calls.drain(..) {
            call.request.fail(never_sent.clone(), answers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, UserId};

    const NOW: Duration = Duration::from_secs(100);

    /// Queues direct messages of these lengths, and requests for members where there is none.
    fn queue(outbox: &mut Outbox, calls: &[Option<usize>]) {
        for (id, length) in calls.iter().enumerate() {
            let id = RequestId(id as u64);
            let (request, frame) = match length {
                Some(length) => {
                    let message = "x".repeat(*length).into();
                    let content = Content { message, data: None, key: None };
                    let to = UserId::new("bob").unwrap();
                    (Request::Direct(id), ClientRequest::Direct { to, content })
                }
                None => {
                    let room = RoomId::new("r").unwrap();
                    (Request::Members(id), ClientRequest::Members { room })
                }
            };
            outbox.queue(request, &frame).unwrap();
        }
    }

    /// Sends what may be sent. Returns the lengths of the messages.
    fn flush(outbox: &mut Outbox) -> Vec<Option<usize>> {
        while let Some((Next::Call(index), None)) = outbox.next(None, None, NOW) {
            outbox.send_call(index, NOW);
        }
        let sent = outbox.actions.drain(..).map(|action| {
            let Action::Send(frame) = action else { panic!("{action:?}") };
            frame.contains("direct").then(|| frame.matches('x').count())
        });
        sent.collect()
    }

    #[test]
    fn held_back_message_holds_back_no_other_request() {
        let mut outbox = Outbox::new(NOW, NOW);
        outbox.limits.in_flight = 1;
        queue(&mut outbox, &[Some(1), Some(2), None, Some(3), None]);
        assert_eq!(flush(&mut outbox), [Some(1), None, None]);
        outbox.requests.take(1);
        assert_eq!(flush(&mut outbox), [Some(2)]);
    }

    #[test]
    fn small_message_does_not_overtake_a_large_one() {
        let mut outbox = Outbox::new(NOW, NOW);
        queue(&mut outbox, &[Some(1), Some(UNANSWERED_BYTES), Some(2)]);
        assert_eq!(flush(&mut outbox), [Some(1)]);
        outbox.requests.take(1);
        assert_eq!(flush(&mut outbox), [Some(UNANSWERED_BYTES)]);
        outbox.requests.take(2);
        assert_eq!(flush(&mut outbox), [Some(2)]);
    }

    #[test]
    fn requests_and_joins_are_sent_in_the_order_in_which_they_were_ready() {
        let mut outbox = Outbox::new(NOW, NOW);
        let room = RoomId::new("r").unwrap();
        let before = outbox.next_turn_number();
        queue(&mut outbox, &[None]);
        let after = outbox.next_turn_number();
        let next = |turn| outbox.next(Some((turn, &room)), None, NOW);
        assert!(matches!(next(before), Some((Next::Join(_), None))));
        assert!(matches!(next(after), Some((Next::Call(0), None))));
    }

    #[test]
    fn requests_wait_until_they_are_answered() {
        let mut outbox = Outbox::new(NOW, NOW);
        outbox.limits.in_flight = 1;
        queue(&mut outbox, &[Some(1), Some(2), Some(3)]);
        assert_eq!(outbox.waiting(), 3);
        assert_eq!(flush(&mut outbox), [Some(1)]);
        assert_eq!(outbox.waiting(), 3, "one for its answer, two for their turns");
        outbox.requests.take(1);
        assert_eq!(outbox.waiting(), 2);
    }

    #[test]
    fn requests_that_wait_for_answers_are_bounded() {
        let mut outbox = Outbox::new(NOW, NOW);
        queue(&mut outbox, &[None; UNANSWERED + 2]);
        assert_eq!(flush(&mut outbox).len(), UNANSWERED);
        outbox.requests.take(1);
        assert_eq!(flush(&mut outbox).len(), 1);
    }

    #[test]
    fn request_whose_frame_would_be_too_large_is_refused() {
        let to = UserId::new("bob").unwrap();
        let mut refused = 0;
        for length in 900..1000 {
            let mut outbox = Outbox::new(NOW, NOW);
            outbox.limits.frame_bytes = 1000;
            let content = Content { message: "x".repeat(length).into(), data: None, key: None };
            let frame = ClientRequest::Direct { to: to.clone(), content };
            match outbox.queue(Request::Direct(RequestId(1)), &frame) {
                Ok(()) => outbox.send_call(0, NOW),
                Err(_) => refused += 1,
            }
            let is_small = |sent: &Action| matches!(sent, Action::Send(text) if text.len() <= 1000);
            assert!(outbox.actions.iter().all(is_small), "{length}");
        }
        assert!((1..100).contains(&refused), "{refused} of 100");
    }

    #[test]
    fn messages_that_wait_for_answers_are_bounded_in_bytes_together() {
        let mut both_sent = 0;
        for length in UNANSWERED_BYTES - 1300..UNANSWERED_BYTES - 1000 {
            let mut outbox = Outbox::new(NOW, NOW);
            queue(&mut outbox, &[Some(1000), Some(length)]);
            both_sent += flush(&mut outbox).len() - 1;
            assert!(outbox.requests.unanswered().bytes <= UNANSWERED_BYTES, "{length}");
        }
        assert!((1..300).contains(&both_sent), "{both_sent} of 300");
    }
}
