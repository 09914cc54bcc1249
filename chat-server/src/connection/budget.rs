//! What a frame costs, and waiting until the client's budgets cover it.

use chat_core::{Command, ErrorCode, Rejection, Request, RoomId};
use chat_transport::Session;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Instant, sleep_until};

use super::Connection;
use crate::limits::{Charge, Cost, Refusal, Resource, Wait};

/// What Redis takes for the history of a room that is new there, in bytes: most of it is the
/// first block of a stream (measured with Redis 7.0).
const NEW_ROOM_BYTES: usize = 5_600;

/// What Redis takes for a message beside its text, its data and the names in it.
const MESSAGE_BYTES: usize = 60;

/// What Redis takes for the record of a key beside the names in it.
const KEY_BYTES: usize = 200;

impl Connection {
    /// Reads a frame, and takes what it costs from the client's budgets. The frame is to be carried
    /// out, or refused, after the wait.
    ///
    /// No `async fn`: what it works with would stand in the task while the frame is carried out.
    pub(super) fn admit<'a>(
        &mut self,
        text: &'a str,
    ) -> (Result<Request<'a>, Rejection>, Option<Wait>) {
        let decoded = self.decode(text);
        let command = decoded.as_ref().ok().map(|request| &request.command);
        let cost = self.cost(text.len(), command);
        let charge = if command.is_some_and(is_unrefused) {
            self.limiter.take_unrefused(&self.state.limits, cost)
        } else {
            self.limiter.take(&self.state.limits, cost)
        };
        match (decoded, charge.refused) {
            (Ok(Request { id, .. }), Some(refused)) => {
                (Err(self.too_much(refused).to_request(id)), charge.wait)
            }
            (decoded, _) => (decoded, charge.wait),
        }
    }

    /// Waits, and returns the frame; `None` if the connection was closed by then, so that a user who
    /// is banned during the wait sends nothing more.
    pub(super) async fn wait_with<'a, S>(
        &mut self,
        session: &mut Session<S>,
        wait: Wait,
        admitted: Result<Request<'a>, Rejection>,
    ) -> Option<Result<Request<'a>, Rejection>>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.wait_out(session, wait).await;
        (!self.member.is_closed()).then_some(admitted)
    }

    /// Takes what a room costs that the URL names.
    pub(super) fn charge_join(&mut self) -> Charge {
        let cost = Cost::frame(0).and(Resource::Joins, 1).and(Resource::Answered, 1);
        self.limiter.take(&self.state.limits, cost)
    }

    /// Waits until the client's budgets cover a frame. Meanwhile nothing is read from the client:
    /// TCP slows it down, and what it has sent keeps its order.
    pub(super) async fn wait_out<S>(&mut self, session: &mut Session<S>, wait: Wait)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.state.metrics.limited(wait.limit());
        session.drive(self.pause(wait.time)).await;
    }

    /// Sends answers, enforces sanctions and the end of the client's token, and reads nothing.
    async fn pause(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let member = self.member.clone();
        loop {
            let ends = self.ends.at().filter(|ends| *ends < until);
            tokio::select! {
                () = sleep_until(ends.unwrap_or(until)) => match ends {
                    Some(_) => self.run_out_of_time(),
                    None => return,
                },
                () = self.answer(), if !self.in_flight.is_empty() => {}
                is_notified = member.interrupted() => match is_notified {
                    true => self.check_sanctions(),
                    false => return,
                },
            }
        }
    }

    /// The answer to a frame that would wait for longer than a client should.
    pub(super) fn too_much(&self, Refusal { limit, retry_after }: Refusal) -> Rejection {
        self.state.metrics.limited(limit);
        let message = "This is too much in too short a time, and was not carried out.";
        // Rounded up: a client that comes back then is not too early.
        let retry_after_ms = retry_after.as_millis() as u64 + 1;
        Rejection::new(ErrorCode::RateLimited, message).retry_after_ms(retry_after_ms)
    }

    fn cost(&self, bytes: usize, command: Option<&Command<'_>>) -> Cost {
        let frame = Cost::frame(bytes);
        match command {
            Some(Command::Join(_)) => frame.and(Resource::Joins, 1).and(Resource::Answered, 1),
            Some(Command::Members { .. } | Command::History { .. }) => {
                frame.and(Resource::Answered, 1)
            }
            Some(Command::Kick(_) | Command::Ban { .. } | Command::Unban { .. }) => {
                frame.and(Resource::Sanctions, 1)
            }
            Some(command) => frame.and(Resource::Kept, self.kept_bytes(command)),
            None => frame,
        }
    }

    /// What a message adds to Redis.
    fn kept_bytes(&self, command: &Command<'_>) -> usize {
        let Some((room, bytes)) = self.message_bytes(command) else { return 0 };
        let key = match command {
            Command::Send { content, .. } => content.key.as_deref(),
            _ => None,
        };
        let new_room = if self.may_be_new(command) { NEW_ROOM_BYTES } else { 0 };
        match self.joined_room(room) {
            Some(place) if place.room_bytes == 0 => 0,
            // Once as much as the room keeps came from this connection, it replaces other messages.
            Some(place) => {
                let added = bytes.min(place.room_bytes - place.kept_bytes);
                new_room + added + key.map_or(0, |key| self.kept_key(room, key))
            }
            None => self.state.hub.retention(room).map_or(0, |_| new_room + bytes),
        }
    }

    /// Whether a message may be the first of its room. It is paid for as such before it is sent,
    /// or a client that does not wait for the answer would have the room for nothing.
    pub(super) fn may_be_new(&self, command: &Command<'_>) -> bool {
        let Some((room, _)) = self.message_bytes(command) else { return false };
        match self.joined_room(room) {
            Some(place) => place.room_bytes > 0 && place.may_be_new,
            None => {
                matches!(command, Command::Send { members_only: false, .. })
                    && self.state.hub.retention(room).is_some()
            }
        }
    }

    /// A message that has been paid for counts as added to its room.
    pub(super) fn count_kept(&mut self, command: &Command<'_>) {
        let Some((room, bytes)) = self.message_bytes(command) else { return };
        let index = self.rooms.iter().position(|place| place.room == *room);
        if let Some(place) = index.and_then(|index| self.rooms.get_mut(index)) {
            place.kept_bytes = place.room_bytes.min(place.kept_bytes + bytes);
            place.may_be_new = false;
        }
    }

    /// The room of a message, and what it takes in a history.
    fn message_bytes<'a>(&'a self, command: &'a Command<'_>) -> Option<(&'a RoomId, usize)> {
        let Command::Send { room, content, .. } = command else { return None };
        let room = room.as_ref().or(self.current.as_ref())?;
        let data = content.data.map_or(0, |data| data.get().len());
        let bytes = content.message.len() + data;
        let user = &self.member.user;
        Some((room, bytes + MESSAGE_BYTES + user.id.as_str().len() + user.name.as_str().len()))
    }

    /// What Redis takes for the record of a message's key.
    fn kept_key(&self, room: &RoomId, key: &str) -> usize {
        let names = [room.as_str(), self.member.user.id.as_str(), key];
        KEY_BYTES + names.into_iter().map(percent_encoded_len).sum::<usize>()
    }

    /// A message that was paid for as the first of its room was none.
    pub(super) fn refund_room(&mut self) {
        let room = Cost::default().and(Resource::Kept, NEW_ROOM_BYTES);
        self.limiter.give_back(&self.state.limits, room);
    }

    /// An answer has turned out to be so large.
    pub(super) fn pay_for_answer(&mut self, bytes: usize) {
        self.limiter.debit(&self.state.limits, Cost::default().and(Resource::Answered, bytes));
    }
}

/// Whether a command is never refused: a client that ends something, says who it is or asks for a
/// sign of life must get through, whatever its user has used up.
fn is_unrefused(command: &Command<'_>) -> bool {
    matches!(command, Command::Ping | Command::Hello(_) | Command::Leave { .. })
}

/// The length of a name in a key of Redis.
fn percent_encoded_len(name: &str) -> usize {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}
