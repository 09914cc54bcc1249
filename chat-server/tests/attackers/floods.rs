//! Frames as fast as the kernel takes them.

use chat_transport::testing::raw_frame;
use serde_json::json;

use super::attacker::{Attack, Attacker, Client, attacks, join, text};

pub(crate) const ATTACKS: &[Attack] = attacks![
    "sends to a room of its own" => own_room,
    "sends to a room of members" => members_room,
    "pings" => pings,
    "broken JSON" => broken_json,
    "unknown types" => unknown_types,
    "sends to rooms not joined" => rooms_not_joined,
    "leaves of rooms not joined" => leaves,
    "typing on and off" => typing,
    "hello with other names" => hello,
    "hello with a wrong resume" => resume,
    "unban without the right" => unban,
];

async fn own_room(attacker: Attacker) {
    let room = attacker.own_room();
    let send = |_| text(&json!({"type": "send", "room": room, "message": "x"}));
    attacker.flood(Client::Native, &[join(&room)], send).await;
}

async fn members_room(attacker: Attacker) {
    let room = attacker.members_room();
    let send = |n: u64| {
        let key = if n.is_multiple_of(2) { json!(n.to_string()) } else { json!(null) };
        text(&json!({"type": "send", "room": room, "message": "x", "key": key}))
    };
    attacker.flood(Client::Native, &[join(&room)], send).await;
}

async fn pings(attacker: Attacker) {
    let ping = |n| text(&json!({"type": "ping", "id": n}));
    attacker.flood(Client::Native, &[], ping).await;
}

async fn broken_json(attacker: Attacker) {
    const TEXTS: [&str; 6] = [
        "",
        "{",
        "[[[[[[[[",
        "nonsense",
        r#"{"type":"send","type":"send"}"#,
        r#"{"type":"send","room":"a","message":"\ud800"}"#,
    ];
    let frame = |n: u64| raw_frame(0x81, TEXTS[n as usize % TEXTS.len()].as_bytes());
    attacker.flood(Client::Native, &[], frame).await;
}

async fn unknown_types(attacker: Attacker) {
    let frame = |n: u64| text(&json!({"type": format!("type-{n}"), "id": "x".repeat(120)}));
    attacker.flood(Client::Native, &[], frame).await;
}

async fn rooms_not_joined(attacker: Attacker) {
    let send = |n: u64| {
        let room = if n.is_multiple_of(2) { attacker.members_room() } else { n.to_string() };
        text(&json!({"type": "send", "room": room, "message": "x", "id": n}))
    };
    attacker.flood(Client::Native, &[], send).await;
}

async fn leaves(attacker: Attacker) {
    let leave = |n: u64| text(&json!({"type": "leave", "room": n.to_string()}));
    attacker.flood(Client::Native, &[], leave).await;
}

async fn typing(attacker: Attacker) {
    let room = attacker.members_room();
    let typing =
        |n: u64| text(&json!({"type": "typing", "room": room, "typing": n.is_multiple_of(2)}));
    attacker.flood(Client::Native, &[join(&room)], typing).await;
}

async fn hello(attacker: Attacker) {
    let hello = |n: u64| text(&json!({"type": "hello", "name": format!("name-{n}")}));
    attacker.flood(Client::Native, &[], hello).await;
}

async fn resume(attacker: Attacker) {
    let hello = |n: u64| text(&json!({"type": "hello", "resume": format!("{n:04x}.n5p2-{n}")}));
    attacker.flood(Client::Native, &[], hello).await;
}

async fn unban(attacker: Attacker) {
    let room = attacker.members_room();
    let unban =
        |n: u64| text(&json!({"type": "unban", "room": room, "user": n.to_string(), "id": n}));
    attacker.flood(Client::Native, &[], unban).await;
}
