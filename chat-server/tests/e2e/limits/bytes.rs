//! Budgets in bytes: of frames, of answers, and of what Redis keeps.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::rates::at_the_rate;
use super::{NATIVE, limited, server};
use crate::support::{Chat, ask, command, join, next_of};
use chat_transport::testing::{WsClient, raw_frame, raw_handshake};

#[tokio::test]
async fn bytes_of_frames_have_a_rate() {
    let server = server(&["--byte-rate", "100000/100000"]);
    let mut client = server.native().await;
    join(&mut client, "r").await;
    let text = "x".repeat(10_000);
    at_the_rate(300_000, 100_000, 100_000, async {
        for _ in 0..30 {
            let send = json!({"type": "send", "room": "r", "message": text});
            ask(&mut client, "ok", send).await;
        }
    })
    .await;
    assert!(limited(&server, "connection_received_bytes").await > 10);
}

/// `members` and `history` are small requests with large answers, and so is `join` with `since`.
#[tokio::test]
async fn answers_cost_what_they_weigh() {
    let server = server(&["--answer-rate", "100000/200000"]);
    let mut writer = server.native().await;
    join(&mut writer, "r").await;
    let text = "x".repeat(10_000);
    for _ in 0..10 {
        ask(&mut writer, "ok", json!({"type": "send", "room": "r", "message": text})).await;
    }
    let page = json!({"type": "history", "room": "r", "limit": 10});
    let again = json!({"type": "join", "room": "r", "since": {"epoch": "", "offset": 0}});
    for (frame, answer) in [(page, "history"), (again, "joined")] {
        let mut reader = server.native().await;
        ask(&mut reader, "joined", json!({"type": "join", "room": "r"})).await;
        let ask_often = async {
            // The last of them is waited for as long as the others took.
            for _ in 0..7 {
                assert!(ask(&mut reader, answer, frame.clone()).await.to_string().len() > 100_000);
            }
        };
        at_the_rate(600_000, 100_000, 200_000, ask_often).await;
        // What is no large answer does not wait for them.
        ask(&mut reader, answer, frame.clone()).await;
        let waits = limited(&server, "connection_answer_bytes").await;
        ask(&mut reader, "pong", json!({"type": "ping"})).await;
        assert_eq!(limited(&server, "connection_answer_bytes").await, waits);
    }
    assert!(limited(&server, "connection_answer_bytes").await > 4);
}

#[tokio::test]
async fn new_rooms_and_kept_messages_have_a_rate() {
    let server = server(&["--kept-rate", "15000/15000"]);
    let mut client = server.client().await;
    let mut watcher = server.native().await;
    join(&mut watcher, "29").await;
    // A room costs 1,600, its message some 250.
    at_the_rate(30 * 1_600, 15_000, 15_000, async {
        for n in 0..30 {
            let room = n.to_string();
            client.send_json(&json!({"type":"sendMessage","roomId": room,"message": "."})).await;
        }
        next_of(&mut watcher, "message").await;
    })
    .await;
    assert!(limited(&server, "connection_kept_bytes").await > 10);
}

/// In a room that a connection has filled it replaces what is there, and adds nothing.
#[tokio::test]
async fn messages_that_replace_others_are_free() {
    let server = server(&["--kept-rate", "1000/200000", "--history-bytes", "100000"]);
    let mut client = server.native().await;
    join(&mut client, "r").await;
    let text = "x".repeat(2_000);
    let filled = async {
        for _ in 0..200 {
            let send = json!({"type": "send", "room": "r", "message": text});
            ask(&mut client, "ok", send).await;
        }
    };
    // 400,000 bytes are more than the budget allows in minutes.
    timeout(Duration::from_secs(30), filled).await.expect("no wait for what adds nothing");
    // A room without history keeps nothing in the first place.
    let server = self::server(&["--kept-rate", "1/1", "--history", "0"]);
    let mut client = server.native().await;
    join(&mut client, "r").await;
    for _ in 0..100 {
        ask(&mut client, "ok", json!({"type": "send", "room": "r", "message": text})).await;
    }
    assert_eq!(limited(&server, "connection_kept_bytes").await, 0);
}

/// Whatever a user with default rights sends: Redis grows by 8 MB in 20 s at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_adds_little_to_redis() {
    const MOST: u64 = 8_000_000;
    let kinds: [fn(u64) -> Vec<Value>; 3] = [large_in_new_rooms, empty_in_new_rooms, long_names];
    let attacks = kinds.map(async |frames| {
        let redis = RedisServer::start();
        let server = Chat::start(command().args(["--port", "0", "--redis-url", &redis.url()]));
        server.until_ready().await;
        let before = used_memory(&redis).await;
        let connect =
            async || WsClient::connect_with(&server.ws("/ws?userId=mallory"), &[NATIVE]).await;
        // A user with several connections has no more than one with one.
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(connect().await);
        }
        let (began, mut most) = (Instant::now(), 0);
        for n in 0.. {
            if began.elapsed() > Duration::from_secs(20) {
                break;
            }
            let nth = n as usize % connections.len();
            for frame in frames(n) {
                let client = &mut connections[nth];
                let _ = timeout(Duration::from_millis(50), client.send_json(&frame)).await;
                // A client that does not read what it has asked for is closed.
                while timeout(Duration::from_millis(1), client.recv()).await.is_ok() {}
            }
            if n % 50 == 0 {
                most = most.max(used_memory(&redis).await.saturating_sub(before));
            }
        }
        most.max(used_memory(&redis).await.saturating_sub(before))
    });
    let [large, empty, long] = attacks;
    let (large, empty, long, gone) = tokio::join!(large, empty, long, disconnecting());
    crate::support::say(&format!(
        "one user for 20 s: Redis grew by {large} bytes with large messages in new rooms, {empty} \
         with empty ones, {long} with long names and keys, {gone} by connections that do not wait \
         for answers"
    ));
    for grown in [large, empty, long, gone] {
        assert!(grown < MOST, "{grown} bytes");
    }
}

/// Connects, posts to 60 new rooms and closes, in one write; again and again.
async fn disconnecting() -> u64 {
    let redis = RedisServer::start();
    let server = Chat::start(command().args(["--port", "0", "--redis-url", &redis.url()]));
    server.until_ready().await;
    let (before, began, mut room) = (used_memory(&redis).await, Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(20) {
        let address = format!("127.0.0.1:{}", server.port());
        let mut stream = raw_handshake(&address, "/?userId=mallory").await;
        let mut frames = Vec::new();
        for _ in 0..60 {
            room += 1;
            let post = json!({"type": "sendMessage", "roomId": room.to_string(), "message": "."});
            frames.extend(raw_frame(0x81, post.to_string().as_bytes()));
        }
        frames.extend(raw_frame(0x88, &1000_u16.to_be_bytes()));
        let _ = stream.write_all(&frames).await;
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await;
    }
    assert!(limited(&server, "user_kept_bytes").await > 0, "no attack: {room} rooms");
    used_memory(&redis).await - before
}

fn large_in_new_rooms(n: u64) -> Vec<Value> {
    let room = format!("z{n}");
    let join = json!({"type": "join", "room": room});
    let leave = json!({"type": "leave", "room": room});
    vec![join, json!({"type": "send", "room": room, "message": "x".repeat(32_700)}), leave]
}

fn empty_in_new_rooms(n: u64) -> Vec<Value> {
    let room = format!("z{n}");
    let join = json!({"type": "join", "room": room});
    let leave = json!({"type": "leave", "room": room});
    vec![join, json!({"type": "send", "room": room, "message": "."}), leave]
}

fn long_names(n: u64) -> Vec<Value> {
    let long = |n: u64| format!("{n:\u{e9}>120}").chars().take(63).collect::<String>();
    let room = long(n % 128);
    let send = |nth: u64| {
        let key = long(n * 8 + nth);
        json!({"type": "send", "room": room, "message": ".", "key": key})
    };
    let mut frames = vec![json!({"type": "join", "room": room})];
    frames.extend((0..8).map(send));
    frames
}

async fn used_memory(redis: &RedisServer) -> u64 {
    let info = redis.command(&["INFO", "memory"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.expect("the statistic").trim().parse().unwrap()
}
