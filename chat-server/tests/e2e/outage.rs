//! Redis goes away and comes back; slow clients.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::Chat;

async fn next_of(client: &mut WsClient, kind: &str) -> Value {
    loop {
        let frame = client.recv_json().await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

/// Sends until the message is taken.
async fn say(client: &mut WsClient, text: &str) -> Value {
    loop {
        client.send_json(&json!({"type": "send", "room": "r", "message": text, "id": 1})).await;
        loop {
            let frame = client.recv_json().await;
            match frame["type"].as_str() {
                Some("ok") => return frame,
                Some("error") => {
                    assert_eq!(frame["code"], "broker_unavailable");
                    assert!(frame["retry_after_ms"].is_u64());
                    break;
                }
                _ => {}
            }
        }
    }
}

async fn in_room(server: &Chat) -> WsClient {
    let mut client = server.native().await;
    client.send(r#"{"type":"join","room":"r"}"#).await;
    next_of(&mut client, "joined").await;
    client
}

#[tokio::test]
async fn clients_stay_connected_while_redis_restarts() {
    let mut redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (in_room(&first).await, in_room(&second).await);
    say(&mut a, "before").await;
    assert_eq!(next_of(&mut b, "message").await["message"], "before");

    redis.kill();
    first.until_status("/readyz", 503).await;
    let mut late = first.native().await;
    late.send(r#"{"type":"join","room":"elsewhere","id":7}"#).await;
    let refused = late.recv_json().await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!("broker_unavailable"), &json!(7)));

    redis.restart();
    first.until_ready().await;
    second.until_ready().await;
    say(&mut a, "after").await;
    // The counter was lost with Redis' memory: everybody is told.
    let gap = next_of(&mut b, "gap").await;
    assert_eq!(gap["room"], "r");
    assert_eq!(next_of(&mut b, "message").await["message"], "after");
    late.send(r#"{"type":"join","room":"elsewhere"}"#).await;
    next_of(&mut late, "joined").await;
}

#[tokio::test]
async fn a_lost_subscription_is_noticed_and_what_was_missed_is_told() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (in_room(&first).await, in_room(&second).await);
    for round in 0..5 {
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        // Whether it came through or was missed depends on the moment; silence is wrong.
        let ok = say(&mut a, &format!("round {round}")).await;
        loop {
            let frame = b.recv_json().await;
            match frame["type"].as_str() {
                Some("message" | "gap") if frame["offset"] == ok["offset"] => break,
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_alone() {
    let server = Chat::alone();
    let mut stalled = WsClient::connect_narrow(&server.ws("/")).await;
    stalled.send(r#"{"type":"SUBSCRIBE","room":"r"}"#).await;
    server.until_logged("subscribing on the pub sub to room: r");
    let (mut writer, mut reader) = (in_room(&server).await, in_room(&server).await);
    let text = "x".repeat(30_000);
    // The kernel takes up to 4 MiB and the outbox one: 12 MiB are too much for both.
    for _ in 0..400 {
        say(&mut writer, &text).await;
        next_of(&mut reader, "message").await;
    }
    let (_, (code, _)) = stalled.recv_until_close().await;
    assert_eq!(code, 4000);
    let (_, _, page) = server.http("GET", "/metrics").await;
    assert!(page.contains("chat_slow_consumers_total 1"), "{page}");
    assert!(page.contains("chat_closed_total{code=\"4000\"} 1"), "{page}");
}
