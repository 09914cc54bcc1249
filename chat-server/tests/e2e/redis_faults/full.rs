//! Redis is full: messages of rooms with history are refused, and nothing else.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::{Chat, ask, join, next_of};

const FULL: &str = "redis is full";
const HAS_ROOM: &str = "redis has free memory again";

async fn send(client: &mut WsClient, answer: &str, room: &str, text: &str) -> Value {
    ask(client, answer, json!({"type": "send", "room": room, "message": text})).await
}

#[tokio::test]
async fn full_redis_refuses_messages_of_rooms_with_history_alone() {
    let file = std::env::temp_dir().join(format!("chat-full-{}.toml", std::process::id()));
    std::fs::write(&file, "[[rooms]]\nname = \"game-*\"\nhistory = 0\n").unwrap();
    let redis = RedisServer::start();
    let [first, second] = Chat::several(&redis, &["--config", file.to_str().unwrap()]).await;
    let _ = std::fs::remove_file(&file);
    let (mut ann, mut bob) = (first.native().await, second.native().await);
    for room in ["kept", "game-1"] {
        join(&mut bob, room).await;
        join(&mut ann, room).await;
    }
    send(&mut ann, "ok", "kept", "before").await;
    assert_eq!(next_of(&mut bob, "message").await["message"], "before");

    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for server in [&first, &second] {
        server.until_metric("chat_broker_full", |full| full == 1).await;
        assert_eq!(server.metric("chat_broker_up").await, 1);
        let (status, _, body) = server.http("GET", "/readyz").await;
        assert_eq!(status, 200, "no other server has more room");
        assert!(body.starts_with("ready, but Redis is full"), "{body}");
    }
    for server in [&first, &second] {
        let line = server.until_logged(FULL);
        assert!(line.contains("cause=\"OOM command not allowed"), "{line}");
    }
    let refused = send(&mut ann, "error", "kept", "refused").await;
    assert_eq!(refused["code"], "broker_unavailable");
    send(&mut ann, "ok", "game-1", "passed on").await;
    assert_eq!(next_of(&mut bob, "message").await["message"], "passed on");

    // On a server that has to read the room, too.
    for server in [&first, &second] {
        let mut late = server.native().await;
        let welcome = ask(&mut late, "welcome", json!({"type": "hello", "name": "Late"})).await;
        assert!(welcome["resume"].is_string(), "{welcome}");
        for room in ["kept", "new"] {
            join(&mut late, room).await;
        }
        let page = ask(&mut late, "history", json!({"type": "history", "room": "kept"})).await;
        assert_eq!(page["messages"][0]["message"], "before");
        let id = &welcome["user"]["id"];
        let joined = next_of(&mut ann, "presence").await;
        assert_eq!((&joined["event"], &joined["user"]["id"]), (&json!("joined"), id));
    }

    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    send(&mut ann, "ok", "kept", "after").await;
    for server in [&first, &second] {
        server.until_metric("chat_broker_full", |full| full == 0).await;
        // The line is written after the metric changes.
        server.until_logged(HAS_ROOM);
        assert_eq!([FULL, HAS_ROOM].map(|line| server.logged(line)), [1, 1], "one line each");
        assert_eq!(server.http("GET", "/readyz").await.2, "ready\n");
    }
}

#[tokio::test]
async fn log_warns_before_redis_is_full() {
    let redis = RedisServer::start();
    let info = redis.command(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.parse().ok());
    let used: u64 = used.unwrap();
    let max = used * 10 / 9;
    redis.command(&["CONFIG", "SET", "maxmemory", &max.to_string()]).await;
    let server = Chat::on(&redis);
    server.until_logged("redis uses more than 80 % of maxmemory");
    server.until_ready().await;
    assert_eq!(server.metric("chat_redis_memory_max_bytes").await, max);
    assert!(server.metric("chat_redis_memory_used_bytes").await > used / 2);
}
