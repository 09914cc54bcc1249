//! Whose turn it is: requests, joins and messages leave in the order in which they were ready
//! to, at the [pace](super::pace) of the connection.
//!
//! A join that its own rate holds back is passed over, and so is a message while too many are
//! unanswered. All others wait for the first, however large it is: small frames do not starve a
//! large one.

use tokio::time::Instant;

use super::commands::Call;
use super::error::ClientError;
use super::frames::{ID_BYTES, Outgoing, with_id};
use super::requests::Request;
use super::rooms::Place;
use super::sends::Content;
use super::task::Task;

/// Bytes of messages that may be unanswered, but for one that is larger: what the server reads
/// at its own rate is then read, and answered, long before a request times out.
const UNANSWERED_BYTES: usize = 64 * 1024;

/// Requests of all kinds that may be unanswered, for the same reason: a server that shares a
/// rate among the connections of a user reads each of them more slowly than it said.
const UNANSWERED: usize = 128;

/// Something that is ready to leave.
#[derive(Debug)]
pub(super) struct Turn {
    /// Those of lower numbers leave first.
    pub(super) number: u64,
    /// The frame, without its id.
    pub(super) frame: String,
}

/// What leaves next.
#[derive(Debug)]
enum Next {
    Call,
    Join(String),
    Send(String),
}

impl Task {
    /// Has a request of the application wait for its turn.
    pub(super) fn ask(&mut self, request: Request, frame: &Outgoing<'_>) {
        let frame = frame.encode();
        // There is one leave for each join at most, and without it the client would stay.
        let is_bounded = matches!(request, Request::Leave(_));
        if !self.is_online() {
            request.fail(ClientError::Offline);
        } else if !is_bounded && self.waiting_requests() >= self.config.send_queue {
            request.fail(ClientError::QueueFull);
        } else if let Err(error) = self.limits.check_frame(frame.len() + ID_BYTES) {
            request.fail(error);
        } else {
            let number = self.next_turn_number();
            self.calls.push_back(Call { request, turn: Turn { number, frame } });
        }
    }

    pub(super) fn waiting_requests(&self) -> usize {
        self.requests.called() + self.calls.len()
    }

    /// Has a room wait for its turn to be joined, or to be joined again from where the client
    /// stands.
    pub(super) fn enter(&mut self, name: &str) {
        let turn = self.next_turn_number();
        if let Some(room) = self.rooms.get_mut(name) {
            room.place = Place::Due { turn, since: Instant::now() };
        }
    }

    /// Puts on the wire what may leave now.
    pub(super) fn flush(&mut self, now: Instant) {
        if !self.is_online() {
            return;
        }
        self.line_up_messages();
        while let Some((next, ready_at)) = self.next_turn(now)
            && ready_at.is_none_or(|at| at <= now)
        {
            self.take_turn(next, now);
            self.line_up_messages();
        }
    }

    /// When something that waits for its turn may leave.
    pub(super) fn flush_at(&self) -> Option<Instant> {
        if !self.is_online() {
            return None;
        }
        let now = Instant::now();
        let join = self.rooms.first_due().and_then(|_| self.pace.join_ready_at());
        let next = self.next_turn(now).and_then(|(_, ready_at)| ready_at);
        join.filter(|at| *at > now).into_iter().chain(next).min()
    }

    fn line_up_messages(&mut self) {
        let Self { sends, rooms, limits, turns, .. } = self;
        sends.line_up(
            |room| rooms.get_mut(room).is_some_and(|room| room.is_in()),
            |room, Content { message, data, key, .. }| {
                let data = data.as_deref();
                limits.check_message(message, data)?;
                let frame = Outgoing::Send { room, message, data, key }.encode();
                limits.check_frame(frame.len() + ID_BYTES)?;
                *turns += 1;
                Ok(Turn { number: *turns, frame })
            },
        );
    }

    /// What leaves next, and when it may; `None`: at once.
    fn next_turn(&self, now: Instant) -> Option<(Next, Option<Instant>)> {
        if self.requests.len() >= UNANSWERED {
            return None;
        }
        let call = self.calls.front().filter(|Call { request, turn }| {
            !request.is_message() || self.may_be_unanswered(turn.frame.len())
        });
        let call = call.map(|Call { turn, .. }| (turn.number, turn.frame.len(), Next::Call));
        let is_join_ready = self.pace.join_ready_at().is_none_or(|at| at <= now);
        let join = self.rooms.first_due().filter(|_| is_join_ready);
        // Joins are small: their bytes count when they leave.
        let join = join.map(|(turn, name)| (turn, 0, Next::Join(name.to_owned())));
        let send = self.sends.first_due().map(|(room, turn)| (room, turn.number, turn.frame.len()));
        let send = send.filter(|(_, _, bytes)| self.may_be_unanswered(*bytes));
        let send = send.map(|(room, turn, bytes)| (turn, bytes, Next::Send(room.to_owned())));

        let all = call.into_iter().chain(join).chain(send);
        let (_, bytes, next) = all.min_by_key(|(turn, ..)| *turn)?;
        Some((next, self.pace.ready_at(bytes + ID_BYTES)))
    }

    /// Whether one more message, in a frame of so many bytes, may be unanswered.
    fn may_be_unanswered(&self, bytes: usize) -> bool {
        let unanswered = self.requests.unanswered();
        let fits = unanswered.bytes + bytes + ID_BYTES <= UNANSWERED_BYTES;
        unanswered.messages == 0 || (fits && unanswered.messages < self.limits.in_flight)
    }

    fn take_turn(&mut self, next: Next, now: Instant) {
        let id = self.requests.next_id();
        match next {
            Next::Call => {
                if let Some(Call { request, turn }) = self.calls.pop_front() {
                    self.post(request, &turn.frame);
                }
            }
            Next::Join(name) => {
                let Some(room) = self.rooms.get_mut(&name) else { return };
                room.ask(id, now);
                let since = room.track.position();
                let history = (!room.track.has_begun() && room.history > 0).then_some(room.history);
                let frame = Outgoing::Join { room: &name, since, history }.encode();
                self.pace.spend_join(now);
                self.post(Request::Join(name), &frame);
            }
            Next::Send(room) => {
                if let Some(frame) = self.sends.dispatch(&room, id, now) {
                    self.post(Request::Send(room), &frame);
                }
            }
        }
    }

    /// Puts a request on the wire.
    pub(super) fn post(&mut self, request: Request, frame: &str) {
        let frame = with_id(frame, self.requests.next_id());
        self.requests.add(request, frame.len());
        self.write(frame);
    }

    fn next_turn_number(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }
}
