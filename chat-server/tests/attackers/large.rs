//! Messages as large as they may be.

use serde_json::{Value, json};

use super::attacker::{Attack, Attacker, Client, attacks, join, text};

/// A little less than `--max-message-bytes`.
pub(crate) const LARGE: usize = 32_700;

pub(crate) const ATTACKS: &[Attack] = attacks![
    "large messages to a room of members" => plain,
    "large messages of control characters" => escaped,
    "large messages with large data" => with_data,
];

/// To a member on a slow line.
pub(crate) const TO_ONE_MEMBER: &[Attack] = attacks![
    "large direct messages to a member" => direct,
    "large direct messages of control characters" => direct_escaped,
];

async fn plain(attacker: Attacker) {
    let send = json!({
        "type": "send", "room": attacker.members_room(), "message": "x".repeat(LARGE),
    });
    flood(&attacker, send).await;
}

/// Six bytes for each in JSON.
async fn escaped(attacker: Attacker) {
    let message = "\u{1}".repeat(LARGE);
    let send = json!({"type": "send", "room": attacker.members_room(), "message": message});
    flood(&attacker, send).await;
}

async fn with_data(attacker: Attacker) {
    let send = json!({
        "type": "send", "room": attacker.members_room(), "message": "é".repeat(LARGE / 2),
        "data": vec![0; LARGE / 2 - 1],
    });
    flood(&attacker, send).await;
}

async fn direct(attacker: Attacker) {
    let message = "x".repeat(LARGE);
    let direct = json!({"type": "direct", "to": &*attacker.victim, "message": message, "id": 1});
    flood(&attacker, direct).await;
}

async fn direct_escaped(attacker: Attacker) {
    let message = "\u{1}".repeat(LARGE);
    let direct = json!({"type": "direct", "to": &*attacker.victim, "message": message, "id": 1});
    flood(&attacker, direct).await;
}

async fn flood(attacker: &Attacker, frame: Value) {
    let (first, frame) = ([join(&attacker.members_room())], text(&frame));
    attacker.flood(Client::Native, &first, |_| frame.clone()).await;
}
