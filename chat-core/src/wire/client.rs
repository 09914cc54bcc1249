//! What a client sends.

use std::borrow::Cow;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::command::{Content, Hello, Sanction};
use crate::error::Rejection;
use crate::fields::Fields;
use crate::history::HistoryRange;
use crate::id::{RoomId, UserId};
use crate::position::Position;

/// A frame from a client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientFrame<'a> {
    /// A JSON string or integer, of at most 128 bytes as it is written in the frame; the answer carries
    /// it back.
    pub id: Option<Cow<'a, RawValue>>,
    /// What the client asks for.
    pub request: ClientRequest<'a>,
}

/// What a client asks for in a [`ClientFrame`].
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientRequest<'a> {
    /// Says who the client is.
    Hello(Hello<'a>),
    /// Joins a room, beside those that the client is in.
    Join {
        /// The room.
        room: RoomId,
        /// The position of the client's copy of the room: what follows on it is sent.
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<Position>,
        /// How many of the latest messages the client asks for.
        #[serde(skip_serializing_if = "Option::is_none")]
        history: Option<u32>,
    },
    /// Leaves a room.
    Leave {
        /// The room.
        room: RoomId,
    },
    /// Sends a message to a room that the client is in.
    Send {
        /// The room.
        room: RoomId,
        /// The message.
        #[serde(flatten)]
        content: Content<'a>,
    },
    /// Sends a message to one user.
    Direct {
        /// The recipient.
        to: UserId,
        /// The message.
        #[serde(flatten)]
        content: Content<'a>,
    },
    /// Starts or stops typing.
    Typing {
        /// The room.
        room: RoomId,
        /// Whether the user types now.
        typing: bool,
    },
    /// Asks for a page of a room's history.
    History {
        /// The room.
        room: RoomId,
        /// Which messages.
        #[serde(flatten, serialize_with = "bounds")]
        range: HistoryRange,
        /// How many messages at most.
        #[serde(skip_serializing_if = "Option::is_none")]
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
        #[serde(flatten)]
        sanction: Sanction<'a>,
        /// For how long, in seconds; `None`: until it is lifted.
        #[serde(skip_serializing_if = "Option::is_none")]
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

/// `before`, `after`, or neither.
fn bounds<S: Serializer>(range: &HistoryRange, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    match range {
        HistoryRange::After(offset) => map.serialize_entry("after", offset)?,
        HistoryRange::Before(offset) => map.serialize_entry("before", offset)?,
        HistoryRange::Latest => {}
    }
    map.end()
}

impl<'a> ClientFrame<'a> {
    /// A frame without an id: its answer has none either.
    #[must_use]
    pub fn new(request: ClientRequest<'a>) -> Self {
        Self { id: None, request }
    }

    /// A frame whose id is a number.
    #[must_use]
    pub fn numbered(id: u64, request: ClientRequest<'a>) -> Self {
        // A number is valid JSON.
        Self { id: RawValue::from_string(id.to_string()).ok().map(Cow::Owned), request }
    }

    /// The frame as text.
    #[must_use]
    pub fn encode(&self) -> String {
        // Texts, numbers and JSON that was parsed before: nothing that cannot be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a frame as a server does.
    ///
    /// # Errors
    /// A [`Rejection`] that says what is wrong with the frame.
    pub fn decode(text: &'a str) -> Result<Self, Rejection> {
        let fields = Fields::parse(text)?;
        let id = fields.id()?;
        let request = ClientRequest::read(&fields).map_err(|why| why.to_request(id))?;
        Ok(Self { id: id.map(Cow::Borrowed), request })
    }
}

impl Serialize for ClientFrame<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a RawValue>,
            #[serde(flatten)]
            request: &'a ClientRequest<'a>,
        }
        Flat { id: self.id.as_deref(), request: &self.request }.serialize(serializer)
    }
}

/// By [`ClientFrame::decode`].
impl<'de: 'a, 'a> Deserialize<'de> for ClientFrame<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let frame = <&RawValue>::deserialize(deserializer)?;
        ClientFrame::decode(frame.get()).map_err(serde::de::Error::custom)
    }
}

impl<'a> ClientRequest<'a> {
    /// The types of all of them.
    pub(crate) const TYPES: [&'static str; 12] = [
        "hello", "join", "leave", "send", "direct", "typing", "history", "members", "ping", "kick",
        "ban", "unban",
    ];

    pub(crate) fn read(fields: &Fields<'a>) -> Result<Self, Rejection> {
        Ok(match &*fields.required_kind()? {
            "send" => Self::Send { room: fields.room()?, content: fields.content()? },
            "hello" => Self::Hello(Hello {
                token: fields.token()?,
                name: fields.name()?,
                resume: fields.resume()?,
            }),
            "join" => Self::Join {
                room: fields.room()?,
                since: fields.since()?,
                history: fields.history()?,
            },
            "leave" => Self::Leave { room: fields.room()? },
            "direct" => Self::Direct { to: fields.to()?, content: fields.content_of_frame()? },
            "typing" => Self::Typing { room: fields.room()?, typing: fields.typing()? },
            "history" => Self::History {
                room: fields.room()?,
                range: fields.range()?,
                limit: fields.limit()?,
            },
            "members" => Self::Members { room: fields.room()? },
            "ping" => Self::Ping,
            "kick" => Self::Kick(fields.sanction()?),
            "ban" => Self::Ban { sanction: fields.sanction()?, seconds: fields.seconds()? },
            "unban" => Self::Unban { room: fields.room()?, user: fields.user_id()? },
            kind => return Err(Rejection::unknown_type(kind)),
        })
    }
}
