//! Publishing messages to rooms and users.

use bytes::Bytes;
use chat_broker::{PublishOptions, unix_millis};
use chat_core::{
    Command, Content, Direct, ErrorCode, Event, Rejection, RequestRef, RoomId, Topic, envelope,
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Connection, InFlight, unavailable};

/// A message, ready to be published.
pub(super) struct Outgoing {
    topic: Topic,
    payload: Bytes,
    options: PublishOptions,
}

/// A permitted command. Messages are the hot path: they are published without a boxed future.
pub(super) enum Permitted<'a> {
    Message(Outgoing),
    Other(Command<'a>),
}

impl Connection {
    /// Encodes the message of a command that sends one; returns other commands unchanged.
    pub(super) fn prepare<'a>(
        &self,
        id: Option<&RawValue>,
        frame: &str,
        command: Command<'a>,
    ) -> Result<Permitted<'a>, Rejection> {
        let outgoing = match command {
            Command::Send { room, content, members_only } => {
                let room = room.or_else(|| self.current.clone()).ok_or_else(not_in_a_room)?;
                if members_only {
                    self.must_be_in(&room)?;
                }
                self.to_room(room, &content)?
            }
            Command::Direct { to, content } => {
                self.check(&content)?;
                let user = self.member.user.as_sender();
                let session = self.state.session_name(self.id);
                let request = self
                    .member
                    .is_native()
                    .then(|| RequestRef::new(&session, id.map_or("", RawValue::get)));
                let direct = Direct::new(user, frame, unix_millis()).request(request);
                let payload = envelope::encode(&Event::Direct(direct));
                let options = PublishOptions::default();
                Outgoing { topic: Topic::User(to), payload, options }
            }
            command => return Ok(Permitted::Other(command)),
        };
        Ok(Permitted::Message(outgoing))
    }

    fn to_room(&self, room: RoomId, content: &Content<'_>) -> Result<Outgoing, Rejection> {
        self.check(content)?;
        let (rules, user) = (&self.state.config.hub.history, self.member.user.as_sender());
        let (payload, options) = rules.prepare(&room, user, content);
        Ok(Outgoing { topic: Topic::Room(room), payload, options })
    }

    fn check(&self, content: &Content<'_>) -> Result<(), Rejection> {
        let limit = self.state.config.max_message_bytes;
        let data = content.data.map_or(0, |data| data.get().len());
        if content.message.len() > limit || data > limit {
            let message =
                format!("A message has at most {limit} bytes of text and {limit} bytes of data.");
            return Err(Rejection::new(ErrorCode::MessageTooLong, message));
        }
        Ok(())
    }

    pub(super) fn must_be_in(&self, room: &RoomId) -> Result<(), Rejection> {
        if self.joined_room(room).is_some() { Ok(()) } else { Err(not_in_a_room()) }
    }

    /// Hands a message to the broker. [`answer`](Connection::answer) receives the outcome; the next
    /// frame does not wait for it.
    pub(super) async fn publish(
        &mut self,
        id: Option<&RawValue>,
        message: Outgoing,
        is_new_room: bool,
    ) {
        let (started, Outgoing { topic, payload, options }) = (Instant::now(), message);
        self.state.metrics.published();
        match self.state.hub.broker().publish(&topic, payload, options).await {
            Ok(receipt) => {
                let direct = matches!(topic, Topic::User(_));
                let id = id.map(ToOwned::to_owned);
                // Most clients have one message in flight, and the queue would grow to four at first.
                self.in_flight.reserve_exact(usize::from(self.in_flight.capacity() == 0));
                self.in_flight.push_back(InFlight { id, receipt, started, direct, is_new_room });
            }
            Err(error) => self.reject(&unavailable(&error).to_request(id)),
        }
    }
}

pub(super) fn not_in_a_room() -> Rejection {
    Rejection::new(ErrorCode::NotInRoom, "Join the room first.")
}
