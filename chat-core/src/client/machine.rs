//! The machine: one connection after another, and on each a `hello` first.

use std::fmt;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::{CloseReason, Content, HistoryRange};

use super::config::Config;
use super::error::ClientError;
use super::events::{Disconnect, Event, State, Welcome};
use super::lifecycle::Lifecycle;
use super::output::{Action, Answer, RequestId};
use super::session::Session;
use super::token::TokenError;

/// How late a deadline may be noticed: a busy process is not as late as this.
const LATEST: Duration = Duration::from_secs(1);

/// A client without sockets and without a clock. See the [module](super) for how it is driven.
///
/// `now`, in all methods, is the time since a moment that the caller has fixed. An earlier one than
/// in a call before counts as the same.
pub struct Machine {
    client: Lifecycle,
    /// The time of the latest call.
    now: Duration,
    /// The deadline that the caller has been given, if it was in the future then.
    announced: Option<Duration>,
    /// Until then nothing runs out of time: the process did not run, and what the server sent
    /// in that time is read first.
    reprieve: Option<Duration>,
    reprieve_time: Duration,
    /// The server has not been read for a while, since events were waiting.
    is_stalled: bool,
}

/// Shows no tokens and no messages.
impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("state", self.state()).finish_non_exhaustive()
    }
}

/// The beginning, what the transport reports, and time.
impl Machine {
    /// Makes a machine that connects at once. `urls` are the addresses of servers that share
    /// their rooms: the first is tried first, and after a loss the next. `seed` is 32 random
    /// bytes, other ones for each machine: pauses and the keys of messages are made of them.
    ///
    /// # Errors
    /// [`ClientError::NoUrl`], [`ClientError::UserName`].
    pub fn new(
        config: Config,
        urls: Vec<String>,
        seed: [u8; 32],
        now: Duration,
    ) -> Result<Self, ClientError> {
        if urls.is_empty() {
            return Err(ClientError::NoUrl);
        }
        let reprieve_time = config.pong_timeout;
        let client = Lifecycle::new(config, urls, seed, now)?;
        let (announced, reprieve) = (None, None);
        Ok(Self { client, now, announced, reprieve, reprieve_time, is_stalled: false })
    }

    /// The connection is open.
    pub fn handle_connected(&mut self, now: Duration) {
        let now = self.begin(now);
        self.client.connected(now);
        self.settle(now);
    }

    /// The server sent a text frame. While [`wants_text`](Self::wants_text) is false, the server
    /// should not be read.
    ///
    /// # Errors
    /// The text is no frame of the protocol. It is ignored: if it was a message, the next one
    /// shows the hole.
    pub fn handle_text(&mut self, text: &str, now: Duration) -> Result<(), serde_json::Error> {
        let now = self.begin(now);
        let outcome = self.client.received(text, now);
        self.settle(now);
        outcome
    }

    /// The server showed a sign of life that is no text frame: a ping, a pong, or a part of a
    /// large frame, which may be long in coming on a slow line.
    pub fn handle_alive(&mut self, now: Duration) {
        let now = self.begin(now);
        self.client.link.alive(now);
        self.settle(now);
    }

    /// Whether the server has taken all that it was sent. A transport that cannot know need not
    /// report it; one that can reports `false` when a frame does not fit into the connection and
    /// each time that the server has taken a part of what waits, and `true` when nothing waits.
    /// A connection whose server takes nothing is ended, as that of a silent one.
    pub fn handle_writable(&mut self, writable: bool, now: Duration) {
        let now = self.begin(now);
        self.client.link.writable(writable, now);
        self.settle(now);
    }

    /// The connection has ended, or could not be opened. [`Disconnect::code`] is that of the server's
    /// close frame.
    pub fn handle_disconnected(&mut self, loss: Disconnect, now: Duration) {
        let now = self.begin(now);
        self.client.disconnected(loss, now);
        self.settle(now);
    }

    /// The outcome of [`Action::FetchToken`].
    pub fn handle_token(&mut self, token: Result<String, TokenError>, now: Duration) {
        let now = self.begin(now);
        self.client.token(token, now);
        self.settle(now);
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come. Called earlier it does no harm.
    pub fn handle_timeout(&mut self, now: Duration) {
        let now = self.begin(now);
        self.reprieve = self.reprieve.filter(|until| now < *until);
        if !self.is_closed() {
            if self.reprieve.is_none() {
                self.client.expire(now);
            }
            self.client.advance(self.wants_text(), now);
        }
        self.settle(now);
    }
}

/// Requests of the application. Each is an error at once, or has one
/// [answer](Machine::poll_answer). All fail with [`ClientError::Closed`] once the client is closed.
impl Machine {
    /// Joins a room: now, or once there is a connection, and again after each loss. The latest
    /// messages, as many as `history` says, are events after [`Event::Joined`]. In a room that
    /// the client is in already, the answer only says who is there.
    ///
    /// The answer is [`Answer::Joined`], or an error: the client is not in the room, and does not
    /// join it. There is no time limit: to stop waiting, [`leave`](Self::leave) the room, which
    /// fails the join as [`NotInRoom`](ClientError::NotInRoom). (A second join can also fail like
    /// any request; the client is in the room nevertheless.)
    ///
    /// # Errors
    /// [`RoomName`](ClientError::RoomName), [`QueueFull`](ClientError::QueueFull); and of a room
    /// that the client is in those of [`members`](Self::members).
    pub fn join(
        &mut self,
        room: &str,
        history: u32,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.join(room, history))
    }

    /// Leaves a room, however often it was joined. Messages that were not confirmed yet fail. The
    /// answer is [`Answer::Left`]; after an error the client has left, too: the server learns of
    /// it now or when the connection ends.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom).
    pub fn leave(&mut self, room: &str, now: Duration) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.leave(room))
    }

    /// Sends a message to a room that was joined, until the server has confirmed it: over as many
    /// connections as it takes, and within [`send_timeout`](Config::send_timeout). A text is a
    /// [`Content`]; its [`key`](Content#structfield.key) is the application's name for the message
    /// (128 bytes at most, and another one for each message of this user in this room), by default
    /// a random one.
    ///
    /// The answer is [`Answer::Sent`]; or [`OutcomeUnknown`](ClientError::OutcomeUnknown) if a
    /// server had the message and did not confirm it in time, or until the room was left or the
    /// client closed. After any other error it was not sent.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom), [`MessageTooLong`](ClientError::MessageTooLong),
    /// [`QueueFull`](ClientError::QueueFull).
    pub fn send<'a>(
        &mut self,
        room: &str,
        content: impl Into<Content<'a>>,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, now| session.send(room, content.into(), now))
    }

    /// Sends a message to all connections of one user, once. The answer is [`Answer::Direct`].
    /// Whether the message was sent is unknown after [`Disconnected`](ClientError::Disconnected),
    /// [`Timeout`](ClientError::Timeout) and a rejection as `broker_unavailable`.
    ///
    /// # Errors
    /// [`Offline`](ClientError::Offline), [`QueueFull`](ClientError::QueueFull),
    /// [`UserId`](ClientError::UserId), [`MessageTooLong`](ClientError::MessageTooLong),
    /// [`TooLarge`](ClientError::TooLarge).
    pub fn direct(
        &mut self,
        to: &str,
        text: &str,
        data: Option<&RawValue>,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.direct(to, text, data))
    }

    /// Reports to a room that the user types, or stopped. It may be called at each key stroke: the same
    /// is sent every two seconds at most, and not at all without a connection or while anything
    /// else waits to be sent, also for [`poll_action`](Self::poll_action). There is no answer.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom), [`Closed`](ClientError::Closed).
    pub fn typing(&mut self, room: &str, typing: bool, now: Duration) -> Result<(), ClientError> {
        let is_writable = self.client.link.is_writable();
        self.request(now, |session, now| session.typing(room, typing, is_writable, now))
    }

    /// Asks who is in a room. The answer is [`Answer::Members`].
    ///
    /// # Errors
    /// [`Offline`](ClientError::Offline), [`QueueFull`](ClientError::QueueFull),
    /// [`RoomName`](ClientError::RoomName).
    pub fn members(&mut self, room: &str, now: Duration) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.members(room))
    }

    /// Reads a page of a room's history, of `limit` messages at most, or as many as the server
    /// likes. The answer is [`Answer::History`].
    ///
    /// # Errors
    /// As [`members`](Self::members).
    pub fn history(
        &mut self,
        room: &str,
        range: HistoryRange,
        limit: Option<u32>,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.history(room, range, limit))
    }

    /// Ends the connection, for good. All requests that wait fail at once.
    pub fn close(&mut self, now: Duration) {
        if !self.is_closed() {
            let now = self.begin(now);
            let code = Some(CloseReason::Normal.code());
            self.client.end(Disconnect::with_code(code, "closed by the application"));
            self.settle(now);
        }
    }

    fn request<T>(
        &mut self,
        now: Duration,
        ask: impl FnOnce(&mut Session, Duration) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        if self.is_closed() {
            return Err(ClientError::Closed);
        }
        let now = self.begin(now);
        let outcome = ask(&mut self.client.session, now);
        self.settle(now);
        outcome
    }
}

/// What is to be done, and what has happened: poll these after each call of the others.
impl Machine {
    /// What the transport is to do next; `None`: nothing yet.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.client.session.outbox.actions.pop_front()
    }

    /// The answer to a request.
    pub fn poll_answer(&mut self) -> Option<(RequestId, Result<Answer, ClientError>)> {
        self.client.session.answers.pop()
    }

    /// What has happened. An application that is not ready for it leaves it where it is, and
    /// the server is [not read](Self::wants_text) until it is.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.client.session.events.pop()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, unless another call comes
    /// first; `None`: not before.
    ///
    /// A caller that is more than a second late has not run, or its machine slept: that is not the
    /// server's fault, whose answers may be in the socket. Nothing fails for it, and a server that
    /// is there has the time of a pong to show it.
    pub fn poll_timeout(&mut self) -> Option<Duration> {
        let deadline = self.deadline();
        self.is_stalled |= !self.wants_text();
        self.announced = deadline.filter(|due| *due > self.now);
        deadline
    }
}

/// What is the case.
impl Machine {
    /// How the client stands with its servers.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.client.state
    }

    /// What the server said at the beginning of the latest connection, or when it took the latest
    /// token.
    #[must_use]
    pub fn welcome(&self) -> Option<&Welcome> {
        self.client.session.welcome.as_ref()
    }

    /// Whether there will be no other connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether the server should be read. It should not while events wait for the application;
    /// but up to 1,024 may wait while the application itself waits for an answer.
    #[must_use]
    pub fn wants_text(&self) -> bool {
        let session = &self.client.session;
        session.events.has_room(session.awaits_answers())
    }
}

// How each call begins and ends.
impl Machine {
    fn begin(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        let was_late = |due: Duration| self.now.saturating_sub(due) > LATEST;
        if self.announced.take().is_some_and(was_late) && !self.is_closed() {
            self.reprieve = Some(self.now.saturating_add(self.reprieve_time));
            self.client.resume_after_stop(self.now);
        }
        if self.is_stalled && self.wants_text() {
            self.is_stalled = false;
            self.client.link.restart(self.now);
        }
        self.now
    }

    fn settle(&mut self, now: Duration) {
        self.client.session.flush(now);
    }

    fn deadline(&self) -> Option<Duration> {
        let Lifecycle { session, link, renewal, .. } = &self.client;
        if self.is_closed() {
            return None;
        }
        let is_read = self.wants_text();
        if is_read && self.is_stalled {
            // The time of the silent server begins again with the next call.
            return Some(self.now);
        }
        // Each by itself: what waits for the end of the reprieve holds back no pause that ends before.
        let expiries = session.deadlines().map(|due| match (due, self.reprieve) {
            (Some(due), Some(until)) if due <= self.now => Some(until),
            (due, _) => due,
        });
        let others = [session.flush_at(self.now), renewal.due(), link.deadline(is_read)];
        expiries.into_iter().chain(others).flatten().min()
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
