//! From user to user: `{"to":…,"message":…}`, forwarded byte for byte.

use crate::command::Command;
use crate::error::Rejection;
use crate::event::Event;
use crate::fields::Fields;

pub(super) fn decode<'a>(fields: &Fields<'a>) -> Result<Command<'a>, Rejection> {
    match fields.kind()? {
        Some(kind) => Err(Rejection::unknown_type(&kind)),
        None => Ok(Command::Direct { to: fields.to()?, content: fields.content_of_frame()? }),
    }
}

pub(super) fn encode(event: &Event<'_>, out: &mut Vec<u8>) -> bool {
    match event {
        Event::Direct(direct) => {
            out.extend_from_slice(direct.frame.as_bytes());
            true
        }
        _ => false,
    }
}
