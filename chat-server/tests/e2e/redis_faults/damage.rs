//! Something else stands under the keys of a room, or Redis is no server that can be used.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use chat_broker::testing::RedisServer;
use serde_json::{Value, json};

use crate::support::{Chat, ask, command, join, next_of};

fn send(room: &str) -> Value {
    json!({"type": "send", "room": room, "message": "x"})
}

#[tokio::test]
async fn damaged_room_fails_alone_at_once_and_until_it_is_mended() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut member = first.native().await;
    for room in ["g h", "well"] {
        join(&mut member, room).await;
        ask(&mut member, "ok", send(room)).await;
    }
    // `DEL` for the operator, and what stood there before is gone.
    redis.command(&["SET", "chat:{r.g%20h}", "x"]).await;
    let mut late = second.native().await;
    // An answer that a deadline has given would have another text.
    let is_refused = |error: Value| {
        assert_eq!(error["code"], "broker_unavailable", "{error}");
        assert!(error["message"].as_str().unwrap().contains("damaged"), "{error}");
    };
    is_refused(ask(&mut late, "error", json!({"type": "join", "room": "g h"})).await);
    is_refused(ask(&mut member, "error", send("g h")).await);
    // What is to be recovered cannot be read: the member stays, here and in its other rooms.
    let since = json!({"epoch": "another", "offset": 1});
    let again = json!({"type": "join", "room": "g h", "since": since});
    is_refused(ask(&mut member, "error", again).await);
    ask(&mut member, "members", json!({"type": "members", "room": "g h"})).await;
    for server in [&first, &second] {
        let line = server.until_logged("chat:{r.g%20h}");
        assert!(line.contains("WARN") && line.contains("docs/redis.md"), "{line}");
        server.until_ready().await;
    }
    join(&mut late, "well").await;
    ask(&mut late, "ok", send("well")).await;

    redis.command(&["DEL", "chat:{r.g%20h}"]).await;
    ask(&mut member, "ok", send("g h")).await;
    join(&mut late, "g h").await;
    ask(&mut late, "ok", send("g h")).await;
}

/// Servers sign nothing with it, and say so.
#[tokio::test]
async fn secret_of_another_length_is_named_in_the_log() {
    let redis = RedisServer::start();
    redis.command(&["SET", "chat:secret", "junk"]).await;
    let server = Chat::on(&redis);
    server.until_ready().await;
    let mut client = server.native().await;
    let welcome = ask(&mut client, "welcome", json!({"type": "hello"})).await;
    assert!(welcome["resume"].is_null(), "{welcome}");
    let line = server.until_logged("chat:secret");
    assert!(line.contains("WARN") && line.contains("32 bytes"), "{line}");
}

/// Nothing of the log can be trusted.
#[tokio::test]
async fn log_with_malformed_head_is_a_new_epoch() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut member = first.native().await;
    join(&mut member, "r").await;
    let mut before = json!(null);
    for _ in 0..3 {
        before = ask(&mut member, "ok", send("r")).await;
    }
    redis.command(&["LSET", "chat:{r.r}", "0", "junk"]).await;
    let mut late = second.native().await;
    let since = json!({"epoch": before["epoch"], "offset": before["offset"]});
    let joined = ask(&mut late, "joined", json!({"type": "join", "room": "r", "since": since}));
    let joined = joined.await;
    assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(false), &json!(0)), "{joined}");
    let after = ask(&mut late, "ok", send("r")).await;
    assert!(after["epoch"] != before["epoch"] && after["offset"] == 1, "{after}");
    // The other client joined a room without a position, and has missed nothing in it.
    next_of(&mut member, "gap").await;
    assert_eq!(next_of(&mut member, "message").await["epoch"], after["epoch"]);
}

/// A server before Redis 6 knows no `HELLO`, and most proxies do not either.
#[test]
fn server_that_lacks_commands_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                while lines.any(|line| line == "HELLO") {
                    let _ = (&stream).write_all(b"-ERR unknown command 'HELLO'\r\n");
                }
            });
        }
    });
    let server = Chat::start(command().args(["--port", "0", "--redis-url", &url]));
    let line = server.until_logged("Redis 6 or later is needed");
    assert!(line.contains("ERROR"), "{line}");
    assert_eq!(server.logged("redis unavailable"), 0);
}

#[test]
fn node_of_a_cluster_is_named_as_such() {
    let redis = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let server = Chat::on(&redis);
    assert!(server.until_logged("cannot be used").contains("Cluster"));
}
