//! The requests of a client.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::history::HistoryRange;
use crate::id::{RoomId, UserId, UserName};
use crate::position::Position;
use crate::secret::hidden;

/// A frame from a client, decoded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request<'a> {
    /// The client's `id` for the frame, a JSON string or integer; the answer carries it
    /// back.
    pub id: Option<&'a RawValue>,
    /// What the client asks for.
    pub command: Command<'a>,
}

/// What a client asks for, in any dialect: dialects differ in the options, not in the commands.
///
/// A `room` that may be `None` is then the client's [exclusive](Join::exclusive) one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Command<'a> {
    /// Says who the client is.
    Hello(Hello<'a>),
    /// Joins a room.
    Join(Join),
    /// Leaves a room.
    Leave {
        /// The room.
        room: Option<RoomId>,
    },
    /// Sends a message to a room.
    Send {
        /// The room.
        room: Option<RoomId>,
        /// The message.
        content: Content<'a>,
        /// Whether only a member of the room may send it.
        members_only: bool,
    },
    /// Sends a message to one user.
    Direct {
        /// The recipient.
        to: UserId,
        /// The message.
        content: Content<'a>,
    },
    /// Starts or stops typing.
    Typing {
        /// The room.
        room: RoomId,
        /// Whether the user types now.
        typing: bool,
    },
    /// Asks for earlier messages, or for later ones.
    History {
        /// The room.
        room: RoomId,
        /// Which messages.
        range: HistoryRange,
        /// How many messages at most.
        limit: Option<u32>,
    },
    /// Asks who is in a room.
    Members {
        /// The room.
        room: RoomId,
    },
    /// Asks for a `pong`.
    Ping,
    /// Removes a user from a room.
    Kick(Sanction<'a>),
    /// Removes a user from a room, and refuses the user's joins for some time.
    Ban {
        /// The user, the room and the reason.
        sanction: Sanction<'a>,
        /// For how long, in seconds; `None`: until it is lifted.
        seconds: Option<u64>,
    },
    /// Lifts a ban.
    Unban {
        /// The room.
        room: RoomId,
        /// The banned user.
        user: UserId,
    },
}

impl Command<'_> {
    /// The room that the command names.
    #[must_use]
    pub fn room(&self) -> Option<&RoomId> {
        match self {
            Self::Join(Join { room, .. })
            | Self::Typing { room, .. }
            | Self::History { room, .. }
            | Self::Members { room }
            | Self::Kick(Sanction { room, .. })
            | Self::Ban { sanction: Sanction { room, .. }, .. }
            | Self::Unban { room, .. } => Some(room),
            Self::Leave { room } | Self::Send { room, .. } => room.as_ref(),
            Self::Hello(_) | Self::Direct { .. } | Self::Ping => None,
        }
    }
}

/// The parts of [`Command::Join`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Join {
    /// The room.
    pub room: RoomId,
    /// The position of the client's copy of the room: what follows on it is sent.
    pub since: Option<Position>,
    /// How many of the latest messages the client asks for.
    pub history: Option<u32>,
    /// The new name of the user; `None`: the name stays. Only an exclusive join has one.
    pub name: Option<UserName>,
    /// Whether the `rooms` dialect shows the join.
    pub announced: bool,
    /// Whether the client leaves the room that it joined exclusively before.
    pub exclusive: bool,
}

impl Join {
    /// An announced join, which leaves no other room.
    ///
    /// ```
    /// use chat_core::{Join, RoomId};
    ///
    /// let join = Join::new(RoomId::new("general")?);
    /// assert!(join.announced && !join.exclusive && join.since.is_none());
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    #[must_use]
    pub fn new(room: RoomId) -> Self {
        Self { room, since: None, history: None, name: None, announced: true, exclusive: false }
    }
}

/// The parts of [`Command::Hello`]. `Debug` hides the secrets.
#[derive(Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Hello<'a> {
    /// A token that names the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Cow<'a, str>>,
    /// The name that the user chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<UserName>,
    /// The secret of an earlier `welcome`: the client is the same user again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Cow<'a, str>>,
}

impl fmt::Debug for Hello<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, name, resume } = self;
        f.debug_struct("Hello")
            .field("token", &hidden(token.as_ref()))
            .field("name", name)
            .field("resume", &hidden(resume.as_ref()))
            .finish()
    }
}

/// A user who is kicked or banned, and the room.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Sanction<'a> {
    /// The room.
    pub room: RoomId,
    /// The kicked or banned user.
    pub user: UserId,
    /// The reason, which the user receives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
}

impl Sanction<'_> {
    /// Longest [`reason`](Self::reason), in bytes.
    pub const MAX_REASON_BYTES: usize = 512;

    /// A sanction without a reason.
    ///
    /// ```
    /// use chat_core::{RoomId, Sanction, UserId};
    ///
    /// let mut sanction = Sanction::new(RoomId::new("general")?, UserId::new("u1")?);
    /// sanction.reason = Some("spam".into());
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    #[must_use]
    pub fn new(room: RoomId, user: UserId) -> Self {
        Self { room, user, reason: None }
    }
}

/// The parts of a message that the client writes.
///
/// ```
/// let content = chat_core::Content::from("hello").key("k-1");
/// assert_eq!((&*content.message, content.key.as_deref()), ("hello", Some("k-1")));
/// ```
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Content<'a> {
    /// The text.
    pub message: Cow<'a, str>,
    /// Any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
    /// The idempotency key of the message, which the client chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
}

impl<'a> Content<'a> {
    /// Sets [`key`](Self#structfield.key).
    #[must_use]
    pub fn key(self, key: impl Into<Cow<'a, str>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Sets [`data`](Self#structfield.data).
    #[must_use]
    pub fn data(self, data: &'a RawValue) -> Self {
        Self { data: Some(data), ..self }
    }
}

impl<'a> From<&'a str> for Content<'a> {
    /// Text alone.
    fn from(text: &'a str) -> Self {
        Cow::Borrowed(text).into()
    }
}

impl<'a> From<&'a String> for Content<'a> {
    /// Text alone.
    fn from(text: &'a String) -> Self {
        text.as_str().into()
    }
}

impl<'a> From<Cow<'a, str>> for Content<'a> {
    /// Text alone.
    fn from(message: Cow<'a, str>) -> Self {
        Self { message, data: None, key: None }
    }
}
