//! Publishing messages to rooms and users.

use chat_core::{Command, Content, ErrorCode, Rejection, RequestRef, RoomId, Sender, UserId};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::held::{HeldMessage, Recipient};
use super::refused::Refused;
use super::{Connection, InFlight};
use crate::auth::Action;
use crate::error::unavailable;
use crate::service::send::{self, Outgoing};

/// A permitted command. Messages are the hot path: they are published without a boxed future.
pub(super) enum Permitted<'a> {
    Message(Outgoing),
    /// A message that a hook decides on, or that is behind one.
    Held(Box<HeldMessage>),
    Other(Command<'a>),
}

impl Connection {
    /// Encodes the message of a command that sends one, or asks a hook about it; returns other commands
    /// unchanged.
    pub(super) fn prepare<'a>(
        &self,
        id: Option<&RawValue>,
        frame: &str,
        command: Command<'a>,
    ) -> Result<Permitted<'a>, Rejection> {
        // Not before the match: it checks the colour of the user, and most commands need no sender.
        let user = || self.member.user.as_sender();
        let outgoing = match command {
            Command::Send { room, content, members_only } => {
                let room = room.or_else(|| self.current().cloned()).ok_or_else(not_in_a_room)?;
                if members_only {
                    self.must_be_in(&room)?;
                }
                if self.must_hold(Action::send(&room)) {
                    let to = Recipient::Room { room, members_only };
                    return Ok(Permitted::Held(self.ask(id, to, content)?));
                }
                Outgoing::to_room(&self.state, room, user(), &content)?
            }
            Command::Direct { to, content } => {
                if self.must_hold(Action::direct(&to)) {
                    let to = Recipient::User { to, frame: frame.to_owned() };
                    return Ok(Permitted::Held(self.ask(id, to, content)?));
                }
                self.direct(id, to, user(), &content, frame)?
            }
            command => return Ok(Permitted::Other(command)),
        };
        Ok(Permitted::Message(outgoing))
    }

    /// Encodes a direct message: `frame`, which has `content`.
    pub(super) fn direct(
        &self,
        id: Option<&RawValue>,
        to: UserId,
        user: Sender<'_>,
        content: &Content<'_>,
        frame: &str,
    ) -> Result<Outgoing, Rejection> {
        let session = self.state.session_name(self.id);
        let id = id.map_or("", RawValue::get);
        let request = self.member.is_native().then(|| RequestRef::new(&session, id));
        Outgoing::to_user(&self.state, to, user, content, frame, request)
    }

    pub(super) fn must_be_in(&self, room: &RoomId) -> Result<(), Rejection> {
        if self.joined_room(room).is_some() { Ok(()) } else { Err(not_in_a_room()) }
    }

    /// Hands a message to the broker. [`progress`](Connection::progress) receives the outcome; the next
    /// frame does not wait for it.
    pub(super) async fn publish(
        &mut self,
        id: Option<&RawValue>,
        message: Outgoing,
        is_new_room: bool,
    ) {
        let (started, topic) = (Instant::now(), message.topic().clone());
        match send::publish(&self.state, message).await {
            Ok(receipt) => {
                let id = id.map(ToOwned::to_owned);
                // Most clients have one message in flight, and the queue would grow to four at first.
                self.in_flight.reserve_exact(usize::from(self.in_flight.capacity() == 0));
                self.in_flight.push_back(InFlight { id, receipt, started, topic, is_new_room });
            }
            Err(error) => {
                self.state.metrics.not_published();
                self.reject(&Refused::message(&topic), &unavailable(&error).to_request(id));
            }
        }
    }
}

pub(super) fn not_in_a_room() -> Rejection {
    Rejection::new(ErrorCode::NotInRoom, "Join the room first.")
}
