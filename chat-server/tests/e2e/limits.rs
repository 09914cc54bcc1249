//! How much of the server a client may use.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Chat, DEADLINE, ask, command, exchange, join, next_of};

const NATIVE: (&str, &str) = ("Sec-WebSocket-Protocol", "chat.v1");

fn server(args: &[&str]) -> Chat {
    Chat::start(command().args(["--port", "0", "--limits", "on"]).args(args))
}

async fn metric(server: &Chat, name: &str) -> u64 {
    let (_, _, page) = server.http("GET", "/metrics").await;
    let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

async fn limited(server: &Chat, limit: &str) -> u64 {
    metric(server, &format!("chat_limited_total{{limit=\"{limit}\"}}")).await
}

/// Sends so many pings at once; how many were answered, and the first refusal.
async fn pings(client: &mut WsClient, count: usize) -> (usize, Option<Value>) {
    for id in 0..count {
        client.send_json(&json!({"type": "ping", "id": id})).await;
    }
    let (mut answered, mut refused) = (0, None);
    for _ in 0..count {
        let answer = client.recv_json().await;
        if answer["type"] == "pong" {
            answered += 1;
        } else {
            refused.get_or_insert(answer);
        }
    }
    (answered, refused)
}

#[tokio::test]
async fn too_many_frames_are_refused_and_the_client_is_told_when_to_go_on() {
    let server = server(&["--rate", "2/10"]);
    let mut client = server.native().await;
    let (answered, refused) = pings(&mut client, 15).await;
    assert!((10..=11).contains(&answered), "{answered}");
    let refused = refused.unwrap();
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["id"].is_u64(), "{refused}");
    let pause = refused["retry_after_ms"].as_u64().unwrap();
    assert!((1..=501).contains(&pause), "{refused}");
    tokio::time::sleep(Duration::from_millis(pause + 500)).await;
    ask(&mut client, "pong", json!({"type": "ping"})).await;
    assert!(limited(&server, "connection_rate").await >= 4);
    // Each connection has its own.
    let (answered, _) = pings(&mut server.native().await, 10).await;
    assert_eq!(answered, 10);
}

#[tokio::test]
async fn whoever_goes_on_and_on_is_closed_and_nobody_else_notices() {
    let server = server(&["--rate", "50/100", "--error-rate", "1/50"]);
    let (mut ann, mut bob) = (server.native().await, server.native().await);
    join(&mut ann, "r").await;
    join(&mut bob, "r").await;
    next_of(&mut ann, "presence").await;
    let mut flood = server.native().await;
    for n in 0..2_000 {
        // The server may have closed it by now.
        if !flood.try_send(&format!(r#"{{"type":"send","room":"r","message":"{n}"}}"#)).await {
            break;
        }
    }
    let (frames, (code, _)) = flood.recv_until_close().await;
    assert_eq!(code, 1008);
    assert!(frames.len() < 200, "{} answers", frames.len());
    for n in 0..20 {
        ask(&mut ann, "ok", json!({"type": "send", "room": "r", "message": n.to_string()})).await;
        assert_eq!(next_of(&mut bob, "message").await["message"], n.to_string());
    }
    assert_eq!(limited(&server, "errors").await, 1);
    // Bad frames are as bad as too many.
    let mut broken = server.native().await;
    for _ in 0..60 {
        if !broken.try_send("{").await {
            break;
        }
    }
    assert_eq!(broken.recv_until_close().await.1.0, 1008);
}

#[tokio::test]
async fn the_connections_of_a_user_share_an_allowance() {
    let server = server(&["--rate", "off", "--rate-per-user", "1/20"]);
    let connect = async |user: &str| {
        WsClient::connect_with(&server.ws(&format!("/ws?userId={user}")), &[NATIVE]).await
    };
    let (mut one, mut two) = (connect("ann").await, connect("ann").await);
    assert_eq!(pings(&mut one, 15).await.0, 15);
    let (answered, refused) = pings(&mut two, 15).await;
    assert!((5..=7).contains(&answered), "{answered}");
    assert_eq!(refused.unwrap()["code"], "rate_limited");
    assert_eq!(pings(&mut connect("bob").await, 20).await.0, 20);
    // To come back helps nothing.
    drop((one, two));
    let (answered, _) = pings(&mut connect("ann").await, 15).await;
    assert!(answered <= 3, "{answered}");
    // Nobody is told apart who has no name.
    assert_eq!(pings(&mut server.native().await, 40).await.0, 40);
    assert!(limited(&server, "user_rate").await > 0);
}

#[tokio::test]
async fn joins_have_a_rate_of_their_own() {
    let server = server(&["--join-rate", "1/3"]);
    let mut client = server.native().await;
    for n in 0..3 {
        ask(&mut client, "joined", json!({"type": "join", "room": n.to_string()})).await;
    }
    let refused = ask(&mut client, "error", json!({"type": "join", "room": "4", "id": "j"})).await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!("rate_limited"), &json!("j")));
    ask(&mut client, "ok", json!({"type": "send", "room": "0", "message": "x"})).await;
    assert_eq!(limited(&server, "join_rate").await, 1);
    let mut topics = server.client().await;
    for n in 0..4 {
        topics.send_json(&json!({"type": "SUBSCRIBE", "room": n.to_string()})).await;
    }
    assert_eq!(topics.recv_json().await["code"], "rate_limited");
}

/// A handshake by hand: status and head of the answer.
async fn handshake(server: &Chat, headers: &str) -> (u16, String) {
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\
         \r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    // The connection stays open for another request: the answer ends with its JSON.
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut answer)).await;
        assert_ne!(read.expect("an answer").unwrap(), 0, "{answer:?}");
    }
    let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let server = server(&["--max-connections", "3"]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(server.native().await);
    }
    let (status, answer) = handshake(&server, "").await;
    assert_eq!(status, 503);
    assert!(answer.contains("retry-after: ") && answer.contains("over_capacity"), "{answer}");
    assert_eq!(limited(&server, "connections").await, 1);
    assert_eq!(server.http("GET", "/readyz").await.0, 200, "whatever else is served");
    ask(&mut clients[0], "pong", json!({"type": "ping"})).await;
    drop(clients.pop());
    let deadline = Instant::now() + DEADLINE;
    while WsClient::try_connect(&server.ws("/ws"), &[NATIVE]).await.is_err() {
        assert!(Instant::now() < deadline, "the place of one who left is free");
    }
}

#[tokio::test]
async fn an_address_is_that_of_the_socket_unless_a_trusted_proxy_says_otherwise() {
    let strict = ["--max-connections-per-address", "2"];
    let direct = server(&strict);
    let _clients = (direct.native().await, direct.native().await);
    for spoofed in ["", "X-Forwarded-For: 9.9.9.9\r\n", "Forwarded: for=9.9.9.9\r\n"] {
        let (status, answer) = handshake(&direct, spoofed).await;
        assert_eq!(status, 429, "{spoofed}");
        assert!(answer.contains("retry-after: "), "{answer}");
    }
    assert_eq!(limited(&direct, "address_connections").await, 3);

    let proxied = server(&[&strict[..], &["--trusted-proxies", "127.0.0.0/8,::1"]].concat());
    let connect = async |header: &str| {
        let headers = [NATIVE, ("X-Forwarded-For", header)];
        WsClient::try_connect(&proxied.ws("/ws"), &headers).await
    };
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(connect("1.2.3.4").await.unwrap());
    }
    for again in ["1.2.3.4", "6.6.6.6, 1.2.3.4", "1.2.3.4, 127.0.0.1"] {
        assert_eq!(connect(again).await.unwrap_err().as_u16(), 429, "{again}");
    }
    for other in ["1.2.3.5", "1.2.3.4, 5.5.5.5"] {
        clients.push(connect(other).await.unwrap());
    }
}

#[tokio::test]
async fn limits_off_lifts_every_rate_and_count_and_no_bound() {
    let args = ["--rate", "1/1", "--join-rate", "1/1", "--max-rooms", "1", "--error-rate", "1/1"];
    let server = Chat::start(
        command().args(["--port", "0", "--max-connections", "1"]).args(args).env("LIMITS", "off"),
    );
    let (mut client, _other) = (server.native().await, server.native().await);
    assert_eq!(pings(&mut client, 500).await.0, 500);
    for n in 0..200 {
        ask(&mut client, "joined", json!({"type": "join", "room": n.to_string()})).await;
        client.send("{").await;
        next_of(&mut client, "error").await;
    }
    let (_, _, page) = server.http("GET", "/metrics").await;
    assert!(!page.contains("chat_limited_total{"), "{page}");
    client.send(&"x".repeat(65_537)).await;
    assert_eq!(client.recv_until_close().await.1.0, 1009);
}

#[tokio::test]
async fn sizes_are_settings() {
    let server = server(&[
        "--max-name-bytes",
        "8",
        "--max-json-depth",
        "4",
        "--max-frame-bytes",
        "2048",
        "--max-message-bytes",
        "1000",
        "--handshake-timeout",
        "1s",
        "--message-timeout",
        "1s",
    ]);
    let mut client = server.native().await;
    for (frame, code) in [
        (json!({"type": "join", "room": "123456789"}), "room_name_invalid"),
        (json!({"type": "hello", "name": "123456789"}), "bad_field"),
        (json!({"type": "direct", "to": "123456789", "message": ""}), "bad_field"),
        (json!({"type": "ping", "data": [[[[]]]]}), "bad_json"),
        (json!({"type": "direct", "to": "a", "message": "x".repeat(1001)}), "message_too_long"),
    ] {
        assert_eq!(ask(&mut client, "error", frame.clone()).await["code"], code, "{frame}");
    }
    ask(&mut client, "pong", json!({"type": "ping", "data": [[[]]]})).await;
    for path in ["/join-room/123456789", "/ws?userId=123456789", "/?user=123456789"] {
        let refused = WsClient::try_connect(&server.ws(path), &[]).await;
        assert_eq!(refused.err().map(|status| status.as_u16()), Some(400), "{path}");
    }
    client.send(&"x".repeat(2_049)).await;
    assert_eq!(client.recv_until_close().await.1.0, 1009);
    let began = Instant::now();
    let (status, _, _) = silent(server.port()).await;
    assert!(status.is_none_or(|status| status == 408), "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(limited(&server, "handshake_timeout").await, 1);
}

/// A client that begins a request and goes no further.
async fn silent(port: u16) -> (Option<u16>, String, ()) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    (answer.split(' ').nth(1).and_then(|status| status.parse().ok()), answer, ())
}

#[tokio::test]
async fn metrics_may_have_an_address_of_their_own() {
    let redis = RedisServer::start();
    let mut command = command();
    command.env("REDIS_URL", redis.url()).args(["--port", "0", "--metrics-addr", "127.0.0.1:0"]);
    let server = Chat::start(&mut command);
    server.until_ready().await;
    assert_eq!(server.http("GET", "/metrics").await.0, 404);
    assert_eq!(server.http("GET", "/healthz").await.0, 200);
    let line = server.until_logged("metrics on http://127.0.0.1:");
    let port = line.rsplit(':').next().unwrap().strip_suffix("/metrics").unwrap();
    let port: u16 = port.parse().unwrap();
    let ask = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        exchange(port, &request).await
    };
    assert_eq!(ask("/readyz").await.0, 200);
    let (status, _, page) = ask("/metrics").await;
    assert_eq!(status, 200);
    assert!(page.contains("chat_ready 1"), "{page}");
    assert_eq!(ask("/ws").await.0, 404, "clients go elsewhere");
}
