//! What a server sends.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, MapAccess};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::object::{self, Fields, Tagged, any, lenient, lenient_text, or_default, or_empty, text};
use crate::error::{ErrorCode, Rejection};
use crate::event::{PresenceChange, Sender};
use crate::grants::Capabilities;
use crate::position::{Epoch, Position};
use crate::secret::hidden;

/// A frame from a server. Those that answer a request carry its `id`.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum ServerFrame<'a> {
    /// Answers `hello`.
    Welcome(Welcome<'a>),
    /// Answers `join`.
    Joined(Joined<'a>),
    /// Answers `leave`, or says that the client was removed from the room.
    Left(Left<'a>),
    /// Answers `send`, `direct`, `kick`, `ban` and `unban`.
    Ok(Accepted<'a>),
    /// Rejects a frame.
    Error(Rejected<'a>),
    /// Answers `members`.
    Members(Members<'a>),
    /// Answers `history`.
    History(History<'a>),
    /// Answers `ping`.
    Pong(Pong<'a>),
    /// The server is about to close the connection.
    Goodbye(Goodbye<'a>),
    /// A message in a room.
    Message(Message<'a>),
    /// A change of who is in a room.
    Presence(Presence<'a>),
    /// A user types, or stopped typing.
    Typing(Typing<'a>),
    /// A message to this user alone.
    Direct(Direct<'a>),
    /// A direct message of this user was dropped.
    Undelivered(Undelivered<'a>),
    /// Messages of a room are lost to this client.
    Gap(Gap<'a>),
    /// A new token lets the user do something else in a room.
    Capabilities(RoomCapabilities<'a>),
    /// A frame of a type that this version does not know.
    Unknown(Unknown<'a>),
}

impl<'a> ServerFrame<'a> {
    /// The `id` of the request that the frame answers, as it is written in the frame.
    #[must_use]
    pub fn id(&self) -> Option<&RawValue> {
        let id = match self {
            Self::Welcome(frame) => &frame.id,
            Self::Joined(frame) => &frame.id,
            Self::Left(frame) => &frame.id,
            Self::Ok(frame) => &frame.id,
            Self::Error(frame) => &frame.id,
            Self::Members(frame) => &frame.id,
            Self::History(frame) => &frame.id,
            Self::Pong(frame) => &frame.id,
            Self::Unknown(frame) => &frame.id,
            // The id in an `undelivered` is that of a request which was answered before.
            _ => return None,
        };
        id.as_deref()
    }

    /// The same frame, as the answer to the request with this `id`. Changes no frame that answers
    /// nothing.
    #[must_use]
    pub fn to_request(mut self, id: Option<&'a RawValue>) -> Self {
        let own = match &mut self {
            Self::Welcome(frame) => &mut frame.id,
            Self::Joined(frame) => &mut frame.id,
            Self::Left(frame) => &mut frame.id,
            Self::Ok(frame) => &mut frame.id,
            Self::Error(frame) => &mut frame.id,
            Self::Members(frame) => &mut frame.id,
            Self::History(frame) => &mut frame.id,
            Self::Pong(frame) => &mut frame.id,
            _ => return self,
        };
        *own = id.map(Cow::Borrowed);
        self
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ServerFrame<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object::read(deserializer)
    }
}

impl<'de: 'a, 'a> Tagged<'de> for ServerFrame<'a> {
    fn read<A: MapAccess<'de>>(
        kind: Cow<'de, str>,
        fields: Fields<'de, A>,
    ) -> Result<Self, A::Error> {
        Ok(match &*kind {
            "message" => Self::Message(fields.into_frame()?),
            "presence" => Self::Presence(fields.into_frame()?),
            "typing" => Self::Typing(fields.into_frame()?),
            "ok" => Self::Ok(fields.into_frame()?),
            "error" => Self::Error(fields.into_frame()?),
            "welcome" => Self::Welcome(fields.into_frame()?),
            "joined" => Self::Joined(fields.into_frame()?),
            "left" => Self::Left(fields.into_frame()?),
            "members" => Self::Members(fields.into_frame()?),
            "history" => Self::History(fields.into_frame()?),
            "pong" => Self::Pong(fields.into_frame()?),
            "goodbye" => Self::Goodbye(fields.into_frame()?),
            "direct" => Self::Direct(fields.into_frame()?),
            "undelivered" => Self::Undelivered(fields.into_frame()?),
            "gap" => Self::Gap(fields.into_frame()?),
            "capabilities" => Self::Capabilities(fields.into_frame()?),
            _ => Self::Unknown(Unknown { kind, ..fields.into_frame()? }),
        })
    }
}

/// An entry of a page of a room's history: a frame as it would be sent by itself.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum PageFrame<'a> {
    /// A message.
    Message(Message<'a>),
    /// Any other entry of the room's sequence.
    Unknown(Unknown<'a>),
}

impl<'de: 'a, 'a> Deserialize<'de> for PageFrame<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object::read(deserializer)
    }
}

impl<'de: 'a, 'a> Tagged<'de> for PageFrame<'a> {
    fn read<A: MapAccess<'de>>(
        kind: Cow<'de, str>,
        fields: Fields<'de, A>,
    ) -> Result<Self, A::Error> {
        Ok(match &*kind {
            "message" => Self::Message(fields.into_frame()?),
            _ => Self::Unknown(Unknown { kind, ..fields.into_frame()? }),
        })
    }
}

/// See [`ServerFrame::Welcome`]. `Debug` hides the secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "welcome")]
#[non_exhaustive]
pub struct Welcome<'a> {
    /// The `id` of the request.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// The name of this connection, for logs and support.
    #[serde(borrow)]
    pub session: Cow<'a, str>,
    /// A secret for a later `hello` to be the same user; absent while the secret that servers share
    /// is unavailable, and where users have tokens.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub resume: Option<Cow<'a, str>>,
    /// The user of this connection.
    #[serde(borrow)]
    pub user: User<'a>,
    /// The name of the server.
    #[serde(borrow)]
    pub node: Cow<'a, str>,
    /// The version of the protocol; 1 if absent.
    #[serde(default = "version", deserialize_with = "or_version")]
    pub protocol: u32,
    /// When the token expires, in milliseconds from now; absent: never. A client sends `hello` with
    /// a new token before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// How often the server pings an idle connection, in milliseconds; 0 or absent: never.
    #[serde(default, deserialize_with = "or_default")]
    pub heartbeat_ms: u64,
    /// The limits of one connection.
    pub limits: Limits,
}

impl fmt::Debug for Welcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, session, resume, user, node, protocol, expires_in_ms, heartbeat_ms, limits } =
            self;
        f.debug_struct("Welcome")
            .field("id", id)
            .field("session", session)
            .field("resume", &hidden(resume.as_ref()))
            .field("user", user)
            .field("node", node)
            .field("protocol", protocol)
            .field("expires_in_ms", expires_in_ms)
            .field("heartbeat_ms", heartbeat_ms)
            .field("limits", limits)
            .finish()
    }
}

fn version() -> u32 {
    1
}

fn or_version<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    Option::deserialize(d).map(|given| given.unwrap_or(version()))
}

impl<'a> Welcome<'a> {
    /// A welcome to a user of version 1 whose connection is not pinged.
    pub fn new(
        session: impl Into<Cow<'a, str>>,
        user: impl Into<User<'a>>,
        node: impl Into<Cow<'a, str>>,
        limits: Limits,
    ) -> Self {
        Self {
            id: None,
            session: session.into(),
            resume: None,
            user: user.into(),
            node: node.into(),
            protocol: version(),
            expires_in_ms: None,
            heartbeat_ms: 0,
            limits,
        }
    }
}

/// The limits of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Longest text of a message in bytes of UTF-8, and longest `data` in bytes.
    pub message_bytes: usize,
    /// Largest frame, in bytes. A larger one closes the connection.
    pub frame_bytes: usize,
    /// Rooms at a time; 128 if absent.
    #[serde(default = "default_rooms")]
    pub rooms: usize,
    /// Sends that may be unanswered before the server reads no further; 64 if absent.
    #[serde(default = "default_in_flight")]
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

fn default_rooms() -> usize {
    128
}

fn default_in_flight() -> usize {
    64
}

impl Limits {
    /// Limits without rates: 128 rooms, and 64 sends in flight.
    #[must_use]
    pub fn new(message_bytes: usize, frame_bytes: usize) -> Self {
        Self {
            message_bytes,
            frame_bytes,
            rooms: default_rooms(),
            in_flight: default_in_flight(),
            frames: None,
            joins: None,
            bytes: None,
            answers: None,
            kept: None,
        }
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RateLimit {
    /// The long-term rate, per second.
    pub per_second: u64,
    /// The largest burst.
    pub burst: u64,
}

impl RateLimit {
    /// A bucket that holds `burst` tokens and gets `per_second` new ones.
    #[must_use]
    pub fn new(per_second: u64, burst: u64) -> Self {
        Self { per_second, burst }
    }
}

/// A user as others see one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct User<'a> {
    /// [`UserId`](crate::UserId): names the user on every server.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// [`UserName`](crate::UserName): for people.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// The colour of the name, `#RRGGBB`.
    #[serde(borrow)]
    pub color: Cow<'a, str>,
}

impl User<'_> {
    fn reborrow(&self) -> User<'_> {
        let Self { id, name, color } = self;
        Sender { id, name, color }.into()
    }
}

impl<'a> From<Sender<'a>> for User<'a> {
    fn from(Sender { id, name, color }: Sender<'a>) -> Self {
        Self { id: id.into(), name: name.into(), color: color.into() }
    }
}

impl<'a> From<&'a crate::User> for User<'a> {
    fn from(user: &'a crate::User) -> Self {
        user.as_sender().into()
    }
}

/// See [`ServerFrame::Joined`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "joined")]
#[non_exhaustive]
pub struct Joined<'a> {
    /// The `id` of the request.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// With `offset`: see [`Joined::position`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// With `epoch`: see [`Joined::position`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Whether the client has missed nothing since the position that it gave.
    pub recovered: bool,
    /// The users in the room, at most as many as the server lists. The user of this connection is
    /// the first one, unless it was in the room before.
    #[serde(borrow)]
    pub members: Vec<User<'a>>,
    /// How many users are in the room.
    pub count: u32,
    /// What the user may do in the room; absent: an earlier server, which does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can: Option<Capabilities>,
    /// The messages that the client has missed, or the latest ones; oldest first.
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub messages: Vec<PageFrame<'a>>,
    /// Whether the room may keep messages before these; absent in a room without history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<bool>,
}

impl<'a> Joined<'a> {
    /// The answer to a join of an empty room: who is in it and the messages are to be set.
    pub fn new(room: impl Into<Cow<'a, str>>, position: Option<Position>, recovered: bool) -> Self {
        let (epoch, offset) = parts(position);
        Self {
            id: None,
            room: room.into(),
            epoch,
            offset,
            recovered,
            members: Vec::new(),
            count: 0,
            can: None,
            messages: Vec::new(),
            more: None,
        }
    }

    /// The position of the room after `messages`: the messages after it follow on this connection.
    /// `None` in a room without history.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        position(self.epoch, self.offset)
    }
}

/// See [`ServerFrame::Left`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "left")]
#[non_exhaustive]
pub struct Left<'a> {
    /// The `id` of the request; absent if the client did not ask to leave.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// The reason, if the client did not ask to leave: `kicked`, `banned`, or `forbidden` by a new token.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// The message of the moderator.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, str>>,
    /// The end of the ban in milliseconds since 1970; absent if it lasts until an unban.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl<'a> Left<'a> {
    /// The end of a membership, without a reason.
    pub fn new(room: impl Into<Cow<'a, str>>) -> Self {
        Self { id: None, room: room.into(), reason: None, message: None, until: None }
    }
}

/// See [`ServerFrame::Ok`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename = "ok")]
#[non_exhaustive]
pub struct Accepted<'a> {
    /// The `id` of the request.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// With `offset`: see [`Accepted::position`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// With `epoch`: see [`Accepted::position`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How many servers the user of a direct message is connected to; 0: offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u32>,
}

impl Accepted<'_> {
    /// The answer to a request that was carried out; `position` is that of a message whose room has
    /// a history.
    #[must_use]
    pub fn new(position: Option<Position>) -> Self {
        let (epoch, offset) = parts(position);
        Self { id: None, epoch, offset, delivered: None }
    }

    /// The position of the message; `None` in a room without history.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        position(self.epoch, self.offset)
    }
}

/// See [`ServerFrame::Error`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "error")]
#[non_exhaustive]
pub struct Rejected<'a> {
    /// The `id` of the request, where it could be read.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// For programs: an [`ErrorCode`], or one of a later version.
    #[serde(borrow)]
    pub code: Cow<'a, str>,
    /// For people: a sentence.
    #[serde(borrow, default, deserialize_with = "or_empty")]
    pub message: Cow<'a, str>,
    /// When to try again, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Of [`ErrorCode::Banned`]: the end of the ban in milliseconds since 1970; absent if it lasts
    /// until an unban.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Of [`ErrorCode::Banned`]: the message of the moderator.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
}

impl Rejected<'_> {
    /// The code, if this version knows it.
    #[must_use]
    pub fn known_code(&self) -> Option<ErrorCode> {
        self.code.parse().ok()
    }
}

impl<'a> From<&'a Rejection> for ServerFrame<'a> {
    fn from(rejection: &'a Rejection) -> Self {
        Self::Error(Rejected {
            id: rejection.id.as_deref().map(Cow::Borrowed),
            code: rejection.code.as_str().into(),
            message: Cow::Borrowed(&rejection.message),
            retry_after_ms: rejection.retry_after_ms,
            until: rejection.until,
            reason: rejection.reason.as_deref().map(Cow::Borrowed),
        })
    }
}

/// See [`ServerFrame::Members`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "members")]
#[non_exhaustive]
pub struct Members<'a> {
    /// The `id` of the request.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// The users in the room, at most as many as the server lists.
    #[serde(borrow)]
    pub members: Vec<User<'a>>,
    /// How many users are in the room.
    pub count: u32,
}

impl<'a> Members<'a> {
    /// The users in a room, and how many there are.
    pub fn new(room: impl Into<Cow<'a, str>>, members: Vec<User<'a>>, count: u32) -> Self {
        Self { id: None, room: room.into(), members, count }
    }
}

/// See [`ServerFrame::History`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "history")]
#[non_exhaustive]
pub struct History<'a> {
    /// The `id` of the request.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// With `offset`: see [`History::position`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// With `epoch`: see [`History::position`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The messages, oldest first.
    #[serde(borrow)]
    pub messages: Vec<PageFrame<'a>>,
    /// Whether there are more beyond them, in the direction asked for.
    pub more: bool,
}

impl<'a> History<'a> {
    /// A page of a room's history.
    pub fn new(
        room: impl Into<Cow<'a, str>>,
        position: Position,
        messages: Vec<PageFrame<'a>>,
        more: bool,
    ) -> Self {
        let (epoch, offset) = parts(Some(position));
        Self { id: None, room: room.into(), epoch, offset, messages, more }
    }

    /// The position of the room.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        position(self.epoch, self.offset)
    }
}

/// See [`ServerFrame::Pong`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename = "pong")]
#[non_exhaustive]
pub struct Pong<'a> {
    /// The `id` of the request.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
}

/// See [`ServerFrame::Goodbye`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "goodbye")]
#[non_exhaustive]
pub struct Goodbye<'a> {
    /// The reason: `shutdown`, `rebalance`, `disconnected` by the application, `banned`, `token_expired`, or a
    /// reason of another version.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// Whether to connect again.
    pub reconnect: bool,
    /// When to connect again, in milliseconds from now; 0 if absent.
    #[serde(default, deserialize_with = "or_default")]
    pub after_ms: u64,
    /// The message of the moderator.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, str>>,
    /// The end of the ban in milliseconds since 1970; absent if it lasts until an unban.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl<'a> Goodbye<'a> {
    /// The end of a connection, without a pause and a message.
    pub fn new(reason: impl Into<Cow<'a, str>>, reconnect: bool) -> Self {
        Self { reason: reason.into(), reconnect, after_ms: 0, message: None, until: None }
    }
}

/// See [`ServerFrame::Message`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "message")]
#[non_exhaustive]
pub struct Message<'a> {
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// The offset of the message in the room's sequence; absent in a room without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The sequence that begins with this message; absent in the others, which continue it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The sender.
    #[serde(borrow)]
    pub user: User<'a>,
    /// The text.
    #[serde(borrow, rename = "message")]
    pub text: Cow<'a, str>,
    /// The JSON value that the sender attached.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub data: Option<Cow<'a, RawValue>>,
    /// When the server took the message, in milliseconds since 1970.
    pub at: u64,
    /// The idempotency key of the message, which the sender chose.
    #[serde(borrow, default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub key: Option<Cow<'a, str>>,
}

/// See [`ServerFrame::Presence`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Presence<'a> {
    /// The room.
    pub room: Cow<'a, str>,
    /// The change.
    pub event: PresenceEvent<'a>,
}

/// A change of the members of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PresenceEvent<'a> {
    /// The user joined or left, or has another name.
    Changed(PresenceChange, User<'a>),
    /// So many users are in the room, which is too large for single changes.
    Count(u32),
    /// An event of a later version, by its name.
    Unknown(Cow<'a, str>),
}

/// [`Presence`] as it is written in a frame.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "presence")]
struct PresenceFields<'a> {
    #[serde(borrow)]
    room: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
}

impl Serialize for Presence<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (event, user, count) = match &self.event {
            PresenceEvent::Changed(change, user) => (change.as_str(), Some(user.reborrow()), None),
            PresenceEvent::Count(count) => ("count", None, Some(*count)),
            PresenceEvent::Unknown(event) => (&**event, None, None),
        };
        let room = Cow::Borrowed(&*self.room);
        PresenceFields { room, event: event.into(), user, count }.serialize(serializer)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Presence<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PresenceFields { room, event, user, count } = Deserialize::deserialize(deserializer)?;
        let event = match (PresenceChange::parse(&event), &*event) {
            (Some(change), _) => {
                let user = user.ok_or_else(|| D::Error::missing_field("user"))?;
                PresenceEvent::Changed(change, user)
            }
            (None, "count") => {
                PresenceEvent::Count(count.ok_or_else(|| D::Error::missing_field("count"))?)
            }
            (None, _) => PresenceEvent::Unknown(event),
        };
        Ok(Self { room, event })
    }
}

/// See [`ServerFrame::Typing`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "typing")]
#[non_exhaustive]
pub struct Typing<'a> {
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// The user.
    #[serde(borrow)]
    pub user: User<'a>,
    /// Whether the user types now.
    pub typing: bool,
}

/// See [`ServerFrame::Direct`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "direct")]
#[non_exhaustive]
pub struct Direct<'a> {
    /// The sender.
    #[serde(borrow)]
    pub user: User<'a>,
    /// The text.
    #[serde(borrow, rename = "message")]
    pub text: Cow<'a, str>,
    /// The JSON value that the sender attached.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub data: Option<Cow<'a, RawValue>>,
    /// When the server took the message, in milliseconds since 1970.
    pub at: u64,
}

/// See [`ServerFrame::Undelivered`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "undelivered")]
#[non_exhaustive]
pub struct Undelivered<'a> {
    /// The `session` of the connection that sent the message.
    #[serde(borrow)]
    pub session: Cow<'a, str>,
    /// The `id` of the request that sent it, if it had one.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// The id of the recipient.
    #[serde(borrow)]
    pub to: Cow<'a, str>,
}

/// See [`ServerFrame::Gap`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "gap")]
#[non_exhaustive]
pub struct Gap<'a> {
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// With `offset`: see [`Gap::position`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// With `epoch`: see [`Gap::position`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl<'a> Gap<'a> {
    /// A gap of a room that continues after this position.
    pub fn new(room: impl Into<Cow<'a, str>>, position: Option<Position>) -> Self {
        let (epoch, offset) = parts(position);
        Self { room: room.into(), epoch, offset }
    }

    /// The position after which the room continues; `None` in a room without history.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        position(self.epoch, self.offset)
    }
}

/// See [`ServerFrame::Capabilities`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename = "capabilities")]
#[non_exhaustive]
pub struct RoomCapabilities<'a> {
    /// The room.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// What the user may do in the room from now on.
    pub can: Capabilities,
}

impl<'a> RoomCapabilities<'a> {
    /// What a user may do in a room.
    pub fn new(room: impl Into<Cow<'a, str>>, can: Capabilities) -> Self {
        Self { room: room.into(), can }
    }
}

/// See [`ServerFrame::Unknown`]. A field that is of another type than in the frames of this
/// version counts as absent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unknown<'a> {
    /// The `type`.
    #[serde(borrow, rename = "type", default)]
    pub kind: Cow<'a, str>,
    /// The `id` of the request, if the frame answers one.
    #[serde(borrow, default, deserialize_with = "any", skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, RawValue>>,
    /// The room.
    #[serde(
        borrow,
        default,
        deserialize_with = "lenient_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub room: Option<Cow<'a, str>>,
    /// The sequence that `offset` counts in, if it is another than before.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The offset in the room's sequence.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

pub(super) fn parts(position: Option<Position>) -> (Option<Epoch>, Option<u64>) {
    position.map(|Position { epoch, offset }| (epoch, offset)).unzip()
}

fn position(epoch: Option<Epoch>, offset: Option<u64>) -> Option<Position> {
    epoch.zip(offset).map(|(epoch, offset)| Position { epoch, offset })
}
