//! A client of the native protocol (`docs/protocol.md`), version 1, which keeps connected.
//!
//! A [`Client`] is a handle on a task that owns the connection; clones are cheap, and what
//! happens is received from [`Events`]. It connects to `ws://` addresses, and with the feature
//! `client-tls` to `wss://` addresses.
//!
//! ```no_run
//! use chat_transport::client::{Client, ClientConfig, Event};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let urls = ["ws://chat1.example/ws", "ws://chat2.example/ws"];
//! let (client, mut events) = Client::connect(urls, ClientConfig::default().name("Ann"))?;
//! tokio::spawn(async move {
//!     while let Some(event) = events.recv().await {
//!         if let Event::Message(message) = event {
//!             println!("{}: {}", message.user.name, message.text);
//!         }
//!     }
//! });
//!
//! client.join("general", 20).await?; // the latest 20 messages, and all that follow
//! client.send("general", "hello").await?; // it is in the room's history now
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! What the client takes care of, and its bounds, are those of its
//! [machine](chat_core::client#what-it-takes-care-of), and of this:
//!
//! | what | limit | when it is reached |
//! |---|---|---|
//! | events not read | [`event_queue`](ClientConfig::event_queue), and 1,024 while a call waits for its answer | the socket is not read; see [`Events`] |
//! | messages not confirmed | [`send_queue`](Config::send_queue) | [`Client::send`] waits; [`Client::try_send`] fails with [`ClientError::QueueFull`] |
//!
//! It answers the server's pings.

mod config;
mod connect;
mod events;
mod socket;
mod stream;
mod task;
mod token;

pub use chat_core::client::{
    ClientError, Config, Disconnect, Event, History, Joined, Members, Message, Rejection, Resume,
    Sent, State, TokenError, User, Welcome,
};
pub use chat_core::wire::{Limits, RateLimit};
pub use chat_core::{Content, Epoch, HistoryRange, Position, PresenceChange};
pub use config::ClientConfig;
pub use connect::Endpoint;
pub use events::Events;
pub use token::TokenSource;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use chat_core::client::{Answer, Machine, RequestId};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};
use tokio::task::unconstrained;
use tokio::time::Instant;

use connect::Dialer;
use task::{Caller, Channels, Command, Shared, Slots, Task};

/// Calls that may wait for the task, which takes them without waiting for the network.
const COMMANDS: usize = 64;

/// A handle on a client. A clone is another handle on the same one; when the last is dropped,
/// the client closes.
#[derive(Debug, Clone)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    shared: watch::Receiver<Shared>,
    /// The slots of the send queue.
    slots: Arc<Semaphore>,
}

impl Client {
    /// Starts a client, as a task of the current runtime. `urls` are one or several `ws://` or
    /// `wss://` addresses of servers that share their rooms: the first is tried first, and after a
    /// loss the next.
    ///
    /// A connection that cannot be opened is no error here: the client retries until it is closed.
    /// [`State::Waiting`], [`last_disconnect`](Self::last_disconnect) and a warning of `tracing`
    /// have the reason.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::NoUrl`], [`ClientError::UserName`],
    /// [`ClientError::Header`]; of `wss://` addresses [`ClientError::Tls`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect<U: Into<String>>(
        urls: impl IntoIterator<Item = U>,
        config: ClientConfig,
    ) -> Result<(Self, Events), ClientError> {
        let urls: Vec<String> = urls.into_iter().map(Into::into).collect();
        let ClientConfig { mut machine, token, event_queue, connect } = config;
        let dialer = Dialer::new(&urls, connect)?;
        machine.token = token.as_ref().map(TokenSource::kind);
        let slots = Arc::new(Semaphore::new(machine.send_queue.clamp(1, Semaphore::MAX_PERMITS)));
        let start = Instant::now();
        let machine = Machine::new(machine, urls, task::seed(), Duration::ZERO)?;

        let (commands, taken) = mpsc::channel(COMMANDS);
        let (sender, events) = mpsc::channel(event_queue.max(1));
        let state = machine.state().clone();
        let (publish, shared) =
            watch::channel(Shared { state, welcome: None, loss: None, refusal: None });
        let held = Slots(Arc::clone(&slots));
        let channels = Channels { commands: taken, events: sender, shared: publish, slots: held };
        tokio::spawn(Task::new(machine, start, dialer, token, channels).run());
        Ok((Self { commands, shared, slots }, Events(events)))
    }

    /// Joins a room: now, or once there is a connection, and again on each further connection. The
    /// latest `history` messages are events after [`Event::Joined`]. If the client is in the room
    /// already, the answer only lists the users.
    ///
    /// There is no time limit: without a server the call waits for one. To stop waiting, call
    /// [`leave`](Self::leave).
    ///
    /// # Errors
    /// The client is not in the room: [`RoomName`](ClientError::RoomName),
    /// [`Rejected`](ClientError::Rejected), [`NotInRoom`](ClientError::NotInRoom) when it was left
    /// before the answer, [`Closed`](ClientError::Closed). (A second join can also fail like any
    /// request, or as [`QueueFull`](ClientError::QueueFull) while many wait for the first; the
    /// client is in the room, or still joining it, nevertheless.)
    ///
    /// # Cancel safety
    /// When it is dropped, the client joins nevertheless, and stays in the room until it is left.
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let joined = client.join("general", 20).await?; // with the latest 20 messages
    /// println!("{} users", joined.members.count);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn join(&self, room: &str, history: u32) -> Result<Joined, ClientError> {
        let room = room.to_owned();
        match self.call(move |machine, now| machine.join(&room, history, now)).await? {
            Answer::Joined(joined) => Ok(joined),
            _ => Err(UNEXPECTED),
        }
    }

    /// [`join`](Self::join) from a position that an earlier client saved
    /// ([`Message::position`]), for a program that continues where it stopped: the messages after it
    /// are events after [`Event::Joined`], and an [`Event::Gap`] precedes them if some are lost. If the
    /// room cannot continue at `since`, only its latest messages follow on the gap, at most 256 of
    /// them: [`history`](Self::history) has what it holds before these. [`Position::default`] is the position before the first message of a room. In a room that the
    /// client is in, or joins, already, `since` is not used.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    ///
    /// # Cancel safety
    /// As [`join`](Self::join).
    ///
    /// ```no_run
    /// # use chat_transport::client::{Client, Events};
    /// # async fn example(client: Client, mut events: Events) -> Result<(), Box<dyn std::error::Error>> {
    /// let saved = std::fs::read_to_string("position").unwrap_or_default();
    /// client.join_since("general", saved.parse().unwrap_or_default()).await?;
    /// while let Some(message) = events.message().await {
    ///     println!("{}", message.text);
    ///     if let Some(position) = message.position {
    ///         std::fs::write("position", position.to_string())?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn join_since(&self, room: &str, since: Position) -> Result<Joined, ClientError> {
        let room = room.to_owned();
        match self.call(move |machine, now| machine.join_since(&room, since, now)).await? {
            Answer::Joined(joined) => Ok(joined),
            _ => Err(UNEXPECTED),
        }
    }

    /// Leaves a room, however often it was joined: parts of an application that share a client and
    /// a room count their joins themselves. Messages that were not confirmed yet fail.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom). After any other error the client has left, too; on the
    /// server it leaves now or when the connection ends.
    ///
    /// # Cancel safety
    /// When it is dropped, the client leaves nevertheless.
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.leave("general").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn leave(&self, room: &str) -> Result<(), ClientError> {
        let room = room.to_owned();
        self.call(move |machine, now| machine.leave(&room, now)).await.map(drop)
    }

    /// Sends a message to a room that was joined, and waits until it is in the room's
    /// history. The sender's own event of the message may arrive before this call returns, or after.
    /// While there is no connection it waits for one. While as many messages wait as
    /// [`send_queue`](Config::send_queue) allows, it waits for a slot among them, for as
    /// long as that takes; slots are given in the order of the calls.
    ///
    /// # Errors
    /// As [`send_with`](Self::send_with).
    ///
    /// # Cancel safety
    /// As [`send_with`](Self::send_with).
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let sent = client.send("general", "hello").await?;
    /// println!("{:?}", sent.position);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self, room: &str, message: &str) -> Result<Sent, ClientError> {
        self.send_with(room, message.into()).await
    }

    /// [`send`](Self::send) that does not wait for a slot in the send queue.
    ///
    /// # Errors
    /// As [`try_send_with`](Self::try_send_with).
    ///
    /// # Cancel safety
    /// As [`send_with`](Self::send_with).
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use chat_transport::client::ClientError;
    ///
    /// if let Err(ClientError::QueueFull) = client.try_send("general", "hello").await {
    ///     println!("too many messages are waiting");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_send(&self, room: &str, message: &str) -> Result<Sent, ClientError> {
        self.try_send_with(room, message.into()).await
    }

    /// Sends a message with data, or under a key of one's own (128 bytes at most, and
    /// another one for each message of this user in this room). By default the key is random.
    /// Like [`send`](Self::send) it waits for a slot in the send queue.
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use chat_transport::client::Content;
    ///
    /// client.send_with("general", Content::from("hello").key("order-17")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OutcomeUnknown`](ClientError::OutcomeUnknown) if a server had the message and did
    /// not confirm it within [`send_timeout`](Config::send_timeout), or until the room
    /// was left or the client closed. After any other error it was not sent:
    /// [`NotInRoom`](ClientError::NotInRoom),
    /// [`MessageTooLong`](ClientError::MessageTooLong), [`TooLarge`](ClientError::TooLarge),
    /// [`Timeout`](ClientError::Timeout), [`Rejected`](ClientError::Rejected),
    /// [`Closed`](ClientError::Closed).
    ///
    /// # Cancel safety
    /// A call that is dropped before its first poll, or while it waits for a slot, does not send
    /// its message. A call that has its slot passes the message to the client's task, in the
    /// same poll unless 64 other calls wait for the task; from then on the message is sent even
    /// if the call is dropped, and only its outcome is lost. With a key it is safe to send the
    /// message again after a call was dropped.
    pub async fn send_with(&self, room: &str, content: Content<'_>) -> Result<Sent, ClientError> {
        let slot = unconstrained(Arc::clone(&self.slots).acquire_owned()).await;
        let slot = slot.map_err(|_| self.closed())?;
        self.send_from(slot, room, content).await
    }

    /// [`send_with`](Self::send_with) that does not wait for a slot in the send queue.
    ///
    /// # Errors
    /// [`QueueFull`](ClientError::QueueFull) if as many messages wait as
    /// [`send_queue`](Config::send_queue) allows; else as
    /// [`send_with`](Self::send_with).
    ///
    /// # Cancel safety
    /// As [`send_with`](Self::send_with).
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use chat_transport::client::Content;
    ///
    /// client.try_send_with("general", Content::from("hello").key("order-17")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_send_with(
        &self,
        room: &str,
        content: Content<'_>,
    ) -> Result<Sent, ClientError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|error| match error {
            TryAcquireError::Closed => self.closed(),
            TryAcquireError::NoPermits => ClientError::QueueFull,
        })?;
        self.send_from(slot, room, content).await
    }

    async fn send_from(
        &self,
        slot: OwnedSemaphorePermit,
        room: &str,
        content: Content<'_>,
    ) -> Result<Sent, ClientError> {
        let Content { message, data, key, .. } = content;
        let (room, message) = (room.to_owned(), message.into_owned());
        let (data, key) = (data.map(ToOwned::to_owned), key.map(Cow::into_owned));
        let send = move |machine: &mut Machine, now| {
            let mut content = Content::from(message.as_str());
            (content.data, content.key) = (data.as_deref(), key.map(Cow::from));
            machine.send(&room, content, now)
        };
        match self.call_with(Some(slot), send).await? {
            Answer::Sent(sent) => Ok(sent),
            _ => Err(UNEXPECTED),
        }
    }

    /// Sends a message to all connections of one user. Returns how many servers the user is
    /// connected to; 0: offline, and nothing is kept for later. If one of the connections does not
    /// read fast enough, the client receives [`Event::Undelivered`].
    ///
    /// # Errors
    /// As [`members`](Self::members), and [`MessageTooLong`](ClientError::MessageTooLong).
    /// Nothing is sent twice; it is unknown whether the message was published after
    /// [`Disconnected`](ClientError::Disconnected), [`Timeout`](ClientError::Timeout) and a
    /// rejection as `broker_unavailable`.
    ///
    /// # Cancel safety
    /// When it is dropped, the message is sent nevertheless, if it was polled once.
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// if client.direct("bob", "hello", None).await? == 0 {
    ///     println!("bob is offline");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn direct(
        &self,
        to: &str,
        message: &str,
        data: Option<Box<RawValue>>,
    ) -> Result<u32, ClientError> {
        let (to, message) = (to.to_owned(), message.to_owned());
        let direct =
            move |machine: &mut Machine, now| machine.direct(&to, &message, data.as_deref(), now);
        match self.call(direct).await? {
            Answer::Direct(delivered) => Ok(delivered),
            _ => Err(UNEXPECTED),
        }
    }

    /// Reports to a room that the user types, or stopped. Call it at each key stroke: the same state
    /// is sent at most every two seconds, and not at all without a connection or while anything else
    /// waits to be sent.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom), [`Closed`](ClientError::Closed).
    ///
    /// # Cancel safety
    /// When it is dropped, the state may be sent or not.
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.typing("general", true).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn typing(&self, room: &str, typing: bool) -> Result<(), ClientError> {
        let room = room.to_owned();
        self.command(|reply| Command::Typing { room, typing, reply }).await?
    }

    /// Returns the users in a room.
    ///
    /// # Errors
    /// [`Offline`](ClientError::Offline), [`Disconnected`](ClientError::Disconnected),
    /// [`Timeout`](ClientError::Timeout), [`Rejected`](ClientError::Rejected),
    /// [`QueueFull`](ClientError::QueueFull), [`RoomName`](ClientError::RoomName),
    /// [`TooLarge`](ClientError::TooLarge), [`Closed`](ClientError::Closed).
    ///
    /// # Cancel safety
    /// Nothing depends on it.
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let members = client.members("general").await?;
    /// println!("{} of {} users", members.users.len(), members.count);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn members(&self, room: &str) -> Result<Members, ClientError> {
        let room = room.to_owned();
        match self.call(move |machine, now| machine.members(&room, now)).await? {
            Answer::Members(members) => Ok(members),
            _ => Err(UNEXPECTED),
        }
    }

    /// Reads a page of a room's history, of at most `limit` messages; `None`: as many as the server
    /// returns by default.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    ///
    /// # Cancel safety
    /// Nothing depends on it.
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use chat_transport::client::HistoryRange;
    ///
    /// let page = client.history("general", HistoryRange::Before(100), Some(20)).await?;
    /// println!("{} messages before offset 100", page.messages.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn history(
        &self,
        room: &str,
        range: HistoryRange,
        limit: Option<u32>,
    ) -> Result<History, ClientError> {
        let room = room.to_owned();
        match self.call(move |machine, now| machine.history(&room, range, limit, now)).await? {
            Answer::History(history) => Ok(history),
            _ => Err(UNEXPECTED),
        }
    }

    /// Closes the client, and waits until the connection has ended, for at most 5 s. Events that have
    /// not arrived by then are not delivered. The user stays listed in its rooms for the server's
    /// grace, 5 s by default: [`leave`](Self::leave) them first to be removed at once. Unanswered calls
    /// fail at once as [`Closed`](ClientError::Closed), or as
    /// [`OutcomeUnknown`](ClientError::OutcomeUnknown), and so does each later call.
    ///
    /// # Cancel safety
    /// When it is dropped, the client closes nevertheless, if it was polled once.
    ///
    /// ```no_run
    /// # async fn example(client: chat_transport::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// client.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) {
        // An error means that the client is closed already.
        let _ = self.command(Command::Close).await;
    }

    /// The state of the connection.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.borrow().state.clone()
    }

    /// How the latest connection ended, or why it could not be opened; `None` until one did.
    #[must_use]
    pub fn last_disconnect(&self) -> Option<Disconnect> {
        self.shared.borrow().loss.clone()
    }

    /// The latest answer by which a server refused a message or a join that the client tries again, as while
    /// Redis is full; `None` until there is one.
    #[must_use]
    pub fn last_refusal(&self) -> Option<Rejection> {
        self.shared.borrow().refusal.clone()
    }

    /// The user of the client; `None` before the first welcome.
    #[must_use]
    pub fn user(&self) -> Option<User> {
        self.shared.borrow().welcome.as_ref().map(|welcome| welcome.user.clone())
    }

    /// The latest welcome of a server; `None` before the first.
    #[must_use]
    pub fn welcome(&self) -> Option<Welcome> {
        self.shared.borrow().welcome.clone()
    }

    async fn call(
        &self,
        ask: impl FnOnce(&mut Machine, Duration) -> Result<RequestId, ClientError> + Send + 'static,
    ) -> Result<Answer, ClientError> {
        self.call_with(None, ask).await
    }

    async fn call_with(
        &self,
        slot: Option<OwnedSemaphorePermit>,
        ask: impl FnOnce(&mut Machine, Duration) -> Result<RequestId, ClientError> + Send + 'static,
    ) -> Result<Answer, ClientError> {
        self.command(|reply| Command::Request(Box::new(ask), Caller { reply, slot })).await?
    }

    /// Passes a command to the task, and waits for the reply.
    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ClientError> {
        let (reply, outcome) = oneshot::channel();
        // tokio's cooperative budget would make some calls yield and poll these in reverse order; the
        // messages of one task must keep their order.
        let taken = unconstrained(self.commands.send(command(reply))).await;
        taken.map_err(|_| self.closed())?;
        outcome.await.map_err(|_| self.closed())
    }

    /// The error of a call that the client's task does not answer.
    fn closed(&self) -> ClientError {
        let loss = self.last_disconnect();
        let loss = loss.unwrap_or_else(|| Disconnect::new("the client has ended"));
        ClientError::Closed { loss }
    }
}

/// The error of a call whose answer is of another kind than its request. The machine never returns
/// one.
const UNEXPECTED: ClientError = ClientError::Disconnected;
