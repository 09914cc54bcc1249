//! What a client reports to its application: events, and the answers to its requests.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::wire::{self, Limits};
use crate::{Capabilities, Epoch, Position, PresenceChange};

use super::config::Resume;
use super::error::{ClientError, Disconnect, Rejection};

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The state of the connection changed.
    State(State),
    /// The client is in a room, for the first time or again. The requested or missed messages
    /// follow.
    Joined {
        /// The room.
        room: String,
        /// Whether the client was in it before: it joined again after a reconnect, or to repair a hole.
        rejoined: bool,
        /// Whether nothing was missed. If it is false in a room that was rejoined, or joined since a
        /// position, a [`Gap`](Self::Gap) follows.
        recovered: bool,
        /// The users in the room.
        members: Members,
        /// What the user may do there; `None`: an earlier server, which does not say.
        can: Option<Capabilities>,
        /// Whether the room may keep messages before those that follow.
        more: bool,
    },
    /// A message: each once, in the room's order, and none is left out without a
    /// [`Gap`](Self::Gap).
    Message(Message),
    /// A user joined a room, left it, or has another name there.
    Presence {
        /// The room.
        room: String,
        /// Whether the user joined, left or has another name.
        change: PresenceChange,
        /// The user, by the latest name.
        user: User,
    },
    /// The number of users in the room, which is too large for single changes.
    Count {
        /// The room.
        room: String,
        /// The number of users in the room.
        count: u32,
    },
    /// Messages of the room are lost.
    Gap {
        /// The room.
        room: String,
        /// The next message is the one after it; `None` in a room without history.
        position: Option<Position>,
    },
    /// A user types, or stopped typing.
    Typing {
        /// The room.
        room: String,
        /// The user who types.
        user: User,
        /// Whether the user types now.
        typing: bool,
    },
    /// A new token lets the user do something else in a room.
    Capabilities {
        /// The room.
        room: String,
        /// What the user may do there from now on. With [`Capability::Presence`](crate::Capability)
        /// gained, the members have to be asked for.
        can: Capabilities,
    },
    /// A message to this user alone.
    Direct {
        /// The sender.
        user: User,
        /// The text.
        text: String,
        /// The JSON value that the sender attached.
        data: Option<Box<RawValue>>,
        /// When the server took it, in milliseconds since 1970.
        at: u64,
    },
    /// A message that this client sent with [`Machine::direct`](super::Machine::direct) was
    /// dropped: one of the recipient's connections did not read fast enough.
    Undelivered {
        /// The id of the recipient.
        to: String,
    },
    /// The server is about to close the connection.
    Goodbye {
        /// The reason: `shutdown`, `rebalance`, `disconnected` by the application, `banned`, `token_expired`, or a
        /// reason of another version.
        reason: String,
        /// Whether the client will connect again.
        reconnect: bool,
        /// How long the client waits before that, at least.
        after: Duration,
        /// The message of the moderator.
        message: Option<String>,
        /// The end of the ban in milliseconds since 1970; `None` if it lasts until an unban.
        until: Option<u64>,
    },
    /// The server removed the client from a room. The client does not join it again by itself.
    Left {
        /// The room.
        room: String,
        /// `kicked`, `banned`, or `forbidden` by a new token.
        reason: String,
        /// The message of the moderator.
        message: Option<String>,
        /// The end of the ban in milliseconds since 1970; `None` if it lasts until an unban.
        until: Option<u64>,
    },
    /// A room could not be joined again: the client is no longer in it.
    Refused {
        /// The room.
        room: String,
        /// Why the server rejected the join.
        error: ClientError,
    },
    /// An error of the server that answers no request.
    Error(Rejection),
}

/// The state of a client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// A connection is being opened.
    Connecting {
        /// The address of the server.
        url: String,
    },
    /// The server has sent its welcome. Rooms are joined, or being joined.
    Online,
    /// The connection was lost, or could not be opened.
    Waiting {
        /// The pause before the next attempt.
        retry_in: Duration,
        /// How the connection ended.
        loss: Disconnect,
    },
    /// The client opens no further connection.
    Closed {
        /// How the connection ended.
        loss: Disconnect,
    },
}

/// The `welcome` of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Welcome {
    /// The user of this client.
    pub user: User,
    /// The secret with which a later client is the same user; see
    /// [`Config::resume`](super::Config::resume).
    pub resume: Option<Resume>,
    /// The name of the connection, in the server's logs.
    pub session: String,
    /// The name of the server.
    pub node: String,
    /// The remaining lifetime of the client's token at that time; `None`: it does not expire.
    pub expires_in: Option<Duration>,
    /// The sizes and the rates that the server allows. The client keeps to them by itself.
    pub limits: Limits,
}

impl From<wire::Welcome<'_>> for Welcome {
    fn from(frame: wire::Welcome<'_>) -> Self {
        Self {
            user: frame.user.into(),
            resume: frame.resume.map(Resume::new),
            session: frame.session.into_owned(),
            node: frame.node.into_owned(),
            expires_in: frame.expires_in_ms.map(Duration::from_millis),
            limits: frame.limits,
        }
    }
}

/// A user as others see one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// The user's id, the same on every server.
    pub id: String,
    /// The name that others see.
    pub name: String,
    /// The colour of the name, `#RRGGBB`.
    pub color: String,
}

impl From<wire::User<'_>> for User {
    fn from(user: wire::User<'_>) -> Self {
        Self {
            id: user.id.into_owned(),
            name: user.name.into_owned(),
            color: user.color.into_owned(),
        }
    }
}

/// The users in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Members {
    /// The users, or some of them where there are many.
    pub users: Vec<User>,
    /// The number of users in the room.
    pub count: u32,
}

impl Members {
    pub(super) fn new(users: Vec<wire::User<'_>>, count: u32) -> Self {
        Self { users: users.into_iter().map(User::from).collect(), count }
    }
}

/// A message in a room.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Message {
    /// The room.
    pub room: String,
    /// The position of the message; `None` in a room without history.
    pub position: Option<Position>,
    /// The sender.
    pub user: User,
    /// Whether the sender is the user of this client, by this client or another one.
    pub is_own: bool,
    /// The text.
    pub text: String,
    /// The JSON value that the sender attached.
    pub data: Option<Box<RawValue>>,
    /// The idempotency key of the message, which the sender chose.
    pub key: Option<String>,
    /// When the server took it, in milliseconds since 1970.
    pub at: u64,
}

impl Message {
    /// The message as one of the sequence `epoch`, received by the user with the id `own`.
    pub(super) fn new(frame: wire::Message<'_>, epoch: Option<Epoch>, own: Option<&str>) -> Self {
        let position = epoch.zip(frame.offset);
        Self {
            room: frame.room.into_owned(),
            position: position.map(|(epoch, offset)| Position { epoch, offset }),
            is_own: own == Some(&*frame.user.id),
            user: frame.user.into(),
            text: frame.text.into_owned(),
            data: frame.data.map(Cow::into_owned),
            key: frame.key.map(Cow::into_owned),
            at: frame.at,
        }
    }
}

/// The answer of [`Machine::join`](super::Machine::join).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Joined {
    /// The position of the room's sequence of messages; `None` in a room without history.
    pub position: Option<Position>,
    /// The users in the room, the client's own first.
    pub members: Members,
    /// What the user may do there; `None`: an earlier server, which does not say.
    pub can: Option<Capabilities>,
    /// Whether the room may keep messages before the requested ones.
    pub more: bool,
}

impl Joined {
    pub(super) fn new(frame: &mut wire::Joined<'_>) -> Self {
        Self {
            position: frame.position(),
            members: Members::new(std::mem::take(&mut frame.members), frame.count),
            can: frame.can,
            more: frame.more.unwrap_or_default(),
        }
    }
}

/// The answer of [`Machine::send`](super::Machine::send): the message is in the room.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The position of the message; `None` in a room without history.
    pub position: Option<Position>,
    /// The message's key.
    pub key: String,
}

/// The answer of [`Machine::history`](super::Machine::history).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct History {
    /// The position of the room's sequence; `None` in a room without history.
    pub position: Option<Position>,
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Whether there are more in the requested direction.
    pub more: bool,
}
