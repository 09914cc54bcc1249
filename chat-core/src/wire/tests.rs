//! Every frame is written and read.

use std::borrow::Cow;

use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Union;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::command::{Content, Hello, Sanction};
use crate::error::{ErrorCode, Rejection};
use crate::event::PresenceChange;
use crate::grants::{Capabilities, Capability};
use crate::history::HistoryRange;
use crate::id::{RoomId, UserId, UserName};
use crate::position::{Epoch, Position};
use crate::user::Color;

type Raw = Cow<'static, RawValue>;

fn text() -> impl Strategy<Value = Cow<'static, str>> {
    ".{0,12}".prop_map(Cow::Owned)
}

fn json() -> impl Strategy<Value = Raw> {
    let texts = prop_oneof![
        Just(r#"{"a":[1,2.50,"\u00e9"],"b":null}"#.to_owned()),
        Just("1e300".to_owned()),
        Just("[ true , false ]".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        "[a-z\"\\\\é👋]{0,6}".prop_map(|text| Value::from(text).to_string()),
    ];
    texts.prop_map(|text| Cow::Owned(RawValue::from_string(text).unwrap()))
}

fn id() -> impl Strategy<Value = Option<Raw>> {
    let texts = prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        "[a-z\"\\\\é]{0,9}".prop_map(|text| Value::from(text).to_string()),
    ];
    option::of(texts.prop_map(|text| Cow::Owned(RawValue::from_string(text).unwrap())))
}

fn epoch() -> impl Strategy<Value = Epoch> {
    prop_oneof![Just(Epoch::NONE), any::<u64>().prop_map(Epoch::from_random)]
}

fn position() -> impl Strategy<Value = Position> {
    (epoch(), any::<u64>()).prop_map(|(epoch, offset)| Position { epoch, offset })
}

fn user() -> impl Strategy<Value = User<'static>> {
    (text(), text(), text()).prop_map(|(id, name, color)| User { id, name, color })
}

fn limits() -> impl Strategy<Value = Limits> {
    let rate = || {
        option::of(
            any::<(u64, u64)>().prop_map(|(per_second, burst)| RateLimit { per_second, burst }),
        )
    };
    let rates = (rate(), rate(), rate(), rate(), rate());
    (any::<[usize; 4]>(), rates).prop_map(|(sizes, (frames, joins, bytes, answers, kept))| {
        let [message_bytes, frame_bytes, rooms, in_flight] = sizes;
        Limits { message_bytes, frame_bytes, rooms, in_flight, frames, joins, bytes, answers, kept }
    })
}

fn message() -> impl Strategy<Value = Message<'static>> {
    let place = (option::of(any::<u64>()), option::of(epoch()));
    let content = (text(), option::of(json()), option::of(text()));
    (text(), place, user(), content, any::<u64>()).prop_map(
        |(room, (offset, epoch), user, (text, data, key), at)| Message {
            room,
            offset,
            epoch,
            user,
            text,
            data,
            at,
            key,
        },
    )
}

fn unknown() -> impl Strategy<Value = Unknown<'static>> {
    let fields = (option::of(text()), option::of(epoch()), option::of(any::<u64>()));
    ("x-[a-z\"é]{0,5}", id(), fields).prop_map(|(kind, id, (room, epoch, offset))| Unknown {
        kind: kind.into(),
        id,
        room,
        epoch,
        offset,
    })
}

fn page() -> impl Strategy<Value = Vec<PageFrame<'static>>> {
    let frame =
        prop_oneof![message().prop_map(PageFrame::Message), unknown().prop_map(PageFrame::Unknown)];
    prop::collection::vec(frame, 0..4)
}

fn presence_event() -> impl Strategy<Value = PresenceEvent<'static>> {
    let change = prop_oneof![
        Just(PresenceChange::Joined),
        Just(PresenceChange::Left),
        Just(PresenceChange::Renamed)
    ];
    prop_oneof![
        (change, user()).prop_map(|(change, user)| PresenceEvent::Changed(change, user)),
        any::<u32>().prop_map(PresenceEvent::Count),
        "x-[a-z]{0,5}".prop_map(|event| PresenceEvent::Unknown(event.into())),
    ]
}

fn members() -> impl Strategy<Value = Vec<User<'static>>> {
    prop::collection::vec(user(), 0..3)
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let some = proptest::sample::subsequence(&Capability::ALL[..], 0..=Capability::ALL.len());
    some.prop_map(|some| some.into_iter().collect())
}

fn server_frame() -> impl Strategy<Value = ServerFrame<'static>> {
    let parts = || option::of(position()).prop_map(server::parts);
    let welcome = (
        (id(), text(), option::of(text()), user(), text()),
        (any::<u32>(), option::of(any::<u64>()), any::<u64>(), limits()),
    )
        .prop_map(|((id, session, resume, user, node), rest)| {
            let (protocol, expires_in_ms, heartbeat_ms, limits) = rest;
            ServerFrame::Welcome(Welcome {
                id,
                session,
                resume,
                user,
                node,
                protocol,
                expires_in_ms,
                heartbeat_ms,
                limits,
            })
        });
    let seen = (any::<bool>(), members(), any::<u32>(), option::of(capabilities()));
    let joined = (id(), text(), parts(), seen, page(), option::of(any::<bool>())).prop_map(
        |(id, room, (epoch, offset), (recovered, members, count, can), messages, more)| {
            ServerFrame::Joined(Joined {
                id,
                room,
                epoch,
                offset,
                recovered,
                members,
                count,
                can,
                messages,
                more,
            })
        },
    );
    let left = (id(), text(), option::of(text()), option::of(text()), option::of(any::<u64>()))
        .prop_map(|(id, room, reason, message, until)| {
            ServerFrame::Left(Left { id, room, reason, message, until })
        });
    let ok =
        (id(), parts(), option::of(any::<u32>())).prop_map(|(id, (epoch, offset), delivered)| {
            ServerFrame::Ok(Accepted { id, epoch, offset, delivered })
        });
    let times = (option::of(any::<u64>()), option::of(any::<u64>()));
    let error = (id(), text(), text(), times, option::of(text())).prop_map(
        |(id, code, message, (retry_after_ms, until), reason)| {
            ServerFrame::Error(Rejected { id, code, message, retry_after_ms, until, reason })
        },
    );
    let listed = (id(), text(), members(), any::<u32>()).prop_map(|(id, room, members, count)| {
        ServerFrame::Members(Members { id, room, members, count })
    });
    let history = (id(), text(), parts(), page(), any::<bool>()).prop_map(
        |(id, room, (epoch, offset), messages, more)| {
            ServerFrame::History(History { id, room, epoch, offset, messages, more })
        },
    );
    let until = option::of(any::<u64>());
    let goodbye = (text(), any::<bool>(), any::<u64>(), option::of(text()), until).prop_map(
        |(reason, reconnect, after_ms, message, until)| {
            ServerFrame::Goodbye(Goodbye { reason, reconnect, after_ms, message, until })
        },
    );
    let presence = (text(), presence_event())
        .prop_map(|(room, event)| ServerFrame::Presence(Presence { room, event }));
    let typing = (text(), user(), any::<bool>())
        .prop_map(|(room, user, typing)| ServerFrame::Typing(Typing { room, user, typing }));
    let direct = (user(), text(), option::of(json()), any::<u64>())
        .prop_map(|(user, text, data, at)| ServerFrame::Direct(Direct { user, text, data, at }));
    let undelivered = (text(), id(), text())
        .prop_map(|(session, id, to)| ServerFrame::Undelivered(Undelivered { session, id, to }));
    let gap = (text(), parts())
        .prop_map(|(room, (epoch, offset))| ServerFrame::Gap(Gap { room, epoch, offset }));
    let can_now = (text(), capabilities())
        .prop_map(|(room, can)| ServerFrame::Capabilities(RoomCapabilities { room, can }));
    Union::new([
        welcome.boxed(),
        joined.boxed(),
        left.boxed(),
        ok.boxed(),
        error.boxed(),
        listed.boxed(),
        history.boxed(),
        id().prop_map(|id| ServerFrame::Pong(Pong { id })).boxed(),
        goodbye.boxed(),
        message().prop_map(ServerFrame::Message).boxed(),
        presence.boxed(),
        typing.boxed(),
        direct.boxed(),
        undelivered.boxed(),
        gap.boxed(),
        can_now.boxed(),
        unknown().prop_map(ServerFrame::Unknown).boxed(),
    ])
}

fn room() -> impl Strategy<Value = RoomId> {
    "[a-z\"\\\\é👋 ]{0,8}x".prop_map(|name| RoomId::new(name).unwrap())
}

fn user_id() -> impl Strategy<Value = UserId> {
    "[a-z\"\\\\é👋 ]{0,8}x".prop_map(|name| UserId::new(name).unwrap())
}

/// Of a message: with a text that can be seen, or with `data`.
fn content() -> impl Strategy<Value = (String, Option<Raw>, Option<String>)> {
    let any_text = "[^\0]{0,12}";
    let written = prop_oneof![
        (any_text, json()).prop_map(|(text, data)| (text, Some(data))),
        any_text.prop_map(|text| (text + "x", None)),
    ];
    (written, option::of("[^\0]{0,9}")).prop_map(|((text, data), key)| (text, data, key))
}

fn sanction() -> impl Strategy<Value = Sanction<'static>> {
    (room(), user_id(), option::of("[^\0]{0,12}")).prop_map(|(room, user, reason)| Sanction {
        room,
        user,
        reason: reason.map(Cow::Owned),
    })
}

/// The request, and the JSON that its content borrows.
fn request() -> impl Strategy<Value = ClientRequest<'static>> {
    let optional_text = || option::of(text());
    let name = "[a-zé ]{0,8}x".prop_map(|name| UserName::new(name).unwrap());
    let hello = (optional_text(), option::of(name), optional_text())
        .prop_map(|(token, name, resume)| ClientRequest::Hello(Hello { token, name, resume }));
    let join = (room(), option::of(position()), option::of(any::<u32>()))
        .prop_map(|(room, since, history)| ClientRequest::Join { room, since, history });
    let content = || {
        content().prop_map(|(message, data, key)| Content {
            message: message.into(),
            data: data.map(|data| &*Box::leak(data.into_owned())),
            key: key.map(Cow::Owned),
        })
    };
    let range = prop_oneof![
        Just(HistoryRange::Latest),
        any::<u64>().prop_map(HistoryRange::After),
        any::<u64>().prop_map(HistoryRange::Before)
    ];
    Union::new([
        hello.boxed(),
        join.boxed(),
        room().prop_map(|room| ClientRequest::Leave { room }).boxed(),
        (room(), content())
            .prop_map(|(room, content)| ClientRequest::Send { room, content })
            .boxed(),
        (user_id(), content())
            .prop_map(|(to, content)| ClientRequest::Direct { to, content })
            .boxed(),
        (room(), any::<bool>())
            .prop_map(|(room, typing)| ClientRequest::Typing { room, typing })
            .boxed(),
        (room(), range, option::of(any::<u32>()))
            .prop_map(|(room, range, limit)| ClientRequest::History { room, range, limit })
            .boxed(),
        room().prop_map(|room| ClientRequest::Members { room }).boxed(),
        Just(ClientRequest::Ping).boxed(),
        sanction().prop_map(ClientRequest::Kick).boxed(),
        (sanction(), option::of(any::<u64>()))
            .prop_map(|(sanction, seconds)| ClientRequest::Ban { sanction, seconds })
            .boxed(),
        (room(), user_id()).prop_map(|(room, user)| ClientRequest::Unban { room, user }).boxed(),
    ])
}

fn client_frame() -> impl Strategy<Value = ClientFrame<'static>> {
    (id(), request()).prop_map(|(id, request)| ClientFrame { id, request })
}

/// JSON values have no order of members, but their text does: the frames are compared as they are
/// shown.
fn shown(frame: &impl std::fmt::Debug) -> String {
    format!("{frame:?}")
}

fn read(text: &str) -> ServerFrame<'_> {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

fn fields(text: &str) -> Vec<(String, &RawValue)> {
    let map: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(text).unwrap();
    map.into_iter().collect()
}

fn object(fields: &[(String, &RawValue)]) -> String {
    let members = fields.iter().map(|(name, value)| format!("{}:{value}", Value::from(&**name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// Fields that no frame of a type has.
fn strange() -> impl Strategy<Value = Vec<(String, Raw)>> {
    prop::collection::vec(("x_[a-z]{1,5}", json()), 0..4)
}

proptest! {
    #[test]
    fn server_frame_round_trips(frame in server_frame()) {
        let text = serde_json::to_string(&frame).unwrap();
        prop_assert_eq!(shown(&read(&text)), shown(&frame));
        prop_assert_eq!(shown(&read(&text).into_owned()), shown(&frame));
    }

    #[test]
    fn client_frame_round_trips(frame in client_frame()) {
        let text = frame.encode();
        let read: ClientFrame = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(shown(&read), shown(&frame));
    }

    /// Unknown fields are skipped and `null` is absent, wherever the `type` is.
    #[test]
    fn unknown_fields_are_skipped(frame in server_frame(), strange in strange(), at in 0_usize..9) {
        let text = serde_json::to_string(&frame).unwrap();
        let mut fields = fields(&text);
        for (name, value) in &strange {
            fields.insert(at % (fields.len() + 1), (name.clone(), value));
        }
        let null = serde_json::from_str("null").unwrap();
        fields.push(("x_null".into(), null));
        for absent in ["id", "key", "resume", "epoch", "offset", "data", "delivered"] {
            if !fields.iter().any(|(name, _)| name == absent) {
                fields.insert(0, (absent.into(), null));
            }
        }
        prop_assert_eq!(shown(&read(&object(&fields))), shown(&frame));
    }

    #[test]
    fn unknown_fields_of_a_client_are_skipped(frame in client_frame(), strange in strange()) {
        let text = frame.encode();
        let mut fields = fields(&text);
        fields.extend(strange.iter().map(|(name, value)| (name.clone(), &**value)));
        let text = object(&fields);
        // A `direct` is forwarded as a whole, and must not have a member twice.
        let names: std::collections::BTreeSet<_> = fields.iter().map(|(name, _)| name).collect();
        prop_assume!(names.len() == fields.len());
        prop_assert_eq!(shown(&ClientFrame::decode(&text).unwrap()), shown(&frame));
    }

    #[test]
    fn parts_of_frames_round_trip(
        position in position(),
        room in room(),
        user in user_id(),
        name in option::of("[a-z\u{202e} ]{0,8}x"),
    ) {
        both_ways(&position)?;
        both_ways(&room)?;
        both_ways(&crate::User::new(user, name.map(|name| UserName::new(name).unwrap())))?;
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,60}") {
        let _ = serde_json::from_str::<ServerFrame>(&text);
        let _ = serde_json::from_str::<ClientFrame>(&text);
    }

    /// A frame without a field, or with `null` for it: an error names it, unless it is optional.
    #[test]
    fn missing_field_is_named(frame in server_frame(), at in any::<prop::sample::Index>()) {
        let text = serde_json::to_string(&frame).unwrap();
        let mut fields = fields(&text);
        let (name, _) = fields.remove(at.index(fields.len()));
        let without = object(&fields);
        fields.push((name.clone(), serde_json::from_str("null").unwrap()));
        let with_null = object(&fields);
        for text in [without, with_null] {
            match serde_json::from_str::<ServerFrame>(&text) {
                Ok(_) => prop_assert!(!REQUIRED.contains(&&*name) || is_optional(&frame, &name), "{text}"),
                Err(why) => {
                    prop_assert!(why.to_string().contains(&format!("field `{name}`")), "{why}");
                    prop_assert!(REQUIRED.contains(&&*name), "{name}");
                }
            }
        }
    }
}

fn both_ways<T>(value: &T) -> Result<(), TestCaseError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_string(value).unwrap();
    prop_assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value);
    // An owned text, as other formats give it.
    let json: Value = serde_json::from_str(&text).unwrap();
    prop_assert_eq!(&serde_json::from_value::<T>(json).unwrap(), value);
    Ok(())
}

#[test]
fn error_codes_round_trip_and_unknown_ones_survive() {
    for &code in ErrorCode::ALL {
        both_ways(&code).unwrap();
        let rejection = Rejection::new(code, "why");
        let text = serde_json::to_string(&ServerFrame::from(&rejection)).unwrap();
        let ServerFrame::Error(rejected) = read(&text) else { panic!() };
        assert_eq!(rejected.known_code(), Some(code));
    }
    let later = r#"{"type":"error","code":"room_is_full","message":"Full."}"#;
    let ServerFrame::Error(rejected) = read(later) else { panic!() };
    assert_eq!((rejected.known_code(), &*rejected.code), (None, "room_is_full"));
    assert_eq!(serde_json::to_string(&rejected).unwrap(), later);
}

#[test]
fn invalid_names_positions_and_colours_are_refused() {
    let refused = |json: &str| {
        [
            serde_json::from_str::<RoomId>(json).is_err(),
            serde_json::from_str::<UserName>(json).is_err(),
            serde_json::from_str::<Epoch>(json).is_err(),
            serde_json::from_str::<Color>(json).is_err(),
            serde_json::from_str::<Position>(json).is_err(),
        ]
    };
    assert_eq!(refused(r#""\u0000""#), [true; 5]);
    assert_eq!(refused("7"), [true; 5]);
    assert_eq!(refused(r#""JLITNcWY""#), [false, false, false, true, true]);
    assert_eq!(refused(r##""#FF6B6b""##), [false, false, true, false, true]);
    assert_eq!(refused(r##""#FF6B6g""##), [false, false, true, true, true]);
}

/// The fields that some frame needs.
const REQUIRED: [&str; 21] = [
    "type",
    "session",
    "user",
    "node",
    "limits",
    "room",
    "recovered",
    "members",
    "count",
    "code",
    "messages",
    "more",
    "reason",
    "reconnect",
    "message",
    "at",
    "event",
    "typing",
    "to",
    "text",
    "can",
];

fn is_optional(frame: &ServerFrame<'_>, field: &str) -> bool {
    matches!(
        (frame, field),
        (ServerFrame::Joined(_), "messages" | "more" | "can")
            | (ServerFrame::Left(_), "reason" | "message")
            | (ServerFrame::Error(_), "message" | "reason")
            | (ServerFrame::Goodbye(_), "message")
            | (ServerFrame::Unknown(_), "room")
    )
}

#[test]
fn wrong_type_of_a_field_is_named() {
    for (frame, why) in [
        (r#"{"type":"left","room":5}"#, "field `room`: invalid type: integer `5`"),
        (r#"{"type":"gap","room":"r","epoch":"?","offset":1}"#, "field `epoch`: is not an epoch"),
        (
            r#"{"type":"typing","room":"r","typing":true,"user":{"id":"a","name":"A"}}"#,
            "field `user`: missing field `color`",
        ),
        (r#"{"type":"presence","room":"r","event":"count"}"#, "missing field `count`"),
        (r#"{"type":7}"#, "field `type`: invalid type: integer `7`"),
        ("[]", "a frame: an object with a `type`"),
    ] {
        let error = serde_json::from_str::<ServerFrame>(frame).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// A client counts every frame that has an `offset`.
#[test]
fn unknown_type_keeps_its_offset() {
    let purged = r#"{"type":"purged","room":"general","offset":59,"user":"42","at":1}"#;
    let ServerFrame::Unknown(frame) = read(purged) else { panic!() };
    assert_eq!(
        (&*frame.kind, frame.room.as_deref(), frame.offset),
        ("purged", Some("general"), Some(59))
    );

    let odd = r#"{"type":"odd","room":7,"epoch":[],"offset":"1","id":3}"#;
    let ServerFrame::Unknown(frame) = read(odd) else { panic!() };
    assert_eq!((frame.room, frame.epoch, frame.offset), (None, None, None));
    assert_eq!(frame.id.unwrap().get(), "3");

    let page = format!(
        r#"{{"type":"joined","room":"r","recovered":true,"members":[],"count":0,"messages":[{purged}]}}"#
    );
    let ServerFrame::Joined(joined) = read(&page) else { panic!() };
    assert!(
        matches!(&joined.messages[..], [PageFrame::Unknown(frame)] if frame.offset == Some(59))
    );
}

#[test]
fn texts_are_borrowed_and_data_is_any_json() {
    let nested = "[".repeat(500) + &"]".repeat(500);
    for data in ["1e999", "12345678901234567890123", &nested] {
        let text = format!(
            r#"{{"type":"message","room":"r","user":{{"id":"a","name":"a","color":"c"}},"message":"hi","data":{data},"at":1}}"#
        );
        let ServerFrame::Message(message) = read(&text) else { panic!() };
        assert!(matches!(message.text, Cow::Borrowed("hi")));
        assert!(matches!(&message.data, Some(Cow::Borrowed(value)) if value.get() == data));
        assert!(matches!(message.user.name, Cow::Borrowed("a")));
    }
}

#[test]
fn absent_fields_are_not_written() {
    let room = RoomId::new("r").unwrap();
    let join = ClientRequest::Join { room: room.clone(), since: None, history: None };
    assert_eq!(ClientFrame::new(join).encode(), r#"{"type":"join","room":"r"}"#);
    let range = HistoryRange::Before(43);
    let history = ClientRequest::History { room, range, limit: None };
    assert_eq!(
        ClientFrame::numbered(4, history).encode(),
        r#"{"id":4,"type":"history","room":"r","before":43}"#
    );
}

#[test]
fn refusal_of_a_client_frame_has_its_code() {
    let error = serde_json::from_str::<ClientFrame>(r#"{"type":"join"}"#).unwrap_err();
    assert!(error.to_string().starts_with("missing_field: "), "{error}");
}

#[test]
fn debug_hides_secrets() {
    let hello = r#"{"type":"hello","token":"a.secret.b","name":"Ann","resume":"secret"}"#;
    let hello = format!("{:?}", ClientFrame::decode(hello).unwrap());
    assert!(
        hello.contains(r#"token: Some(..), name: Some(UserName("Ann")), resume: Some(..)"#),
        "{hello}"
    );
    let welcome = r##"{"type":"welcome","session":"s","resume":"secret","node":"n",
        "user":{"id":"ann","name":"Ann","color":"#B56AD9"},
        "limits":{"message_bytes":1,"frame_bytes":1}}"##;
    let welcome = format!("{:?}", read(welcome));
    assert!(welcome.contains("resume: Some(..)"), "{welcome}");
    for shown in [hello, welcome] {
        assert!(!shown.contains("secret"), "{shown}");
    }
}
