//! `join_room`, `chat_message`, `leave_room` and `/join-room/{roomId}`.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::Value;

use crate::support::Chat;

fn system(message: &str) -> String {
    format!(r#"{{"type":"system","sender":"System","message":"{message}"}}"#)
}

async fn join(client: &mut WsClient, room: &str, user: &str) {
    client.send(&format!(r#"{{"type":"join_room","room":"{room}","user":"{user}"}}"#)).await;
    client.expect(&system(&format!("You successfully joined room: {room} "))).await;
    client.expect(&system(&format!("{user} joined the room"))).await;
}

/// The colour in a chat frame, once the frame is what it should be.
async fn chat(client: &mut WsClient, sender: &str, message: &str) -> String {
    let frame = client.recv().await;
    let color =
        serde_json::from_str::<Value>(&frame).unwrap()["color"].as_str().unwrap().to_owned();
    assert_eq!(color.len(), 7, "{color}");
    let expected =
        format!(r#"{{"type":"chat","sender":"{sender}","color":"{color}","message":"{message}"}}"#);
    assert_eq!(frame, expected);
    color
}

#[tokio::test]
async fn a_room_on_two_servers() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut alice, mut bob) = (first.client().await, second.client().await);
    join(&mut alice, "general", "Alice").await;
    join(&mut bob, "general", "Bob").await;
    alice.expect(&system("Bob joined the room")).await;

    alice.send(r#"{"type":"chat_message","message":"Hello"}"#).await;
    let color = chat(&mut alice, "Alice", "Hello").await;
    assert_eq!(chat(&mut bob, "Alice", "Hello").await, color);
    alice.send(r#"{"type":"chat_message","message":"again"}"#).await;
    assert_eq!(chat(&mut bob, "Alice", "again").await, color, "one colour per user");
    chat(&mut alice, "Alice", "again").await;

    alice.send(r#"{"type":"leave_room"}"#).await;
    bob.expect(&system("Alice left the room")).await;
    alice.expect_silence().await;

    // A closed socket counts as leaving.
    join(&mut alice, "general", "Alice").await;
    bob.expect(&system("Alice joined the room")).await;
    drop(alice);
    bob.expect(&system("Alice left the room")).await;
}

#[tokio::test]
async fn rooms_are_apart_and_one_at_a_time() {
    let server = Chat::alone();
    let (mut alice, mut bob, mut eve) =
        (server.client().await, server.client().await, server.client().await);
    join(&mut alice, "one", "Alice").await;
    join(&mut bob, "one", "Bob").await;
    alice.expect(&system("Bob joined the room")).await;
    join(&mut eve, "two", "Eve").await;
    alice.send(r#"{"type":"chat_message","message":"hi"}"#).await;
    chat(&mut bob, "Alice", "hi").await;
    chat(&mut alice, "Alice", "hi").await;
    eve.expect_silence().await;

    join(&mut alice, "two", "Alice").await;
    bob.expect(&system("Alice left the room")).await;
    eve.expect(&system("Alice joined the room")).await;
    alice.send(r#"{"type":"chat_message","message":"hi two"}"#).await;
    chat(&mut eve, "Alice", "hi two").await;
    bob.expect_silence().await;
}

#[tokio::test]
async fn names_are_optional() {
    let server = Chat::alone();
    let mut named = server.client().await;
    named.send(r#"{"type":"join_room","room":"general","username":"Carol"}"#).await;
    named.expect(&system("You successfully joined room: general ")).await;
    named.expect(&system("Carol joined the room")).await;

    let mut nameless = server.client().await;
    nameless.send(r#"{"type":"join_room","room":"general"}"#).await;
    nameless.expect(&system("You successfully joined room: general ")).await;
    let joined = nameless.recv().await;
    assert!(joined.ends_with(r#" joined the room"}"#), "{joined}");
    nameless.send(r#"{"type":"chat_message","message":"who am I"}"#).await;
    let said: Value = nameless.recv_json().await;
    let name = said["sender"].as_str().unwrap();
    assert_eq!(joined, system(&format!("{name} joined the room")));
}

#[tokio::test]
async fn the_url_joins() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut alice = WsClient::connect(&first.ws("/join-room/room%20123?user=Alice")).await;
    alice.expect(&system("You successfully joined room: room 123 ")).await;
    alice.expect(&system("Alice joined the room")).await;
    let mut bob = WsClient::connect(&second.ws("/join-room/room%20123?username=Bob")).await;
    bob.expect(&system("You successfully joined room: room 123 ")).await;
    alice.expect(&system("Bob joined the room")).await;
    bob.expect(&system("Bob joined the room")).await;
    alice.send(r#"{"type":"chat_message","message":"Hello!"}"#).await;
    chat(&mut bob, "Alice", "Hello!").await;
}

#[tokio::test]
async fn create_a_room_and_join_it() {
    let server = Chat::alone();
    let (status, _, body) = server.http("POST", "/create-room").await;
    assert_eq!(status, 201);
    let created: Value = serde_json::from_str(&body).unwrap();
    let id = created["roomId"].as_str().unwrap();
    assert_eq!(created["url"], format!("http://localhost:{}/join-room/{id}", server.port()));
    let (_, _, other) = server.http("POST", "/create-room").await;
    assert_ne!(body, other);

    let mut alice = WsClient::connect(&server.ws(&format!("/join-room/{id}?user=Alice"))).await;
    alice.expect(&system(&format!("You successfully joined room: {id} "))).await;
    assert_eq!(server.http("GET", "/create-room").await.0, 405);
}

#[tokio::test]
async fn errors_are_native_frames_and_cost_nothing_else() {
    let server = Chat::alone();
    let mut alice = server.client().await;
    join(&mut alice, "general", "Alice").await;
    let table = [
        (r#"{"type":"chat_message"}"#, "missing_field"),
        (r#"{"type":"chat_message","message":7}"#, "bad_field"),
        (r#"{"type":"join_room","room":""}"#, "room_name_invalid"),
        (r#"{"type":"send","room":"general","message":"x"}"#, "unknown_type"),
        ("[1]", "bad_json"),
    ];
    for (frame, code) in table {
        alice.send(frame).await;
        let error = alice.recv_json().await;
        assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("error"), Some(code)));
    }
    alice.send(r#"{"type":"leave_room"}"#).await;
    alice.send(r#"{"type":"chat_message","message":"x"}"#).await;
    assert_eq!(alice.recv_json().await["code"], "not_in_room");
    alice.send(r#"{"type":"leave_room"}"#).await;
    assert_eq!(alice.recv_json().await["code"], "not_in_room");
}
