//! Small requests with large answers.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::attacker::{ATTACKERS, Attack, Attacker, Client, attacks, join, text};

pub(crate) const ATTACKS: &[Attack] = attacks![
    "members of a room of 200" => members,
    "history of a room of members" => history,
    "history that the server does not hold" => old_history,
    "history of a full room" => full_history,
    "join again with since" => join_again,
];

/// Members of the room that is asked for.
const CROWD: usize = 200;

async fn members(attacker: Attacker) {
    let mut crowd = JoinSet::new();
    for _ in 0..CROWD / ATTACKERS {
        let member = attacker.clone();
        crowd.spawn(async move {
            let mut connection = member.native().await;
            connection.send_frames(&[join("crowd")]).await;
            connection.discard().await;
        });
    }
    let members = text(&json!({"type": "members", "room": "crowd"}));
    let first = [join("crowd")];
    attacker.flood(Client::Native, &first, |_| members.clone()).await;
}

async fn history(attacker: Attacker) {
    let room = attacker.members_room();
    let page = text(&json!({"type": "history", "room": room, "limit": 256}));
    attacker.flood(Client::Native, &[join(&room)], |_| page.clone()).await;
}

async fn old_history(attacker: Attacker) {
    let room = attacker.own_room();
    let page = |n: u64| {
        let (before, after) = (n % 200 + 2, n % 100);
        text(&match n % 2 {
            0 => json!({"type": "history", "room": room, "before": before, "limit": 1}),
            _ => json!({"type": "history", "room": room, "after": after, "limit": 256}),
        })
    };
    let first = filling(&room);
    attacker.flood(Client::Native, &first, page).await;
}

async fn full_history(attacker: Attacker) {
    let room = attacker.own_room();
    let page = text(&json!({"type": "history", "room": room, "limit": 256}));
    let first = filling(&room);
    attacker.flood(Client::Native, &first, |_| page.clone()).await;
}

async fn join_again(attacker: Attacker) {
    let room = attacker.own_room();
    let again = json!({"type": "join", "room": room, "since": {"epoch": "", "offset": 0}});
    let (first, again) = (filling(&room), text(&again));
    attacker.flood(Client::Native, &first, |_| again.clone()).await;
}

/// Joins, and fills the room with a page or two.
fn filling(room: &str) -> Vec<Value> {
    let message = "x".repeat(4_000);
    let send = json!({"type": "send", "room": room, "message": message});
    let mut frames = vec![join(room)];
    frames.extend(std::iter::repeat_n(send, 120));
    frames
}
