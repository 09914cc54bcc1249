//! Clients of all dialects in one room: who sees what of whom.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::json;

use crate::support::Chat;

struct Everybody {
    _redis: RedisServer,
    _servers: [Chat; 2],
    native: WsClient,
    rooms: WsClient,
    topics: WsClient,
    direct: WsClient,
}

/// One client of each dialect, on two servers, in the room "mix"; all quiet.
async fn everybody() -> Everybody {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut native = first.native().await;
    native.send_json(&json!({"type": "hello", "name": "Neo"})).await;
    native.recv().await;
    native.send_json(&json!({"type": "join", "room": "mix"})).await;
    assert_eq!(native.recv_json().await["type"], "joined");
    assert_eq!(native.recv_json().await["event"], "joined");

    let mut rooms = second.client().await;
    rooms.send(r#"{"type":"join_room","room":"mix","user":"Alice"}"#).await;
    rooms.recv().await;
    rooms.recv().await;
    let joined = native.recv_json().await;
    assert_eq!((&joined["event"], &joined["user"]["name"]), (&json!("joined"), &json!("Alice")));

    let mut topics = second.client().await;
    topics.send(r#"{"type":"SUBSCRIBE","room":"mix"}"#).await;
    let subscribed = native.recv_json().await;
    assert_eq!(subscribed["event"], "joined", "native sees those who subscribe");
    rooms.expect_silence().await;

    let direct = WsClient::connect(&first.ws("/?userId=bob")).await;
    Everybody { _redis: redis, _servers: [first, second], native, rooms, topics, direct }
}

#[tokio::test]
async fn a_message_of_any_dialect_reaches_all_in_their_own() {
    let mut all = everybody().await;
    all.native.send_json(&json!({"type": "send", "room": "mix", "message": "one"})).await;
    all.rooms.send(r#"{"type":"chat_message","message":"two"}"#).await;
    all.topics.send(r#"{"type":"sendMessage","roomId":"mix","message":"three"}"#).await;

    let mut seen = Vec::new();
    while seen.len() < 3 {
        let frame = all.native.recv_json().await;
        if frame["type"] == "message" {
            assert_eq!(frame["offset"], seen.len() as u64 + 1);
            seen.push((
                frame["user"]["name"].as_str().unwrap().to_owned(),
                frame["user"]["color"].as_str().unwrap().to_owned(),
                frame["message"].as_str().unwrap().to_owned(),
            ));
        } else {
            assert_eq!(frame["type"], "ok");
        }
    }
    for (sender, color, message) in seen {
        let chat = json!({"type": "chat", "sender": sender, "color": color, "message": message});
        assert_eq!(all.rooms.recv_json().await, chat);
        all.topics
            .expect(&format!(r#"{{"type":"sendMessage","roomId":"mix","message":"{message}"}}"#))
            .await;
        match &*message {
            "one" => assert_eq!(sender, "Neo"),
            "two" => assert_eq!(sender, "Alice"),
            _ => assert!(!sender.is_empty(), "a name is made up"),
        }
    }
    all.direct.expect_silence().await;
}

#[tokio::test]
async fn comings_and_goings() {
    let mut all = everybody().await;
    all.topics.send(r#"{"type":"UNSUBSCRIBE","room":"mix"}"#).await;
    assert_eq!(all.native.recv_json().await["event"], "left");
    all.rooms.expect_silence().await;

    all.rooms.send(r#"{"type":"leave_room"}"#).await;
    let left = all.native.recv_json().await;
    assert_eq!((&left["event"], &left["user"]["name"]), (&json!("left"), &json!("Alice")));
    all.topics.expect_silence().await;
    all.direct.expect_silence().await;
}
