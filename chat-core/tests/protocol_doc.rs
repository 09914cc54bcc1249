//! `docs/protocol.md` says what the code does: every client frame in it is decoded, every
//! server frame in it is encoded, and no frame or code is left out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::BTreeSet;

use chat_core::reply::{Joined, Limits, Ok as Acknowledged, Page, RateLimit, Welcome};
use chat_core::{
    CloseReason, Dialect, Direct, Entry, Epoch, ErrorCode, Event, Message, Position, Presence,
    PresenceChange, Rejection, Reply, RequestRef, RoomId, Sender, Topic, Undelivered, User, UserId,
    UserName, envelope,
};
use serde_json::value::RawValue;

const DOC: &str = include_str!("../../docs/protocol.md");

const AT: u64 = 1_795_400_235_072;

/// The frames in all blocks of a kind.
fn frames(kind: &str) -> Vec<&'static str> {
    let blocks = DOC.split("```json ").skip(1).filter_map(|rest| rest.strip_prefix(kind));
    blocks.flat_map(|rest| rest.split("```").next().unwrap().trim().lines()).collect()
}

fn kind(frame: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(frame).unwrap();
    value["type"].as_str().unwrap().to_owned()
}

#[test]
fn client_frames_are_understood() {
    let mut seen = BTreeSet::new();
    for frame in frames("client") {
        Dialect::Native.decode(frame).unwrap_or_else(|error| panic!("{frame}: {error}"));
        assert_eq!(Dialect::recognise(frame), Some(Dialect::Native), "{frame}");
        seen.insert(kind(frame));
    }
    let all = [
        "ban", "direct", "hello", "history", "join", "kick", "leave", "members", "ping", "send",
        "typing", "unban",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all, "every type has an example");
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn reply(reply: &Reply<'_>) -> String {
    Dialect::Native.reply(reply).unwrap().texts().next().unwrap().to_owned()
}

#[test]
fn server_frames_are_what_the_code_says() {
    let user = User::new(UserId::new("n5p2-17").unwrap(), Some(UserName::new("Ann").unwrap()));
    let epoch = Epoch::parse(b"JLITNcWY").unwrap();
    let (room, new_room) = (RoomId::new("general").unwrap(), RoomId::new("new").unwrap());
    let id: Vec<_> = (0..10).map(|id| raw(&id.to_string())).collect();
    let id = |n: usize| Some(&*id[n]);
    let limits = Limits {
        message_bytes: 32_768,
        frame_bytes: 233_472,
        rooms: 128,
        in_flight: 64,
        frames: Some(RateLimit { per_second: 50, burst: 300 }),
        joins: Some(RateLimit { per_second: 10, burst: 256 }),
        bytes: Some(RateLimit { per_second: 262_144, burst: 262_144 }),
        answers: Some(RateLimit { per_second: 2_097_152, burst: 16_777_216 }),
        kept: Some(RateLimit { per_second: 15_000, burst: 3_145_728 }),
    };
    let refused = Rejection {
        retry_after_ms: Some(1000),
        ..Rejection::new(
            ErrorCode::BrokerUnavailable,
            "The message bus does not answer: whether this was carried out is unknown.",
        )
    }
    .to_request(id(7));
    let limited = Rejection {
        retry_after_ms: Some(6100),
        ..Rejection::new(
            ErrorCode::RateLimited,
            "This is too much in too short a time, and was not carried out.",
        )
    }
    .to_request(id(7));
    let members = [user.as_sender()];
    let said = |data: Option<&'static RawValue>| Message {
        user: user.as_sender(),
        text: "hi",
        data,
        key: None,
        at: AT,
    };
    let payload = envelope::encode(&Event::Message(said(None)));
    let earlier = Entry { offset: 42, payload };
    let (nothing, earlier) = ([], [&earlier]);
    let (nothing, earlier) = (Page::new(&room, epoch, &nothing), Page::new(&room, epoch, &earlier));
    let welcome = Welcome {
        id: id(1),
        session: "n5p2-17",
        resume: Some("6f1c.n5p2-17"),
        user: &user,
        node: "n5p2",
        protocol: 1,
        expires_in_ms: None,
        heartbeat_ms: 25_000,
        limits,
    };
    let by_token = Welcome { resume: None, expires_in_ms: Some(3_600_000), ..welcome.clone() };
    let mut made: Vec<String> = [
        Reply::Welcome(welcome),
        Reply::Welcome(by_token),
        Reply::Joined(Joined {
            id: id(2),
            room: &room,
            position: Some(Position { epoch, offset: 41 }),
            recovered: false,
            members: &members,
            count: 1,
            messages: nothing,
        }),
        Reply::Joined(Joined {
            id: id(3),
            room: &room,
            position: Some(Position { epoch, offset: 42 }),
            recovered: true,
            members: &members,
            count: 1,
            messages: earlier,
        }),
        Reply::Joined(Joined {
            id: id(3),
            room: &new_room,
            position: Some(Position::default()),
            recovered: false,
            members: &members,
            count: 1,
            messages: Page::new(&new_room, Epoch::NONE, &[]),
        }),
        Reply::History {
            id: id(4),
            room: &room,
            position: Position { epoch, offset: 42 },
            messages: earlier,
            more: true,
        },
        Reply::Left { id: id(5), room: &room, reason: None, message: None },
        Reply::Left { id: None, room: &room, reason: Some("kicked"), message: Some("Calm down.") },
        Reply::Members { id: id(6), room: &room, members: &members, count: 1 },
        Reply::Ok(Acknowledged {
            id: id(7),
            position: Some(Position { epoch, offset: 42 }),
            ..Acknowledged::default()
        }),
        Reply::Ok(Acknowledged { id: id(8), delivered: Some(1), ..Acknowledged::default() }),
        Reply::Ok(Acknowledged { id: id(0), ..Acknowledged::default() }),
        Reply::Pong { id: id(9) },
        Reply::from(&refused),
        Reply::from(&limited),
        Reply::Goodbye { reason: "shutdown", reconnect: true, after_ms: 1830, message: None },
        Reply::Goodbye { reason: "banned", reconnect: false, after_ms: 0, message: Some("Spam.") },
    ]
    .iter()
    .map(reply)
    .collect();

    let sender = user.as_sender();
    let data = raw(r#"{"emoji":"👋"}"#);
    let presence = |change| Event::Presence(Presence { user: sender, change, announced: true });
    let events = [
        presence(PresenceChange::Joined),
        presence(PresenceChange::Left),
        presence(PresenceChange::Renamed),
        Event::Message(Message {
            user: sender,
            text: "hi",
            data: Some(&data),
            key: Some("m-1"),
            at: AT,
        }),
        Event::Gap(Some(Position { epoch, offset: 57 })),
        Event::Gap(None),
        Event::Count(1_204),
        Event::Direct(Direct {
            user: sender,
            frame: r#"{"to":"bob","message":"psst"}"#,
            at: AT,
            request: None,
        }),
        Event::Undelivered(Undelivered {
            to: Sender { id: "bob", ..sender },
            request: RequestRef { session: "n5p2-17", id: "8" },
        }),
        Event::Typing { user: sender, typing: true },
    ];
    let position = Some(Position { epoch, offset: 42 });
    let topic = Topic::Room(room.clone());
    for event in &events {
        let mut text = Vec::new();
        assert!(Dialect::Native.encode(&topic, event, position, &mut text));
        made.push(String::from_utf8(text).unwrap());
    }

    let mut first = Vec::new();
    let position = Some(Position { epoch, offset: 1 });
    let said = Event::Message(said(None));
    assert!(Dialect::Native.encode(&Topic::Room(new_room), &said, position, &mut first));
    made.push(String::from_utf8(first).unwrap());

    let documented: BTreeSet<_> = frames("server").into_iter().map(str::to_owned).collect();
    assert_eq!(documented, made.into_iter().collect());
}

#[test]
fn every_code_is_listed() {
    for code in ErrorCode::ALL {
        assert!(DOC.contains(&format!("| `{}` |", code.as_str())), "{}", code.as_str());
    }
    for reason in CloseReason::ALL {
        let line = DOC.lines().find(|line| line.starts_with(&format!("| {} |", reason.code())));
        let line = line.unwrap_or_else(|| panic!("{reason:?}"));
        let advice = if reason.may_reconnect() { "| yes |" } else { "| no |" };
        assert!(line.ends_with(advice), "{line}");
    }
}
