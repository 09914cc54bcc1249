//! Encodings that clients use: the native protocol and those of three earlier systems.
//!
//! Decoding and encoding are pure. A dialect is recognised by a connection's first frame
//! ([`Dialect::recognise`]) and kept.

mod direct;
mod native;
mod rooms;
mod topics;

use serde::Serialize;

use crate::command::Request;
use crate::error::{ErrorCode, Rejection};
use crate::event::Event;
use crate::fields::Fields;
use crate::frames::Frames;
use crate::position::Position;
use crate::topic::Topic;
use crate::wire::{ClientRequest, Rejected, ServerFrame};

/// A protocol that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// The protocol of this project, version 1.
    Native = 0,
    /// `join_room`, `chat_message`, `leave_room`: one room at a time, and a line from the
    /// system when a user joins or leaves.
    Rooms = 1,
    /// `SUBSCRIBE`, `UNSUBSCRIBE`, `sendMessage`: messages without a sender's name.
    Topics = 2,
    /// `{"to","message"}`: from user to user, each frame forwarded unchanged.
    Direct = 3,
}

impl Dialect {
    /// Every dialect, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Native, Self::Rooms, Self::Topics, Self::Direct];

    /// How many dialects there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The WebSocket subprotocol that asks for [`Dialect::Native`].
    pub const SUBPROTOCOL: &'static str = "chat.v1";

    /// The dialect of a frame; `None` for a frame of no dialect.
    ///
    /// ```
    /// use chat_core::Dialect;
    ///
    /// let frame = r#"{"type":"join","room":"general"}"#;
    /// assert_eq!(Dialect::recognise(frame), Some(Dialect::Native));
    /// assert_eq!(Dialect::recognise("hello"), None);
    /// ```
    #[must_use]
    pub fn recognise(text: &str) -> Option<Self> {
        let fields = Fields::parse(text).ok()?;
        match fields.kind().ok()?.as_deref() {
            Some(kind) if ClientRequest::TYPES.contains(&kind) => Some(Self::Native),
            Some(kind) if rooms::TYPES.contains(&kind) => Some(Self::Rooms),
            Some(kind) if topics::TYPES.contains(&kind) => Some(Self::Topics),
            None if fields.has_recipient() => Some(Self::Direct),
            _ => None,
        }
    }

    /// Reads a frame from a client.
    ///
    /// # Errors
    /// A [`Rejection`] that says what is wrong with the frame. The connection need not end.
    ///
    /// ```
    /// use chat_core::{Command, Dialect};
    ///
    /// let request = Dialect::Native.decode(r#"{"type":"members","room":"general"}"#)?;
    /// assert!(matches!(request.command, Command::Members { room } if room.as_str() == "general"));
    /// # Ok::<(), chat_core::Rejection>(())
    /// ```
    pub fn decode(self, text: &str) -> Result<Request<'_>, Rejection> {
        let fields = Fields::parse(text)?;
        let id = fields.id()?;
        let command = match self {
            Self::Native => native::decode(&fields),
            Self::Rooms => rooms::decode(&fields),
            Self::Topics => topics::decode(&fields),
            Self::Direct => direct::decode(&fields),
        };
        match command {
            Ok(command) => Ok(Request { id, command }),
            Err(rejection) => Err(rejection.to_request(id)),
        }
    }

    /// Appends the text of `event` to `out`, and returns `true`; or returns `false` if the dialect
    /// has no frame for it.
    ///
    /// ```
    /// use chat_core::{Dialect, Event, Message, RoomId, Sender, Topic};
    ///
    /// let topic = Topic::from(RoomId::new("r1")?);
    /// let user = Sender::new("u1", "Ann", "#FF6B6B");
    /// let mut text = Vec::new();
    /// let message = Event::Message(Message::new(user, "hi", 0));
    /// assert!(Dialect::Topics.encode(&topic, &message, None, &mut text));
    /// assert_eq!(text, br#"{"type":"sendMessage","roomId":"r1","message":"hi"}"#);
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    pub fn encode(
        self,
        topic: &Topic,
        event: &Event<'_>,
        position: Option<Position>,
        out: &mut Vec<u8>,
    ) -> bool {
        match self {
            Self::Native => native::encode(topic, event, position, out),
            Self::Rooms => rooms::encode(event, out),
            Self::Topics => topics::encode(topic, event, out),
            Self::Direct => direct::encode(event, out),
        }
    }

    /// The frame that answers one client; `None` if the dialect has none for it. Errors are the
    /// same in every dialect, except that a ban is [`ErrorCode::Forbidden`] in the earlier ones.
    ///
    /// ```
    /// use chat_core::Dialect;
    /// use chat_core::wire::{Pong, ServerFrame};
    ///
    /// let pong = ServerFrame::Pong(Pong::default());
    /// let frames = Dialect::Native.reply(&pong).unwrap();
    /// assert_eq!(frames.texts().collect::<Vec<_>>(), [r#"{"type":"pong"}"#]);
    /// assert!(Dialect::Topics.reply(&pong).is_none());
    /// ```
    #[must_use]
    pub fn reply(self, reply: &ServerFrame<'_>) -> Option<Frames> {
        let text = match (self, reply) {
            (Self::Native, _) => json(reply),
            (_, ServerFrame::Error(error)) if error.known_code() == Some(ErrorCode::Banned) => {
                let code = ErrorCode::Forbidden.as_str().into();
                let error = Rejected { code, until: None, reason: None, ..error.clone() };
                json(&ServerFrame::Error(error))
            }
            (_, ServerFrame::Error(_)) => json(reply),
            (Self::Rooms, ServerFrame::Joined(joined)) => rooms::joined(&joined.room),
            _ => return None,
        };
        Some(Frames::text(&text))
    }
}

/// Serializing these types cannot fail: no maps, no fallible `Serialize`.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Appends `before` and then `text` as a JSON string.
fn append_text(out: &mut Vec<u8>, before: &str, text: &str) {
    out.extend_from_slice(before.as_bytes());
    crate::json::append_string(out, text);
}

/// Appends `before` and then `number`.
fn append_number(out: &mut Vec<u8>, before: &str, number: u64) {
    out.extend_from_slice(before.as_bytes());
    append_json(out, &number);
}

fn append_json(out: &mut Vec<u8>, value: &impl Serialize) -> bool {
    serde_json::to_writer(out, value).is_ok()
}
