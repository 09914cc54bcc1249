//! What clients say, and what servers tell each other of it.

use std::borrow::Cow;

use chat_core::wire::{Accepted, ClientFrame, ServerFrame};
use chat_core::{
    Command, Content, Dialect, Direct, Event, Message, Position, RoomId, Sender, Topic,
    envelope as codec,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

const ALL: [Dialect; Dialect::COUNT] =
    [Dialect::Native, Dialect::Rooms, Dialect::Topics, Dialect::Direct];
const USER: Sender<'_> = Sender::new("u1", "Ann \"\\", "#FF6B6B");

/// A frame from a client, in every dialect: what is understood is understood again when it has
/// been to all others, and what is refused has an answer that is JSON.
pub fn frames(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for dialect in ALL {
        match dialect.decode(text) {
            Ok(request) => {
                let accepted = ServerFrame::Ok(Accepted::new(None)).to_request(request.id);
                is_json(Dialect::Native.reply(&accepted));
                passed_on(text, &request.command);
            }
            Err(rejection) => is_json(dialect.reply(&ServerFrame::from(&rejection))),
        }
    }
    if let Ok(frame) = ClientFrame::decode(text) {
        let written = frame.encode();
        let again = ClientFrame::decode(&written).unwrap();
        assert_eq!(format!("{again:?}"), format!("{frame:?}"));
    }
    if let Some(dialect) = Dialect::recognise(text) {
        let refused = dialect.decode(text).err().map(|rejection| rejection.code.as_str());
        assert!(!matches!(refused, Some("bad_json" | "unknown_type")), "{dialect:?}: {refused:?}");
    }
}

fn passed_on(frame: &str, command: &Command<'_>) {
    match command {
        Command::Send { room, content, .. } => said(&room.clone().unwrap_or_else(general), content),
        Command::Direct { content, .. } => {
            let bytes = codec::encode(&Event::Direct(Direct::new(USER, frame, 1)));
            let Event::Direct(direct) = codec::decode(&bytes).unwrap() else { panic!("a kind") };
            assert_eq!(direct.frame, frame);
            is_readable(frame);
            let shown = shown(Dialect::Native, &general(), &Event::Direct(direct));
            let shown: Shown<'_> = serde_json::from_str(&shown).unwrap();
            let message: String = serde_json::from_str(shown.message.get()).unwrap();
            assert_eq!(message, content.message);
            assert_eq!(raw(shown.data), raw(content.data));
        }
        _ => {}
    }
}

/// The message that everybody reads is the one that was said.
fn said(room: &RoomId, content: &Content<'_>) {
    let (data, key) = (content.data, content.key.as_deref());
    let message = Message::new(USER, &content.message, 1).data(data).key(key);
    let bytes = codec::encode(&Event::Message(message));
    let event = codec::decode(&bytes).unwrap();
    let Event::Message(got) = &event else { panic!("a kind") };
    assert_eq!((got.text, raw(got.data), got.key), (&*content.message, raw(data), key));
    for dialect in [Dialect::Native, Dialect::Rooms, Dialect::Topics] {
        let frame = shown(dialect, room, &event);
        is_readable(&frame);
        let frame: Shown<'_> = serde_json::from_str(&frame).unwrap();
        let text: Cow<'_, str> = serde_json::from_str(frame.message.get()).unwrap();
        assert_eq!(text, content.message);
        if dialect == Dialect::Native {
            assert_eq!(raw(frame.data), raw(data));
            assert_eq!(frame.key.as_deref(), key);
            said_again(room, &frame);
        }
    }
}

/// A parser reads it that makes values of all that is in it, and not only passes over it.
fn is_readable(frame: &str) {
    serde_json::from_str::<serde_json::Value>(frame).unwrap();
}

/// What a client reads can be said by it.
fn said_again(room: &RoomId, shown: &Shown<'_>) {
    let room = serde_json::to_string(room).unwrap();
    let (message, data) = (shown.message.get(), raw(shown.data).unwrap_or("null"));
    let frame = format!(r#"{{"type":"send","room":{room},"message":{message},"data":{data}}}"#);
    let again = Dialect::Native.decode(&frame).unwrap();
    let Command::Send { content, .. } = again.command else { panic!("another command") };
    assert_eq!(raw(content.data), raw(shown.data));
}

/// An envelope from another server: what is read is written the same, and every dialect makes
/// JSON of it or nothing. (`direct` passes on what a client said, which its server has read.)
pub fn envelope(input: &[u8]) {
    let Ok(event) = codec::decode(input) else { return };
    let written = codec::encode(&event);
    let again = codec::encode(&codec::decode(&written).unwrap());
    assert_eq!(written, again);
    let topic = Topic::Room(general());
    for dialect in [Dialect::Native, Dialect::Rooms, Dialect::Topics] {
        for position in [None, Some(Position::default())] {
            let mut out = Vec::new();
            if dialect.encode(&topic, &event, position, &mut out) {
                serde_json::from_slice::<IgnoredAny>(&out).unwrap();
            }
        }
    }
}

#[derive(Deserialize)]
struct Shown<'a> {
    #[serde(borrow)]
    message: &'a RawValue,
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<Cow<'a, str>>,
}

fn shown(dialect: Dialect, room: &RoomId, event: &Event<'_>) -> String {
    let mut out = Vec::new();
    assert!(dialect.encode(&Topic::Room(room.clone()), event, None, &mut out), "{dialect:?}");
    String::from_utf8(out).unwrap()
}

fn is_json(frames: Option<chat_core::Frames>) {
    for text in frames.iter().flat_map(chat_core::Frames::texts) {
        serde_json::from_str::<IgnoredAny>(text).unwrap();
    }
}

fn general() -> RoomId {
    RoomId::new("general").unwrap()
}

fn raw(value: Option<&RawValue>) -> Option<&str> {
    value.map(RawValue::get)
}
