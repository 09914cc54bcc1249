//! Frames, envelopes, rooms and their sequence.

use std::hint::black_box;
use std::sync::Arc;

use chat_core::timeline::Timeline;
use chat_core::wire::{Joined, ServerFrame};
use chat_core::{
    Batch, ConnectionId, Dialect, Epoch, Grants, History, Item, Position, Recent, Registry,
    Retention, RoomId, User, UserId, envelope, wire,
};

use super::{Piece, TEXT, message, payload, room};
use crate::callgrind::turns;

pub(super) const PIECES: &[Piece] = &[
    ("decode a send, native", || decode(Dialect::Native)),
    ("decode a send, rooms", || decode(Dialect::Rooms)),
    ("decode a send, topics", || decode(Dialect::Topics)),
    ("decode a send, direct", || decode(Dialect::Direct)),
    ("decode a send with data", decode_data),
    ("encode an envelope", || {
        turns(message, |message| drop(black_box(envelope::encode(&message))))
    }),
    ("decode an envelope", || {
        turns(payload, |payload| drop(black_box(envelope::decode(&payload))))
    }),
    ("encode a batch of 1, native", || encode(Dialect::Native, 1)),
    ("encode a batch of 16, native", || encode(Dialect::Native, 16)),
    ("encode a batch of 1, topics", || encode(Dialect::Topics, 1)),
    ("encode a batch of 16, topics", || encode(Dialect::Topics, 16)),
    ("encode a joined", encode_joined),
    ("join and leave a room of 1,000", join_and_leave),
    ("accept the next message", accept),
];

fn decode(dialect: Dialect) {
    let fields = match dialect {
        Dialect::Native => r#""type":"send","id":7,"room":"room1""#,
        Dialect::Rooms => r#""type":"chat_message""#,
        Dialect::Topics => r#""type":"sendMessage","roomId":"room1""#,
        Dialect::Direct => r#""to":"n5p2-18""#,
        other => panic!("no frame of {other:?} to decode"),
    };
    let text = TEXT.replace('"', r#"\""#);
    let frame = format!(r#"{{{fields},"message":"{text}"}}"#);
    assert!(dialect.decode(&frame).is_ok());
    turns(|| (), |()| drop(black_box(dialect.decode(black_box(&frame)))));
}

/// Of 200 bytes, as an application may attach them.
fn decode_data() {
    let data = r#"{"kind":"reply","to":{"offset":4120,"user":"n5p2-18"},"tags":["urgent","caf\u00e9"],"box":[0.5,12,-3.25e2,7],"seen":false,"link":"https://chat.example/r/general#4120","theme":null,"draft":"n5p2"}"#;
    let text = TEXT.replace('"', r#"\""#);
    let frame =
        format!(r#"{{"type":"send","id":7,"room":"room1","message":"{text}","data":{data}}}"#);
    assert!(Dialect::Native.decode(&frame).is_ok());
    turns(|| (), |()| drop(black_box(Dialect::Native.decode(black_box(&frame)))));
}

fn encode(dialect: Dialect, messages: u64) {
    let item = |offset| {
        let epoch = Epoch::from_random(1);
        Item::Envelope(payload(), Some(Position { epoch, offset }))
    };
    let batch = || Batch::new(room(), (1..=messages).map(item).collect());
    turns(batch, |batch| assert!(black_box(&batch).frames(dialect).is_some()));
}

/// Of a room of ten users, without messages, with a look at the grants.
fn encode_joined() {
    let room = RoomId::new("room1").expect("a name");
    let user = User::new(UserId::new("n5p2-17").expect("an id"), None);
    turns(
        || (),
        |()| {
            let mut joined = Joined::new(black_box(&room), Some(Position::default()), false);
            joined.members = std::iter::repeat_with(|| wire::User::from(&user)).take(10).collect();
            joined.count = 10;
            joined.can = Some(Grants::everywhere().in_room(&room));
            joined.more = Some(false);
            drop(black_box(Dialect::Native.reply(&ServerFrame::Joined(joined))));
        },
    );
}

fn join_and_leave() {
    let registry = Registry::<Arc<()>>::new();
    let topic = room();
    for id in 0..1_000 {
        registry.join(&topic, ConnectionId::new(id), Arc::new(()));
    }
    let mut ids = (1_000..).map(ConnectionId::new);
    turns(
        || (ids.next().expect("another"), Arc::new(())),
        |(id, member)| {
            registry.join(&topic, id, member);
            assert!(registry.leave(&topic, id).was_member);
        },
    );
}

fn accept() {
    let mut timeline = Timeline::new(Recent::new(Retention::default(), 256, 512 * 1024));
    let mut out = Vec::new();
    timeline.begin_read();
    let epoch = Epoch::from_random(1);
    let mut position = Position { epoch, offset: 0 };
    timeline.finish_read(History::new(position, Vec::new()), &mut out);
    turns(payload, |payload| {
        position.offset += 1;
        timeline.accept(position, payload, &mut out);
        assert!(!black_box(&mut out).drain(..).as_slice().is_empty());
    });
}
