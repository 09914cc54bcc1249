//! Joins and leaves.

use std::time::Duration;

use serde_json::{Value, json};

use super::attacker::{Attack, Attacker, Client, attacks, handshake, join, text};

pub(crate) const ATTACKS: &[Attack] = attacks![
    "join and leave of fresh rooms" => fresh_rooms,
    "128 rooms on one connection after the other" => many_rooms,
    "join and leave of a room of members" => members_room,
    "join of a room of members on one connection after the other" => presence_churn,
    "one new room on one connection after the other" => one_room_each,
    "SUBSCRIBE and UNSUBSCRIBE" => subscribe,
    "join_room of one room after the other" => switch,
    "join_room with another name each time" => rename,
    "/join-room with history on one connection after the other" => handshakes,
];

async fn fresh_rooms(attacker: Attacker) {
    let frame = |n: u64| {
        let room = format!("f{}-{}", attacker.n, n / 2);
        text(&json!({"type": if n.is_multiple_of(2) { "join" } else { "leave" }, "room": room}))
    };
    attacker.flood(Client::Native, &[], frame).await;
}

async fn many_rooms(attacker: Attacker) {
    let joins: Vec<Value> = (0..128).map(|n| join(&format!("m{}-{n}", attacker.n))).collect();
    let time = Duration::from_millis(200);
    reconnect(&attacker, &joins, time).await;
}

async fn members_room(attacker: Attacker) {
    let room = attacker.members_room();
    let frame = |n: u64| {
        text(&json!({"type": if n.is_multiple_of(2) { "join" } else { "leave" }, "room": room}))
    };
    attacker.flood(Client::Native, &[], frame).await;
}

async fn presence_churn(attacker: Attacker) {
    let joins = [join(&attacker.members_room())];
    reconnect(&attacker, &joins, Duration::from_millis(5)).await;
}

async fn one_room_each(attacker: Attacker) {
    for n in 0.. {
        let mut connection = attacker.native().await;
        connection.send_frames(&[join(&format!("o{}-{n}", attacker.n))]).await;
        connection.discard_for(Duration::from_millis(5)).await;
    }
}

async fn subscribe(attacker: Attacker) {
    let frame = |n: u64| {
        let room = format!("s{}-{}", attacker.n, n / 2);
        let kind = if n.is_multiple_of(2) { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
        text(&json!({"type": kind, "room": room}))
    };
    attacker.flood(Client::Plain, &[], frame).await;
}

async fn switch(attacker: Attacker) {
    let frame = |n: u64| {
        let room = format!("j{}-{n}", attacker.n);
        text(&json!({"type": "join_room", "room": room, "user": "mallory", "history": 20}))
    };
    attacker.flood(Client::Plain, &[], frame).await;
}

async fn rename(attacker: Attacker) {
    let room = attacker.members_room();
    let frame =
        |n: u64| text(&json!({"type": "join_room", "room": room, "user": format!("mallory-{n}")}));
    attacker.flood(Client::Plain, &[], frame).await;
}

async fn handshakes(attacker: Attacker) {
    let path = format!("/join-room/{}?history=256", attacker.members_room());
    loop {
        let mut connection = attacker.open(Client::Http).await;
        if connection.send(handshake(attacker.port, &path, "").as_bytes()).await {
            connection.discard_for(Duration::from_millis(20)).await;
        }
    }
}

async fn reconnect(attacker: &Attacker, frames: &[Value], time: Duration) {
    loop {
        let mut connection = attacker.native().await;
        if connection.send_frames(frames).await {
            connection.discard_for(time).await;
        }
    }
}
