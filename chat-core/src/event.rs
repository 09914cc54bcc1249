//! What a room, or a user, is told: neutral of any dialect.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::position::Position;

/// Something that happened, as every server reads it from the broker.
///
/// It borrows from the [envelope](crate::envelope) it came in, so that a server which
/// passes a message on copies it once, into the frame.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Somebody said something in a room.
    Message(Message<'a>),
    /// A user joined a room, left it, or has another name there.
    Presence(Presence<'a>),
    /// Somebody writes, or stopped writing.
    Typing {
        /// Who.
        user: Sender<'a>,
        /// Whether they write now.
        typing: bool,
    },
    /// Somebody wrote to one user.
    Direct(Direct<'a>),
    /// A message to one user was dropped: what the sender of an [`Event::Direct`] receives.
    Undelivered(Undelivered<'a>),
    /// So many are in the room: what a big room is told instead of each coming and going.
    /// Made by the server, never sent through a broker.
    Count(u32),
    /// Messages of the room were missed and cannot be had again; those that follow come
    /// after the position, if the room has a history. Made by the server that missed them,
    /// never sent through a broker.
    Gap(Option<Position>),
}

/// The user that an event names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Sender<'a> {
    /// [`UserId`](crate::UserId).
    pub id: &'a str,
    /// [`UserName`](crate::UserName).
    pub name: &'a str,
    /// `#RRGGBB`.
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
    /// Who sent it.
    pub user: Sender<'a>,
    /// The text.
    pub text: &'a str,
    /// What the client attached: any JSON.
    pub data: Option<&'a RawValue>,
    /// The client's own name for the message.
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

/// A change of who is in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presence<'a> {
    /// Who, by the latest name.
    pub user: Sender<'a>,
    /// What happened.
    pub change: PresenceChange,
    /// Whether the `rooms` dialect is told, too. It is not told of those who
    /// `SUBSCRIBE`: in the system that dialect comes from there are none.
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
    /// The user came.
    Joined,
    /// The user left.
    Left,
    /// The user is still there and has another name.
    Renamed,
}

impl PresenceChange {
    /// The change as it stands in frames.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Renamed => "renamed",
        }
    }

    /// Reads a change as it stands in frames; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Joined, Self::Left, Self::Renamed].into_iter().find(|change| change.as_str() == text)
    }
}

/// A message to one user.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Direct<'a> {
    /// Who sent it.
    pub user: Sender<'a>,
    /// The sender's frame, byte for byte: the `direct` dialect passes it on as it is, and
    /// its `message` and `data` are read from it for the others.
    pub frame: &'a str,
    /// When the server took it, in milliseconds since 1970.
    pub at: u64,
    /// The request to name if the message is dropped; `None` if its sender cannot receive an
    /// [`Event::Undelivered`].
    pub request: Option<RequestRef<'a>>,
}

impl<'a> Direct<'a> {
    /// A message whose sender does not learn that it was dropped, taken `at` milliseconds since
    /// 1970.
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

/// A direct message that a connection of the recipient did not get: its outbox was full.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Undelivered<'a> {
    /// The recipient.
    pub to: Sender<'a>,
    /// The request that sent the message.
    pub request: RequestRef<'a>,
}

impl<'a> Undelivered<'a> {
    /// What `request` sent to `to` was dropped.
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
    /// The request's `id` as it stands in the frame; empty if the request has none.
    pub id: &'a str,
}

impl<'a> RequestRef<'a> {
    /// The request with this `id` of the connection that `session` names.
    #[must_use]
    pub fn new(session: &'a str, id: &'a str) -> Self {
        Self { session, id }
    }
}
