//! What the server says to one client, in the native protocol.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::dialect::native;
use crate::envelope;
use crate::error::{ErrorCode, Rejection};
use crate::event::Sender;
use crate::history::Entry;
use crate::id::RoomId;
use crate::position::{Epoch, Position};
use crate::user::User;

/// A frame for one client alone.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reply<'a> {
    /// Answers `hello`.
    Welcome(Welcome<'a>),
    /// Answers `join`.
    Joined(Joined<'a>),
    /// Answers `leave`, or tells the client that it is in the room no more.
    Left {
        /// That of the request: see [`Request::id`](crate::Request::id).
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
        /// Which room.
        room: &'a RoomId,
        /// Why, if the client did not ask for it: `kicked`, `banned`, or `forbidden` by a new
        /// token.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        /// What whoever did it wrote.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
    },
    /// Answers `send` and `direct`.
    Ok(Ok<'a>),
    /// Refuses a frame.
    Error(Error<'a>),
    /// Answers `members`.
    Members {
        /// That of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
        /// Which room.
        room: &'a RoomId,
        /// Those in it, at most as many as the server lists.
        members: &'a [Sender<'a>],
        /// How many there are.
        count: usize,
    },
    /// Answers `history`.
    History {
        /// That of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
        /// Which room.
        room: &'a RoomId,
        /// Where the room's sequence stands.
        #[serde(flatten)]
        position: Position,
        /// The messages, oldest first.
        messages: Page<'a>,
        /// Whether there are more beyond them, in the direction asked for.
        more: bool,
    },
    /// Answers `ping`.
    Pong {
        /// That of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
    },
    /// The server is about to close the connection.
    Goodbye {
        /// Why.
        reason: &'a str,
        /// Whether to come back.
        reconnect: bool,
        /// When to come back, in milliseconds from now.
        after_ms: u64,
        /// What whoever ended it wrote.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
    },
}

/// See [`Reply::Welcome`].
#[derive(Debug, Clone, Serialize)]
pub struct Welcome<'a> {
    /// Echoes the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a RawValue>,
    /// Names this connection, in logs and in support.
    pub session: &'a str,
    /// What to put into a later `hello` to be the same user; absent while the servers'
    /// shared secret cannot be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<&'a str>,
    /// Who the client is.
    pub user: &'a User,
    /// Which server this is.
    pub node: &'a str,
    /// The version of the protocol.
    pub protocol: u32,
    /// When the token runs out, in milliseconds from now: the client should say `hello` with a
    /// new one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// How often the server pings an idle connection, in milliseconds; 0: never.
    pub heartbeat_ms: u64,
    /// What the server allows.
    pub limits: Limits,
}

/// What a server allows one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Longest text of a message, in bytes of UTF-8.
    pub message_bytes: usize,
    /// Largest frame, in bytes. A larger one closes the connection.
    pub frame_bytes: usize,
    /// Rooms at a time.
    pub rooms: usize,
    /// Sends that may be unanswered before the server reads no further.
    pub in_flight: usize,
    /// Frames from one connection. A server reads a faster client later; absent: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<RateLimit>,
    /// Joins of one connection, as for `frames`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joins: Option<RateLimit>,
    /// Bytes of frames from one connection, as for `frames`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<RateLimit>,
    /// Bytes of `joined`, `members` and `history`, as for `frames`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<RateLimit>,
    /// Bytes that messages add to the rooms' histories, as for `frames`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<RateLimit>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// In the long run.
    pub per_second: u64,
    /// At once.
    pub burst: u64,
}

/// See [`Reply::Joined`].
#[derive(Debug, Clone, Serialize)]
pub struct Joined<'a> {
    /// Echoes the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a RawValue>,
    /// Which room.
    pub room: &'a RoomId,
    /// Where the room's sequence stands after `messages`: what follows on this connection
    /// are the messages after it. `None` in a room without history.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// Whether the client has missed nothing since the place that it gave.
    pub recovered: bool,
    /// Those in the room, at most as many as the server lists.
    pub members: &'a [Sender<'a>],
    /// How many there are.
    pub count: usize,
    /// What the client has missed, or the latest messages; oldest first.
    pub messages: Page<'a>,
}

/// Messages of a room's history. In a frame they stand as in frames of their own.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    room: &'a RoomId,
    epoch: Epoch,
    entries: &'a [&'a Entry],
}

impl<'a> Page<'a> {
    /// Messages of `room`, oldest first, of one epoch.
    #[must_use]
    pub fn new(room: &'a RoomId, epoch: Epoch, entries: &'a [&'a Entry]) -> Self {
        Self { room, epoch, entries }
    }
}

impl Serialize for Page<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.entries.iter().filter_map(|entry| {
            let position = Position { epoch: self.epoch, offset: entry.offset };
            // What a newer version wrote is left out, as it is when it arrives.
            let event = envelope::decode(&entry.payload).ok()?;
            native::frame(self.room.as_str(), &event, Some(position))
        }))
    }
}

/// See [`Reply::Ok`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ok<'a> {
    /// Echoes the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a RawValue>,
    /// The message's place in the room's sequence.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// How many servers hold the user that a direct message went to; 0: offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u32>,
}

/// See [`Reply::Error`].
#[derive(Debug, Clone, Serialize)]
pub struct Error<'a> {
    /// Echoes the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a RawValue>,
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: &'a str,
    /// When to try again, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl<'a> From<&'a Rejection> for Reply<'a> {
    fn from(rejection: &'a Rejection) -> Self {
        Self::Error(Error {
            id: rejection.id.as_deref(),
            code: rejection.code,
            message: &rejection.message,
            retry_after_ms: rejection.retry_after_ms,
        })
    }
}
