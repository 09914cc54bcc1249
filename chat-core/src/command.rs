//! What a client asks for.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::history::Range;
use crate::id::{RoomId, UserId, UserName};
use crate::position::Position;

/// A frame from a client, decoded.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The client's `id` for the frame, a JSON string or integer; the answer carries it
    /// back.
    pub id: Option<&'a RawValue>,
    /// What is asked.
    pub command: Command<'a>,
}

/// What a client asks for, in any dialect.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Command<'a> {
    /// Says who the client is. (native)
    Hello(Hello<'a>),
    /// Enters a room, beside those the client is in. (native)
    Join {
        /// Which.
        room: RoomId,
        /// Where the client's copy of the room ends.
        since: Option<Position>,
        /// How many of the latest messages the client wants.
        history: Option<u32>,
    },
    /// Leaves a room. (native)
    Leave {
        /// Which.
        room: RoomId,
    },
    /// Says something in a room that the client is in. (native)
    Send {
        /// Where.
        room: RoomId,
        /// What.
        content: Content<'a>,
    },
    /// Writes to one user. (native, direct)
    Direct {
        /// To whom.
        to: UserId,
        /// What.
        content: Content<'a>,
    },
    /// Starts or stops writing. (native)
    Typing {
        /// Where.
        room: RoomId,
        /// Whether the client writes now.
        typing: bool,
    },
    /// Asks for earlier messages, or for later ones. (native)
    History {
        /// Of which room.
        room: RoomId,
        /// Which of them.
        range: Range,
        /// How many at most.
        limit: Option<u32>,
    },
    /// Asks who is in a room. (native)
    Members {
        /// Which.
        room: RoomId,
    },
    /// Asks for a sign of life. (native)
    Ping,
    /// Puts a user out of a room. (native)
    Kick(Sanction<'a>),
    /// Puts a user out of a room, and keeps it out for some time. (native)
    Ban {
        /// Who, where and why.
        sanction: Sanction<'a>,
        /// For how long, in seconds; `None`: for good.
        seconds: Option<u64>,
    },
    /// Ends a ban. (native)
    Unban {
        /// In which room.
        room: RoomId,
        /// Whose.
        user: UserId,
    },
    /// Enters a room and leaves the one before. (rooms: `join_room`)
    Switch {
        /// Which.
        room: RoomId,
        /// What the user wants to be called there.
        name: Option<UserName>,
        /// How many of the latest messages the client wants.
        history: u32,
    },
    /// Says something in the room entered last. (rooms: `chat_message`)
    Say {
        /// What.
        message: Cow<'a, str>,
    },
    /// Leaves the room entered last. (rooms: `leave_room`)
    Exit,
    /// Enters a room without being announced. (topics: `SUBSCRIBE`)
    Subscribe {
        /// Which.
        room: RoomId,
    },
    /// Leaves a room without being announced. (topics: `UNSUBSCRIBE`)
    Unsubscribe {
        /// Which.
        room: RoomId,
    },
    /// Says something in any room, from inside or outside. (topics: `sendMessage`)
    Post {
        /// Where.
        room: RoomId,
        /// What.
        message: Cow<'a, str>,
    },
}

/// The parts of [`Command::Hello`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Hello<'a> {
    /// A token that names the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Cow<'a, str>>,
    /// What the user wants to be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<UserName>,
    /// The secret of an earlier `welcome`: the same user again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Cow<'a, str>>,
}

/// Longest reason of a sanction, in bytes.
pub const MAX_REASON_BYTES: usize = 512;

/// Who is put out of which room.
#[derive(Debug, Clone, Serialize)]
pub struct Sanction<'a> {
    /// Of which room.
    pub room: RoomId,
    /// Who.
    pub user: UserId,
    /// Why, for the user to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
}

/// The parts of a message that the client writes.
#[derive(Debug, Clone, Serialize)]
pub struct Content<'a> {
    /// The text.
    pub message: Cow<'a, str>,
    /// Any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
    /// The client's own name for the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
}
