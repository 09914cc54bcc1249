//! Moderators who ban.

use serde_json::json;

use super::attacker::{Attack, Attacker, Client, attacks, join, text};

pub(crate) const ATTACKS: &[Attack] = attacks![
    "bans of fresh names" => bans,
    "unbans of fresh names" => unbans,
    "kicks of fresh names" => kicks,
    "ban and unban of one name" => ban_and_unban,
];

async fn bans(attacker: Attacker) {
    let reason = "x".repeat(500);
    let ban = |n: u64| {
        let (user, room) = (format!("{n:\u{e9}>60}"), attacker.own_room());
        text(&json!({"type": "ban", "room": room, "user": user, "reason": reason, "id": n}))
    };
    attacker.flood(Client::Native, &[], ban).await;
}

async fn unbans(attacker: Attacker) {
    let room = attacker.members_room();
    let unban = |n: u64| {
        text(&json!({"type": "unban", "room": room, "user": format!("fresh-{n}"), "id": n}))
    };
    attacker.flood(Client::Native, &[join(&room)], unban).await;
}

async fn kicks(attacker: Attacker) {
    let room = attacker.members_room();
    let kick = |n: u64| {
        text(&json!({"type": "kick", "room": room, "user": format!("fresh-{n}"), "id": n}))
    };
    attacker.flood(Client::Native, &[join(&room)], kick).await;
}

async fn ban_and_unban(attacker: Attacker) {
    let room = attacker.own_room();
    let frame = |n: u64| {
        let kind = if n.is_multiple_of(2) { "ban" } else { "unban" };
        text(&json!({"type": kind, "room": room, "user": "bob", "id": n}))
    };
    attacker.flood(Client::Native, &[], frame).await;
}
