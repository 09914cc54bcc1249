//! Names of rooms: what is refused, what stays apart, and what becomes of them in Redis.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_core::UserId;
use chat_server::{JwtSigner, TokenClaims};
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use super::{unlimited, unlimited_pair};
use crate::support::{Chat, DEADLINE, ask, command, join, next_of};

/// Names that look like something else to Redis, to a path, to people or to a terminal.
const ODD: [&str; 24] = [
    "*",
    "?",
    "[a-z]",
    "{x}",
    "{",
    "}",
    "r.x}:position",
    "%2A",
    "..",
    "../../etc/passwd",
    "/",
    "- ",
    ":position",
    "'; DROP TABLE rooms; --",
    "<script>alert(1)</script>",
    // Composed and not, which look alike; Latin, Cyrillic; upper case, lower case.
    "caf\u{e9}",
    "cafe\u{301}",
    "admin",
    "\u{430}dmin",
    "ADMIN",
    // Right to left, without width, joined.
    "אבג",
    "ad\u{200b}min",
    "👩\u{200d}👩\u{200d}👧",
    "👩👩👧",
];

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NATIVE: (&str, &str) = ("Sec-WebSocket-Protocol", "chat.v1");

/// Names of which nothing can be seen.
const UNSEEN: [&str; 8] = [
    " ",
    "\u{a0}\u{3000}",
    "\u{200b}",
    "\u{2060}\u{feff}",
    "\u{2800}",
    "\u{3164}",
    "\u{fe0f}",
    "\u{e0041}\u{e007f}",
];

/// Names that reorder the text around them.
const REORDERING: [&str; 4] = ["\u{202e}nimda", "a\u{2066}b", "\u{200f}א", "a\u{61c}b"];

#[tokio::test]
async fn names_that_break_a_rule_are_refused_by_every_verb() {
    let server = unlimited();
    let mut client = server.native().await;
    let long = "x".repeat(129);
    let wide = "ü".repeat(65);
    let names = ["", &long, &wide, "\0", "a\r\nb", "\u{1b}[31m", "\u{7f}", "\u{85}", "a\tb"];
    for name in names.into_iter().chain(UNSEEN).chain(REORDERING) {
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

/// A user's name is the same wherever it is given, and an id is taken or refused alike.
#[tokio::test]
async fn names_keep_one_rule_on_every_path() {
    let open = unlimited();
    let with_tokens = Chat::start(command().args(["--port", "0"]).env("JWT_SECRET", SECRET));
    let names = [
        ("\u{202e}nimda\u{202c}", "nimda"),
        ("\u{2068}Ann\u{2069}", "Ann"),
        ("می\u{200c}خواهم", "می\u{200c}خواهم"),
        ("👩\u{200d}👩\u{200d}👧", "👩\u{200d}👩\u{200d}👧"),
    ];
    for (name, kept) in names {
        let mut client = open.native().await;
        let hello = json!({"type": "hello", "name": name});
        assert_eq!(ask(&mut client, "welcome", hello).await["user"]["name"], kept);

        let path = format!("/ws?user={}", encoded(name));
        let mut client = WsClient::connect_with(&open.ws(&path), &[NATIVE]).await;
        let welcome = ask(&mut client, "welcome", json!({"type": "hello"})).await;
        assert_eq!(welcome["user"]["name"], kept);

        let mut client = open.client().await;
        client.send_json(&json!({"type": "join_room", "room": "r", "user": name})).await;
        client.recv().await;
        let mut member = open.native().await;
        let members = join(&mut member, "r").await["members"].clone();
        let is_there = |members: &Value| {
            members.as_array().unwrap().iter().any(|member| member["name"] == kept)
        };
        assert!(is_there(&members), "{members}");
        client.close().await;

        let token = token("u1", Some(name));
        let mut client = with_tokens.native().await;
        let hello = json!({"type": "hello", "token": token});
        assert_eq!(ask(&mut client, "welcome", hello).await["user"]["name"], kept);
    }
    for name in UNSEEN.into_iter().chain(["\u{202e}\u{202c}"]) {
        let mut client = open.native().await;
        let hello = json!({"type": "hello", "name": name});
        assert_eq!(ask(&mut client, "error", hello).await["code"], "bad_field", "{name:?}");
        let switch = r#"{"type":"join_room","room":"r","user":"\u200b"}"#;
        let mut rooms = open.client().await;
        rooms.send(switch).await;
        assert_eq!(rooms.recv_json().await["code"], "bad_field");
        for field in ["user", "userId"] {
            let (status, _, body) =
                open.raw(&handshake(&format!("/ws?{field}={}", encoded(name)))).await;
            assert_eq!((status, body.contains("bad_field")), (400, true), "{name:?}: {body}");
        }
        let token = token("u1", Some(name));
        let mut client = with_tokens.native().await;
        let hello = json!({"type": "hello", "token": token});
        assert_eq!(ask(&mut client, "error", hello).await["code"], "unauthorized", "{name:?}");
    }
    for id in UNSEEN.into_iter().chain(REORDERING) {
        let (status, _, body) = open.raw(&handshake(&format!("/ws?userId={}", encoded(id)))).await;
        assert_eq!((status, body.contains("bad_field")), (400, true), "{id:?}: {body}");
        let mut client = open.native().await;
        let direct = json!({"type": "direct", "to": id, "message": "x"});
        assert_eq!(ask(&mut client, "error", direct).await["code"], "bad_field", "{id:?}");
        let token = token(id, None);
        let mut client = with_tokens.native().await;
        let hello = json!({"type": "hello", "token": token});
        assert_eq!(ask(&mut client, "error", hello).await["code"], "unauthorized", "{id:?}");
    }
}

/// What cannot be seen stands escaped in the log.
#[tokio::test]
async fn names_are_escaped_in_the_log() {
    let server = unlimited();
    let mut client = server.native().await;
    join(&mut client, "ad\u{200b}min \"\u{e0041}").await;
    let line = server.until_logged("subscribing on the pub sub to room: ad");
    assert!(line.ends_with(r#"room: ad\u{200b}min \"\u{e0041}"#), "{line}");
}

fn token(sub: &str, name: Option<&str>) -> String {
    let mut claims = TokenClaims::new(&UserId::new("u").unwrap(), Duration::from_secs(600));
    claims.sub = sub.to_owned();
    claims.name = name.map(str::to_owned);
    JwtSigner::with_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}
