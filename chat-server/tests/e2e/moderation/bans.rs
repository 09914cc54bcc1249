//! Bans: a user is evicted and cannot join again, for a time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use super::{KEY, is_refused, member, order, pair, user};
use crate::support::{Chat, DEADLINE, ask, command, exchange, next_of};

#[tokio::test]
async fn who_is_banned_may_neither_join_nor_send_until_the_time_is_over() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let (mut here, mut there) = (user(&first, "bob").await, user(&second, "bob").await);
    ask(&mut here, "joined", json!({"type": "join", "room": "r"})).await;
    // A client that sends without being in the room.
    let mut outside = WsClient::connect(&first.ws("/?userId=bob")).await;
    outside.send_json(&json!({"type": "sendMessage", "roomId": "r", "message": "before"})).await;
    next_of(&mut here, "message").await;

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let ban = json!({"user": "bob", "reason": "spam", "until": now + 600_000});
    order(&second, "/api/rooms/r/ban", ban).await;
    let left = next_of(&mut here, "left").await;
    assert_eq!((&left["reason"], &left["message"]), (&json!("banned"), &json!("spam")));
    is_about(&left["until"], now + 600_000);
    let send = json!({"type": "sendMessage", "roomId": "r", "message": "x"});
    for client in [&mut here, &mut there] {
        // The server on the other side may have yet to hear of it.
        let deadline = Instant::now() + DEADLINE;
        loop {
            client.send_json(&json!({"type": "join", "room": "r"})).await;
            let answer = client.recv_json().await;
            match answer["type"].as_str() {
                Some("error") => {
                    assert_eq!(
                        (&answer["code"], &answer["reason"]),
                        (&json!("banned"), &json!("spam"))
                    );
                    assert!(answer["message"].as_str().unwrap().ends_with("spam"), "{answer}");
                    is_about(&answer["until"], now + 600_000);
                    break;
                }
                _ => assert!(Instant::now() < deadline, "{answer}"),
            }
        }
        ask(client, "joined", json!({"type": "join", "room": "elsewhere"})).await;
    }
    is_refused(&mut outside, send.clone(), "forbidden").await;
    let by_url = WsClient::try_connect(&first.ws("/join-room/r?userId=bob&history=9"), &[]).await;
    assert_eq!(by_url.err().map(|status| status.as_u16()), Some(403));
    // A server that starts later knows of it, too.
    let third = Chat::start(command().env("REDIS_URL", redis.url()).args(["--port", "0"]));
    third.until_ready().await;
    let mut late = user(&third, "bob").await;
    is_refused(&mut late, json!({"type": "join", "room": "r"}), "banned").await;

    order(&first, "/api/rooms/r/unban", json!({"user": "bob"})).await;
    let deadline = Instant::now() + DEADLINE;
    for client in [&mut here, &mut there, &mut late] {
        loop {
            client.send_json(&json!({"type": "join", "room": "r"})).await;
            let answer = loop {
                let answer = client.recv_json().await;
                if answer["type"] == "joined" || answer["type"] == "error" {
                    break answer;
                }
            };
            if answer["type"] == "joined" {
                break;
            }
            assert!(Instant::now() < deadline, "{answer}");
        }
    }
    // A ban ends by itself.
    order(&first, "/api/rooms/r/ban", json!({"user": "bob", "seconds": 1})).await;
    next_of(&mut here, "left").await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        here.send_json(&json!({"type": "join", "room": "r"})).await;
        let answer = here.recv_json().await;
        if answer["type"] == "joined" {
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_user_is_disconnected_everywhere_and_kept_out_if_a_time_is_given() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let mut native = member(&first, "bob").await;
    let mut topics = WsClient::connect(&second.ws("/?userId=bob")).await;
    topics.send_json(&json!({"type": "SUBSCRIBE", "room": "r"})).await;
    second.until_logged("subscribing on the pub sub to room: r");
    let mut ann = user(&second, "ann").await;
    order(&second, "/api/users/bob/disconnect", json!({})).await;
    let goodbye = next_of(&mut native, "goodbye").await;
    assert_eq!(
        (&goodbye["reason"], &goodbye["reconnect"]),
        (&json!("disconnected"), &json!(false))
    );
    assert_eq!(native.recv_close().await.0, 4002);
    assert_eq!(topics.recv_until_close().await.1.0, 4002);
    ask(&mut ann, "pong", json!({"type": "ping"})).await;

    let mut native = user(&first, "bob").await;
    ask(&mut native, "pong", json!({"type": "ping"})).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    order(&second, "/api/users/bob/disconnect", json!({"seconds": 600, "reason": "spam"})).await;
    let goodbye = next_of(&mut native, "goodbye").await;
    assert_eq!((&goodbye["reason"], &goodbye["message"]), (&json!("banned"), &json!("spam")));
    is_about(&goodbye["until"], now + 600_000);
    assert_eq!(native.recv_close().await.0, 4003);
    for server in [&first, &second] {
        // A client that connects before a server has heard of it is connected, and then evicted.
        until(server, Some(403)).await;
    }
    let handshake = "GET /ws?userId=bob HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n";
    let (_, _, body) = exchange(first.port(), handshake).await;
    let refusal: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&refusal["code"], &refusal["reason"]), (&json!("banned"), &json!("spam")));
    is_about(&refusal["until"], now + 600_000);
    order(&first, "/api/users/bob/unban", json!({})).await;
    until(&first, None).await;
}

/// Within the time that the servers take.
fn is_about(until: &Value, expected: u64) {
    let until = until.as_u64().expect("a time");
    assert!(until.abs_diff(expected) < 30_000, "{until} and not {expected}");
}

#[tokio::test]
async fn ban_without_a_time_has_no_end() {
    let server = Chat::start(command().env("API_KEY", KEY).args(["--port", "0"]));
    let mut bob = member(&server, "bob").await;
    order(&server, "/api/rooms/r/ban", json!({"user": "bob"})).await;
    let left = next_of(&mut bob, "left").await;
    assert_eq!((&left["reason"], left.get("until")), (&json!("banned"), None));
    let refused = ask(&mut bob, "error", json!({"type": "join", "room": "r"})).await;
    assert_eq!((&refused["code"], refused.get("until")), (&json!("banned"), None));
}

/// Connects as bob until that is answered in this way.
async fn until(server: &Chat, refused: Option<u16>) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let again = WsClient::try_connect(&server.ws("/ws?userId=bob"), &[]).await;
        if again.err().map(|status| status.as_u16()) == refused {
            return;
        }
        assert!(Instant::now() < deadline, "never {refused:?}");
    }
}

/// A client that reads nothing has its frames wait; what is done to it does not.
#[tokio::test]
async fn ban_evicts_a_client_that_reads_nothing() {
    // Nor is it the stalled client that ends here.
    let patience = ["--port", "0", "--write-timeout", "2m", "--message-timeout", "2m"];
    let server = Chat::start(command().env("API_KEY", KEY).args(patience));
    let mut bob = WsClient::connect_narrow(&server.ws("/?userId=bob")).await;
    for room in ["r", "noise"] {
        bob.send_json(&json!({"type": "join", "room": room, "id": room})).await;
    }
    let mut ann = user(&server, "ann").await;
    for room in ["r", "noise"] {
        ask(&mut ann, "joined", json!({"type": "join", "room": room})).await;
    }
    let text = "x".repeat(30_000);
    let deadline = Instant::now() + DEADLINE;
    while server.metric("chat_outbox_bytes_max").await < 300_000 {
        ask(&mut ann, "ok", json!({"type": "send", "room": "noise", "message": text})).await;
        assert!(Instant::now() < deadline, "it all goes somewhere");
    }
    bob.send_json(&json!({"type": "join", "room": "r"})).await;
    order(&server, "/api/rooms/r/ban", json!({"user": "bob", "seconds": 600})).await;
    let deadline = Instant::now() + DEADLINE;
    while ask(&mut ann, "members", json!({"type": "members", "room": "r"})).await["count"] != 1 {
        assert!(Instant::now() < deadline, "bob is still there");
    }
    order(&server, "/api/users/bob/disconnect", json!({})).await;
    server.until_metric("chat_connections", |open| open == 1).await;
}

/// The frame waits for the rate of bytes, and is not carried out after the wait.
#[tokio::test]
async fn user_who_is_disconnected_while_a_frame_waits_sends_nothing_more() {
    let args = ["--port", "0", "--byte-rate", "100/1000"];
    let server = Chat::start(command().env("API_KEY", KEY).args(args));
    let mut watcher = member(&server, "watcher").await;
    // In this dialect a message needs no membership, which would end with the connection.
    let mut bob = WsClient::connect(&server.ws("/?userId=bob")).await;
    let post = |text: &str| json!({"type": "sendMessage", "roomId": "r", "message": text});
    bob.send_json(&post("before")).await;
    assert_eq!(next_of(&mut watcher, "message").await["message"], "before");
    // More than ten seconds' worth.
    bob.send_json(&post(&"waits".repeat(400))).await;
    let waits = "chat_limited_total{limit=\"connection_received_bytes\"}";
    server.until_metric(waits, |waits| waits == 1).await;
    order(&server, "/api/users/bob/disconnect", json!({})).await;
    assert_eq!(bob.recv_until_close().await.1.0, 4002);
    server.until_metric("chat_connections", |open| open == 1).await;
    watcher.send_json(&json!({"type": "send", "room": "r", "message": "end"})).await;
    assert_eq!(next_of(&mut watcher, "message").await["message"], "end");
}

/// Redis loses the table of bans: evicted, deleted, or with all its data.
#[tokio::test]
async fn bans_survive_their_loss_in_redis() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    order(&first, "/api/users/bob/disconnect", json!({"seconds": 600})).await;
    order(&first, "/api/users/eve/disconnect", json!({"seconds": 600})).await;
    until_refused(&second, "bob").await;
    until_refused(&second, "eve").await;
    let table = ["meta", "values", "versions", "ends"].map(|key| format!("chat:{{records}}:{key}"));
    let mut table: Vec<&str> = table.iter().map(String::as_str).collect();
    table.insert(0, "DEL");
    redis.command(&table).await;
    // Started before any server has looked.
    let third = Chat::start(command().env("REDIS_URL", redis.url()).args(["--port", "0"]));
    third.until_ready().await;
    let mut clean = user(&third, "ann").await;
    ask(&mut clean, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(refused(&third, "bob").await, Some(403), "not even for a moment");
    for server in [&first, &second] {
        assert!(server.logged("redis lost records") <= 1);
    }

    redis.command(&["FLUSHALL"]).await;
    // Nobody has noticed yet: neither a ban nor its end makes the others forget.
    order(&first, "/api/users/eve/unban", json!({})).await;
    order(&second, "/api/users/mallory/disconnect", json!({"seconds": 600})).await;
    for server in [&first, &second, &third] {
        until_refused(server, "mallory").await;
        assert_eq!(refused(server, "bob").await, Some(403));
        assert_eq!(refused(server, "eve").await, None, "the end of a ban is not undone");
    }
}

async fn refused(server: &Chat, id: &str) -> Option<u16> {
    let outcome = WsClient::try_connect(&server.ws(&format!("/ws?userId={id}")), &[]).await;
    outcome.err().map(|status| status.as_u16())
}

/// A server may have yet to hear of a ban.
async fn until_refused(server: &Chat, id: &str) {
    let deadline = Instant::now() + DEADLINE;
    while refused(server, id).await != Some(403) {
        assert!(Instant::now() < deadline, "{id} is still connected");
    }
}
