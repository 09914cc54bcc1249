//! What the application asks of its client.

use chat_core::Range;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backoff::later;
use super::error::ClientError;
use super::events::{History, Joined, Members, Sent};
use super::frames::Outgoing;
use super::requests::{Reply, Request};
use super::rooms::Place;
use super::sends::Send;
use super::task::Task;

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

#[derive(Debug)]
pub(super) struct Content {
    pub(super) message: String,
    pub(super) data: Option<Box<RawValue>>,
    pub(super) key: String,
}

impl Task {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Join { room, history, reply } => self.join(&room, history, reply),
            Command::Leave { room, reply } => self.leave(&room, reply),
            Command::Send { room, content, reply } => self.send(&room, content, reply),
            Command::Direct { to, message, data, reply } => {
                let data = data.as_deref();
                self.ask(Request::Direct(reply), |id| Outgoing::Direct {
                    id,
                    to: &to,
                    message: &message,
                    data,
                });
            }
            Command::Typing { room, typing, reply } => {
                let _ = reply.send(self.typing(&room, typing));
            }
            Command::Members { room, reply } => {
                self.ask(Request::Members(reply), |id| Outgoing::Members { id, room: &room });
            }
            Command::History { room, range, limit, reply } => {
                let (before, after) = match range {
                    Range::Before(offset) => (Some(offset), None),
                    Range::After(offset) => (None, Some(offset)),
                    Range::Latest => (None, None),
                };
                self.ask(Request::History(reply), |id| Outgoing::History {
                    id,
                    room: &room,
                    before,
                    after,
                    limit,
                });
            }
            // The loop's business.
            Command::Close(_) => {}
        }
    }

    fn join(&mut self, name: &str, history: u32, reply: Reply<Joined>) {
        let deadline = later(self.config.request_timeout);
        let room = self.rooms.get_or_add(name, history);
        if room.is_in() {
            self.ask(Request::JoinAgain(reply), |id| Outgoing::Join {
                id,
                room: name,
                since: None,
                history: None,
            });
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
        if self.forget(name, &ClientError::NotInRoom).is_none() {
            let _ = reply.send(Err(ClientError::NotInRoom));
        } else if self.is_online() {
            self.ask(Request::Leave(reply), |id| Outgoing::Leave { id, room: name });
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
        self.ask(Request::Leave(reply), |id| Outgoing::Leave { id, room: name });
    }

    /// Is no longer in a room, and will not be by itself. Gives its place.
    pub(super) fn forget(&mut self, name: &str, error: &ClientError) -> Option<Place> {
        let mut room = self.rooms.remove(name)?;
        room.answer(&Err(error.clone()));
        self.sends.fail_room(name, error);
        Some(room.place)
    }

    fn send(&mut self, room: &str, content: Content, reply: Reply<Sent>) {
        if self.rooms.get_mut(room).is_none() {
            let _ = reply.send(Err(ClientError::NotInRoom));
            return;
        }
        let Content { message, data, key } = content;
        let deadline = later(self.config.send_timeout);
        self.sends.push(room, Send::new(message, data, key, deadline, reply));
    }

    /// Puts on the wire what may go.
    pub(super) fn flush(&mut self, now: Instant) {
        for name in self.sends.rooms() {
            if self.rooms.get_mut(&name).is_some_and(|room| room.is_in()) {
                while self.flush_next(&name, now) {}
            }
        }
    }

    /// Returns whether the next one of the room may be tried.
    fn flush_next(&mut self, room: &str, now: Instant) -> bool {
        let Some(send) = self.sends.next(room, now) else { return false };
        let (message, key) = (send.message.clone(), send.key.clone());
        let data = send.data.clone();
        let id = self.requests.add(Request::Send(room.to_owned()));
        let frame =
            Outgoing::Send { id, room, message: &message, data: data.as_deref(), key: &key };
        match self.post(&frame) {
            Ok(()) => {
                if let Some(send) = self.sends.next(room, now) {
                    send.dispatched(id);
                }
                false
            }
            Err(error) => {
                self.requests.take(id);
                self.sends.give_up(room, error);
                true
            }
        }
    }

    fn typing(&mut self, name: &str, typing: bool) -> Result<(), ClientError> {
        let room = self.rooms.get_mut(name).ok_or(ClientError::NotInRoom)?;
        let is_news = room.is_in() && room.types(typing, Instant::now());
        if is_news && self.is_fluent() {
            self.post(&Outgoing::Typing { room: name, typing })?;
        }
        Ok(())
    }

    /// Sends a request that one caller waits for.
    fn ask<'a>(&mut self, request: Request, frame: impl FnOnce(u64) -> Outgoing<'a>) {
        if !self.is_online() {
            request.fail(ClientError::Offline);
        } else if self.requests.called() >= self.config.send_queue {
            request.fail(ClientError::QueueFull);
        } else {
            let id = self.requests.add(request);
            if let Err(error) = self.post(&frame(id))
                && let Some(request) = self.requests.take(id)
            {
                request.fail(error);
            }
        }
    }
}
