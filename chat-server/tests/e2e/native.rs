//! The native protocol.

use std::collections::HashMap;

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::{Chat, FAST, command};

async fn ask(client: &mut WsClient, frame: Value) -> Value {
    client.send_json(&frame).await;
    client.recv_json().await
}

async fn join(client: &mut WsClient, room: &str) -> Value {
    let joined = ask(client, json!({"type": "join", "room": room})).await;
    assert_eq!(joined["type"], "joined", "{joined}");
    assert_eq!(client.recv_json().await["type"], "presence", "its own coming");
    joined
}

#[tokio::test]
async fn a_conversation_across_servers() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (first.native().await, second.native().await);

    let welcome = ask(&mut a, json!({"type": "hello", "id": 1, "name": "Ann"})).await;
    assert_eq!(welcome["type"], "welcome");
    assert_eq!(welcome["id"], 1);
    assert_eq!(welcome["user"]["name"], "Ann");
    assert_eq!(welcome["protocol"], 1);
    assert_eq!(welcome["heartbeat_ms"], 25_000);
    assert_eq!(welcome["limits"]["message_bytes"], 32_768);
    for field in ["session", "resume", "node"] {
        assert!(welcome[field].is_string(), "{field}");
    }

    let joined = join(&mut a, "general").await;
    assert_eq!((&joined["epoch"], &joined["offset"]), (&json!(""), &json!(0)), "an empty room");
    assert_eq!(joined["members"], json!([welcome["user"]]));
    join(&mut b, "general").await;
    assert_eq!(a.recv_json().await["event"], "joined");

    let send = json!({"type": "send", "id": "s1", "room": "general", "message": "hi",
                      "data": {"emoji": "👋"}, "key": "k1"});
    a.send_json(&send).await;
    let (mut ok, mut message) = (a.recv_json().await, a.recv_json().await);
    if ok["type"] == "message" {
        std::mem::swap(&mut ok, &mut message);
    }
    assert_eq!((&ok["type"], &ok["id"], &ok["offset"]), (&json!("ok"), &json!("s1"), &json!(1)));
    assert_eq!(message["user"], welcome["user"]);
    assert_eq!(message["data"], json!({"emoji": "👋"}));
    assert_eq!(message["key"], "k1");
    assert_eq!(message, b.recv_json().await, "the same frame for all, the sender included");

    // A client that joins later stands after it, on whichever server.
    let mut c = first.native().await;
    let joined = join(&mut c, "general").await;
    assert_eq!((&joined["offset"], &joined["epoch"]), (&json!(1), &ok["epoch"]));
    let since = json!({"epoch": ok["epoch"], "offset": 1});
    let again = ask(&mut c, json!({"type": "join", "room": "general", "since": since})).await;
    assert_eq!(again["recovered"], true, "nothing was missed");
    let behind = json!({"epoch": ok["epoch"], "offset": 0});
    let again = ask(&mut c, json!({"type": "join", "room": "general", "since": behind})).await;
    assert_eq!(again["recovered"], true);
    assert_eq!(again["messages"], json!([message]), "what was missed");
    let other = json!({"epoch": "abcdefgh", "offset": 1});
    let again = ask(&mut c, json!({"type": "join", "room": "general", "since": other})).await;
    assert_eq!(again["recovered"], false, "it never pretends");

    let left = ask(&mut c, json!({"type": "leave", "id": 9, "room": "general"})).await;
    assert_eq!(left, json!({"type": "left", "id": 9, "room": "general"}));
    assert_eq!(
        ask(&mut c, json!({"type": "ping", "id": 3})).await,
        json!({"type": "pong", "id": 3})
    );
}

#[tokio::test]
async fn the_same_user_again_on_another_server() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let welcome = ask(&mut first.native().await, json!({"type": "hello", "name": "Ann"})).await;
    let hello = json!({"type": "hello", "resume": welcome["resume"], "name": "Ann"});
    let again = ask(&mut second.native().await, hello).await;
    assert_eq!(again["user"], welcome["user"]);
    assert_ne!(again["session"], welcome["session"]);

    let forged = welcome["resume"].as_str().unwrap().replace('.', ".x");
    let refused = ask(&mut second.native().await, json!({"type": "hello", "resume": forged})).await;
    assert_eq!(refused["code"], "unauthorized");
}

#[tokio::test]
async fn order_is_one_for_all_and_offsets_rise_by_one() {
    const EACH: usize = 300;
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let mut writers = Vec::new();
    for (n, server) in [&first, &second, &second].into_iter().enumerate() {
        let mut writer = server.native().await;
        join(&mut writer, "busy").await;
        writers.push((n, writer));
    }
    let (mut reader_a, mut reader_b) = (first.native().await, second.native().await);
    join(&mut reader_a, "busy").await;
    join(&mut reader_b, "busy").await;

    // More than fits in flight: the server must slow the client down, not refuse it.
    let writing: Vec<_> = writers
        .into_iter()
        .map(|(n, mut writer)| {
            tokio::spawn(async move {
                for i in 0..EACH {
                    let text = format!("{n}:{i}");
                    let frame = json!({"type": "send", "room": "busy", "message": text, "id": i});
                    writer.send_json(&frame).await;
                }
                let mut acknowledged = 0;
                while acknowledged < EACH {
                    let frame = writer.recv_json().await;
                    if frame["type"] == "ok" {
                        assert_eq!(frame["id"], acknowledged, "answers in order");
                        acknowledged += 1;
                    }
                }
                writer
            })
        })
        .collect();

    let mut orders = Vec::new();
    for reader in [&mut reader_a, &mut reader_b] {
        let (mut order, mut next) = (Vec::new(), HashMap::new());
        while order.len() < 3 * EACH {
            let frame = reader.recv_json().await;
            if frame["type"] == "message" {
                assert_eq!(frame["offset"], order.len() as u64 + 1);
                let text = frame["message"].as_str().unwrap().to_owned();
                let (writer, i) = text.split_once(':').unwrap();
                let expected = next.entry(writer.to_owned()).or_insert(0);
                assert_eq!(i.parse::<usize>().unwrap(), *expected, "a sender's own order");
                *expected += 1;
                order.push(text);
            }
        }
        orders.push(order);
    }
    assert_eq!(orders[0], orders[1], "one order on both servers");
    for writer in writing {
        writer.await.unwrap();
    }
}

/// One client that does not wait, on the in-memory broker: the room hears all of it.
#[tokio::test]
async fn a_flood_of_one_sender_loses_nothing() {
    const MESSAGES: usize = 30_000;
    let server = Chat::start(command().args(["--port", "0"]).args(FAST));
    let mut reader = server.native().await;
    join(&mut reader, "flood").await;
    let mut writer = server.client().await;
    let writing = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            writer.send(r#"{"type":"sendMessage","roomId":"flood","message":"x"}"#).await;
        }
        writer
    });
    for offset in 1..=MESSAGES {
        let frame = reader.recv_json().await;
        assert_eq!((&frame["type"], &frame["offset"]), (&json!("message"), &json!(offset)));
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn members_and_typing() {
    let server = Chat::alone();
    let (mut a, mut b) = (server.native().await, server.native().await);
    let ann = ask(&mut a, json!({"type": "hello", "name": "Ann"})).await;
    join(&mut a, "general").await;
    join(&mut b, "general").await;
    a.recv().await;
    let members = ask(&mut b, json!({"type": "members", "id": 1, "room": "general"})).await;
    assert_eq!((&members["type"], &members["count"]), (&json!("members"), &json!(2)));
    assert!(members["members"].as_array().unwrap().contains(&ann["user"]), "{members}");

    for typing in [true, true, true] {
        a.send_json(&json!({"type": "typing", "room": "general", "typing": typing})).await;
    }
    let frame = b.recv_json().await;
    assert_eq!((&frame["type"], &frame["typing"]), (&json!("typing"), &json!(true)));
    assert_eq!(frame["user"], ann["user"]);
    a.send_json(&json!({"type": "typing", "room": "general", "typing": false})).await;
    assert_eq!(b.recv_json().await["typing"], false, "stopping is announced at once");
    b.expect_silence().await;
}

#[tokio::test]
async fn every_error_has_its_code_and_the_request_its_id() {
    let settings = ["--port", "0", "--limits", "on", "--max-rooms", "2"];
    let server = Chat::start(crate::support::command().args(settings));
    let mut client = server.native().await;
    join(&mut client, "general").await;
    let long = "x".repeat(32_769);
    let table = [
        ("{".to_owned(), "bad_json"),
        ("null".to_owned(), "bad_json"),
        ("7".to_owned(), "bad_json"),
        (r#""join""#.to_owned(), "bad_json"),
        (r#"[{"type":"ping"}]"#.to_owned(), "bad_json"),
        ("\u{feff}{}".to_owned(), "bad_json"),
        (r#"{"type":"ping"} x"#.to_owned(), "bad_json"),
        (r#"{"type":"ping","type":"ping"}"#.to_owned(), "bad_json"),
        ("[".repeat(60_000), "bad_json"),
        (format!(r#"{{"type":"ping","x":{}"#, "[".repeat(60_000)), "bad_json"),
        (r#"{"id":5}"#.to_owned(), "missing_field"),
        (r#"{"id":5,"type":null}"#.to_owned(), "missing_field"),
        (r#"{"id":5,"type":"sing"}"#.to_owned(), "unknown_type"),
        (r#"{"id":5,"type":"SUBSCRIBE","room":"r"}"#.to_owned(), "unknown_type"),
        (r#"{"id":5,"type":"join"}"#.to_owned(), "missing_field"),
        (r#"{"id":5,"type":"join","room":7}"#.to_owned(), "bad_field"),
        (r#"{"id":5,"type":"join","room":"\ud800"}"#.to_owned(), "bad_field"),
        (r#"{"id":5,"type":"join","room":""}"#.to_owned(), "room_name_invalid"),
        (r#"{"id":5,"type":"join","room":"a\nb"}"#.to_owned(), "room_name_invalid"),
        (format!(r#"{{"id":5,"type":"join","room":"{}"}}"#, "x".repeat(129)), "room_name_invalid"),
        (r#"{"id":5,"type":"join","room":"r","since":{"epoch":"x"}}"#.to_owned(), "bad_field"),
        (
            r#"{"id":5,"type":"join","room":"r","since":{"epoch":"","offset":1e400}}"#.to_owned(),
            "bad_field",
        ),
        (
            r#"{"id":5,"type":"join","room":"r","since":{"epoch":"","offset":-1}}"#.to_owned(),
            "bad_field",
        ),
        (r#"{"id":5,"type":"send","room":"elsewhere","message":"x"}"#.to_owned(), "not_in_room"),
        (r#"{"id":5,"type":"leave","room":"elsewhere"}"#.to_owned(), "not_in_room"),
        (r#"{"id":5,"type":"members","room":"elsewhere"}"#.to_owned(), "not_in_room"),
        (r#"{"id":5,"type":"typing","room":"general","typing":1}"#.to_owned(), "bad_field"),
        (r#"{"id":5,"type":"direct","to":"","message":"x"}"#.to_owned(), "bad_field"),
        (r#"{"id":5,"type":"history","room":"elsewhere"}"#.to_owned(), "not_in_room"),
        (r#"{"id":5,"type":"history","room":"general","before":-1}"#.to_owned(), "bad_field"),
        (r#"{"id":5,"type":"hello","name":"Late"}"#.to_owned(), "forbidden"),
        (
            format!(r#"{{"id":5,"type":"send","room":"general","message":"{long}"}}"#),
            "message_too_long",
        ),
    ];
    for (frame, code) in table {
        client.send(&frame).await;
        let error = client.recv_json().await;
        let shown: String = frame.chars().take(80).collect();
        assert_eq!(error["type"], "error", "{shown}: {error}");
        assert_eq!(error["code"], code, "{shown}: {error}");
        assert!(error["message"].as_str().unwrap().ends_with('.'), "a sentence: {error}");
        assert_eq!(error.get("id").is_some(), shown.contains("\"id\":5"), "{shown}: {error}");
    }
    for id in ["{}", "[1]", "1.5", "true", &format!("\"{}\"", "x".repeat(200))] {
        client.send(&format!(r#"{{"id":{id},"type":"ping"}}"#)).await;
        assert_eq!(client.recv_json().await["code"], "bad_field", "{id}");
    }

    join(&mut client, "second").await;
    let third = ask(&mut client, json!({"type": "join", "room": "third"})).await;
    assert_eq!(third["code"], "too_many_rooms");
    // Joining again is no error, and none of this cost the connection.
    let again = ask(&mut client, json!({"type": "join", "room": "second"})).await;
    assert_eq!(again["type"], "joined");
}

#[tokio::test]
async fn many_rooms_on_one_connection() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (first.native().await, second.native().await);
    for n in 0..20 {
        join(&mut a, &format!("room-{n}")).await;
    }
    for n in 0..20 {
        let text = json!({"type": "send", "room": format!("room-{n}"), "message": "x"});
        assert_eq!(ask(&mut b, text).await["code"], "not_in_room");
    }
    let room = |frame: &Value| frame["room"].as_str().unwrap().to_owned();
    for n in 0..20 {
        a.send_json(&json!({"type": "send", "room": format!("room-{n}"), "message": "x"})).await;
    }
    let mut heard = Vec::new();
    while heard.len() < 20 {
        let frame = a.recv_json().await;
        if frame["type"] == "message" {
            assert_eq!(frame["offset"], 1, "rooms count apart");
            heard.push(room(&frame));
        }
    }
    heard.sort();
    heard.dedup();
    assert_eq!(heard.len(), 20);
}

/// Only the id is proven by `resume`, and only the id is kept.
#[tokio::test]
async fn resume_without_a_name_gets_a_made_up_one() {
    let server = Chat::alone();
    let welcome = ask(&mut server.native().await, json!({"type": "hello", "name": "Ann"})).await;
    let hello = json!({"type": "hello", "resume": welcome["resume"]});
    let again = ask(&mut server.native().await, hello).await;
    assert_eq!(again["user"]["id"], welcome["user"]["id"]);
    let unnamed = ask(&mut server.native().await, json!({"type": "hello"})).await;
    for made_up in [&again, &unnamed] {
        let name = made_up["user"]["name"].as_str().unwrap();
        assert!(name != "Ann" && !name.is_empty(), "{made_up}");
    }
}
