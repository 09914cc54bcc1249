//! What the application asks of its client.

use chat_core::Range;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backoff::later;
use super::error::ClientError;
use super::events::{History, Joined, Members, Sent};
use super::frames::Outgoing;
use super::limits::check_room;
use super::requests::{Reply, Request};
use super::rooms::Place;
use super::sends::Content;
use super::task::Task;
use super::turns::Turn;

/// A call of a handle.
#[derive(Debug)]
pub(super) enum Command {
    Join { room: String, history: u32, reply: Reply<Joined> },
    Leave { room: String, reply: Reply<()> },
    Send { room: String, content: Content, reply: Reply<Sent> },
    Direct { to: String, message: String, data: Option<Box<RawValue>>, reply: Reply<u32> },
    Typing { room: String, typing: bool, reply: Reply<()> },
    Members { room: String, reply: Reply<Members> },
    History { room: String, range: Range, limit: Option<u32>, reply: Reply<History> },
    Close(Reply<()>),
}

/// A request of the application that waits for its turn.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) turn: Turn,
}

impl Task {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Join { room, history, reply } => match check_room(&room) {
                Ok(()) => self.join(&room, history, reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Leave { room, reply } => self.leave(&room, reply),
            Command::Send { room, content, reply } => self.send(&room, content, reply),
            Command::Direct { to, message, data, reply } => {
                let data = data.as_deref();
                let checked = self.limits.check_message(&message, data);
                let frame = Outgoing::Direct { to: &to, message: &message, data };
                self.ask_checked(checked, Request::Direct(reply), &frame);
            }
            Command::Typing { room, typing, reply } => {
                let _ = reply.send(self.typing(&room, typing));
            }
            Command::Members { room, reply } => {
                let frame = Outgoing::Members { room: &room };
                self.ask_checked(check_room(&room), Request::Members(reply), &frame);
            }
            Command::History { room, range, limit, reply } => {
                let (before, after) = match range {
                    Range::Before(offset) => (Some(offset), None),
                    Range::After(offset) => (None, Some(offset)),
                    Range::Latest => (None, None),
                };
                let frame = Outgoing::History { room: &room, before, after, limit };
                self.ask_checked(check_room(&room), Request::History(reply), &frame);
            }
            // The loop's business.
            Command::Close(_) => {}
        }
    }

    fn ask_checked(
        &mut self,
        checked: Result<(), ClientError>,
        request: Request,
        frame: &Outgoing<'_>,
    ) {
        match checked {
            Ok(()) => self.ask(request, frame),
            Err(error) => request.fail(error),
        }
    }

    fn join(&mut self, name: &str, history: u32, reply: Reply<Joined>) {
        let deadline = later(self.config.request_timeout);
        let room = self.rooms.get_or_add(name, history);
        if room.is_in() {
            let frame = Outgoing::Join { room: name, since: None, history: None };
            self.ask(Request::JoinAgain(reply), &frame);
            return;
        }
        if room.waiting() >= self.config.send_queue.max(1) {
            let _ = reply.send(Err(ClientError::QueueFull));
            return;
        }
        room.wait(deadline, reply);
        if room.place == Place::Out && self.is_online() {
            self.enter(name);
        }
    }

    fn leave(&mut self, name: &str, reply: Reply<()>) {
        let was_asked = self.rooms.get_mut(name).is_some_and(|room| room.was_asked);
        if self.forget(name, &ClientError::NotInRoom).is_none() {
            let _ = reply.send(Err(ClientError::NotInRoom));
        } else if was_asked {
            self.ask(Request::Leave(reply), &Outgoing::Leave { room: name });
        } else {
            let _ = reply.send(Ok(()));
        }
    }

    /// A room that nobody waits for any more.
    pub(super) fn give_up(&mut self, name: &str) {
        let (reply, _) = oneshot::channel();
        self.leave(name, reply);
    }

    /// Has the server forget that the client is in a room, if it is.
    pub(super) fn step_out(&mut self, name: &str) {
        let (reply, _) = oneshot::channel();
        self.ask(Request::Leave(reply), &Outgoing::Leave { room: name });
    }

    /// Is no longer in a room, and will not be by itself. Gives its place.
    pub(super) fn forget(&mut self, name: &str, error: &ClientError) -> Option<Place> {
        let mut room = self.rooms.remove(name)?;
        room.answer(&Err(error.clone()));
        self.sends.fail_room(name, error);
        Some(room.place)
    }

    fn send(&mut self, room: &str, content: Content, reply: Reply<Sent>) {
        let checked = match self.rooms.get_mut(room) {
            Some(_) => self.limits.check_message(&content.message, content.data.as_deref()),
            None => Err(ClientError::NotInRoom),
        };
        match checked {
            Ok(()) => self.sends.push(room, content, reply),
            Err(error) => {
                // The place is free before the caller gets the error, and may send again.
                drop(content);
                let _ = reply.send(Err(error));
            }
        }
    }

    /// A typing state does not wait for its turn: the next key stroke sends the same.
    fn typing(&mut self, name: &str, typing: bool) -> Result<(), ClientError> {
        let now = Instant::now();
        let frame = Outgoing::Typing { room: name, typing }.encode();
        let may_leave = self.is_fluent()
            && self.flush_at().is_none()
            && self.pace.ready_at(frame.len()).is_none_or(|at| at <= now);
        let room = self.rooms.get_mut(name).ok_or(ClientError::NotInRoom)?;
        if may_leave && room.is_in() && room.types(typing, now) {
            self.write(frame);
        }
        Ok(())
    }
}
