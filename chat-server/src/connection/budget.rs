//! The cost of a frame, and the wait until the client's budgets cover it.

use chat_core::{Command, ErrorCode, Rejection, Request, RoomId};
use chat_transport::Session;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::Connection;
use crate::limits::{Charge, Cost, RateLimited, Resource, Wait};
use crate::throttled::Measure;

/// Memory in Redis for the history and the position of a new room, in bytes (measured with Redis 7.0,
/// for the longest names).
const NEW_ROOM_BYTES: usize = 1_600;

/// Memory in Redis for a message, in bytes, in addition to its text, its data and its names.
const MESSAGE_BYTES: usize = 60;

/// Memory in Redis for the record of an idempotency key, in bytes, in addition to its names.
const KEY_BYTES: usize = 200;

impl Connection {
    /// Decodes a frame and charges its cost. The caller carries out or rejects the frame after the
    /// returned wait.
    ///
    /// Not an `async fn`: the task would keep its local variables while the frame is carried out.
    pub(super) fn admit<'a>(
        &mut self,
        text: &'a str,
    ) -> (Result<Request<'a>, Rejection>, Option<Wait>) {
        let decoded = self.decode(text);
        let command = decoded.as_ref().ok().map(|request| &request.command);
        let cost = self.cost(text.len(), command);
        let charge = if command.is_some_and(is_exempt) {
            self.limiter.take_unrefused(&self.state.limits, cost)
        } else {
            self.limiter.take(&self.state.limits, cost)
        };
        match (decoded, charge.refused) {
            (Ok(Request { id, .. }), Some(refused)) => {
                (Err(self.rate_limited(refused).to_request(id)), charge.wait)
            }
            (decoded, _) => (decoded, charge.wait),
        }
    }

    /// Returns the frame after the wait; `None` if the connection was closed in between: a user who
    /// is banned during the wait must not publish what was read before the ban.
    pub(super) async fn delay_frame<'a, S>(
        &mut self,
        session: &mut Session<S>,
        wait: Wait,
        admitted: Result<Request<'a>, Rejection>,
    ) -> Option<Result<Request<'a>, Rejection>>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.wait_for_budget(session, wait).await;
        (!self.member.is_closed()).then_some(admitted)
    }

    /// Charges for the join of the room in the URL as for a `join` frame.
    pub(super) fn charge_join(&mut self) -> Charge {
        let cost = Cost::frame(0).and(Resource::Joins, 1).and(Resource::Answered, 1);
        self.limiter.take(&self.state.limits, cost)
    }

    /// Waits until the client's budgets cover a frame. The socket is not read during the wait: TCP
    /// slows the client down, and its frames keep their order.
    pub(super) async fn wait_for_budget<S>(&mut self, session: &mut Session<S>, wait: Wait)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.throttled(wait.limit(), Measure::Wait(wait.time));
        session.drive(self.wait_for(sleep(wait.time))).await;
    }

    /// The answer to a frame whose wait would exceed `max_wait`.
    pub(super) fn rate_limited(
        &self,
        RateLimited { limit, retry_after }: RateLimited,
    ) -> Rejection {
        self.throttled(limit, Measure::Refusal);
        let message = "The rate limit is exceeded, and the request was not carried out. Send it again after retry_after_ms.";
        // Rounded up: a client that retries exactly then must not be rejected as too early.
        let retry_after_ms = retry_after.as_millis() as u64 + 1;
        Rejection::new(ErrorCode::RateLimited, message).retry_after_ms(retry_after_ms)
    }

    fn throttled(&self, limit: &'static str, measure: Measure) {
        self.state.metrics.limited(limit);
        let (user, address) = (self.known_user(), self.address());
        self.state.client_lines.throttled.count(limit, measure, user, self.name(), address);
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

    /// Memory that a message adds to Redis, in bytes.
    fn kept_bytes(&self, command: &Command<'_>) -> usize {
        let Some((room, bytes)) = self.message_bytes(command) else { return 0 };
        let key = match command {
            Command::Send { content, .. } => content.key.as_deref(),
            _ => None,
        };
        let new_room = if self.may_be_new(command) { NEW_ROOM_BYTES } else { 0 };
        match self.joined_room(room) {
            Some(joined) if joined.room_bytes == 0 => 0,
            // A room keeps `room_bytes` at most. Once this connection has added as much, each of its
            // messages evicts an older one, and Redis grows no further.
            Some(joined) => {
                let added = bytes.min(joined.room_bytes - joined.kept_bytes);
                new_room + added + key.map_or(0, |key| self.kept_key(room, key))
            }
            None => self.state.hub.retention(room).map_or(0, |_| new_room + bytes),
        }
    }

    /// Whether a message may be the first of its room. The new room is charged before the message is
    /// published and refunded if the answer shows another offset: a client that closes before the
    /// answer would otherwise create rooms for free.
    pub(super) fn may_be_new(&self, command: &Command<'_>) -> bool {
        let Some((room, _)) = self.message_bytes(command) else { return false };
        match self.joined_room(room) {
            Some(joined) => joined.room_bytes > 0 && joined.may_be_new,
            None => {
                matches!(command, Command::Send { members_only: false, .. })
                    && self.state.hub.retention(room).is_some()
            }
        }
    }

    /// Counts a charged message as added to its room.
    pub(super) fn count_kept(&mut self, command: &Command<'_>) {
        let Some((room, bytes)) = self.message_bytes(command) else { return };
        let index = self.rooms.iter().position(|joined| joined.room == *room);
        if let Some(joined) = index.and_then(|index| self.rooms.get_mut(index)) {
            joined.kept_bytes = joined.room_bytes.min(joined.kept_bytes + bytes);
            joined.may_be_new = false;
        }
    }

    /// The room of a message, and its bytes in the history.
    fn message_bytes<'a>(&'a self, command: &'a Command<'_>) -> Option<(&'a RoomId, usize)> {
        let Command::Send { room, content, .. } = command else { return None };
        let room = room.as_ref().or(self.current())?;
        let data = content.data.map_or(0, |data| data.get().len());
        let bytes = content.message.len() + data;
        let user = &self.member.user;
        Some((room, bytes + MESSAGE_BYTES + user.id.as_str().len() + user.name.as_str().len()))
    }

    /// Memory in Redis for the record of a message's idempotency key, in bytes.
    fn kept_key(&self, room: &RoomId, key: &str) -> usize {
        let names = [room.as_str(), self.member.user.id.as_str(), key];
        KEY_BYTES + names.into_iter().map(percent_encoded_len).sum::<usize>()
    }

    /// Gives back the charge for a new room: the room had a history already.
    pub(super) fn refund_room(&mut self) {
        let room = Cost::default().and(Resource::Kept, NEW_ROOM_BYTES);
        self.limiter.give_back(room);
    }

    /// Charges for an answer whose size was unknown before it was sent.
    pub(super) fn charge_answer(&mut self, bytes: usize) {
        self.limiter.debit(&self.state.limits, Cost::default().and(Resource::Answered, bytes));
    }
}

/// Whether a command is exempt from rejection: a client must be able to leave, authenticate and
/// ping even if the budgets of its user are used up.
fn is_exempt(command: &Command<'_>) -> bool {
    matches!(command, Command::Ping | Command::Hello(_) | Command::Leave { .. })
}

/// The length of a name in a Redis key, in bytes.
fn percent_encoded_len(name: &str) -> usize {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}
