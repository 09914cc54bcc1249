//! The protocol of this project. `docs/protocol.md` is its specification.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Fields, append_json, unknown_type};
use crate::command::{Command, Hello};
use crate::error::Rejection;
use crate::event::{Direct, Event, Message, Presence, PresenceChange, Sender};
use crate::position::{Epoch, Position};
use crate::topic::Topic;

pub(super) const TYPES: [&str; 9] =
    ["hello", "join", "leave", "send", "direct", "typing", "history", "members", "ping"];

pub(super) fn decode<'a>(fields: &Fields<'a>) -> Result<Command<'a>, Rejection> {
    Ok(match &*fields.required_kind()? {
        "send" => Command::Send { room: fields.room()?, content: fields.content()? },
        "hello" => Command::Hello(Hello {
            token: fields.token()?,
            name: fields.name()?,
            resume: fields.resume()?,
        }),
        "join" => Command::Join {
            room: fields.room()?,
            since: fields.since()?,
            history: fields.history()?.unwrap_or(0),
        },
        "leave" => Command::Leave { room: fields.room()? },
        "direct" => Command::Direct { to: fields.to()?, content: fields.content()? },
        "typing" => Command::Typing { room: fields.room()?, typing: fields.typing()? },
        "history" => Command::History {
            room: fields.room()?,
            range: fields.range()?,
            limit: fields.limit()?,
        },
        "members" => Command::Members { room: fields.room()? },
        "ping" => Command::Ping,
        kind => return Err(unknown_type(kind)),
    })
}

/// The frames for all members of a room.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    Message {
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        user: UserField<'a>,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
        at: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
    },
    Presence {
        room: &'a str,
        event: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<UserField<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u32>,
    },
    Typing {
        room: &'a str,
        user: UserField<'a>,
        typing: bool,
    },
    Direct {
        user: UserField<'a>,
        message: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
        at: u64,
    },
    Gap {
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
}

#[derive(Serialize)]
struct UserField<'a> {
    id: &'a str,
    name: &'a str,
    color: &'a str,
}

impl<'a> From<Sender<'a>> for UserField<'a> {
    fn from(Sender { id, name, color }: Sender<'a>) -> Self {
        Self { id, name, color }
    }
}

pub(super) fn encode(
    topic: &Topic,
    event: &Event<'_>,
    position: Option<Position>,
    out: &mut Vec<u8>,
) -> bool {
    let room = topic.name();
    let frame = match *event {
        Event::Message(Message { user, text, data, key, at }) => Frame::Message {
            room,
            offset: position.map(|position| position.offset),
            // The first of a sequence tells which one it is; the others belong to the same.
            epoch: position.filter(|position| position.offset == 1).map(|first| first.epoch),
            user: user.into(),
            message: text,
            data,
            at,
            key,
        },
        Event::Presence(Presence { user, change, .. }) => {
            let event = match change {
                PresenceChange::Joined => "joined",
                PresenceChange::Left => "left",
            };
            Frame::Presence { room, event, user: Some(user.into()), count: None }
        }
        Event::Count(count) => {
            Frame::Presence { room, event: "count", user: None, count: Some(count) }
        }
        Event::Typing { user, typing } => Frame::Typing { room, user: user.into(), typing },
        Event::Direct(Direct { user, frame, at }) => {
            let Ok(fields) = Fields::parse(frame) else { return false };
            let (Some(message), data) = fields.raw_content() else { return false };
            Frame::Direct { user: user.into(), message, data, at }
        }
        Event::Gap(position) => Frame::Gap {
            room,
            epoch: position.map(|position| position.epoch),
            offset: position.map(|position| position.offset),
        },
    };
    append_json(out, &frame)
}
