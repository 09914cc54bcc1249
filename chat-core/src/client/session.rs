//! The state of a client that outlives its connections: rooms, unconfirmed messages, and requests.
//! This file has the requests of the application; [`inbound`](super::inbound) has the frames of the
//! server.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::wire::ClientRequest;
use crate::{Content, HistoryRange, RoomId, UserId};

use super::config::Config;
use super::error::{ClientError, Disconnect, Rejection};
use super::events::Welcome;
use super::limits::{check_frame, check_message};
use super::outbox::{Next, Outbox};
use super::output::{Answer, Answers, Events, RequestId};
use super::requests::{ID_BYTES, Request, Turn, encode};
use super::rng::Rng;
use super::rooms::{RoomStatus, Rooms, Start};
use super::sends::{self, Sends};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) rooms: Rooms,
    pub(super) sends: Sends,
    pub(super) outbox: Outbox,
    pub(super) answers: Answers,
    pub(super) events: Events,
    pub(super) rng: Rng,
    /// The latest `welcome`.
    pub(super) welcome: Option<Welcome>,
    /// Whether the current connection has received its welcome.
    pub(super) is_online: bool,
    /// The latest answer after which a message or a join is tried again.
    pub(super) refusal: Option<Rejection>,
    last_request: u64,
    queue_limit: usize,
}

impl Session {
    pub(super) fn new(config: &Config, seed: [u8; 32], now: Duration) -> Self {
        Self {
            rooms: Rooms::default(),
            sends: Sends::new(config.send_timeout),
            outbox: Outbox::new(config.request_timeout, now),
            answers: Answers::default(),
            events: Events::default(),
            rng: Rng::new(seed),
            welcome: None,
            is_online: false,
            refusal: None,
            last_request: 0,
            queue_limit: config.send_queue.max(1),
        }
    }

    // Requests of the application.

    pub(super) fn join(&mut self, name: &str, start: Start) -> Result<RequestId, ClientError> {
        let name = room_id(name)?;
        let room = self.rooms.get_or_insert(&name, start);
        if room.is_in() {
            let frame = ClientRequest::Join { room: name, since: None, history: None };
            return self.ask(Request::JoinAgain, &frame);
        }
        if room.waiting() >= self.queue_limit {
            return Err(ClientError::QueueFull);
        }
        let request = next_request(&mut self.last_request);
        room.wait(request);
        if room.status == RoomStatus::Out && self.is_online {
            self.schedule_join(name.as_str());
        }
        Ok(request)
    }

    /// Not bounded by the queue: there is at most one leave for each join, and if it were refused,
    /// the client would stay in the room.
    pub(super) fn leave(&mut self, name: &str) -> Result<RequestId, ClientError> {
        let is_joined = self.is_joined_on_server(name);
        let (room, _) = self.forget(name, &ClientError::NotInRoom).ok_or(ClientError::NotInRoom)?;
        let request = next_request(&mut self.last_request);
        if is_joined {
            self.leave_on_server(room, Some(request));
        } else {
            self.answers.succeed(request, Answer::Left);
        }
        Ok(request)
    }

    pub(super) fn send(
        &mut self,
        room: &str,
        content: Content<'_>,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        let Content { message, data, key } = content;
        self.rooms.get_mut(room).ok_or(ClientError::NotInRoom)?;
        check_message(&self.outbox.limits, &message, data)?;
        if self.sends.len() >= self.queue_limit {
            return Err(ClientError::QueueFull);
        }
        let key = key.map_or_else(|| self.rng.key(), Cow::into_owned);
        let request = next_request(&mut self.last_request);
        let content =
            sends::Content { text: message.into_owned(), data: data.map(ToOwned::to_owned), key };
        self.sends.push(&room_id(room)?, content, request, now);
        Ok(request)
    }

    pub(super) fn direct(
        &mut self,
        to: &str,
        text: &str,
        data: Option<&RawValue>,
    ) -> Result<RequestId, ClientError> {
        let to = UserId::new(to).map_err(|_| ClientError::UserId)?;
        check_message(&self.outbox.limits, text, data)?;
        let content = Content { message: text.into(), data, key: None };
        self.ask(Request::Direct, &ClientRequest::Direct { to, content })
    }

    pub(super) fn members(&mut self, room: &str) -> Result<RequestId, ClientError> {
        let room = room_id(room)?;
        self.ask(Request::Members, &ClientRequest::Members { room })
    }

    pub(super) fn history(
        &mut self,
        room: &str,
        range: HistoryRange,
        limit: Option<u32>,
    ) -> Result<RequestId, ClientError> {
        let room = room_id(room)?;
        self.ask(Request::History, &ClientRequest::History { room, range, limit })
    }

    /// A typing state does not wait for its turn: the next key stroke sends the same. It is
    /// dropped unless frames are sent at once (`is_writable`) and no other waits, be it for the
    /// transport.
    pub(super) fn typing(
        &mut self,
        name: &str,
        typing: bool,
        is_writable: bool,
        now: Duration,
    ) -> Result<(), ClientError> {
        let Ok(room) = room_id(name) else { return Err(ClientError::NotInRoom) };
        let frame = encode(&ClientRequest::Typing { room, typing });
        // A transport that takes nothing now is given one at most, however often the state changes.
        let may_be_sent = is_writable
            && self.outbox.actions.is_empty()
            && self.flush_at(now).is_none()
            && self.outbox.ready_at(frame.len()).is_none_or(|at| at <= now);
        let room = self.rooms.get_mut(name).ok_or(ClientError::NotInRoom)?;
        if may_be_sent && room.is_in() && room.types(typing, now) {
            self.outbox.send(frame, now);
        }
        Ok(())
    }

    fn ask(
        &mut self,
        request: impl FnOnce(RequestId) -> Request,
        frame: &ClientRequest<'_>,
    ) -> Result<RequestId, ClientError> {
        if !self.is_online {
            return Err(ClientError::Offline);
        }
        if self.outbox.waiting() >= self.queue_limit {
            return Err(ClientError::QueueFull);
        }
        let id = next_request(&mut self.last_request);
        self.outbox.queue(request(id), frame)?;
        Ok(id)
    }

    /// The id of the client's user, once the server has named it.
    pub(super) fn user_id(&self) -> Option<&str> {
        self.welcome.as_ref().map(|welcome| welcome.user.id.as_str())
    }

    /// Whether the application waits for an answer.
    pub(super) fn awaits_answers(&self) -> bool {
        !self.sends.is_empty() || self.outbox.waiting() > 0 || self.rooms.has_waiting_joins()
    }

    // Rooms.

    /// Gives a room a turn to be joined, from the position of the client's copy.
    pub(super) fn schedule_join(&mut self, name: &str) {
        if let Some(room) = self.rooms.get_mut(name) {
            let turn = self.outbox.next_turn_number();
            room.status = RoomStatus::Due { turn };
        }
    }

    /// Sends a leave for a room that the client has forgotten already.
    pub(super) fn leave_on_server(&mut self, room: RoomId, request: Option<RequestId>) {
        self.outbox.queue_leave(request, &ClientRequest::Leave { room });
    }

    fn is_joined_on_server(&mut self, name: &str) -> bool {
        self.rooms.get_mut(name).is_some_and(|room| room.was_asked)
    }

    /// Removes a room, which is not joined again by itself. Returns its name and its last status.
    pub(super) fn forget(
        &mut self,
        name: &str,
        error: &ClientError,
    ) -> Option<(RoomId, RoomStatus)> {
        let (name, mut room) = self.rooms.remove(name)?;
        room.answer(&Err(error.clone()), &mut self.answers);
        self.sends.fail_room(name.as_str(), error, &mut self.answers);
        Some((name, room.status))
    }

    // The connection.

    /// The connection has had its welcome.
    pub(super) fn online(&mut self) {
        self.is_online = true;
        for room in self.rooms.names() {
            self.schedule_join(room.as_str());
        }
    }

    /// There is no connection. Requests fail with `error`; rooms and messages wait for the next.
    pub(super) fn offline(&mut self, error: &ClientError) {
        self.is_online = false;
        self.rooms.connection_lost();
        self.sends.connection_lost();
        self.outbox.fail_all(error, &mut self.answers);
    }

    /// No other connection will be opened.
    pub(super) fn close(&mut self, loss: Disconnect) {
        let error = ClientError::Closed { loss };
        self.offline(&error);
        self.rooms.fail_all(&error, &mut self.answers);
        self.sends.fail_all(&error, &mut self.answers);
    }

    /// Applies the user and the server's limits of a welcome. `is_named`: a token names the user.
    pub(super) fn set_welcome(&mut self, welcome: Welcome, is_named: bool) {
        if self.user_id().is_some_and(|before| before != welcome.user.id) {
            self.sends.user_changed(is_named, &mut self.answers);
        }
        self.outbox.limits = welcome.limits;
        self.welcome = Some(welcome);
    }

    // Time.

    /// Ends the pauses before what is tried again.
    pub(super) fn end_pauses(&mut self, now: Duration) {
        self.sends.end_pauses(now);
        for room in self.rooms.take_due(now) {
            self.schedule_join(room.as_str());
        }
    }

    /// Sends what may be sent now.
    pub(super) fn flush(&mut self, now: Duration) {
        if !self.is_online {
            return;
        }
        self.schedule_messages();
        // One turn at a time: each frame uses up some of the rates, and a message that is sent makes
        // way for the next of its room.
        while let Some((next, ready_at)) = self.next_turn(now)
            && ready_at.is_none_or(|at| at <= now)
        {
            self.take_turn(next, now);
            self.schedule_messages();
        }
    }

    /// When the next frame that waits for its turn may be sent.
    pub(super) fn flush_at(&self, now: Duration) -> Option<Duration> {
        if !self.is_online {
            return None;
        }
        let join = self.rooms.first_due().and_then(|_| self.outbox.join_ready_at());
        let next = self.next_turn(now).and_then(|(_, ready_at)| ready_at);
        join.filter(|at| *at > now).into_iter().chain(next).min()
    }

    /// When requests, rooms and messages time out, or a pause of theirs ends.
    pub(super) fn deadlines(&self) -> [Option<Duration>; 3] {
        [self.outbox.requests.deadline(), self.rooms.deadline(), self.sends.deadline()]
    }

    fn schedule_messages(&mut self) {
        let Self { sends, rooms, outbox, answers, .. } = self;
        sends.schedule(
            |room| rooms.get_mut(room).is_some_and(|room| room.is_in()),
            |room, sends::Content { text, data, key }| {
                let data = data.as_deref();
                // The message may have been queued under the limits of another connection.
                check_message(&outbox.limits, text, data)?;
                let content = Content { message: text.into(), data, key: Some(key.into()) };
                let frame = encode(&ClientRequest::Send { room: room.clone(), content });
                check_frame(&outbox.limits, frame.len() + ID_BYTES)?;
                Ok(Turn { number: outbox.next_turn_number(), frame })
            },
            answers,
        );
    }

    fn next_turn(&self, now: Duration) -> Option<(Next, Option<Duration>)> {
        self.outbox.next(self.rooms.first_due(), self.sends.first_due(), now)
    }

    fn take_turn(&mut self, next: Next, now: Duration) {
        let id = self.outbox.requests.next_id();
        match next {
            Next::Call(index) => self.outbox.send_call(index, now),
            Next::Join(name) => {
                let Some(room) = self.rooms.get_mut(name.as_str()) else { return };
                room.ask(id);
                let since = room.track.position();
                let history = room.history();
                let frame = encode(&ClientRequest::Join { room: name.clone(), since, history });
                self.outbox.send_join(name, &frame, now);
            }
            Next::Send(room) => {
                if let Some(frame) = self.sends.dispatch(room.as_str(), id, now) {
                    self.outbox.send_request(Request::Send(room), &frame, now);
                }
            }
        }
    }
}

fn room_id(name: &str) -> Result<RoomId, ClientError> {
    RoomId::new(name).map_err(|_| ClientError::RoomName)
}

fn next_request(last: &mut u64) -> RequestId {
    *last += 1;
    RequestId(*last)
}
