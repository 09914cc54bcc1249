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

/// The user an event speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sender<'a> {
    /// [`UserId`](crate::UserId).
    pub id: &'a str,
    /// [`UserName`](crate::UserName).
    pub name: &'a str,
    /// `#RRGGBB`.
    pub color: &'a str,
}

/// A message in a room.
#[derive(Debug, Clone)]
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

/// A change of who is in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence<'a> {
    /// Who, by the latest name.
    pub user: Sender<'a>,
    /// What happened.
    pub change: PresenceChange,
    /// Whether the `rooms` dialect is told, too. It is not told of those who
    /// `SUBSCRIBE`: in the system that dialect comes from there are none.
    pub announced: bool,
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

/// A direct message that a connection of the recipient did not get: its outbox was full.
#[derive(Debug, Clone, Copy)]
pub struct Undelivered<'a> {
    /// The recipient.
    pub to: Sender<'a>,
    /// The request that sent the message.
    pub request: RequestRef<'a>,
}

/// A request of one connection, as other servers can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRef<'a> {
    /// The `session` of the connection's `welcome`.
    pub session: &'a str,
    /// The request's `id` as it stands in the frame; empty if the request has none.
    pub id: &'a str,
}
