//! Frames of WebSocket itself.

use std::time::Duration;

use chat_transport::testing::raw_frame;
use serde_json::json;
use tokio::time::{interval, sleep};

use super::attacker::{Attack, Attacker, Client, Connection, attacks, join, text};

pub(crate) const ATTACKS: &[Attack] = attacks![
    "pings below 1,000 a second" => pings,
    "pongs below 1,000 a second" => pongs,
    "messages in many fragments" => fragments,
    "messages that drip" => drip,
    "pings between fragments" => pings_between,
    "frames above the limit that go on" => too_large,
];

/// At each tick of 10 ms: 800 a second.
const AT_ONCE: usize = 8;

async fn pings(attacker: Attacker) {
    control(&attacker, 0x89).await;
}

async fn pongs(attacker: Attacker) {
    control(&attacker, 0x8a).await;
}

async fn control(attacker: &Attacker, head: u8) {
    let frames = raw_frame(head, &[b'x'; 125]).repeat(AT_ONCE);
    loop {
        let mut connection = attacker.native().await;
        let mut tick = interval(Duration::from_millis(10));
        while connection.send(&frames).await
            && connection.discard_for(Duration::from_millis(1)).await
        {
            tick.tick().await;
        }
    }
}

async fn fragments(attacker: Attacker) {
    let room = attacker.members_room();
    let send = json!({"type": "send", "room": room, "message": "x".repeat(500)}).to_string();
    let frames = fragmented(send.as_bytes(), None);
    attacker.flood(Client::Native, &[join(&room)], |_| frames.clone()).await;
}

async fn pings_between(attacker: Attacker) {
    let room = attacker.own_room();
    let send = json!({"type": "send", "room": room, "message": "x"}).to_string();
    let frames = fragmented(send.as_bytes(), Some(&raw_frame(0x89, b"x")));
    loop {
        let mut connection = attacker.native().await;
        if !connection.send_frames(&[join(&room)]).await {
            continue;
        }
        while connection.send(&frames).await
            && connection.discard_for(Duration::from_millis(60)).await
        {}
    }
}

/// A text frame of one byte in each fragment, with something between them.
fn fragmented(payload: &[u8], between: Option<&[u8]>) -> Vec<u8> {
    let last = payload.len() - 1;
    let mut frames = Vec::new();
    for (n, byte) in payload.iter().enumerate() {
        let head = u8::from(n == 0) | if n == last { 0x80 } else { 0 };
        frames.extend(raw_frame(head, &[*byte]));
        frames.extend(between.unwrap_or_default());
    }
    frames
}

async fn drip(attacker: Attacker) {
    let room = attacker.members_room();
    let send = text(&json!({"type": "send", "room": room, "message": "x".repeat(1000)}));
    loop {
        let mut connection = attacker.native().await;
        connection.send_frames(&[join(&room)]).await;
        while drip_once(&mut connection, &send).await {}
    }
}

async fn drip_once(connection: &mut Connection, frame: &[u8]) -> bool {
    for byte in frame {
        if !connection.send(std::slice::from_ref(byte)).await {
            return false;
        }
        sleep(Duration::from_millis(2)).await;
    }
    true
}

/// What is refused is read on for a while, so that clients learn why. It sends as fast as that.
async fn too_large(attacker: Attacker) {
    let announced = [&[0x82, 0xff, 0, 0, 0, 0][..], &[0x40; 4], &[0; 4]].concat();
    let payload = vec![0; 64 * 1024];
    loop {
        let mut connection = attacker.native().await;
        if connection.send(&announced).await {
            while connection.send(&payload).await {}
        }
    }
}
