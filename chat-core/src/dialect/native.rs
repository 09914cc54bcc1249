//! The protocol of this project, which [`wire`](crate::wire) writes and reads: which frames a
//! client's commands and a room's events are.

use std::borrow::Cow;

use super::append_json;
use crate::command::Command;
use crate::envelope;
use crate::error::Rejection;
use crate::event::{self, Event};
use crate::fields::Fields;
use crate::history::Entry;
use crate::id::RoomId;
use crate::position::{Epoch, Position};
use crate::topic::Topic;
use crate::wire::{
    ClientRequest, Direct, Gap, Message, PageFrame, Presence, PresenceEvent, ServerFrame, Typing,
    Undelivered,
};

pub(super) fn decode<'a>(fields: &Fields<'a>) -> Result<Command<'a>, Rejection> {
    ClientRequest::read(fields).map(Command::from)
}

impl<'a> From<ClientRequest<'a>> for Command<'a> {
    fn from(request: ClientRequest<'a>) -> Self {
        match request {
            ClientRequest::Hello(hello) => Self::Hello(hello),
            ClientRequest::Join { room, since, history } => Self::Join { room, since, history },
            ClientRequest::Leave { room } => Self::Leave { room },
            ClientRequest::Send { room, content } => Self::Send { room, content },
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
    frame(topic.name(), event, position).is_some_and(|frame| append_json(out, &frame))
}

/// The frame of `event`; `None` if it makes no sense.
fn frame<'a>(
    room: &'a str,
    event: &Event<'a>,
    position: Option<Position>,
) -> Option<ServerFrame<'a>> {
    let room = Cow::Borrowed(room);
    Some(match *event {
        Event::Message(ref message) => ServerFrame::Message(in_room(room, message, position)),
        Event::Presence(event::Presence { user, change, .. }) => {
            let event = PresenceEvent::Changed(change, user.into());
            ServerFrame::Presence(Presence { room, event })
        }
        Event::Count(count) => {
            ServerFrame::Presence(Presence { room, event: PresenceEvent::Count(count) })
        }
        Event::Typing { user, typing } => {
            ServerFrame::Typing(Typing { room, user: user.into(), typing })
        }
        Event::Direct(event::Direct { user, frame, at, .. }) => {
            let (text, data) = Fields::parse(frame).ok()?.checked_text_and_data()?;
            let data = data.map(Cow::Borrowed);
            ServerFrame::Direct(Direct { user: user.into(), text, data, at })
        }
        Event::Undelivered(event::Undelivered { to, request }) => {
            ServerFrame::Undelivered(Undelivered {
                session: request.session.into(),
                id: serde_json::from_str(request.id).ok().map(Cow::Borrowed),
                to: to.id.into(),
            })
        }
        Event::Gap(position) => ServerFrame::Gap(Gap::new(room, position)),
    })
}

fn in_room<'a>(
    room: Cow<'a, str>,
    message: &event::Message<'a>,
    position: Option<Position>,
) -> Message<'a> {
    let event::Message { user, text, data, key, at } = *message;
    Message {
        room,
        offset: position.map(|position| position.offset),
        // The first message of a sequence names it; the others belong to the same.
        epoch: position.filter(|position| position.offset == 1).map(|first| first.epoch),
        user: user.into(),
        text: text.into(),
        data: data.map(Cow::Borrowed),
        at,
        key: key.map(Cow::Borrowed),
    }
}

impl<'a> PageFrame<'a> {
    /// Entries of a room's history of one epoch, in a frame. Those that a later version wrote are
    /// left out, as they are when they arrive.
    pub fn page(
        room: &'a RoomId,
        epoch: Epoch,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Vec<Self> {
        let frame = |entry: &'a Entry| {
            let Ok(Event::Message(message)) = envelope::decode(&entry.payload) else { return None };
            let position = Position { epoch, offset: entry.offset };
            Some(Self::Message(in_room(room.into(), &message, Some(position))))
        };
        entries.into_iter().filter_map(frame).collect()
    }
}
