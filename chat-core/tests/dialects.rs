//! The frames of every dialect, verbatim.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use chat_core::wire::{Joined, Pong, ServerFrame};
use chat_core::{
    Command, Dialect, Direct, Epoch, ErrorCode, Event, Message, Position, Presence, PresenceChange,
    Rejection, RoomId, Sender, Topic,
};
use proptest::prelude::*;
use serde_json::value::RawValue;

const ALICE: Sender<'_> = Sender::new("u1", "Alice", "#FF6B6B");
const ALL: [Dialect; 4] = [Dialect::Native, Dialect::Rooms, Dialect::Topics, Dialect::Direct];

fn room(name: &str) -> Topic {
    Topic::Room(RoomId::new(name).unwrap())
}

/// What each dialect makes of an event, in the order of [`ALL`].
fn encoded(event: &Event<'_>, position: Option<Position>) -> [Option<String>; 4] {
    ALL.map(|dialect| {
        let mut text = Vec::new();
        let has_frame = dialect.encode(&room("room1"), event, position, &mut text);
        has_frame.then(|| String::from_utf8(text).unwrap())
    })
}

fn message<'a>(data: Option<&'a RawValue>, key: Option<&'a str>) -> Event<'a> {
    Event::Message(Message::new(ALICE, "hey cashing", 1700).data(data).key(key))
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
fn presence_events() {
    let presence = |change, announced| {
        encoded(&Event::Presence(Presence::new(ALICE, change, announced)), None)
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
    assert_eq!(rooms, None, "joins of subscribers are not announced");
    let [native, others @ ..] = presence(PresenceChange::Renamed, true);
    assert!(native.unwrap().contains(r#""event":"renamed""#));
    assert_eq!(others, [const { None }; 3], "other dialects have no word for it");
}

#[test]
fn direct_message_is_forwarded_unchanged() {
    let frame = r#"{ "to":"bob","message":"h\u0069","data":[1],"x":{} }"#;
    let event = Event::Direct(Direct::new(ALICE, frame, 5));
    let [native, rooms, topics, direct] = encoded(&event, None);
    assert_eq!(
        native.unwrap(),
        r##"{"type":"direct","user":{"id":"u1","name":"Alice","color":"#FF6B6B"},"message":"hi","data":[1],"at":5}"##
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
fn join_in_each_dialect() {
    let general = RoomId::new("general").unwrap();
    let joined = ServerFrame::Joined(Joined::new(&general, Some(Position::default()), false));
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
        let frames = dialect.reply(&ServerFrame::from(&rejection)).unwrap();
        assert_eq!(
            frames.texts().collect::<Vec<_>>(),
            [r#"{"type":"error","code":"not_in_room","message":"Join the room first."}"#]
        );
    }
}

#[test]
fn ban_is_forbidden_in_earlier_dialects() {
    let mut rejection = Rejection::new(ErrorCode::Banned, "You are banned from this room: Spam.");
    (rejection.until, rejection.reason) = (Some(7), Some("Spam.".into()));
    for dialect in ALL {
        let frames = dialect.reply(&ServerFrame::from(&rejection)).unwrap();
        let expected = match dialect {
            Dialect::Native => {
                r#"{"type":"error","code":"banned","message":"You are banned from this room: Spam.","until":7,"reason":"Spam."}"#
            }
            _ => {
                r#"{"type":"error","code":"forbidden","message":"You are banned from this room: Spam."}"#
            }
        };
        assert_eq!(frames.texts().collect::<Vec<_>>(), [expected]);
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
    let Command::Join(join) = decode(Dialect::Rooms, join) else { panic!() };
    assert_eq!((join.room.as_str(), join.name.unwrap().as_str()), ("general", "Alice"));
    assert!(join.exclusive && join.announced);
    let username = r#"{"type":"join_room","room":"general","username":"Bob"}"#;
    let Command::Join(join) = decode(Dialect::Rooms, username) else { panic!() };
    assert_eq!(join.name.unwrap().as_str(), "Bob");
    let nameless = r#"{"type":"join_room","room":"general"}"#;
    let Command::Join(join) = decode(Dialect::Rooms, nameless) else { panic!() };
    assert_eq!(join.name, None);
    let say = r#"{"type":"chat_message","message":"Hello"}"#;
    let Command::Send { room: None, content, members_only: true } = decode(Dialect::Rooms, say)
    else {
        panic!()
    };
    assert_eq!(content.message, "Hello");
    let leave = decode(Dialect::Rooms, r#"{"type":"leave_room"}"#);
    assert!(matches!(leave, Command::Leave { room: None }));

    let post = r#"{"type":"sendMessage","roomId":"room1","message":"hey cashing"}"#;
    let Command::Send { room: Some(room), content, members_only: false } =
        decode(Dialect::Topics, post)
    else {
        panic!()
    };
    assert_eq!((room.as_str(), &*content.message), ("room1", "hey cashing"));
    let subscribe = r#"{"type":"SUBSCRIBE","room":"room1"}"#;
    let Command::Join(join) = decode(Dialect::Topics, subscribe) else { panic!() };
    assert!(!join.announced && !join.exclusive);
    let direct = r#"{"to":"bob","message":"hi"}"#;
    let Command::Direct { to, content } = decode(Dialect::Direct, direct) else { panic!() };
    assert_eq!((to.as_str(), &*content.message), ("bob", "hi"));
}

/// The code with which a frame is refused; `None` if it is taken.
fn refusal(dialect: Dialect, frame: &str) -> Option<ErrorCode> {
    dialect.decode(frame).err().map(|rejection| rejection.code)
}

#[test]
fn since_of_any_epoch_is_understood() {
    let long = "x".repeat(10_000);
    for epoch in
        ["no-such-epoch", "", "1", "JLITNcWY", "é👋", r"\ud83d", r"\u0000", "????????", &long]
    {
        let frame =
            format!(r#"{{"type":"join","room":"r","since":{{"epoch":"{epoch}","offset":1.0}}}}"#);
        let Command::Join(join) = Dialect::Native.decode(&frame).unwrap().command else {
            panic!("{frame}")
        };
        let known = Epoch::parse(epoch.as_bytes()).unwrap_or(Epoch::UNKNOWN);
        assert_eq!(join.since, Some(Position { epoch: known, offset: 1 }), "{frame}");
    }
    for since in [
        r#"{"epoch":1,"offset":1}"#,
        r#"{"epoch":null,"offset":1}"#,
        r#"{"epoch":"x"}"#,
        r#"{"offset":1}"#,
        r#"{"epoch":"x","offset":1.5}"#,
        r#"{"epoch":"x","offset":-1}"#,
        r#"["JLITNcWY",1]"#,
        r#""JLITNcWY""#,
        "1",
    ] {
        let frame = format!(r#"{{"type":"join","room":"r","since":{since}}}"#);
        assert_eq!(refusal(Dialect::Native, &frame), Some(ErrorCode::BadField), "{frame}");
    }
}

#[test]
fn integers_of_json_are_integers() {
    for (number, value) in [("2", 2), ("2.0", 2), ("2e0", 2), ("0.2E+1", 2), ("20e-1", 2), ("0", 0)]
    {
        let decode = |frame: String| {
            format!(
                "{:?}",
                Dialect::Native.decode(&frame).unwrap_or_else(|e| panic!("{frame}: {e}"))
            )
        };
        for (field, shown) in [
            (r#""type":"join","history""#, format!("history: Some({value})")),
            (r#""type":"history","before""#, format!("Before({value})")),
            (r#""type":"history","after""#, format!("After({value})")),
            (r#""type":"history","limit""#, format!("limit: Some({value})")),
            (r#""type":"ban","user":"bob","seconds""#, format!("seconds: Some({value})")),
        ] {
            let command = decode(format!(r#"{{"room":"r",{field}:{number}}}"#));
            assert!(command.contains(&shown), "{command}");
        }
        let frame = format!(r#"{{"type":"join_room","room":"r","history":{number}}}"#);
        let Command::Join(join) = Dialect::Rooms.decode(&frame).unwrap().command else {
            panic!("{frame}")
        };
        assert_eq!(join.history, Some(value));
    }
    for number in ["2.5", "-1", "1e20", "1e400", "4294967296.5", r#""2""#, "true"] {
        for field in ["history", "since"] {
            let frame = format!(r#"{{"type":"join","room":"r","{field}":{number}}}"#);
            assert_eq!(refusal(Dialect::Native, &frame), Some(ErrorCode::BadField), "{frame}");
        }
    }
}

#[test]
fn ids_of_64_bits_are_echoed_as_they_stand() {
    for id in [
        "0",
        "-1",
        "7.0",
        "70e-1",
        "9223372036854775808",
        "18446744073709551615",
        "-9223372036854775808",
        r#""\u0061""#,
        r#""\ud83d\ude00""#,
        r#""""#,
    ] {
        let frame = format!(r#"{{"type":"ping","id":{id}}}"#);
        let request = Dialect::Native.decode(&frame).unwrap();
        let pong = ServerFrame::Pong(Pong::default()).to_request(request.id);
        let pong = Dialect::Native.reply(&pong).unwrap();
        let expected = format!(r#"{{"type":"pong","id":{id}}}"#);
        assert_eq!(pong.texts().collect::<Vec<_>>(), [expected]);
    }
    for id in [
        "18446744073709551616",
        "-9223372036854775809",
        "1.5",
        "1e400",
        "true",
        "[]",
        r#""\ud83d""#,
        r#""\u0000""#,
    ] {
        let frame = format!(r#"{{"type":"ping","id":{id}}}"#);
        assert_eq!(refusal(Dialect::Native, &frame), Some(ErrorCode::BadField), "{frame}");
    }
}

/// What one client writes and others get is refused if some parser cannot read it.
#[test]
fn forwarded_values_are_readable() {
    let deep = "[".repeat(61) + &"]".repeat(61);
    let unreadable = [
        r#""\ud83d""#,
        r#""\ude00\ud83d""#,
        r#"{"\ud83d":1}"#,
        r#"["a\u0000"]"#,
        "1e400",
        "[-1e999]",
        r#"{"a":1,"a":2}"#,
        r#"[{"a":{"b":1,"\u0062":2}}]"#,
        &deep,
    ];
    for data in unreadable {
        for frame in [
            format!(r#"{{"type":"send","room":"r","message":"x","data":{data}}}"#),
            format!(r#"{{"type":"direct","to":"bob","message":"x","data":{data}}}"#),
        ] {
            assert_eq!(refusal(Dialect::Native, &frame), Some(ErrorCode::BadField), "{frame}");
        }
        // The frame reaches the recipient with all that is in it.
        for field in ["data", "x"] {
            let frame = format!(r#"{{"to":"bob","message":"x","{field}":{data}}}"#);
            assert_eq!(refusal(Dialect::Direct, &frame), Some(ErrorCode::BadField), "{frame}");
        }
        // A frame that no client asked for is sent to none.
        let frame = format!(r#"{{"type":"send","room":"r","message":"x","x":{data}}}"#);
        assert_eq!(refusal(Dialect::Native, &frame), None, "{frame}");
    }
    for text in [r"\ud83d", r"a\u0000b"] {
        for (dialect, frame) in [
            (Dialect::Native, format!(r#"{{"type":"send","room":"r","message":"{text}"}}"#)),
            (
                Dialect::Native,
                format!(r#"{{"type":"send","room":"r","message":"x","key":"{text}"}}"#),
            ),
            (Dialect::Native, format!(r#"{{"type":"direct","to":"bob","message":"{text}"}}"#)),
            (
                Dialect::Native,
                format!(r#"{{"type":"kick","room":"r","user":"bob","reason":"{text}"}}"#),
            ),
            (Dialect::Rooms, format!(r#"{{"type":"chat_message","message":"{text}"}}"#)),
            (
                Dialect::Topics,
                format!(r#"{{"type":"sendMessage","roomId":"r","message":"{text}"}}"#),
            ),
            (Dialect::Direct, format!(r#"{{"to":"bob","message":"{text}"}}"#)),
        ] {
            assert_eq!(refusal(dialect, &frame), Some(ErrorCode::BadField), "{frame}");
        }
    }
}

#[test]
fn invisible_texts_are_refused_without_data() {
    for text in ["", " ", r"\n\t", r"\u200b\u2060", "\u{3164}", "\u{2800}\u{fe0f}"] {
        for (dialect, frame) in [
            (Dialect::Native, format!(r#"{{"type":"send","room":"r","message":"{text}"}}"#)),
            (
                Dialect::Native,
                format!(r#"{{"type":"send","room":"r","message":"{text}","data":null}}"#),
            ),
            (Dialect::Native, format!(r#"{{"type":"direct","to":"bob","message":"{text}"}}"#)),
            (Dialect::Rooms, format!(r#"{{"type":"chat_message","message":"{text}"}}"#)),
            (
                Dialect::Topics,
                format!(r#"{{"type":"sendMessage","roomId":"r","message":"{text}"}}"#),
            ),
            (Dialect::Direct, format!(r#"{{"to":"bob","message":"{text}"}}"#)),
        ] {
            assert_eq!(refusal(dialect, &frame), Some(ErrorCode::BadField), "{frame}");
        }
        let frame =
            format!(r#"{{"type":"send","room":"r","message":"{text}","data":{{"like":7}}}}"#);
        assert_eq!(refusal(Dialect::Native, &frame), None, "{frame}");
    }
}

#[test]
fn lone_surrogate_in_a_name_is_replaced() {
    let hello = Dialect::Native.decode(r#"{"type":"hello","name":"Ann \ud83d"}"#).unwrap();
    let Command::Hello(hello) = hello.command else { panic!() };
    assert_eq!(hello.name.unwrap().as_str(), "Ann \u{fffd}");
    for field in ["user", "username"] {
        let frame = format!(r#"{{"type":"join_room","room":"r","{field}":"\ude00Ann\u202e"}}"#);
        let Command::Join(join) = Dialect::Rooms.decode(&frame).unwrap().command else {
            panic!("{frame}")
        };
        assert_eq!(join.name.unwrap().as_str(), "\u{fffd}Ann");
    }
    for name in [r"\u200b", r"\u202e\u202c", " ", ""] {
        let frame = format!(r#"{{"type":"hello","name":"{name}"}}"#);
        assert_eq!(refusal(Dialect::Native, &frame), Some(ErrorCode::BadField), "{frame}");
    }
}

proptest! {
    #[test]
    fn decoding_any_text_does_not_panic(text in ".{0,200}") {
        for dialect in ALL {
            let _ = dialect.decode(&text);
        }
        let _ = Dialect::recognise(&text);
    }

    #[test]
    fn decoding_any_fields_does_not_panic(
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
    fn texts_round_trip(text in "\\PC{0,80}[!-~]") {
        let escaped = serde_json::to_string(&text).unwrap();
        let frame = format!(r#"{{"type":"send","room":"room1","message":{escaped}}}"#);
        let request = Dialect::Native.decode(&frame).unwrap();
        let Command::Send { content, .. } = request.command else { panic!() };
        prop_assert_eq!(&*content.message, &text);
        let said = chat_core::envelope::encode(&Event::Message(Message::new(ALICE, &content.message, 0)));
        let event = chat_core::envelope::decode(&said).unwrap();
        for shown in encoded(&event, None).into_iter().flatten() {
            let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
            prop_assert_eq!(value["message"].as_str(), Some(&*text));
        }
    }
}
