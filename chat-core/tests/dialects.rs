//! The frames of every dialect, verbatim.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use chat_core::reply::{Joined, Page};
use chat_core::{
    Command, Dialect, Direct, Epoch, ErrorCode, Event, Message, Position, Presence, PresenceChange,
    Rejection, Reply, RoomId, Sender, Topic,
};
use proptest::prelude::*;
use serde_json::value::RawValue;

const ALICE: Sender<'_> = Sender { id: "u1", name: "Alice", color: "#FF6B6B" };
const ALL: [Dialect; 4] = [Dialect::Native, Dialect::Rooms, Dialect::Topics, Dialect::Direct];

fn room(name: &str) -> Topic {
    Topic::Room(RoomId::new(name).unwrap())
}

/// What each dialect makes of an event, in the order of [`ALL`].
fn encoded(event: &Event<'_>, position: Option<Position>) -> [Option<String>; 4] {
    ALL.map(|dialect| {
        let mut text = Vec::new();
        let told = dialect.encode(&room("room1"), event, position, &mut text);
        told.then(|| String::from_utf8(text).unwrap())
    })
}

fn message<'a>(data: Option<&'a RawValue>, key: Option<&'a str>) -> Event<'a> {
    Event::Message(Message { user: ALICE, text: "hey cashing", data, key, at: 1700 })
}

#[test]
fn a_message() {
    let position = Position { epoch: Epoch::from_random(1), offset: 7 };
    let [native, rooms, topics, direct] = encoded(&message(None, None), Some(position));
    assert_eq!(
        native.unwrap(),
        r##"{"type":"message","room":"room1","offset":7,"user":{"id":"u1","name":"Alice","color":"#FF6B6B"},"message":"hey cashing","at":1700}"##
    );
    assert_eq!(
        rooms.unwrap(),
        r##"{"type":"chat","sender":"Alice","color":"#FF6B6B","message":"hey cashing"}"##
    );
    assert_eq!(
        topics.unwrap(),
        r#"{"type":"sendMessage","roomId":"room1","message":"hey cashing"}"#
    );
    assert_eq!(direct, None);

    let first = Position { offset: 1, ..position };
    let [native, ..] = encoded(&message(None, None), Some(first));
    let expected = format!(r#""offset":1,"epoch":"{}","user""#, first.epoch.as_str());
    assert!(native.unwrap().contains(&expected), "the first of a sequence names it");

    let data = RawValue::from_string(r#"{"n": 1}"#.to_owned()).unwrap();
    let [native, ..] = encoded(&message(Some(&data), Some("k")), None);
    assert!(native.unwrap().ends_with(r#""data":{"n": 1},"at":1700,"key":"k"}"#));
}

#[test]
fn comings_and_goings() {
    let presence = |change, announced| {
        encoded(&Event::Presence(Presence { user: ALICE, change, announced }), None)
    };
    let [native, rooms, topics, direct] = presence(PresenceChange::Joined, true);
    assert_eq!(
        native.unwrap(),
        r##"{"type":"presence","room":"room1","event":"joined","user":{"id":"u1","name":"Alice","color":"#FF6B6B"}}"##
    );
    assert_eq!(
        rooms.unwrap(),
        r#"{"type":"system","sender":"System","message":"Alice joined the room"}"#
    );
    assert_eq!((topics, direct), (None, None));

    let [native, rooms, ..] = presence(PresenceChange::Left, true);
    assert!(native.unwrap().contains(r#""event":"left""#));
    assert_eq!(
        rooms.unwrap(),
        r#"{"type":"system","sender":"System","message":"Alice left the room"}"#
    );
    let [native, rooms, ..] = presence(PresenceChange::Joined, false);
    assert!(native.is_some());
    assert_eq!(rooms, None, "subscribers come unannounced");
    let [native, others @ ..] = presence(PresenceChange::Renamed, true);
    assert!(native.unwrap().contains(r#""event":"renamed""#));
    assert_eq!(others, [const { None }; 3], "other dialects have no word for it");
}

#[test]
fn a_direct_message_is_passed_on_as_it_is() {
    let frame = r#"{ "to":"bob","message":"h\u0069","data":[1],"x":{} }"#;
    let event = Event::Direct(Direct { user: ALICE, frame, at: 5, request: None });
    let [native, rooms, topics, direct] = encoded(&event, None);
    assert_eq!(
        native.unwrap(),
        r##"{"type":"direct","user":{"id":"u1","name":"Alice","color":"#FF6B6B"},"message":"h\u0069","data":[1],"at":5}"##
    );
    assert_eq!((rooms, topics), (None, None));
    assert_eq!(direct.as_deref(), Some(frame));
}

#[test]
fn typing_and_gaps_are_native_alone() {
    let [native, rest @ ..] = encoded(&Event::Typing { user: ALICE, typing: true }, None);
    assert_eq!(
        native.unwrap(),
        r##"{"type":"typing","room":"room1","user":{"id":"u1","name":"Alice","color":"#FF6B6B"},"typing":true}"##
    );
    assert_eq!(rest, [None, None, None]);
    let gap = Event::Gap(Some(Position { epoch: Epoch::parse(b"abcdefgh").unwrap(), offset: 9 }));
    let [native, rest @ ..] = encoded(&gap, None);
    assert_eq!(native.unwrap(), r#"{"type":"gap","room":"room1","epoch":"abcdefgh","offset":9}"#);
    assert_eq!(rest, [None, None, None]);
}

#[test]
fn a_newcomer_to_a_room() {
    let general = RoomId::new("general").unwrap();
    let joined = Reply::Joined(Joined {
        id: None,
        room: &general,
        position: Some(Position::default()),
        recovered: false,
        members: &[],
        count: 0,
        messages: Page::new(&general, Epoch::NONE, &[]),
    });
    let text = |dialect: Dialect| {
        dialect.reply(&joined).map(|frames| frames.texts().next().unwrap().to_owned())
    };
    assert_eq!(
        text(Dialect::Rooms).unwrap(),
        r#"{"type":"system","sender":"System","message":"You successfully joined room: general "}"#
    );
    assert_eq!(
        text(Dialect::Native).unwrap(),
        r#"{"type":"joined","room":"general","epoch":"","offset":0,"recovered":false,"members":[],"count":0,"messages":[]}"#
    );
    assert_eq!((text(Dialect::Topics), text(Dialect::Direct)), (None, None));
}

#[test]
fn errors_are_one_frame_in_every_dialect() {
    let rejection = Rejection::new(ErrorCode::NotInRoom, "Join the room first.");
    for dialect in ALL {
        let frames = dialect.reply(&Reply::from(&rejection)).unwrap();
        assert_eq!(
            frames.texts().collect::<Vec<_>>(),
            [r#"{"type":"error","code":"not_in_room","message":"Join the room first."}"#]
        );
    }
}

#[test]
fn first_frames_name_their_dialect() {
    let table = [
        (r#"{"type":"join","room":"r"}"#, Some(Dialect::Native)),
        (r#"{"type":"ping"}"#, Some(Dialect::Native)),
        (r#"{"type":"join_room","room":"r"}"#, Some(Dialect::Rooms)),
        (r#"{"type":"SUBSCRIBE","room":"r"}"#, Some(Dialect::Topics)),
        (r#"{"type":"sendMessage","roomId":"r","message":"m"}"#, Some(Dialect::Topics)),
        (r#"{"to":"bob","message":"hi"}"#, Some(Dialect::Direct)),
        (r#"{"type":"subscribe","room":"r"}"#, None),
        (r#"{"message":"hi"}"#, None),
        (r#"["to"]"#, None),
        ("", None),
    ];
    for (frame, dialect) in table {
        assert_eq!(Dialect::recognise(frame), dialect, "{frame}");
    }
}

#[test]
fn seed_frames_are_understood() {
    let decode = |dialect: Dialect, frame| dialect.decode(frame).unwrap().command;
    let join = r#"{"type":"join_room","room":"general","user":"Alice"}"#;
    let Command::Switch { room, name: Some(name), .. } = decode(Dialect::Rooms, join) else {
        panic!()
    };
    assert_eq!((room.as_str(), name.as_str()), ("general", "Alice"));
    let username = r#"{"type":"join_room","room":"general","username":"Bob"}"#;
    let Command::Switch { name: Some(name), .. } = decode(Dialect::Rooms, username) else {
        panic!()
    };
    assert_eq!(name.as_str(), "Bob");
    let nameless = r#"{"type":"join_room","room":"general"}"#;
    assert!(matches!(decode(Dialect::Rooms, nameless), Command::Switch { name: None, .. }));
    let say = r#"{"type":"chat_message","message":"Hello"}"#;
    assert!(matches!(decode(Dialect::Rooms, say), Command::Say { message } if message == "Hello"));
    assert!(matches!(decode(Dialect::Rooms, r#"{"type":"leave_room"}"#), Command::Exit));

    let post = r#"{"type":"sendMessage","roomId":"room1","message":"hey cashing"}"#;
    let Command::Post { room, message } = decode(Dialect::Topics, post) else { panic!() };
    assert_eq!((room.as_str(), &*message), ("room1", "hey cashing"));
    let direct = r#"{"to":"bob","message":"hi"}"#;
    let Command::Direct { to, content } = decode(Dialect::Direct, direct) else { panic!() };
    assert_eq!((to.as_str(), &*content.message), ("bob", "hi"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        for dialect in ALL {
            let _ = dialect.decode(&text);
        }
        let _ = Dialect::recognise(&text);
    }

    #[test]
    fn any_fields_are_read_or_refused(
        kind in "join|leave|send|direct|typing|history|members|ping|hello|join_room|SUBSCRIBE|x",
        field in "id|room|roomId|to|user|name|message|data|key|typing|since|history|before|limit|token",
        value in r#"null|true|-1|1e400|18446744073709551616|"x"|"\\ud800"|"\\u0000"|\[\[\]\]|\{"a":1\}"#,
    ) {
        let text = format!(r#"{{"type":"{kind}","room":"r","to":"u","message":"m","typing":true,"{field}":{value}}}"#);
        for dialect in ALL {
            let _ = dialect.decode(&text);
        }
    }

    /// Whatever a client says arrives as it was said, in every dialect that shows it.
    #[test]
    fn texts_survive_the_way(text in "\\PC{0,80}") {
        let escaped = serde_json::to_string(&text).unwrap();
        let frame = format!(r#"{{"type":"send","room":"room1","message":{escaped}}}"#);
        let request = Dialect::Native.decode(&frame).unwrap();
        let Command::Send { content, .. } = request.command else { panic!() };
        prop_assert_eq!(&*content.message, &text);
        let said = chat_core::envelope::encode(&Event::Message(Message {
            user: ALICE, text: &content.message, data: None, key: None, at: 0,
        }));
        let event = chat_core::envelope::decode(&said).unwrap();
        for shown in encoded(&event, None).into_iter().flatten() {
            let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
            prop_assert_eq!(value["message"].as_str(), Some(&*text));
        }
    }
}
