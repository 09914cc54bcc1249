//! Messages of backends.

use chat_broker::testing::RedisServer;
use serde_json::{Value, json};

use super::{
    KEY, SHOP, call, call_with, get, member, pair, post, refused, server, server_with_key, user,
};
use crate::support::{ask, next_of};

#[tokio::test]
async fn message_reaches_members_on_all_servers() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let (mut ann, mut bob) = (member(&first, "ann").await, member(&second, "bob").await);
    let sent =
        post(&first, "/rooms/r/messages", json!({"message": "Paid.", "data": {"order": 7}})).await;
    assert_eq!((&sent["offset"], &sent["repeated"]), (&json!(1), &json!(false)));
    let as_user = json!({"message": "hi", "user": {"id": "42", "name": "Zoe", "color": "#FF6B6B"}});
    post(&second, "/rooms/r/messages", as_user).await;
    for client in [&mut ann, &mut bob] {
        let message = next_of(client, "message").await;
        assert_eq!(message["user"]["id"], "@api");
        assert_eq!(message["user"]["name"], "api");
        assert_eq!(
            (&message["message"], &message["data"]),
            (&json!("Paid."), &json!({"order": 7}))
        );
        assert_eq!(message["epoch"], sent["epoch"]);
        let message = next_of(client, "message").await;
        let zoe = json!({"id": "42", "name": "Zoe", "color": "#FF6B6B"});
        assert_eq!((&message["user"], &message["offset"]), (&zoe, &json!(2)));
    }
    let page = get(&second, "/rooms/r/messages?limit=1").await;
    assert_eq!(page["messages"][0]["message"], "hi");
}

/// Also if it is sent as another user, and to another server.
#[tokio::test]
async fn message_with_a_key_is_published_once() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let paid = |user: &str| json!({"message": "Paid.", "key": "o7", "user": {"id": user}});
    let sent = post(&first, "/rooms/r/messages", paid("1")).await;
    assert_eq!(sent["repeated"], false);
    let (status, _, again) = call_with(
        second.port(),
        KEY,
        "Idempotency-Key: o7\r\n",
        "POST /rooms/r/messages",
        Some(&json!({"message": "Paid!"})),
    )
    .await;
    assert_eq!(status, 200, "{again}");
    assert_eq!(again, json!({"epoch": sent["epoch"], "offset": 1, "repeated": true}));
    assert_eq!(post(&first, "/rooms/other/messages", paid("1")).await["repeated"], false);
    // A client that is the same user has keys of its own.
    let mut client = member(&first, "1").await;
    let frame = json!({"type": "send", "id": 9, "room": "r", "message": "mine", "key": "o7"});
    client.send_json(&frame).await;
    assert_eq!(next_of(&mut client, "ok").await["offset"], 2);
}

#[tokio::test]
async fn keys_of_two_backends_are_not_each_others_repetition() {
    let started = server_with_key("scopes = [\"send\"]", &[]);
    let message = json!({"message": "hi", "key": "k"});
    for key in [KEY, SHOP] {
        let (_, answer) =
            call(&started.server, key, "POST /rooms/r/messages", Some(&message)).await;
        assert_eq!(answer["repeated"], false, "{answer}");
    }
}

#[tokio::test]
async fn message_that_clients_could_not_read_is_refused() {
    let server = server(&["--max-message-bytes", "1000", "--history", "10"]);
    let send = "POST /rooms/r/messages";
    for (body, status, code) in [
        (json!({}), 400, "missing_field"),
        (json!(["hi"]), 422, "bad_field"),
        (json!({"message": 7}), 422, "bad_field"),
        (json!({"message": "hi", "at": 0}), 422, "bad_field"),
        (json!({"message": "hi", "user": ["42"]}), 422, "bad_field"),
        (json!({"message": "hi", "user": {}}), 400, "missing_field"),
        (json!({"message": "hi", "user": {"id": "@other"}}), 400, "bad_field"),
        (json!({"message": "hi", "user": {"id": "42", "color": "red"}}), 400, "bad_field"),
        (json!({"message": " "}), 400, "bad_field"),
        (json!({"message": "a\u{0}"}), 400, "bad_field"),
        (json!({"message": "hi", "key": "k".repeat(129)}), 400, "bad_field"),
        (json!({"message": "x".repeat(1001)}), 400, "message_too_long"),
    ] {
        let body_text = body.to_string();
        assert_eq!(
            refused(&server, send, Some(body)).await,
            (status, code.to_owned()),
            "{body_text}"
        );
    }
    post(&server, "/rooms/r/messages", json!({"message": "hi", "user": {"id": "@api"}})).await;
    let differing = json!({"message": "hi", "key": "a"});
    let header = "Idempotency-Key: b\r\n";
    let (status, _, _) = call_with(server.port(), KEY, header, send, Some(&differing)).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn error_of_a_body_names_the_field_without_types_of_rust() {
    let server = server(&[]);
    for (body, message) in [
        (json!({"mesage": "hi"}), "The body has an unknown field \"mesage\"."),
        (json!({"user": {"nme": "a"}}), "The body has an unknown field \"user.nme\"."),
        (json!({"message": 7}), "The body cannot be used: message: invalid type: integer `7`"),
        (json!([]), "The body cannot be used: "),
    ] {
        let (status, answer) = call(&server, KEY, "POST /rooms/r/messages", Some(&body)).await;
        let got = answer["message"].as_str().unwrap();
        assert!(status == 422 && got.starts_with(message), "{body}: {got}");
    }
}

#[tokio::test]
async fn broadcast_has_an_outcome_for_each_room() {
    let started = server_with_key("scopes = [\"send\"]\nrooms = [\"shop-*\"]", &[]);
    let rooms = ["shop-1", "other", "\u{0}", "shop-2", "shop-1"];
    let body = json!({"rooms": rooms, "message": "Sale.", "key": "sale"});
    let (status, answer) = call(&started.server, SHOP, "POST /broadcast", Some(&body)).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    let named: Vec<_> = results.iter().map(|result| result["room"].as_str().unwrap()).collect();
    assert_eq!(named, rooms);
    assert_eq!((&results[0]["offset"], &results[3]["offset"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&results[1]["code"], &results[2]["code"]),
        (&json!("forbidden"), &json!("room_name_invalid"))
    );
    // Side by side, one of the two is the repetition.
    let repeated = |result: &Value| result["repeated"] == json!(true);
    assert!(repeated(&results[0]) != repeated(&results[4]), "{answer}");
    let many = json!({"rooms": vec!["shop-1"; 1001], "message": "x"});
    assert_eq!(call(&started.server, SHOP, "POST /broadcast", Some(&many)).await.0, 400);
}

#[tokio::test]
async fn direct_message_reaches_the_user_on_all_servers() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let (mut here, mut there) = (user(&first, "ann").await, user(&second, "ann").await);
    for client in [&mut here, &mut there] {
        ask(client, "welcome", json!({"type": "hello"})).await;
    }
    let sent = post(&first, "/users/ann/messages", json!({"message": "Shipped."})).await;
    assert_eq!(sent, json!({"delivered": 2}));
    for client in [&mut here, &mut there] {
        let direct = next_of(client, "direct").await;
        assert_eq!(
            (&direct["message"], &direct["user"]["id"]),
            (&json!("Shipped."), &json!("@api"))
        );
    }
    assert_eq!(
        post(&first, "/users/zoe/messages", json!({"message": "x"})).await,
        json!({"delivered": 0})
    );
}

/// What an answer says of Redis: a call that reads says nothing of a change.
#[tokio::test]
async fn failures_of_redis_are_named() {
    let redis = RedisServer::start();
    let server = server(&["--redis-url", &redis.url()]);
    server.until_ready().await;
    let path = "/rooms/kept/messages";
    let send = async || {
        let (status, answer) =
            call(&server, KEY, &format!("POST {path}"), Some(&json!({"message": "x"}))).await;
        (status, answer["message"].as_str().unwrap().to_owned())
    };
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    server.until_metric("chat_broker_full", |full| full == 1).await;
    let full = "Redis is full (OOM), and rejected the request. Try again later.";
    assert_eq!(send().await, (507, full.to_owned()));

    drop(redis);
    server.until_metric("chat_broker_up", |up| up == 0).await;
    let (status, text) = send().await;
    assert!(status == 503 && text.contains("unknown whether a change"), "{text}");
    let (status, answer) = call(&server, KEY, &format!("GET {path}"), None).await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(answer["message"], "The message bus does not answer. Try again later.");
    assert_eq!(answer["code"], "broker_unavailable");
}
