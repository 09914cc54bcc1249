//! Attacks that the budgets do not bound: they are measured, and nothing is asserted of them.
//!
//! A client without an id has the budgets of its connection. A new connection has new ones, and
//! without `--trusted-proxies` nothing limits how many an address opens.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::attacker::{Attack, Attacker, Client, attacks, join, text};
use super::large::LARGE;

pub(crate) const ATTACKS: &[Attack] = attacks![
    "the burst of kept bytes on one connection after the other" => kept_bursts,
    "kept bytes as a new user on each connection" => kept_bursts_of_users,
    "the burst of `members` on one connection after the other" => answer_bursts,
    "the burst of history on one connection after the other" => history_bursts,
    "large messages on one connection after the other" => received_bursts,
    "100 connections with 128 rooms each" => held_rooms,
];

/// As long as a connection is worth while.
const LIFETIME: Duration = Duration::from_millis(50);

async fn kept_bursts(attacker: Attacker) {
    for n in 0_u64.. {
        let mut connection = attacker.open(Client::Plain).await;
        connection.send_frames(&new_rooms(&format!("b{}-{n}", attacker.n))).await;
        connection.discard_for(LIFETIME).await;
    }
}

async fn kept_bursts_of_users(attacker: Attacker) {
    for n in 0_u64.. {
        let path = format!("/?userId=mallory-{}-{n}", attacker.n);
        let mut connection = attacker.connect(&path, "", None).await;
        connection.send_frames(&new_rooms(&format!("u{}-{n}", attacker.n))).await;
        connection.discard_for(LIFETIME).await;
    }
}

/// As many bytes at once as `--byte-rate` lets through.
fn new_rooms(prefix: &str) -> Vec<Value> {
    let message = "x".repeat(LARGE);
    let send =
        |n| json!({"type": "sendMessage", "roomId": format!("{prefix}-{n}"), "message": message});
    (0..7).map(send).collect()
}

async fn answer_bursts(attacker: Attacker) {
    let room = attacker.members_room();
    let members = json!({"type": "members", "room": room});
    bursts(&attacker, &room, members).await;
}

async fn history_bursts(attacker: Attacker) {
    let room = "full";
    let mut connection = attacker.native().await;
    let send = json!({"type": "send", "room": room, "message": "x".repeat(4_000)});
    connection.send_frames(&[join(room)]).await;
    connection.send_frames(&vec![send; 30]).await;
    connection.discard_for(Duration::from_millis(500)).await;
    let history = json!({"type": "history", "room": room, "limit": 256});
    bursts(&attacker, room, history).await;
}

/// Asks as often as the burst of `--rate` lets through, on one connection after the other.
async fn bursts(attacker: &Attacker, room: &str, question: Value) {
    let mut frames = vec![join(room)];
    frames.extend(std::iter::repeat_n(question, 290));
    let frames: Vec<u8> = frames.iter().flat_map(text).collect();
    loop {
        let mut connection = attacker.native().await;
        if connection.send(&frames).await {
            connection.discard_for(2 * LIFETIME).await;
        }
    }
}

async fn received_bursts(attacker: Attacker) {
    let room = attacker.members_room();
    let send = json!({"type": "send", "room": room, "message": "x".repeat(LARGE)});
    let mut frames = vec![join(&room)];
    frames.extend(std::iter::repeat_n(send, 7));
    loop {
        let mut connection = attacker.native().await;
        if connection.send_frames(&frames).await {
            connection.discard_for(LIFETIME).await;
        }
    }
}

async fn held_rooms(attacker: Attacker) {
    let mut held = JoinSet::new();
    for nth in 0..10 {
        let attacker = attacker.clone();
        held.spawn(async move {
            let mut connection = attacker.native().await;
            let name = |n| join(&format!("{:\u{e9}>60}", format!("{}-{nth}-{n}", attacker.n)));
            let joins: Vec<Value> = (0..128).map(name).collect();
            connection.send_frames(&joins).await;
            connection.discard().await;
        });
    }
    held.join_all().await;
}
