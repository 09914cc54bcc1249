//! How many connections there may be, of all and of an address.

use std::future::pending;
use std::time::Instant;

use chat_server::{LimitsConfig, Server, ServerConfig};
use chat_transport::testing::WsClient;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{NATIVE, limited, server, until_end};
use crate::support::{Chat, DEADLINE, ask};

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let server = server(&["--max-connections", "3"]);
    let mut clients = several(&server, 3).await;
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

async fn several(server: &Chat, count: usize) -> Vec<WsClient> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(server.native().await);
    }
    clients
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
async fn an_address_is_that_of_the_socket_unless_a_trusted_proxy_says_otherwise() {
    // So many speak HTTP at once, too, and those who are about to end may still count.
    let direct = server(&["--max-connections-per-address", "20"]);
    let _clients = several(&direct, 20).await;
    for spoofed in ["", "X-Forwarded-For: 9.9.9.9\r\n", "Forwarded: for=9.9.9.9\r\n"] {
        let (status, answer) = handshake(&direct, spoofed).await;
        assert_eq!(status, 429, "{spoofed}");
        assert!(answer.contains("retry-after: "), "{answer}");
    }
    assert_eq!(limited(&direct, "address_connections").await, 3);

    let proxied = ["--max-connections-per-address", "2", "--trusted-proxies", "127.0.0.0/8,::1"];
    let proxied = server(&proxied);
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
async fn of_the_headers_of_proxies_the_one_that_is_set_is_read() {
    let server = server(&[
        "--max-connections-per-address",
        "2",
        "--trusted-proxies",
        "127.0.0.0/8,::1",
        "--forwarded-header",
        "forwarded",
    ]);
    let connect = async |headers: &[(&'static str, &str)]| {
        WsClient::try_connect(&server.ws("/ws"), &[&[NATIVE], headers].concat()).await
    };
    let (ann, made_up) = (("Forwarded", "for=1.2.3.4"), ("X-Forwarded-For", "5.5.5.5"));
    let _two = (connect(&[ann]).await.unwrap(), connect(&[ann, made_up]).await.unwrap());
    for again in [&[ann][..], &[ann, made_up], &[("Forwarded", "for=\"1.2.3.4:99\""), made_up]] {
        assert_eq!(connect(again).await.unwrap_err().as_u16(), 429, "{again:?}");
    }
    connect(&[("Forwarded", "for=1.2.3.5"), ("X-Forwarded-For", "1.2.3.4")]).await.unwrap();
}

/// A connection above the limit is answered before its request is read.
#[tokio::test]
async fn those_who_speak_http_have_places_of_their_own() {
    let mut limits = LimitsConfig::default();
    limits.http_connections = Some(2);
    let server = Server::builder().config(ServerConfig::default().limits(limits)).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = server.clone();
    let serving = tokio::spawn(async move { serving.serve(vec![listener], pending()).await });
    let silent = async || TcpStream::connect(("127.0.0.1", port)).await.unwrap();

    let (mut one, _two) = (silent().await, silent().await);
    let refused = String::from_utf8(until_end(&mut silent().await).await).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: "), "{refused}");
    // A client that has a place is served, and leaves it.
    one.write_all(METRICS).await.unwrap();
    let page = String::from_utf8(until_end(&mut one).await).unwrap();
    assert!(page.contains("chat_limited_total{limit=\"http_connections\"} 1\n"), "{page}");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (mut next, mut answer) = (silent().await, Vec::new());
        // One that is refused meanwhile may be cut off.
        let _ = next.write_all(METRICS).await;
        let _ = tokio::time::timeout(DEADLINE, next.read_to_end(&mut answer)).await;
        if answer.starts_with(b"HTTP/1.1 200 ") {
            break;
        }
        assert!(Instant::now() < deadline, "the place of one who left is free");
    }
    serving.abort();
}

const METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
