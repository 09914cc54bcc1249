//! What is known of a frame that is refused.

use std::borrow::Cow;

use chat_core::{RoomId, Topic, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client_lines::Attempt;

/// What the log has of a frame that is refused, in any dialect. It may be no valid command.
#[derive(Default)]
pub(super) struct Refused<'a> {
    /// Its type, as the client has sent it.
    pub(super) kind: Option<Cow<'a, str>>,
    pub(super) room: Option<Cow<'a, str>>,
    /// The recipient of a direct message.
    pub(super) to: Option<Cow<'a, str>>,
    /// Whom a moderator meant.
    pub(super) about: Option<Cow<'a, str>>,
    pub(super) by_backend: bool,
}

impl<'a> Refused<'a> {
    /// What is known of a text that a client has sent.
    pub(super) fn frame(text: &'a str) -> Self {
        let Ok(RefusedFields { kind, room, room_id, to, user }) = serde_json::from_str(text) else {
            return Self::default();
        };
        let room = string(room).or_else(|| string(room_id));
        let (kind, to, about) = (string(kind), string(to), string(user));
        Self { kind, room, to, about, by_backend: false }
    }

    pub(super) fn in_room(kind: &'static str, room: &'a RoomId) -> Self {
        let (kind, room) = (Cow::Borrowed(kind), Cow::Borrowed(room.as_str()));
        Self { kind: Some(kind), room: Some(room), ..Self::default() }
    }

    /// A message whose frame is gone.
    pub(super) fn message(topic: &'a Topic) -> Self {
        match topic {
            Topic::Room(room) => Self::in_room("send", room),
            Topic::User(to) => Self::to_user(to),
        }
    }

    pub(super) fn to_user(to: &'a UserId) -> Self {
        let (kind, to) = (Cow::Borrowed("direct"), Cow::Borrowed(to.as_str()));
        Self { kind: Some(kind), to: Some(to), ..Self::default() }
    }

    pub(super) fn by_backend(self) -> Self {
        Self { by_backend: true, ..self }
    }

    pub(super) fn attempt(&self) -> Option<Attempt> {
        match self.kind.as_deref() {
            Some("join" | "join_room" | "SUBSCRIBE") => Some(Attempt::Join),
            Some("send" | "direct" | "chat_message" | "sendMessage") => Some(Attempt::Send),
            Some("kick" | "ban" | "unban") => Some(Attempt::Moderate),
            // The `direct` dialect has one type of frame, which it does not name.
            None if self.to.is_some() => Some(Attempt::Send),
            _ => None,
        }
    }

    /// In the `rooms` dialect a client is in one room, and its messages name none.
    pub(super) fn is_to_current_room(&self) -> bool {
        self.kind.as_deref() == Some("chat_message")
    }
}

/// The fields that the log may have. Raw: one that is no text must not hide the others.
#[derive(Deserialize)]
struct RefusedFields<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    room: Option<&'a RawValue>,
    #[serde(rename = "roomId", borrow)]
    room_id: Option<&'a RawValue>,
    #[serde(borrow)]
    to: Option<&'a RawValue>,
    #[serde(borrow)]
    user: Option<&'a RawValue>,
}

fn string(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    serde_json::from_str::<String>(raw?.get()).ok().map(Cow::Owned)
}
