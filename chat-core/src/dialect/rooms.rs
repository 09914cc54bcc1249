//! One room at a time, names and colours, and a line from the system when a user joins or leaves.

use serde::Serialize;

use super::{append_json, json};
use crate::command::{Command, Join};
use crate::error::Rejection;
use crate::event::{Event, Presence, PresenceChange};
use crate::fields::Fields;

pub(super) const TYPES: [&str; 3] = ["join_room", "chat_message", "leave_room"];

pub(super) fn decode<'a>(fields: &Fields<'a>) -> Result<Command<'a>, Rejection> {
    Ok(match &*fields.required_kind()? {
        "chat_message" => {
            let content = fields.message()?.into();
            Command::Send { room: None, content, members_only: true }
        }
        "join_room" => {
            let join = Join::new(fields.room()?);
            let (name, history) = (fields.user_or_username()?, fields.history()?);
            Command::Join(Join { name, history, exclusive: true, ..join })
        }
        "leave_room" => Command::Leave { room: None },
        kind => return Err(Rejection::unknown_type(kind)),
    })
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    Chat { sender: &'a str, color: &'a str, message: &'a str },
    System { sender: &'a str, message: &'a str },
}

fn system(message: &str) -> Frame<'_> {
    Frame::System { sender: "System", message }
}

pub(super) fn encode(event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    match event {
        Event::Message(message) => {
            let (sender, color) = (message.user.name, message.user.color);
            append_json(out, &Frame::Chat { sender, color, message: message.text })
        }
        Event::Presence(Presence { user, change, announced: true }) => {
            let verb = match change {
                PresenceChange::Joined => "joined",
                PresenceChange::Left => "left",
                PresenceChange::Renamed => return false,
            };
            append_json(out, &system(&format!("{} {verb} the room", user.name)))
        }
        _ => false,
    }
}

/// The line that a user receives who joins. The space before the closing quote is part of it.
pub(super) fn joined(room: &str) -> String {
    json(&system(&format!("You successfully joined room: {room} ")))
}
