//! The protocol of this project, which [`wire`](crate::wire) writes and reads: which frames a
//! client's commands and a room's events are.

use std::borrow::Cow;

use super::{append_json, append_number, append_text};
use crate::command::{Command, Join};
use crate::envelope;
use crate::error::Rejection;
use crate::event::{self, Event};
use crate::fields::Fields;
use crate::history::HistoryEntry;
use crate::id::RoomId;
use crate::position::{Epoch, Position};
use crate::topic::Topic;
use crate::wire::{
    ClientRequest, Direct, Gap, Message, PageFrame, Presence, PresenceEvent, Typing, Undelivered,
};

pub(super) fn decode<'a>(fields: &Fields<'a>) -> Result<Command<'a>, Rejection> {
    ClientRequest::read(fields).map(Command::from)
}

impl<'a> From<ClientRequest<'a>> for Command<'a> {
    fn from(request: ClientRequest<'a>) -> Self {
        match request {
            ClientRequest::Hello(hello) => Self::Hello(hello),
            ClientRequest::Join { room, since, history } => {
                Self::Join(Join { since, history, ..Join::new(room) })
            }
            ClientRequest::Leave { room } => Self::Leave { room: Some(room) },
            ClientRequest::Send { room, content } => {
                Self::Send { room: Some(room), content, members_only: true }
            }
            ClientRequest::Direct { to, content } => Self::Direct { to, content },
            ClientRequest::Typing { room, typing } => Self::Typing { room, typing },
            ClientRequest::History { room, range, limit } => Self::History { room, range, limit },
            ClientRequest::Members { room } => Self::Members { room },
            ClientRequest::Ping => Self::Ping,
            ClientRequest::Kick(sanction) => Self::Kick(sanction),
            ClientRequest::Ban { sanction, seconds } => Self::Ban { sanction, seconds },
            ClientRequest::Unban { room, user } => Self::Unban { room, user },
        }
    }
}

pub(super) fn encode(
    topic: &Topic,
    event: &Event<'_>,
    position: Option<Position>,
    out: &mut Vec<u8>,
) -> bool {
    let room = Cow::Borrowed(topic.name());
    match *event {
        Event::Message(ref message) => {
            append_message(out, &room, message, position);
            true
        }
        Event::Presence(event::Presence { user, change, .. }) => {
            let event = PresenceEvent::Changed(change, user.into());
            append_json(out, &Presence { room, event })
        }
        Event::Count(count) => {
            append_json(out, &Presence { room, event: PresenceEvent::Count(count) })
        }
        Event::Typing { user, typing } => {
            append_json(out, &Typing { room, user: user.into(), typing })
        }
        Event::Direct(event::Direct { user, frame, at, .. }) => {
            let fields = Fields::parse(frame).ok();
            let content = fields.and_then(|fields| fields.checked_text_and_data());
            content.is_some_and(|(text, data)| {
                let data = data.map(Cow::Borrowed);
                append_json(out, &Direct { user: user.into(), text, data, at })
            })
        }
        Event::Undelivered(event::Undelivered { to, request }) => {
            let (session, to) = (request.session.into(), to.id.into());
            let id = serde_json::from_str(request.id).ok().map(Cow::Borrowed);
            append_json(out, &Undelivered { session, id, to })
        }
        // The client must see that the offset is used: without it, the next message would look like a
        // hole, and all clients of the room would read the history.
        Event::Custom(_) => position.is_some() && append_json(out, &Gap::new(room, position)),
        Event::Gap(position) => append_json(out, &Gap::new(room, position)),
    }
}

/// Appends the frame of a message, as [`crate::wire::Message::new`] is serialized. It is the one frame
/// that a server encodes for each message; by `serde_json`, which has a call for the name of each field and looks up
/// each byte of a text, it was the most expensive step of the fan-out.
fn append_message(
    out: &mut Vec<u8>,
    room: &str,
    message: &event::Message<'_>,
    position: Option<Position>,
) {
    let event::Message { user, text, data, key, at } = *message;
    append_text(out, r#"{"type":"message","room":"#, room);
    if let Some(position) = position {
        append_number(out, r#","offset":"#, position.offset);
    }
    if let Some(epoch) = begun_epoch(position) {
        append_text(out, r#","epoch":"#, epoch.as_str());
    }
    append_text(out, r#","user":{"id":"#, user.id);
    append_text(out, r#","name":"#, user.name);
    append_text(out, r#","color":"#, user.color);
    append_text(out, r#"},"message":"#, text);
    if let Some(data) = data {
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(data.get().as_bytes());
    }
    append_number(out, r#","at":"#, at);
    if let Some(key) = key {
        append_text(out, r#","key":"#, key);
    }
    out.push(b'}');
}

/// The first message of a sequence names it; the others belong to the same.
fn begun_epoch(position: Option<Position>) -> Option<Epoch> {
    position.filter(|position| position.offset == 1).map(|first| first.epoch)
}

impl<'a> Message<'a> {
    /// The frame of a message in a room, at `position` if the room has a history.
    ///
    /// ```
    /// use chat_core::wire::Message;
    /// use chat_core::{Event, Position, RoomId, envelope};
    ///
    /// // What the broker has delivered.
    /// fn frame<'a>(room: &'a RoomId, payload: &'a [u8], at: Position) -> Option<Message<'a>> {
    ///     match envelope::decode(payload) {
    ///         Ok(Event::Message(message)) => Some(Message::new(room, &message, Some(at))),
    ///         _ => None,
    ///     }
    /// }
    /// # assert!(frame(&RoomId::new("r").unwrap(), b"", Position::default()).is_none());
    /// ```
    #[must_use]
    pub fn new(
        room: impl Into<Cow<'a, str>>,
        message: &event::Message<'a>,
        position: Option<Position>,
    ) -> Self {
        let event::Message { user, text, data, key, at } = *message;
        Self {
            room: room.into(),
            offset: position.map(|position| position.offset),
            epoch: begun_epoch(position),
            user: user.into(),
            text: text.into(),
            data: data.map(Cow::Borrowed),
            at,
            key: key.map(Cow::Borrowed),
        }
    }
}

impl<'a> PageFrame<'a> {
    /// Entries of a room's history of one epoch, in a frame. Those that a later version wrote are
    /// left out, as they are when they arrive.
    pub fn page(
        room: &'a RoomId,
        epoch: Epoch,
        entries: impl IntoIterator<Item = &'a HistoryEntry>,
    ) -> Vec<Self> {
        let frame = |entry: &'a HistoryEntry| {
            let Ok(Event::Message(message)) = envelope::decode(&entry.payload) else { return None };
            let position = Position { epoch, offset: entry.offset };
            Some(Self::Message(Message::new(room, &message, Some(position))))
        };
        let entries = entries.into_iter();
        let mut page = Vec::with_capacity(entries.size_hint().0);
        page.extend(entries.filter_map(frame));
        page
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::event::Sender;

    const TEXT: &str = "[a\"\\\\\u{0}\u{1f}\u{7f} \n/é\u{2028}👋]{0,40}";

    fn positions() -> impl Strategy<Value = Option<Position>> {
        let epoch = Epoch::parse(b"abcdEF12").unwrap();
        prop::option::of((0..3_u64).prop_map(move |offset| Position { epoch, offset }))
    }

    proptest! {
        #[test]
        fn message_is_written_as_it_is_serialized(
            [room, id, name, text, key] in prop::array::uniform5(TEXT),
            (has_data, has_key, at) in (any::<bool>(), any::<bool>(), any::<u64>()),
            position in positions(),
        ) {
            let data = RawValue::from_string(r#"{"a": [1, "]"]}"#.to_owned()).unwrap();
            let message = event::Message {
                user: Sender { id: &id, name: &name, color: "#FFFFFF" },
                text: &text,
                data: has_data.then_some(&*data),
                key: has_key.then_some(&*key),
                at,
            };
            let mut written = Vec::new();
            append_message(&mut written, &room, &message, position);
            let serialized = serde_json::to_string(&Message::new(&*room, &message, position)).unwrap();
            prop_assert_eq!(String::from_utf8(written).unwrap(), serialized);
        }
    }
}
