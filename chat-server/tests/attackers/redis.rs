//! What Redis keeps.

use serde_json::json;

use super::attacker::{Attack, Attacker, Client, attacks, join, text};
use super::large::LARGE;

pub(crate) const ATTACKS: &[Attack] = attacks![
    "large messages to new rooms, by topics" => large_to_new_rooms,
    "empty messages to new rooms, by topics" => empty_to_new_rooms,
    "messages with long keys" => long_keys,
    "messages to rooms with long names" => long_names,
];

async fn large_to_new_rooms(attacker: Attacker) {
    let message = "x".repeat(LARGE);
    let send = |n: u64| {
        let room = format!("z{}-{n}", attacker.n);
        text(&json!({"type": "sendMessage", "roomId": room, "message": message}))
    };
    attacker.flood(Client::Plain, &[], send).await;
}

async fn empty_to_new_rooms(attacker: Attacker) {
    let send = |n: u64| {
        let room = format!("e{}-{n}", attacker.n);
        text(&json!({"type": "sendMessage", "roomId": room, "message": "."}))
    };
    attacker.flood(Client::Plain, &[], send).await;
}

async fn long_keys(attacker: Attacker) {
    let room = attacker.own_room();
    let send =
        |n: u64| text(&json!({"type": "send", "room": room, "message": ".", "key": long(n)}));
    attacker.flood(Client::Native, &[join(&room)], send).await;
}

async fn long_names(attacker: Attacker) {
    let send = |n: u64| {
        let room = long(n * 100 + attacker.n as u64);
        text(&json!({"type": "sendMessage", "roomId": room, "message": "."}))
    };
    attacker.flood(Client::Plain, &[], send).await;
}

/// As long as a name may be, and three times as long where it is encoded.
fn long(n: u64) -> String {
    format!("{n:\u{e9}>63}")
}
