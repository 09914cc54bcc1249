//! The public interface of the client, and its time.

use std::fmt;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::{CloseReason, Content, HistoryRange, Position};

use super::config::Config;
use super::error::{ClientError, Disconnect, Rejection};
use super::events::{Event, State, Welcome};
use super::lifecycle::Lifecycle;
use super::output::{Action, Answer, RequestId};
use super::rooms::Start;
use super::session::Session;
use super::token::TokenError;

/// A deadline that is noticed later than this was missed: a busy process is not as late.
const LATEST: Duration = Duration::from_secs(1);

/// A client without sockets and without a clock. The [module](super) describes how it is driven, with
/// an example of all four kinds of methods.
///
/// `now`, in all methods, is the time since a moment that the caller has fixed. A time that is
/// earlier than that of a previous call counts as the same.
pub struct Machine {
    client: Lifecycle,
    /// The time of the latest call.
    now: Duration,
    /// The deadline that the caller received last, if it was in the future then.
    announced: Option<Duration>,
    /// Until then nothing times out: the process did not run, and what the server sent in that time
    /// is read first.
    grace_until: Option<Duration>,
    /// The length of that grace: a pong timeout.
    grace_time: Duration,
    /// The server is not read at present, since events are waiting.
    is_stalled: bool,
}

/// Shows no tokens and no messages.
impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("state", self.state()).finish_non_exhaustive()
    }
}

/// The constructor, and what the transport reports.
impl Machine {
    /// A machine that connects at once. `urls` are the addresses of servers that share their rooms:
    /// the first is tried first, and after a lost connection the next. `seed` is 32 random bytes,
    /// different for each machine: pauses and the keys of messages are derived from them.
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
        let grace_time = config.pong_timeout;
        let client = Lifecycle::new(config, urls, seed, now)?;
        let (announced, grace_until) = (None, None);
        Ok(Self { client, now, announced, grace_until, grace_time, is_stalled: false })
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
    /// reveals the hole.
    pub fn handle_text(&mut self, text: &str, now: Duration) -> Result<(), serde_json::Error> {
        let now = self.begin(now);
        let was_awaiting = self.awaits_server();
        let outcome = self.client.received(text, now);
        self.settle(now);
        // Not where requests have timed out: the server has answered none of these.
        if was_awaiting && !self.awaits_server() {
            self.client.link.all_answered();
        }
        outcome
    }

    /// The server showed a sign of life that is no text frame: a ping, a pong, or a part of a
    /// large frame, which may take long on a slow connection.
    pub fn handle_alive(&mut self, now: Duration) {
        let now = self.begin(now);
        self.client.link.alive(now);
        self.settle(now);
    }

    /// Whether the connection has taken everything that was sent. A transport that does not know need
    /// not report it; one that does reports `false` when a frame does not fit into the connection and
    /// each time that the server has taken a part of what waits, and `true` when nothing waits.
    /// A connection whose server takes nothing is ended, like that of a silent one.
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

    /// The time of [`poll_timeout`](Self::poll_timeout) has been reached. An earlier call is harmless.
    pub fn handle_timeout(&mut self, now: Duration) {
        let now = self.begin(now);
        self.grace_until = self.grace_until.filter(|until| now < *until);
        if !self.is_closed() {
            if self.grace_until.is_none() {
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
    /// Joins a room: now, or once there is a connection, and again on each further connection. The
    /// latest `history` messages are events after [`Event::Joined`]. If the client is in the room
    /// already, the answer only lists the users.
    ///
    /// The answer is [`Answer::Joined`], or an error: the client is not in the room, and does not
    /// join it. There is no time limit: to stop waiting, [`leave`](Self::leave) the room, which
    /// fails the join as [`NotInRoom`](ClientError::NotInRoom). (A second join can also fail like
    /// any request; the client is in the room nevertheless.)
    ///
    /// # Errors
    /// [`RoomName`](ClientError::RoomName), [`QueueFull`](ClientError::QueueFull); and of a room
    /// that the client is in those of [`members`](Self::members).
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// let request = client.join("general", 20, now)?;
    /// // Later `poll_answer` returns the answer to this request.
    /// # Ok(())
    /// # }
    /// ```
    pub fn join(
        &mut self,
        room: &str,
        history: u32,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.join(room, Start::Latest(history)))
    }

    /// [`join`](Self::join) from a position that an earlier client saved
    /// ([`Message::position`](super::Message::position)): the messages after it are events after
    /// [`Event::Joined`], and an [`Event::Gap`] precedes them if some are lost. If the room cannot
    /// continue at `since`, only its latest messages follow on the gap, at most 256 of them:
    /// [`history`](Self::history) has what it holds before these. In a room that the
    /// client is in, or joins, already, `since` is not used.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// let saved = "JLITNcWY.41"; // the text of a position
    /// client.join_since("general", saved.parse()?, now)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn join_since(
        &mut self,
        room: &str,
        since: Position,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.join(room, Start::After(since)))
    }

    /// Leaves a room, however often it was joined. Messages that were not confirmed yet fail. The
    /// answer is [`Answer::Left`]; after an error the client has left, too: on the server it leaves
    /// now or when the connection ends.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom).
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// client.leave("general", now)?;
    /// # Ok(())
    /// # }
    /// ```
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
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// use chat_core::Content;
    ///
    /// client.send("general", "hello", now)?;
    /// client.send("general", Content::from("hello").key("order-17"), now)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send<'a>(
        &mut self,
        room: &str,
        content: impl Into<Content<'a>>,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, now| session.send(room, content.into(), now))
    }

    /// Sends a message to all connections of one user, once. The answer is [`Answer::Direct`].
    /// Whether the server published the message is unknown after [`Disconnected`](ClientError::Disconnected),
    /// [`Timeout`](ClientError::Timeout) and a rejection as `broker_unavailable`.
    ///
    /// # Errors
    /// [`Offline`](ClientError::Offline), [`QueueFull`](ClientError::QueueFull),
    /// [`UserId`](ClientError::UserId), [`MessageTooLong`](ClientError::MessageTooLong),
    /// [`TooLarge`](ClientError::TooLarge).
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// client.direct("bob", "hello", None, now)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn direct(
        &mut self,
        to: &str,
        text: &str,
        data: Option<&RawValue>,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.direct(to, text, data))
    }

    /// Reports to a room that the user types, or stopped. It may be called at each key stroke: the
    /// same state is sent at most every two seconds, and not at all without a connection or while
    /// anything else waits to be sent, also for [`poll_action`](Self::poll_action). There is no answer.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom), [`Closed`](ClientError::Closed).
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// client.typing("general", true, now)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn typing(&mut self, room: &str, typing: bool, now: Duration) -> Result<(), ClientError> {
        let is_writable = self.client.link.is_writable();
        self.request(now, |session, now| session.typing(room, typing, is_writable, now))
    }

    /// Asks for the users in a room. The answer is [`Answer::Members`].
    ///
    /// # Errors
    /// [`Offline`](ClientError::Offline), [`QueueFull`](ClientError::QueueFull),
    /// [`RoomName`](ClientError::RoomName).
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// client.members("general", now)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn members(&mut self, room: &str, now: Duration) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.members(room))
    }

    /// Reads a page of a room's history, of at most `limit` messages; `None`: as many as the server
    /// returns by default. The answer is [`Answer::History`].
    ///
    /// # Errors
    /// As [`members`](Self::members).
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// use chat_core::HistoryRange;
    ///
    /// client.history("general", HistoryRange::Before(100), Some(20), now)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn history(
        &mut self,
        room: &str,
        range: HistoryRange,
        limit: Option<u32>,
        now: Duration,
    ) -> Result<RequestId, ClientError> {
        self.request(now, |session, _| session.history(room, range, limit))
    }

    /// Closes the client: ends the connection and opens no other. All waiting requests fail at once.
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// client.close(now);
    /// # Ok(())
    /// # }
    /// ```
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
        if let State::Closed { loss } = self.state() {
            return Err(ClientError::Closed { loss: loss.clone() });
        }
        let now = self.begin(now);
        let outcome = ask(&mut self.client.session, now);
        self.settle(now);
        outcome
    }
}

/// Outputs: poll these after each call of the others.
impl Machine {
    /// What the transport has to do next; `None`: nothing yet.
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// use chat_core::client::Action;
    ///
    /// while let Some(action) = client.poll_action() {
    ///     match action {
    ///         Action::Connect { url } => println!("open a WebSocket to {url}"),
    ///         Action::Send(frame) => println!("send {frame}"),
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_action(&mut self) -> Option<Action> {
        self.client.session.outbox.actions.pop_front()
    }

    /// The next answer to a request.
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// while let Some((request, answer)) = client.poll_answer() {
    ///     println!("{request:?}: {answer:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_answer(&mut self) -> Option<(RequestId, Result<Answer, ClientError>)> {
        self.client.session.answers.pop()
    }

    /// The next event. An application that is not ready for it does not call this, and the server
    /// is [not read](Self::wants_text) until it does.
    ///
    /// ```no_run
    /// # fn example(client: &mut chat_core::client::Machine, now: std::time::Duration) -> Result<(), Box<dyn std::error::Error>> {
    /// while let Some(event) = client.poll_event() {
    ///     println!("{event:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn poll_event(&mut self) -> Option<Event> {
        self.client.session.events.pop()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), unless another call is made before;
    /// `None`: there is no deadline.
    ///
    /// If the caller is more than a second late, its process did not run or its machine slept, and
    /// the server's answers may be in the socket. Nothing times out then, and the server has the time
    /// of a pong to answer.
    pub fn poll_timeout(&mut self) -> Option<Duration> {
        let deadline = self.deadline();
        self.is_stalled |= !self.wants_text();
        self.announced = deadline.filter(|due| *due > self.now);
        deadline
    }
}

/// Getters.
impl Machine {
    /// The state of the connection.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.client.state
    }

    /// The latest `welcome`: of the latest connection, or for the latest token.
    #[must_use]
    pub fn welcome(&self) -> Option<&Welcome> {
        self.client.session.welcome.as_ref()
    }

    /// The latest refusal of a message or a join that is tried again; `None`: there was none. It says why
    /// something takes long, or has an unknown outcome.
    #[must_use]
    pub fn last_refusal(&self) -> Option<&Rejection> {
        self.client.session.refusal.as_ref()
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
            self.grace_until = Some(self.now.saturating_add(self.grace_time));
            self.client.resume_after_suspension(self.now);
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

    /// Whether the server has requests to answer.
    fn awaits_server(&self) -> bool {
        self.client.session.outbox.requests.len() > 0
    }

    fn deadline(&self) -> Option<Duration> {
        let Lifecycle { session, link, renewal, .. } = &self.client;
        if self.is_closed() {
            return None;
        }
        let is_read = self.wants_text();
        if is_read && self.is_stalled {
            // Nothing was received from the server while it was not read: with the next call its time for a
            // sign of life restarts.
            return Some(self.now);
        }
        // Each by itself: a timeout that the grace postpones does not postpone a pause that ends
        // before the grace does.
        let expiries = session.deadlines().map(|due| match (due, self.grace_until) {
            (Some(due), Some(until)) if due <= self.now => Some(until),
            (due, _) => due,
        });
        let unanswered_since = session.outbox.requests.unanswered_since();
        let others =
            [session.flush_at(self.now), renewal.due(), link.deadline(is_read, unanswered_since)];
        expiries.into_iter().chain(others).flatten().min()
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
