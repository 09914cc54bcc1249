//! Names of rooms: what is refused, what stays apart, and what becomes of them in Redis.

use std::collections::BTreeSet;
use std::time::Instant;

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::json;

use crate::support::{DEADLINE, ask, join, next_of};
use crate::{unlimited, unlimited_pair};

/// Names that look like something else to Redis, to a path, to people or to a terminal.
const ODD: [&str; 24] = [
    "*",
    "?",
    "[a-z]",
    "{x}",
    "{",
    "}",
    "r.x}:meta",
    "%2A",
    "..",
    "../../etc/passwd",
    "/",
    " ",
    ":meta",
    "'; DROP TABLE rooms; --",
    "<script>alert(1)</script>",
    // Composed and not, which look alike; Latin, Cyrillic; upper case, lower case.
    "caf\u{e9}",
    "cafe\u{301}",
    "admin",
    "\u{430}dmin",
    "ADMIN",
    // Right to left, without width, joined.
    "\u{202e}nimda",
    "ad\u{200b}min",
    "👩\u{200d}👩\u{200d}👧",
    "👩👩👧",
];

#[tokio::test]
async fn names_that_break_a_rule_are_refused_by_every_verb() {
    let server = unlimited();
    let mut client = server.native().await;
    let long = "x".repeat(129);
    let wide = "ü".repeat(65);
    let names = ["", &long, &wide, "\0", "a\r\nb", "\u{1b}[31m", "\u{7f}", "\u{85}", "a\tb"];
    for name in names {
        for kind in ["join", "leave", "send", "typing", "history", "members"] {
            let frame = json!({"type": kind, "room": name, "message": "x", "typing": true});
            let error = ask(&mut client, "error", frame).await;
            assert_eq!(error["code"], "room_name_invalid", "{kind} {name:?}");
        }
    }
    join(&mut client, &"x".repeat(128)).await;
    join(&mut client, &"ü".repeat(64)).await;
}

/// Each odd name is a room of its own on two servers, its channel the only one in Redis, and
/// nothing is a pattern.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_names_stay_apart_and_special_to_nobody() {
    let redis = RedisServer::start();
    let (here, there) = unlimited_pair(&redis).await;
    let (mut near, mut far) = (here.native().await, there.native().await);
    for name in ODD {
        for client in [&mut near, &mut far] {
            let joined = ask(client, "joined", json!({"type": "join", "room": name})).await;
            assert_eq!(joined["room"], name);
        }
        until_two_are_in(&mut far, name).await;
    }
    for name in ODD {
        near.send_json(&json!({"type": "send", "room": name, "message": name})).await;
        // All else that comes to somebody in all rooms would come first.
        let message = next_of(&mut far, "message").await;
        assert_eq!((&message["room"], &message["message"]), (&json!(name), &json!(name)));
        assert_eq!(message["offset"], 1, "{name:?} was another's room");
    }
    let channels = redis.command(&["PUBSUB", "CHANNELS"]).await;
    let rooms: BTreeSet<&str> =
        channels.lines().filter(|channel| channel.starts_with("chat:{r.")).collect();
    let expected: BTreeSet<String> = ODD.iter().map(|name| channel(name)).collect();
    assert_eq!(rooms, expected.iter().map(String::as_str).collect());
    let others = channels.lines().filter(|channel| !rooms.contains(channel));
    for other in others {
        let known = other.starts_with("chat:node:")
            || other.starts_with("chat:{u.")
            || other == "chat:{records}";
        assert!(known, "an unexpected channel: {other}");
    }
    assert_eq!(redis.command(&["PUBSUB", "NUMPAT"]).await, "0");
}

/// One of them is on the other server, which says so in its own time.
async fn until_two_are_in(client: &mut WsClient, room: &str) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let members = ask(client, "members", json!({"type": "members", "room": room})).await;
        assert_eq!(members["room"], room);
        if members["count"] == 2 {
            return;
        }
        assert!(members["count"] == 1 && Instant::now() < deadline, "{members}");
    }
}

/// As docs/redis.md describes it.
fn channel(room: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    format!("chat:{{r.{}}}", room.bytes().map(encode).collect::<String>())
}
