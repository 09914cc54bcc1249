//! Clients that are gone without a word.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::testing::{WsClient, raw_frame};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::wire::{read_frame, websocket};
use crate::support::process::Process;
use crate::support::{Chat, DEADLINE, ask, assert_within, command, join, next_of, say};

/// A user whose connection is lost stays for as long, here.
const GRACE: Duration = Duration::from_secs(1);

/// How much later the others may be told.
const SLACK: Duration = Duration::from_secs(5);

const CLIENTS: usize = 20;

/// Connections to Redis that come on demand and stay.
const POOLED: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_have_left_and_leave_nothing() {
    let redis = RedisServer::start();
    let start = || {
        let mut command = command();
        command.env("CHAT_PRESENCE_GRACE", "1s");
        Chat::start(command.args(["--port", "0", "--redis-url", &redis.url()]))
    };
    let (server, other) = (start(), start());
    server.until_ready().await;
    other.until_ready().await;
    let mut watcher = other.native().await;
    join(&mut watcher, "room").await;
    // A first round takes what a server takes once.
    vanish(&server, &mut watcher).await;
    let process = Process(server.pid());
    let files = process.files();
    let slowest = vanish(&server, &mut watcher).await;
    process.until_files(files + POOLED).await;
    let (_, _, page) = server.http("GET", "/metrics").await;
    for line in ["chat_connections 0", "chat_topics 0"] {
        assert!(page.lines().any(|found| found == line), "{line} in:\n{page}");
    }
    let alone = ask(&mut watcher, "members", json!({"type": "members", "room": "room"})).await;
    assert_eq!(alone["count"], 1);
    say(&format!("{CLIENTS} clients were reset: the last left after {slowest:.1?}"));
}

/// Many come and are reset; returns when all have left and nobody is connected, and how long
/// the last one was there.
async fn vanish(server: &Chat, watcher: &mut WsClient) -> Duration {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = websocket(server.port()).await;
        stream.write_all(&raw_frame(0x81, br#"{"type":"join","room":"room"}"#)).await.unwrap();
        let (_, joined) = read_frame(&mut stream).await.expect("an answer");
        let joined: Value = serde_json::from_slice(&joined).unwrap();
        assert_eq!(joined["type"], "joined");
        assert_eq!(next_of(watcher, "presence").await["event"], "joined");
        clients.push(stream);
    }
    let began = Instant::now();
    for (nth, stream) in clients.into_iter().enumerate() {
        // Half of them are reset, the others end: as when a process is killed.
        if nth % 2 == 0 {
            stream.set_zero_linger().unwrap();
        }
    }
    for _ in 0..CLIENTS {
        assert_eq!(next_of(watcher, "presence").await["event"], "left");
    }
    let took = began.elapsed();
    assert_within("the last one to leave", took, GRACE + SLACK);
    // Its rooms linger for a second.
    let deadline = Instant::now() + DEADLINE;
    while !server.http("GET", "/metrics").await.2.contains("\nchat_topics 0\n") {
        assert!(Instant::now() < deadline, "the server keeps a topic");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took
}
