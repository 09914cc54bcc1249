//! The events of rooms and users, independent of any dialect.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::position::Position;

/// Something that happened, as every server reads it from the broker.
///
/// It borrows from its [envelope](crate::envelope), so that a server copies a message once, into the
/// frame.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A user sent a message to a room.
    Message(Message<'a>),
    /// A user joined a room, left it, or has another name there.
    Presence(Presence<'a>),
    /// A user types, or stopped typing.
    Typing {
        /// The user who types.
        user: Sender<'a>,
        /// Whether the user types now.
        typing: bool,
    },
    /// A user sent a message to one user.
    Direct(Direct<'a>),
    /// A message to one user was dropped: what the sender of an [`Event::Direct`] receives.
    Undelivered(Undelivered<'a>),
    /// The number of users in a large room, which replaces single joins and leaves. Each server
    /// makes it; it is never published.
    Count(u32),
    /// A payload of the application that is no [envelope](crate::envelope), or one of a later version.
    /// The native dialect has a gap for it if it has a position, and the other dialects have no
    /// frame.
    Custom(&'a [u8]),
    /// Messages of the room are lost; the following ones are after this position, if the room has a
    /// history. The server that missed them makes it; it is never published.
    Gap(Option<Position>),
}

/// The user that an event names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Sender<'a> {
    /// The [`UserId`](crate::UserId) of the user.
    pub id: &'a str,
    /// The [`UserName`](crate::UserName) of the user.
    pub name: &'a str,
    /// The colour of the name, `#RRGGBB`.
    pub color: &'a str,
}

impl<'a> Sender<'a> {
    /// A user by id, name and colour (`#RRGGBB`); [`User::as_sender`](crate::User::as_sender) makes
    /// one of a [`User`](crate::User).
    #[must_use]
    pub const fn new(id: &'a str, name: &'a str, color: &'a str) -> Self {
        Self { id, name, color }
    }
}

/// A message in a room.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Message<'a> {
    /// The sender.
    pub user: Sender<'a>,
    /// The text.
    pub text: &'a str,
    /// The JSON value that the client attached.
    pub data: Option<&'a RawValue>,
    /// The idempotency key of the message, which the client chose.
    pub key: Option<&'a str>,
    /// When the server took it, in milliseconds since 1970.
    pub at: u64,
}

impl<'a> Message<'a> {
    /// A message without `data` and `key`, taken `at` milliseconds since 1970.
    ///
    /// ```
    /// use chat_core::{Event, Message, Sender, envelope};
    ///
    /// let user = Sender::new("u1", "Quiet Otter", "#FF6B6B");
    /// let payload = envelope::encode(&Event::Message(Message::new(user, "hi", 0)));
    /// assert!(matches!(envelope::decode(&payload)?, Event::Message(message) if message.text == "hi"));
    /// # Ok::<(), chat_core::envelope::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn new(user: Sender<'a>, text: &'a str, at: u64) -> Self {
        Self { user, text, data: None, key: None, at }
    }

    /// Sets [`data`](Self::data).
    #[must_use]
    pub fn data(mut self, data: Option<&'a RawValue>) -> Self {
        self.data = data;
        self
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn key(mut self, key: Option<&'a str>) -> Self {
        self.key = key;
        self
    }
}

/// A change of the users in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presence<'a> {
    /// The user, with the latest name.
    pub user: Sender<'a>,
    /// Whether the user joined, left or has another name.
    pub change: PresenceChange,
    /// Whether the `rooms` dialect shows it, too. It does not show users who `SUBSCRIBE`: the system
    /// that this dialect is of has none.
    pub announced: bool,
}

impl<'a> Presence<'a> {
    /// A change that the `rooms` dialect shows if it is `announced`.
    #[must_use]
    pub fn new(user: Sender<'a>, change: PresenceChange, announced: bool) -> Self {
        Self { user, change, announced }
    }
}

/// What changed about a user in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PresenceChange {
    /// The user joined.
    Joined,
    /// The user left.
    Left,
    /// The user is still in the room and has another name.
    Renamed,
}

impl PresenceChange {
    /// The change as it is written in frames.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Renamed => "renamed",
        }
    }

    /// Reads a change as it is written in frames; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Joined, Self::Left, Self::Renamed].into_iter().find(|change| change.as_str() == text)
    }
}

/// A message to one user.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Direct<'a> {
    /// The sender.
    pub user: Sender<'a>,
    /// The sender's frame, byte for byte: the `direct` dialect forwards it unchanged; for the other
    /// dialects, `message` and `data` are read from it.
    pub frame: &'a str,
    /// When the server took it, in milliseconds since 1970.
    pub at: u64,
    /// The request that an [`Event::Undelivered`] names if the message is dropped; `None` if its
    /// sender cannot receive one.
    pub request: Option<RequestRef<'a>>,
}

impl<'a> Direct<'a> {
    /// A message without a request, taken `at` milliseconds since 1970: its sender is not notified
    /// if it is dropped.
    #[must_use]
    pub fn new(user: Sender<'a>, frame: &'a str, at: u64) -> Self {
        Self { user, frame, at, request: None }
    }

    /// Sets [`request`](Self::request).
    #[must_use]
    pub fn request(mut self, request: Option<RequestRef<'a>>) -> Self {
        self.request = request;
        self
    }
}

/// A direct message that a connection of the recipient did not receive: its outbox was full.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Undelivered<'a> {
    /// The recipient.
    pub to: Sender<'a>,
    /// The request that sent the message.
    pub request: RequestRef<'a>,
}

impl<'a> Undelivered<'a> {
    /// The message that `request` sent to `to` was dropped.
    #[must_use]
    pub fn new(to: Sender<'a>, request: RequestRef<'a>) -> Self {
        Self { to, request }
    }
}

/// A request of one connection, as other servers can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestRef<'a> {
    /// The `session` of the connection's `welcome`.
    pub session: &'a str,
    /// The request's `id` as it is written in the frame; empty if the request has none.
    pub id: &'a str,
}

impl<'a> RequestRef<'a> {
    /// The request with this `id` of the connection that `session` names.
    #[must_use]
    pub fn new(session: &'a str, id: &'a str) -> Self {
        Self { session, id }
    }
}
