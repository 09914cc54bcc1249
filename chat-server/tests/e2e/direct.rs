//! `?userId=` and `{"to","message"}`: from user to user across servers.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::json;

use crate::support::Chat;

/// Until the server has subscribed to the user, a message to the user finds nobody.
async fn until_reachable(sender: &mut WsClient, user: &str, servers: u64) {
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        sender.send_json(&json!({"type": "direct", "to": user, "message": "there?"})).await;
        let delivered = sender.recv_json().await["delivered"].as_u64();
        if delivered == Some(servers) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{user} on {delivered:?} servers");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Takes the probes of [`until_reachable`] out of the way.
async fn skip_probes(client: &mut WsClient) -> String {
    loop {
        let frame = client.recv().await;
        if !frame.contains("there?") {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_frame_reaches_its_user_wherever_that_is_and_nobody_else() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut bob = WsClient::connect(&second.ws("/?userId=bob")).await;
    let mut eve = WsClient::connect(&second.ws("/?userId=eve")).await;
    let mut probe = first.native().await;
    until_reachable(&mut probe, "bob", 1).await;
    until_reachable(&mut probe, "eve", 1).await;

    let mut alice = WsClient::connect(&first.ws("/?userId=alice")).await;
    let frame = r#"{ "to":"bob",  "message":"h\u0069", "extra":[1] }"#;
    alice.send(frame).await;
    assert_eq!(skip_probes(&mut bob).await, frame, "byte for byte");
    alice.send(r#"{"to":"eve","message":"x"}"#).await;
    assert_eq!(skip_probes(&mut eve).await, r#"{"to":"eve","message":"x"}"#);
    bob.expect_silence().await;
    alice.expect_silence().await;

    // Anybody may send, with or without a name.
    let mut stranger = first.client().await;
    stranger.send(r#"{"to":"bob","message":"hi"}"#).await;
    bob.expect(r#"{"to":"bob","message":"hi"}"#).await;
}

#[tokio::test]
async fn every_connection_of_a_user_gets_it() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut tabs = [
        WsClient::connect(&first.ws("/?userId=bob")).await,
        WsClient::connect(&first.ws("/?userId=bob")).await,
        WsClient::connect(&second.ws("/?userId=bob")).await,
    ];
    let mut alice = first.native().await;
    until_reachable(&mut alice, "bob", 2).await;
    alice.send_json(&json!({"type": "direct", "to": "bob", "message": "hi", "id": 1})).await;
    assert_eq!(alice.recv().await, r#"{"type":"ok","id":1,"delivered":2}"#);
    for tab in &mut tabs {
        assert!(skip_probes(tab).await.contains("\"hi\""));
        tab.expect_silence().await;
    }
}

#[tokio::test]
async fn native_and_direct_clients_write_to_each_other() {
    let server = Chat::alone();
    let mut neo = server.native().await;
    neo.send_json(&json!({"type": "hello", "name": "Neo"})).await;
    let neo_id = neo.recv_json().await["user"]["id"].as_str().unwrap().to_owned();
    let mut bob = WsClient::connect(&server.ws("/?userId=bob")).await;

    let frame = format!(r#"{{"to":"{neo_id}","message":"hi","data":{{"n":1}}}}"#);
    bob.send(&frame).await;
    let got = neo.recv_json().await;
    assert_eq!(got["type"], "direct");
    assert_eq!(got["user"]["id"], "bob");
    assert_eq!(got["user"]["name"], "bob", "a user without a name goes by the id");
    assert_eq!(got["message"], "hi");
    assert_eq!(got["data"], json!({"n": 1}));
    assert!(got["at"].as_u64() > Some(1_600_000_000_000));

    neo.send_json(&json!({"type": "direct", "id": "x", "to": "nobody", "message": "?"})).await;
    neo.expect(r#"{"type":"ok","id":"x","delivered":0}"#).await;
}

#[tokio::test]
async fn a_first_frame_may_say_otherwise() {
    let server = Chat::alone();
    let mut bob = WsClient::connect(&server.ws("/?userId=bob")).await;
    bob.send(r#"{"type":"join_room","room":"general"}"#).await;
    bob.recv().await;
    bob.expect(r#"{"type":"system","sender":"System","message":"bob joined the room"}"#).await;
    let mut alice = server.native().await;
    alice.send_json(&json!({"type": "direct", "to": "bob", "message": "hi"})).await;
    alice.recv().await;
    bob.expect_silence().await;
}
