//! Which keys may make which calls.

use chat_server::{ApiKey, ApiScope, Secret, Server};
use serde_json::json;
use tokio::net::TcpListener;

use super::{KEY, SHOP, call, call_with, server_with_key};
use crate::support::{exchange, run, value_of};

#[tokio::test]
async fn key_is_for_its_scopes_rooms_and_users() {
    let lines = "scopes = [\"send\"]\nrooms = [\"shop-*\", \"@shop-*\"]";
    let started = server_with_key(lines, &[]);
    let server = &started.server;
    let message = json!({"message": "hi"});
    for (of, status, why) in [
        ("POST /rooms/shop-1/messages", 200, "offset"),
        ("POST /users/shop-1/messages", 200, "delivered"),
        ("POST /rooms/other/messages", 403, "The key \\\"shop\\\" is not for the room"),
        ("POST /users/other/messages", 403, "The key \\\"shop\\\" is not for the user"),
        ("POST /rooms/shop-1/kick", 403, "The key \\\"shop\\\" lacks the scope \\\"moderate\\\"."),
        ("POST /rooms/%00/messages", 400, "room_name_invalid"),
    ] {
        let (got, answer) = call(server, SHOP, of, Some(&message)).await;
        assert_eq!(got, status, "{of}: {answer}");
        assert!(answer.to_string().contains(why), "{of}: {answer}");
    }
    let (status, answer) = call(server, SHOP, "GET /rooms/shop-1/messages", None).await;
    assert_eq!((status, answer["code"].as_str()), (403, Some("forbidden")), "{answer}");
    assert_eq!(call(server, KEY, "GET /rooms/shop-1/messages", None).await.0, 200, "the other key");
    let (status, _, page) = server.http("GET", "/metrics").await;
    assert_eq!(status, 200);
    for (labels, count) in [
        (r#"key="shop",call="send",status="200""#, 1),
        (r#"key="shop",call="send",status="403""#, 1),
        (r#"key="shop",call="history",status="403""#, 1),
        (r#"key="api",call="history",status="200""#, 1),
    ] {
        let name = format!("chat_api_requests_total{{{labels}}}");
        assert_eq!(value_of::<u64>(&page, &name), Some(count), "{page}");
    }
    assert_eq!(server.logged(SHOP), 0);
}

#[tokio::test]
async fn key_reads_what_it_may_do() {
    let lines = "scopes = [\"read\"]\nrooms = [\"a-*\", \"@a-*\"]\nuntil = \"2100-01-01\"";
    let started = server_with_key(lines, &[]);
    let (status, answer) = call(&started.server, SHOP, "GET /key", None).await;
    let until = 4_102_444_800_000_u64;
    let expected =
        json!({"name": "shop", "scopes": ["read"], "rooms": ["a-*", "@a-*"], "until": until});
    assert_eq!((status, answer), (200, expected));
    assert_eq!(call(&started.server, "another key", "GET /key", None).await.0, 401);
}

#[tokio::test]
async fn call_above_the_rate_of_the_key_is_to_be_made_later() {
    let started = server_with_key("scopes = [\"read\"]\nrate = \"1/2\"", &[]);
    let port = started.server.port();
    for status in [200, 200, 429] {
        let (got, head, answer) = call_with(port, SHOP, "", "GET /rooms/r/messages", None).await;
        assert_eq!(got, status, "{answer}");
        if status == 429 {
            assert_eq!(answer["code"], "rate_limited");
            assert!(head.contains("retry-after: 1") || head.contains("retry-after: 2"), "{head}");
        }
    }
}

#[tokio::test]
async fn key_that_has_ended_is_refused_by_its_name() {
    let started = server_with_key("scopes = [\"read\"]\nuntil = \"2020-01-01\"", &[]);
    let (status, answer) = call(&started.server, SHOP, "GET /rooms/r", None).await;
    assert_eq!(status, 401);
    assert_eq!(answer["message"], "The key \"shop\" has ended.");
}

/// The port for clients need not have the API.
#[tokio::test]
async fn api_is_on_the_address_of_operators() {
    let args = ["--metrics-addr", "127.0.0.1:0", "--api-on-clients-port", "off"];
    let started = server_with_key("scopes = [\"read\"]", &args);
    let port = started.server.metrics_port();
    let (status, _, answer) = call_with(port, SHOP, "", "GET /rooms/r/messages", None).await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = call(&started.server, SHOP, "GET /rooms/r/messages", None).await;
    assert_eq!(status, 404, "{answer}");
}

/// As on the port for clients. Calls with a key wait for no rate but that of the key.
#[tokio::test]
async fn wrong_keys_are_limited_on_the_address_of_operators() {
    let args =
        ["--metrics-addr", "127.0.0.1:0", "--max-wait", "0s", "--http-rate-per-address", "1/3"];
    let started = server_with_key("scopes = [\"read\"]", &args);
    let port = started.server.metrics_port();
    let get = async |key: &str| call_with(port, key, "", "GET /rooms/r", None).await;
    for _ in 0..3 {
        assert_eq!(get("a wrong key").await.0, 401);
    }
    let (status, head, answer) = get("a wrong key").await;
    assert_eq!((status, &answer["code"]), (429, &json!("rate_limited")), "{head}");
    assert!(head.contains("retry-after: ") && head.contains("connection: close"), "{head}");
    for _ in 0..10 {
        assert_eq!(get(SHOP).await.0, 200);
    }
}

#[tokio::test]
async fn wrong_keys_on_one_connection_of_an_operator_are_limited() {
    let args = ["--metrics-addr", "127.0.0.1:0", "--max-wait", "0s", "--http-rate", "1/3"];
    let started = server_with_key("scopes = [\"read\"]", &args);
    let request = |key: &str| {
        format!("GET /api/rooms/r HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\n\r\n")
    };
    let (right, wrong) = (request(SHOP).repeat(10), request("wrong").repeat(9));
    let (first, head, rest) = exchange(started.server.metrics_port(), &(right + &wrong)).await;
    let answers = head + &rest;
    let count = |status: &str| answers.matches(&format!("HTTP/1.1 {status} ")).count();
    // Without the status line of the first.
    assert_eq!(first, 200);
    assert_eq!([count("200"), count("401"), count("429")], [9, 3, 1], "{answers}");
}

#[tokio::test]
async fn keys_are_replaced_while_the_server_runs() {
    let server = Server::builder().start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(vec![listener], std::future::pending()).await });
    let status = async |key: &str| call_with(port, key, "", "GET /rooms/r", None).await.0;
    assert_eq!(status(SHOP).await, 404, "there is no key");
    let (first, first_secret) = ApiKey::generate("first").unwrap();
    let (second, second_secret) = ApiKey::generate("second").unwrap();
    server.set_api_keys(vec![first.scopes([ApiScope::Read])]);
    assert_eq!(status(first_secret.reveal()).await, 200);
    assert_eq!(status(second_secret.reveal()).await, 401);
    server.set_api_keys(vec![second.scopes([ApiScope::Read])]);
    assert_eq!(status(first_secret.reveal()).await, 401);
    assert_eq!(status(second_secret.reveal()).await, 200);
}

#[tokio::test]
async fn metrics_have_the_keys_of_the_server_alone() {
    let started = server_with_key("scopes = [\"read\"]", &[]);
    let server = &started.server;
    assert_eq!(call(server, SHOP, "GET /rooms/r", None).await.0, 200);
    assert_eq!(call(server, KEY, "GET /rooms/r", None).await.0, 200);
    let series = async |key: &str| {
        let (_, _, page) = server.http("GET", "/metrics").await;
        let name = format!("chat_api_requests_total{{key=\"{key}\"");
        let count = value_of(&page, &format!("{name},call=\"room\",status=\"200\"}}"));
        (page.lines().filter(|line| line.starts_with(&name)).count(), count)
    };
    let before = series("api").await;
    assert_eq!(before.1, Some(1_u64));
    assert_eq!(series("shop").await.1, Some(1));
    std::fs::write(&started.file, "").unwrap();
    server.signal("HUP");
    server.until_logged("settings reloaded");
    assert_eq!(series("shop").await, (0, None), "the key was removed");
    assert_eq!(series("api").await, before, "the other one goes on");
}

/// The secret of a key is replaced: the new one is used with the name of the key.
#[tokio::test]
async fn key_has_several_secrets_while_one_is_replaced() {
    const NEW: &str = "ck_shop_fedcba9876543210";
    let lines = "scopes = [\"send\", \"read\"]";
    let started = server_with_key(lines, &[]);
    let server = &started.server;
    let hash = |secret| ApiKey::new("shop", &Secret::new(secret)).unwrap().hash();
    let reload = |hashes: Vec<String>, times| {
        let text = format!("[[api_keys]]\nname = \"shop\"\nhash = {hashes:?}\n{lines}\n");
        std::fs::write(&started.file, text).unwrap();
        server.signal("HUP");
        server.until_logged_times("settings reloaded", times);
    };
    let message = json!({"message": "Paid.", "key": "o7-paid"});
    let send = async |key| call(server, key, "POST /rooms/r/messages", Some(&message)).await;
    assert_eq!((send(SHOP).await.0, send(NEW).await.0), (200, 401));
    reload(vec![hash(SHOP), hash(NEW)], 1);
    for secret in [SHOP, NEW] {
        let (status, answer) = send(secret).await;
        assert_eq!((status, &answer["repeated"]), (200, &json!(true)), "{answer}");
    }
    let (_, page) = call(server, NEW, "GET /rooms/r/messages", None).await;
    assert_eq!(page["messages"][0]["user"]["id"], "@shop", "{page}");
    reload(vec![hash(NEW)], 2);
    assert_eq!((send(SHOP).await.0, send(NEW).await.0), (401, 200));
}

#[test]
fn key_command_prints_the_table_and_on_stderr_the_secret() {
    let args = ["key", "--name", "shop", "--scopes", "send,read"];
    let (code, out, err) = run(crate::support::command().args(args));
    assert_eq!((code, err.lines().count()), (0, 1), "{err}");
    assert!(err.starts_with("ck_shop_"), "{err}");
    assert!(out.starts_with("[[api_keys]]\nname = \"shop\"") && !out.contains("ck_"), "{out}");
    let (code, _, err) = run(crate::support::command().args(["key", "--name", "shop"]));
    assert!(code == 2 && err.contains("--scopes"), "{err}");
}
