//! The protocol of this project. `docs/protocol.md` is its specification.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Fields, append_json, unknown_type};
use crate::command::{Command, Hello};
use crate::error::Rejection;
use crate::event::{Direct, Event, Message, Presence, PresenceChange, Sender, Undelivered};
use crate::position::{Epoch, Position};
use crate::topic::Topic;

pub(super) const TYPES: [&str; 12] = [
    "hello", "join", "leave", "send", "direct", "typing", "history", "members", "ping", "kick",
    "ban", "unban",
];

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
            history: fields.history()?,
        },
        "leave" => Command::Leave { room: fields.room()? },
        "direct" => Command::Direct { to: fields.to()?, content: fields.content_of_frame()? },
        "typing" => Command::Typing { room: fields.room()?, typing: fields.typing()? },
        "history" => Command::History {
            room: fields.room()?,
            range: fields.range()?,
            limit: fields.limit()?,
        },
        "members" => Command::Members { room: fields.room()? },
        "ping" => Command::Ping,
        "kick" => Command::Kick(fields.sanction()?),
        "ban" => Command::Ban { sanction: fields.sanction()?, seconds: fields.seconds()? },
        "unban" => Command::Unban { room: fields.room()?, user: fields.user_id()? },
        kind => return Err(unknown_type(kind)),
    })
}

/// The frames for all members of a room.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Frame<'a> {
    Message {
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        user: Sender<'a>,
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
        user: Option<Sender<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u32>,
    },
    Typing {
        room: &'a str,
        user: Sender<'a>,
        typing: bool,
    },
    Direct {
        user: Sender<'a>,
        message: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
        at: u64,
    },
    Undelivered {
        session: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RawValue>,
        to: &'a str,
    },
    Gap {
        room: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        #[serde(skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
}

pub(super) fn encode(
    topic: &Topic,
    event: &Event<'_>,
    position: Option<Position>,
    out: &mut Vec<u8>,
) -> bool {
    frame(topic.name(), event, position).is_some_and(|frame| append_json(out, &frame))
}

/// The frame that tells of `event`; `None` if it makes no sense.
pub(crate) fn frame<'a>(
    room: &'a str,
    event: &Event<'a>,
    position: Option<Position>,
) -> Option<Frame<'a>> {
    Some(match *event {
        Event::Message(Message { user, text, data, key, at }) => Frame::Message {
            room,
            offset: position.map(|position| position.offset),
            // The first of a sequence tells which one it is; the others belong to the same.
            epoch: position.filter(|position| position.offset == 1).map(|first| first.epoch),
            user,
            message: text,
            data,
            at,
            key,
        },
        Event::Presence(Presence { user, change, .. }) => {
            let event = match change {
                PresenceChange::Joined => "joined",
                PresenceChange::Left => "left",
                PresenceChange::Renamed => "renamed",
            };
            Frame::Presence { room, event, user: Some(user), count: None }
        }
        Event::Count(count) => {
            Frame::Presence { room, event: "count", user: None, count: Some(count) }
        }
        Event::Typing { user, typing } => Frame::Typing { room, user, typing },
        Event::Direct(Direct { user, frame, at, .. }) => {
            let fields = Fields::parse(frame).ok()?;
            let (message, data) = fields.raw_content();
            Frame::Direct { user, message: message?, data, at }
        }
        Event::Undelivered(Undelivered { to, request }) => Frame::Undelivered {
            session: request.session,
            id: serde_json::from_str(request.id).ok(),
            to: to.id,
        },
        Event::Gap(position) => Frame::Gap {
            room,
            epoch: position.map(|position| position.epoch),
            offset: position.map(|position| position.offset),
        },
    })
}
