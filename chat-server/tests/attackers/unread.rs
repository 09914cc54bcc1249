//! Clients that ask for pages and do not read them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::attacker::{Attack, Attacker, Client, Connection, attacks, join, text};

pub(crate) const ATTACKS: &[Attack] = attacks![
    "unread pages" => unread,
    "unread pages, and a reset" => reset,
    "pages of which a little is read" => read_slowly,
];

/// Before a client connects again: longer than `--write-timeout`, after which the server has closed
/// the connection and the kernel holds what is left.
const UNREAD: Duration = Duration::from_secs(15);

async fn unread(attacker: Attacker) {
    let fill = filling(&attacker.own_room());
    loop {
        let mut connection = attacker.open(Client::Narrow).await;
        if connection.send_frames(&fill).await {
            ask(&mut connection, &attacker.own_room()).await;
            sleep(UNREAD).await;
        }
    }
}

/// Ends with unread bytes, for which the client's kernel sends a reset.
async fn reset(attacker: Attacker) {
    let fill = filling(&attacker.own_room());
    loop {
        let mut connection = attacker.open(Client::Narrow).await;
        if connection.send_frames(&fill).await {
            ask(&mut connection, &attacker.own_room()).await;
            sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn read_slowly(attacker: Attacker) {
    let fill = filling(&attacker.own_room());
    loop {
        let mut connection = attacker.open(Client::Narrow).await;
        if !connection.send_frames(&fill).await {
            continue;
        }
        ask(&mut connection, &attacker.own_room()).await;
        while connection.discard_for(Duration::from_millis(1)).await {
            sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn ask(connection: &mut Connection, room: &str) {
    let page = text(&json!({"type": "history", "room": room, "limit": 256}));
    for _ in 0..40 {
        if timeout(Duration::from_millis(100), connection.send(&page)).await.is_err() {
            return;
        }
    }
}

/// Joins, and fills the room with a page.
fn filling(room: &str) -> Vec<Value> {
    let send = json!({"type": "send", "room": room, "message": "x".repeat(16_000)});
    let mut frames = vec![join(room)];
    frames.extend(std::iter::repeat_n(send, 16));
    frames
}
