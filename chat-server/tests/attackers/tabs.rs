//! Many connections of one user.

use serde_json::json;

use super::attacker::{Attack, Attacker, Client, attacks, join, text};
use super::large::LARGE;

pub(crate) const ATTACKS: &[Attack] = attacks![
    "one user sends" => sends,
    "one user fills Redis" => fills_redis,
    "one user asks" => asks,
];

const USER: &str = "mallory";

async fn sends(attacker: Attacker) {
    let room = attacker.members_room();
    let send = text(&json!({"type": "send", "room": room, "message": "x"}));
    let first = [join(&room)];
    attacker.flood(Client::NativeAs(USER), &first, |_| send.clone()).await;
}

async fn fills_redis(attacker: Attacker) {
    let message = "x".repeat(LARGE);
    let frame = |n: u64| {
        let room = format!("t{}-{}", attacker.n, n / 3);
        text(&match n % 3 {
            0 => json!({"type": "join", "room": room}),
            1 => json!({"type": "send", "room": room, "message": message}),
            _ => json!({"type": "leave", "room": room}),
        })
    };
    attacker.flood(Client::NativeAs(USER), &[], frame).await;
}

async fn asks(attacker: Attacker) {
    let room = attacker.members_room();
    let page = text(&json!({"type": "history", "room": room, "limit": 256}));
    let first = [join(&room)];
    attacker.flood(Client::NativeAs(USER), &first, |_| page.clone()).await;
}
