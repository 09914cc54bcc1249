//! `SUBSCRIBE`, `UNSUBSCRIBE` and `sendMessage`: messages without a sender's name, from clients that need
//! not be subscribed.

use super::append_text;
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

pub(super) fn encode(topic: &Topic, event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    let Event::Message(message) = event else { return false };
    append_text(out, r#"{"type":"sendMessage","roomId":"#, topic.name());
    append_text(out, r#","message":"#, message.text);
    out.push(b'}');
    true
}
