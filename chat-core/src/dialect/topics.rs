//! `SUBSCRIBE`, `UNSUBSCRIBE` and `sendMessage`: messages without a sender's name, from clients that need
//! not be subscribed.

use serde::Serialize;

use super::append_json;
use crate::command::{Command, Join};
use crate::error::Rejection;
use crate::event::Event;
use crate::fields::Fields;
use crate::topic::Topic;

pub(super) const TYPES: [&str; 3] = ["SUBSCRIBE", "UNSUBSCRIBE", "sendMessage"];

pub(super) fn decode<'a>(fields: &Fields<'a>) -> Result<Command<'a>, Rejection> {
    Ok(match &*fields.required_kind()? {
        "sendMessage" => {
            let (room, content) = (Some(fields.room_id()?), fields.message()?.into());
            Command::Send { room, content, members_only: false }
        }
        "SUBSCRIBE" => Command::Join(Join { announced: false, ..Join::new(fields.room()?) }),
        "UNSUBSCRIBE" => Command::Leave { room: Some(fields.room()?) },
        kind => return Err(Rejection::unknown_type(kind)),
    })
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum Frame<'a> {
    #[serde(rename_all = "camelCase")]
    SendMessage { room_id: &'a str, message: &'a str },
}

pub(super) fn encode(topic: &Topic, event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    match event {
        Event::Message(message) => {
            append_json(out, &Frame::SendMessage { room_id: topic.name(), message: message.text })
        }
        _ => false,
    }
}
