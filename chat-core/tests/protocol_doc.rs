//! `docs/protocol.md` says what the code does: every client frame in it is decoded, every
//! server frame in it is encoded, and no frame or code is left out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::BTreeSet;

use chat_core::wire::{
    Accepted, ClientFrame, Goodbye, History, Joined, Left, Limits, Members, PageFrame, Pong,
    RateLimit, RoomCapabilities, ServerFrame, Welcome,
};
use chat_core::{
    Capabilities, CloseReason, Dialect, Direct, Epoch, ErrorCode, Event, HistoryEntry, Message,
    Position, Presence, PresenceChange, Rejection, RequestRef, RoomId, Sender, Topic, Undelivered,
    User, UserId, UserName, envelope, wire,
};
use serde_json::value::RawValue;

const DOC: &str = include_str!("../../docs/protocol.md");

const AT: u64 = 1_795_400_235_072;

/// An hour later.
const UNTIL: u64 = AT + 3_600_000;

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

/// As a client reads them, and a server a client's: nothing is lost.
#[test]
fn frames_go_both_ways() {
    for text in frames("server") {
        let frame: ServerFrame =
            serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"));
        assert!(!matches!(frame, ServerFrame::Unknown(_)), "{text}");
        assert_eq!(serde_json::to_string(&frame).unwrap(), text);
    }
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    for text in frames("client") {
        assert_eq!(value(&ClientFrame::decode(text).unwrap().encode()), value(text));
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn reply(reply: &ServerFrame<'_>) -> String {
    Dialect::Native.reply(reply).unwrap().texts().next().unwrap().to_owned()
}

#[test]
fn server_frames_are_what_the_code_says() {
    let user = User::new(UserId::new("n5p2-17").unwrap(), Some(UserName::new("Ann").unwrap()));
    let epoch = Epoch::parse(b"JLITNcWY").unwrap();
    let (room, new_room) = (RoomId::new("general").unwrap(), RoomId::new("new").unwrap());
    let id: Vec<_> = (0..10).map(|id| raw(&id.to_string())).collect();
    let id = |n: usize| Some(&*id[n]);
    let mut limits = Limits::new(32_768, 233_472);
    limits.frames = Some(RateLimit::new(50, 300));
    limits.joins = Some(RateLimit::new(10, 256));
    limits.bytes = Some(RateLimit::new(262_144, 262_144));
    limits.answers = Some(RateLimit::new(2_097_152, 16_777_216));
    limits.kept = Some(RateLimit::new(15_000, 3_145_728));
    let refused = Rejection::new(
        ErrorCode::BrokerUnavailable,
        "The message bus does not answer. It is unknown whether a change was carried out.",
    )
    .retry_after_ms(1000)
    .to_request(id(7));
    let limited = Rejection::new(
        ErrorCode::RateLimited,
        "The rate limit is exceeded, and the request was not carried out. Send it again after retry_after_ms.",
    )
    .retry_after_ms(6100)
    .to_request(id(7));
    let denied = Rejection::new(ErrorCode::Rejected, "No advertising here.").to_request(id(7));
    let said =
        |data: Option<&'static RawValue>| Message::new(user.as_sender(), "hi", AT).data(data);
    let payload = envelope::encode(&Event::Message(said(None)));
    let earlier = HistoryEntry::new(42, payload);
    let members = || vec![wire::User::from(&user)];
    let earlier = || PageFrame::page(&room, epoch, [&earlier]);
    let at = |offset| Position { epoch, offset };
    let mut welcome = Welcome::new("n5p2-17", &user, "n5p2", limits);
    welcome.heartbeat_ms = 25_000;
    let mut by_token = welcome.clone();
    welcome.resume = Some("6f1c.n5p2-17".into());
    by_token.expires_in_ms = Some(3_600_000);
    let joined = |room, position, recovered, messages| {
        let mut joined = Joined::new(room, Some(position), recovered);
        (joined.members, joined.count, joined.messages) = (members(), 1, messages);
        joined.can = Some(Capabilities::member().in_room());
        joined.more = Some(position.offset > 0);
        ServerFrame::Joined(joined)
    };
    let moderator = Capabilities::all().in_room();
    let mut kicked = Left::new(&room);
    kicked.reason = Some("kicked".into());
    kicked.message = Some("Calm down.".into());
    let mut refused_join =
        Rejection::new(ErrorCode::Banned, "You are banned from this room: Spam.");
    (refused_join.until, refused_join.reason) = (Some(UNTIL), Some("Spam.".into()));
    let refused_join = refused_join.to_request(id(3));
    let mut delivered = Accepted::new(None);
    delivered.delivered = Some(1);
    let mut shutdown = Goodbye::new("shutdown", true);
    shutdown.after_ms = 1830;
    let mut banned = Goodbye::new("banned", false);
    (banned.message, banned.until) = (Some("Spam.".into()), Some(UNTIL));
    let mut made: Vec<String> = [
        ServerFrame::Welcome(welcome).to_request(id(1)),
        ServerFrame::Welcome(by_token).to_request(id(1)),
        joined(&room, at(41), false, Vec::new()).to_request(id(2)),
        joined(&room, at(42), true, earlier()).to_request(id(3)),
        joined(&new_room, Position::default(), false, Vec::new()).to_request(id(3)),
        ServerFrame::History(History::new(&room, at(42), earlier(), true)).to_request(id(4)),
        ServerFrame::Left(Left::new(&room)).to_request(id(5)),
        ServerFrame::Left(kicked),
        ServerFrame::Members(Members::new(&room, members(), 1)).to_request(id(6)),
        ServerFrame::Ok(Accepted::new(Some(at(42)))).to_request(id(7)),
        ServerFrame::Ok(delivered).to_request(id(8)),
        ServerFrame::Ok(Accepted::new(None)).to_request(id(0)),
        ServerFrame::Pong(Pong::default()).to_request(id(9)),
        ServerFrame::from(&refused),
        ServerFrame::from(&limited),
        ServerFrame::from(&denied),
        ServerFrame::from(&refused_join),
        ServerFrame::Goodbye(shutdown),
        ServerFrame::Goodbye(banned),
        ServerFrame::Capabilities(RoomCapabilities::new(&room, moderator)),
    ]
    .iter()
    .map(reply)
    .collect();

    let sender = user.as_sender();
    let data = raw(r#"{"emoji":"👋"}"#);
    let presence = |change| Event::Presence(Presence::new(sender, change, true));
    let events = [
        presence(PresenceChange::Joined),
        presence(PresenceChange::Left),
        presence(PresenceChange::Renamed),
        Event::Message(Message::new(sender, "hi", AT).data(Some(&data)).key(Some("m-1"))),
        Event::Gap(Some(Position { epoch, offset: 57 })),
        Event::Gap(None),
        Event::Count(1_204),
        Event::Direct(Direct::new(sender, r#"{"to":"bob","message":"psst"}"#, AT)),
        Event::Undelivered(Undelivered::new(
            Sender::new("bob", sender.name, sender.color),
            RequestRef::new("n5p2-17", "8"),
        )),
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
