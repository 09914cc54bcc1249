//! What is no HTTP, and HTTP that is no handshake: a status where there can be one, and an end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::wire::{connect, read_to_end};
use super::{LEFT_BEHIND, unlimited};
use crate::support::control_clients::ControlClients;
use crate::support::process::Process;
use crate::support::{Chat, say};

/// How long an answer may take, and then the end: a client that says nothing has 10 s.
const END: Duration = Duration::from_secs(15);

/// A valid handshake in lines, to be spoiled.
const GOOD: &[&str] = &[
    "GET /ws HTTP/1.1",
    "Host: localhost",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// The handshake with one line replaced, if it is there, and another one added.
fn spoiled(line: &str, replacement: &str, added: &str) -> Vec<u8> {
    let lines = GOOD.iter().map(|good| if *good == line { replacement } else { good });
    let lines: Vec<_> = lines.chain([added]).filter(|line| !line.is_empty()).collect();
    format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

fn with(added: &str) -> Vec<u8> {
    spoiled("", "", added)
}

/// The answer to a request: its status, and what stands in its head.
type Answer = (u16, &'static str);

/// The connection is ended without an answer.
const NONE: Answer = (0, "");

fn handshakes() -> Vec<(&'static str, Vec<u8>, Answer)> {
    const VERSION: &str = GOOD[4];
    const KEY: &str = GOOD[5];
    vec![
        ("no key", spoiled(KEY, "", ""), (400, "")),
        ("a short key", spoiled(KEY, "Sec-WebSocket-Key: AAAA", ""), (400, "")),
        ("a key that is no base64", spoiled(KEY, "Sec-WebSocket-Key: %", ""), (400, "")),
        ("two keys", with(KEY), (400, "")),
        (
            "version 8",
            spoiled(VERSION, "Sec-WebSocket-Version: 8", ""),
            (426, "sec-websocket-version: 13"),
        ),
        ("no version", spoiled(VERSION, "", ""), (426, "sec-websocket-version: 13")),
        ("no upgrade", spoiled(GOOD[3], "", ""), (426, "upgrade: websocket")),
        ("another upgrade", spoiled(GOOD[3], "Upgrade: h2c", ""), (426, "upgrade: websocket")),
        ("no connection", spoiled(GOOD[2], "", ""), (426, "upgrade: websocket")),
        (
            "a plain GET",
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            (426, "upgrade: websocket"),
        ),
        ("POST", spoiled(GOOD[0], "POST /ws HTTP/1.1", ""), (405, "allow: get")),
        ("HTTP/1.0", spoiled(GOOD[0], "GET /ws HTTP/1.0", ""), (400, "")),
        (
            "lists on several lines",
            spoiled(GOOD[3], "Upgrade: h2c, WebSocket", "Connection: keep-alive"),
            (101, ""),
        ),
        ("a page elsewhere", with("Origin: https://evil.example"), (403, "")),
        ("a bad room", spoiled(GOOD[0], "GET /join-room/a%0Ab HTTP/1.1", ""), (400, "")),
        ("a room not UTF-8", spoiled(GOOD[0], "GET /join-room/%ff HTTP/1.1", ""), (400, "")),
        ("a bad user", spoiled(GOOD[0], "GET /ws?userId=%00 HTTP/1.1", ""), (400, "")),
        ("a bad number", spoiled(GOOD[0], "GET /ws?history=-1 HTTP/1.1", ""), (400, "")),
        ("nothing there", spoiled(GOOD[0], "GET /../etc/passwd HTTP/1.1", ""), (404, "")),
    ]
}

/// Shapes of requests that two servers in a row may read in two ways.
fn smuggled() -> Vec<(&'static str, Vec<u8>, Answer)> {
    let headers = |count: usize, length: usize| {
        let value = "x".repeat(length);
        let lines: Vec<_> = (0..count).map(|n| format!("X-{n}: {value}")).collect();
        with(&lines.join("\r\n"))
    };
    vec![
        ("130 headers", headers(130, 1), (431, "")),
        ("70 KiB of headers", headers(70, 1024), (431, "")),
        ("a header of 500 KiB", headers(1, 500 << 10), (431, "")),
        ("two hosts", with("Host: other"), (400, "")),
        ("no host", spoiled(GOOD[1], "", ""), (400, "")),
        ("a foreign host", spoiled(GOOD[1], "Host: evil.example", ""), (403, "")),
        (
            "a foreign host in the target",
            spoiled(GOOD[0], "GET http://evil.example/ws HTTP/1.1", ""),
            (403, ""),
        ),
        ("a host and a user", spoiled(GOOD[1], "Host: localhost@evil.example", ""), (400, "")),
        ("a bad Transfer-Encoding", with("Transfer-Encoding: xchunked"), (400, "")),
        ("two lengths", with("Content-Length: 1\r\nContent-Length: 2"), (400, "")),
        (
            "a length and chunks",
            spoiled(
                GOOD[0],
                "POST /create-room HTTP/1.1",
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0",
            ),
            (201, "connection: close"),
        ),
        ("a length that is none", with("Content-Length: -1"), (400, "")),
        ("a folded header", with("X-A: b\r\n c"), (400, "")),
        ("a space before the colon", with("X-A : b"), (400, "")),
        ("a NUL in a header", with("X-A: \0"), (400, "")),
        ("a header without a name", with(": b"), (400, "")),
        ("garbage", b"\x00\x01\x02\x03garbage\r\n\r\n".to_vec(), (400, "")),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), (400, "")),
        ("HTTP/3.7", b"GET / HTTP/3.7\r\nHost: a\r\n\r\n".to_vec(), (400, "")),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), NONE),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50), (400, "")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_handshake_is_answered_and_ended() {
    let server = unlimited();
    let control_clients = ControlClients::at(server.port()).await;
    let process = Process(server.pid());
    let table = [handshakes(), smuggled()].concat();
    let mut wrong = Vec::new();
    let mut before = 0;
    for round in 0..2 {
        before = if round == 1 { process.rss_kib() } else { before };
        for (name, request, (status, header)) in &table {
            let answer = answer(&server, request).await;
            let head = answer.split("\r\n\r\n").next().unwrap_or_default();
            let got = head.strip_prefix("http/1.").and_then(|rest| rest.get(2..5));
            let wanted = (*status > 0).then(|| status.to_string());
            if got != wanted.as_deref() || !head.contains(header) {
                wrong.push(format!("{name}: wanted {status} {header:?}, got {head:?}"));
            }
            // Others are served after it.
            assert_eq!(server.http("GET", "/healthz").await.0, 200, "after {name}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let grown = process.rss_kib().saturating_sub(before);
    assert!(grown < LEFT_BEHIND, "{} requests left {grown} KiB behind", table.len());
    let served = control_clients.were_served().await;
    say(&format!("{} requests: {grown} KiB more; control clients: {served}", table.len()));
}

/// What the server says to this, in lower case. It ends the connection by itself or when it has
/// answered and nothing more can come, and keeps nobody.
async fn answer(server: &Chat, request: &[u8]) -> String {
    let mut stream = connect(server.port()).await;
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let heard = async {
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            // A reset is an end as well.
            if !matches!(read.read_buf(&mut answer).await, Ok(1..)) {
                break;
            }
        }
    };
    // It may be refused before all of it is read.
    let (_, heard) = tokio::join!(write.write_all(request), timeout(END, heard));
    let shown: String = String::from_utf8_lossy(request).chars().take(80).collect();
    assert!(heard.is_ok(), "no answer and no end for {shown:?}");
    let _ = write.shutdown().await;
    answer.extend(read_to_end(&mut read, END).await);
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}
