//! How often clients may ask by HTTP.

use std::time::{Duration, Instant};

use chat_transport::testing::WsClient;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{NATIVE, limited, server, until_end};
use crate::support::{Chat, command, exchange};

fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

#[tokio::test]
async fn pipelined_requests_wait_for_their_turn() {
    const REQUESTS: usize = 25;
    let server = server(&["--http-rate", "20/5"]);
    let (more, last) = (get("/healthz", ""), get("/healthz", "Connection: close\r\n"));
    let began = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    stream.write_all((more.repeat(REQUESTS - 1) + &last).as_bytes()).await.unwrap();
    let answers = String::from_utf8(until_end(&mut stream).await).unwrap();
    let took = began.elapsed();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), REQUESTS, "{answers}");
    assert!(took >= Duration::from_millis(900), "{took:?}");
    // A connection of its own has a bucket of its own, as this one has.
    assert!((1..=REQUESTS as u64 - 5).contains(&limited(&server, "http_rate").await));
}

#[tokio::test]
async fn limits_off_lifts_the_rate_of_requests() {
    let server =
        Chat::start(command().args(["--port", "0", "--limits", "off", "--http-rate", "1/1"]));
    let (more, last) = (get("/healthz", ""), get("/healthz", "Connection: close\r\n"));
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    stream.write_all((more.repeat(9) + &last).as_bytes()).await.unwrap();
    let answers = String::from_utf8(until_end(&mut stream).await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 10, "{answers}");
    assert_eq!(limited(&server, "http_rate").await, 0);
}

#[tokio::test]
async fn requests_of_an_address_are_limited_over_its_connections() {
    const REQUESTS: usize = 12;
    let proxied = ["--trusted-proxies", "127.0.0.0/8,::1", "--http-rate-per-address", "1/1"];
    let server = server(&proxied);
    let of = |address: &str| {
        get("/healthz", &format!("X-Forwarded-For: {address}\r\nConnection: close\r\n"))
    };
    let mut answers = JoinSet::new();
    for _ in 0..REQUESTS {
        let (port, request) = (server.port(), of("1.2.3.4"));
        answers.spawn(async move { exchange(port, &request).await });
    }
    let answers = answers.join_all().await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.0 == 429).collect();
    // One at once, and those whose turn comes within 5 s.
    assert!((REQUESTS - 7..=REQUESTS - 5).contains(&refused.len()), "{answers:?}");
    for (_, head, body) in refused {
        assert!(head.contains("retry-after: ") && head.contains("connection: close"), "{head}");
        assert!(body.contains("\"rate_limited\""), "{body}");
    }
    let again = [NATIVE, ("X-Forwarded-For", "5.6.7.8")];
    let began = Instant::now();
    WsClient::try_connect(&server.ws("/ws"), &again).await.unwrap();
    assert_eq!(server.raw(&of("5.6.7.8")).await.0, 200);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900), "a handshake is a request: {took:?}");
    // What the proxy asks for itself has no limit.
    let waits = limited(&server, "http_rate").await;
    for _ in 0..20 {
        assert_eq!(server.http("GET", "/healthz").await.0, 200);
    }
    assert_eq!(limited(&server, "http_rate").await, waits);
}

/// The server reads no body while a request waits for its turn: that time is not the client's.
#[tokio::test]
async fn wait_for_the_rate_does_not_count_as_time_for_the_body() {
    let server = server(&["--http-rate-per-address", "1/1", "--handshake-timeout", "1s"]);
    let post = "POST /create-room HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Length: 2\r\n\r\n{}";
    let mut answers = JoinSet::new();
    for _ in 0..4 {
        let port = server.port();
        answers.spawn(async move { exchange(port, post).await.0 });
    }
    assert_eq!(answers.join_all().await, [201; 4]);
}
