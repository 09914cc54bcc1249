//! What a frame costs, and waiting until the client's budgets cover it.

use chat_core::{Command, Content, ErrorCode, Position, Rejection, RoomId};
use chat_transport::Session;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Instant, sleep_until};

use super::Connection;
use crate::limits::{Charge, Cost, Resource, Wait};

/// What Redis takes for the history of a room that is new there, in bytes: most of it is the
/// first block of a stream (measured with Redis 7.0).
const NEW_ROOM: usize = 5_600;

/// What Redis takes for a message beside its text, its data and the names in it.
const MESSAGE: usize = 60;

/// What Redis takes for the record of a key beside the names in it.
const KEY: usize = 200;

impl Connection {
    /// Waits until the client's budgets cover a frame. Meanwhile nothing is read from the client:
    /// TCP slows it down, and what it has sent keeps its order.
    ///
    /// # Errors
    /// The user or the address has used up so much that the frame would wait for longer than the
    /// client should.
    pub(super) async fn pay<S>(
        &mut self,
        session: &mut Session<S>,
        cost: Cost,
    ) -> Result<(), Rejection>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let Charge { wait, refused } = self.limiter.take(&self.state.limits, cost);
        if !wait.time.is_zero() {
            self.state.metrics.limited(wait.limit);
            // Boxed: few wait.
            Box::pin(session.drive(self.pause(wait.time))).await;
        }
        refused.map_or(Ok(()), |refused| Err(self.too_much(refused)))
    }

    /// Goes on answering and obeys sanctions, and reads nothing.
    async fn pause(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let member = self.member.clone();
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = self.answer(), if !self.in_flight.is_empty() => {}
                is_notified = member.interrupted() => match is_notified {
                    true => self.look_around(),
                    false => return,
                },
            }
        }
    }

    fn too_much(&self, Wait { limit, time }: Wait) -> Rejection {
        self.state.metrics.limited(limit);
        let message = "Your user or your address does too much: this was not carried out.";
        // Rounded up: who comes back then is not too early.
        let retry_after_ms = Some(time.as_millis() as u64 + 1);
        Rejection { retry_after_ms, ..Rejection::new(ErrorCode::RateLimited, message) }
    }

    /// What a frame of so many bytes costs; without a command it cannot be read.
    pub(super) fn cost(&mut self, bytes: usize, command: Option<&Command<'_>>) -> Cost {
        let frame = Cost::frame(bytes);
        match command {
            Some(Command::Join { .. } | Command::Switch { .. } | Command::Subscribe { .. }) => {
                frame.and(Resource::Joins, 1).and(Resource::Answered, 1)
            }
            Some(Command::Members { .. } | Command::History { .. }) => {
                frame.and(Resource::Answered, 1)
            }
            Some(Command::Kick(_) | Command::Ban { .. } | Command::Unban { .. }) => {
                frame.and(Resource::Sanctions, 1)
            }
            Some(Command::Send { room, content }) => {
                let data = content.data.map_or(0, |data| data.get().len());
                let kept = self.kept_bytes(room, content.message.len() + data);
                frame.and(Resource::Kept, kept + self.kept_key(room, content))
            }
            Some(Command::Say { message }) => {
                let room = self.current.clone();
                let kept = room.map_or(0, |room| self.kept_bytes(&room, message.len()));
                frame.and(Resource::Kept, kept)
            }
            Some(Command::Post { room, message }) => {
                frame.and(Resource::Kept, self.kept_bytes(room, message.len()))
            }
            _ => frame,
        }
    }

    /// What a message of so many bytes adds to a room's history: nothing any more once as much as
    /// the room keeps came from this connection, since it replaces other messages then.
    fn kept_bytes(&mut self, room: &RoomId, bytes: usize) -> usize {
        let Some(retention) = self.state.hub.retention(room) else { return 0 };
        let user = &self.member.user;
        let bytes = bytes + MESSAGE + user.id.as_str().len() + user.name.as_str().len();
        let Some(place) = self.places.iter_mut().find(|place| place.room == *room) else {
            return bytes;
        };
        let added = bytes.min(retention.bytes.saturating_sub(place.kept_bytes));
        place.kept_bytes += added;
        added
    }

    /// What Redis takes for the record of a message's key.
    fn kept_key(&self, room: &RoomId, content: &Content<'_>) -> usize {
        let Some(key) = content.key.as_deref() else { return 0 };
        if self.state.hub.retention(room).is_none() {
            return 0;
        }
        let names = [room.as_str(), self.member.user.id.as_str(), key];
        KEY + names.into_iter().map(percent_encoded_len).sum::<usize>()
    }

    /// The broker has kept a message: the first of a room costs more than itself.
    pub(super) fn pay_for_room(&mut self, position: Option<Position>) {
        if position.is_some_and(|position| position.offset == 1) {
            self.limiter.debit(&self.state.limits, Cost::default().and(Resource::Kept, NEW_ROOM));
        }
    }

    /// An answer has turned out to be so large.
    pub(super) fn pay_for_answer(&mut self, bytes: usize) {
        self.limiter.debit(&self.state.limits, Cost::default().and(Resource::Answered, bytes));
    }
}

/// The length of a name in a key of Redis.
fn percent_encoded_len(name: &str) -> usize {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if is_plain(byte) { 1 } else { 3 }).sum()
}
