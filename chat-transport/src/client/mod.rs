//! A client of the native protocol (`docs/protocol.md`), version 1, which keeps connected.
//!
//! A [`Client`] is a handle on a task that owns the connection; clones are cheap, and what
//! happens is received from [`Events`]. It connects to `ws://` addresses: TLS needs a proxy before it.
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
mod events;
mod metered;
mod socket;
mod task;
mod token;

pub use chat_core::client::{
    ClientError, Config, Disconnect, Event, History, Joined, Members, Message, Rejection, Resume,
    Sent, State, TokenError, User, Welcome,
};
pub use chat_core::{Content, Epoch, HistoryRange, Position, PresenceChange};
pub use config::ClientConfig;
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

use task::{Caller, Command, Shared, Slots, Task};

/// Calls that may wait for the task, which never lets them wait for the network.
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
    /// Starts a client, as a task of the current runtime. `urls` are one or several `ws://`
    /// addresses of servers that share their rooms: the first is tried first, and after a
    /// loss the next.
    ///
    /// # Errors
    /// [`ClientError::Url`]: an address is none; [`ClientError::NoUrl`], [`ClientError::UserName`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect<U: Into<String>>(
        urls: impl IntoIterator<Item = U>,
        config: ClientConfig,
    ) -> Result<(Self, Events), ClientError> {
        let urls: Vec<String> = urls.into_iter().map(Into::into).collect();
        urls.iter().try_for_each(|url| socket::check(url))?;
        let ClientConfig { mut machine, token, event_queue } = config;
        machine.token = token.as_ref().map(TokenSource::kind);
        let slots = Arc::new(Semaphore::new(machine.send_queue.clamp(1, Semaphore::MAX_PERMITS)));
        let start = Instant::now();
        let machine = Machine::new(machine, urls, task::seed(), Duration::ZERO)?;

        let (commands, taken) = mpsc::channel(COMMANDS);
        let (sender, events) = mpsc::channel(event_queue.max(1));
        let state = machine.state().clone();
        let (publish, shared) = watch::channel(Shared { state, welcome: None });
        let held = Slots(Arc::clone(&slots));
        let task = Task::new(machine, start, token, taken, sender, publish, held);
        tokio::spawn(task.run());
        Ok((Self { commands, shared, slots }, Events(events)))
    }

    /// Joins a room: now, or once there is a connection, and again after each loss. The
    /// latest messages, as many as `history` says, are events after [`Event::Joined`].
    /// In a room that the client is in already, the answer only says who is there.
    ///
    /// There is no time limit: without a server the call waits for one. To stop waiting, call
    /// [`leave`](Self::leave).
    ///
    /// # Errors
    /// The client is not in the room: [`RoomName`](ClientError::RoomName),
    /// [`Rejected`](ClientError::Rejected), [`NotInRoom`](ClientError::NotInRoom) when it was left
    /// before the answer, [`Closed`](ClientError::Closed). (A second join can also fail like any
    /// request, or as [`QueueFull`](ClientError::QueueFull) while many wait for the first; the
    /// client is in the room, or on the way, nevertheless.)
    ///
    /// # Cancel safety
    /// When it is dropped, the client joins nevertheless, and stays in the room until it is left.
    pub async fn join(&self, room: &str, history: u32) -> Result<Joined, ClientError> {
        let room = room.to_owned();
        match self.call(move |machine, now| machine.join(&room, history, now)).await? {
            Answer::Joined(joined) => Ok(joined),
            _ => Err(UNEXPECTED),
        }
    }

    /// Leaves a room, however often it was joined: parts of an application that share a client and
    /// a room count their joins themselves. Messages that were not confirmed yet fail.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom). After any other error the client has left, too;
    /// the server learns of it now or when the connection ends.
    ///
    /// # Cancel safety
    /// When it is dropped, the client leaves nevertheless.
    pub async fn leave(&self, room: &str) -> Result<(), ClientError> {
        let room = room.to_owned();
        self.call(move |machine, now| machine.leave(&room, now)).await.map(drop)
    }

    /// Sends a message to a room that was joined, and waits until it is in the room's
    /// history. While there is no connection it waits for one. While as many messages wait as
    /// [`send_queue`](Config::send_queue) allows, it waits for a slot among them, for as
    /// long as that takes; slots are given in the order of the calls.
    ///
    /// # Errors
    /// As [`send_with`](Self::send_with).
    ///
    /// # Cancel safety
    /// As [`send_with`](Self::send_with).
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
        let slot = slot.map_err(|_| ClientError::Closed)?;
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
    pub async fn try_send_with(
        &self,
        room: &str,
        content: Content<'_>,
    ) -> Result<Sent, ClientError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|error| match error {
            TryAcquireError::Closed => ClientError::Closed,
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

    /// Sends a message to all connections of one user. Returns how many servers hold the
    /// user; 0: offline, and nothing is kept for later. If one of the connections then does
    /// not read fast enough, the client gets [`Event::Undelivered`].
    ///
    /// # Errors
    /// As [`members`](Self::members), and [`MessageTooLong`](ClientError::MessageTooLong).
    /// Nothing is sent twice, and whether it was sent is unknown after
    /// [`Disconnected`](ClientError::Disconnected), [`Timeout`](ClientError::Timeout) and a
    /// rejection as `broker_unavailable`.
    ///
    /// # Cancel safety
    /// When it is dropped, the message is sent nevertheless, if it was polled once.
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

    /// Reports to a room that the user types, or stopped. Call it at each key stroke: the same is
    /// sent every two seconds at most, and not at all without a connection or while anything
    /// else waits to be sent.
    ///
    /// # Errors
    /// [`NotInRoom`](ClientError::NotInRoom), [`Closed`](ClientError::Closed).
    ///
    /// # Cancel safety
    /// When it is dropped, the state may be sent or not.
    pub async fn typing(&self, room: &str, typing: bool) -> Result<(), ClientError> {
        let room = room.to_owned();
        self.command(|reply| Command::Typing { room, typing, reply }).await?
    }

    /// Asks who is in a room.
    ///
    /// # Errors
    /// [`Offline`](ClientError::Offline), [`Disconnected`](ClientError::Disconnected),
    /// [`Timeout`](ClientError::Timeout), [`Rejected`](ClientError::Rejected),
    /// [`QueueFull`](ClientError::QueueFull), [`RoomName`](ClientError::RoomName),
    /// [`TooLarge`](ClientError::TooLarge), [`Closed`](ClientError::Closed).
    ///
    /// # Cancel safety
    /// Nothing depends on it.
    pub async fn members(&self, room: &str) -> Result<Members, ClientError> {
        let room = room.to_owned();
        match self.call(move |machine, now| machine.members(&room, now)).await? {
            Answer::Members(members) => Ok(members),
            _ => Err(UNEXPECTED),
        }
    }

    /// Reads a page of a room's history, of `limit` messages at most, or as many as the
    /// server likes.
    ///
    /// # Errors
    /// As [`members`](Self::members).
    ///
    /// # Cancel safety
    /// Nothing depends on it.
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

    /// Ends the connection, for good, and waits until it has ended, for five seconds at most.
    /// What was not answered fails at once as [`Closed`](ClientError::Closed), or as
    /// [`OutcomeUnknown`](ClientError::OutcomeUnknown), and so does each later call.
    ///
    /// # Cancel safety
    /// When it is dropped, the client closes nevertheless, if it was polled once.
    pub async fn close(&self) {
        // It fails if the client is closed.
        let _ = self.command(Command::Close).await;
    }

    /// How the client stands with its servers.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.borrow().state.clone()
    }

    /// Who the client is, once it was welcome.
    #[must_use]
    pub fn user(&self) -> Option<User> {
        self.shared.borrow().welcome.as_ref().map(|welcome| welcome.user.clone())
    }

    /// What the server said at the beginning of the latest connection.
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
        // Calls keep their order, for which tokio's budget has no regard: those that it makes
        // yield are polled in reverse.
        let taken = unconstrained(self.commands.send(command(reply))).await;
        taken.map_err(|_| ClientError::Closed)?;
        outcome.await.map_err(|_| ClientError::Closed)
    }
}

/// The error of a call whose answer is of another kind than the request, which the machine does not
/// give.
const UNEXPECTED: ClientError = ClientError::Closed;
