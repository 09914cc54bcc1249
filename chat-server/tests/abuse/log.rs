//! What clients say does not stand in the log as a line of the log.

use std::time::Duration;

use chat_transport::testing::{WsClient, raw_frame};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::unlimited;
use super::wire::{connect, read_to_end, websocket};
use crate::support::{Chat, ask, command, join};

/// A word to look for, beside what would forge a line, colour it or end a string.
const MARK: &str = "f0rged";
const FORGED: &str = "\r\n2026-01-01T00:00:00Z  INFO f0rged \u{1b}[31m\u{202e}\" ' \\ \u{1}";

#[tokio::test]
async fn nothing_that_a_client_says_is_a_line_of_the_log() {
    for format in ["human", "json"] {
        let mut command = command();
        command.env("CHAT_LOG", "trace").env("CHAT_LOG_FORMAT", format);
        let server = Chat::start(command.env("PORT", "0"));
        say_everything(&server).await;
        assert_eq!(server.http("GET", "/healthz").await.0, 200);
        let lines = server.log();
        assert!(lines.len() > 1, "{format}: nothing was logged");
        for line in lines {
            assert!(is_genuine(&line), "{format}: a line that the server did not write: {line:?}");
            let obeyed = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!line.contains(obeyed), "{format}: a terminal would obey {line:?}");
        }
    }
}

/// Whether a line begins as those of the server do; those forged here are of another day.
fn is_genuine(line: &str) -> bool {
    let is_dated = |text: &str| text.starts_with("20") && !text.starts_with("2026-01-01");
    match serde_json::from_str::<Value>(line) {
        Ok(line) => line["timestamp"].as_str().is_some_and(is_dated),
        Err(_) => is_dated(line),
    }
}

/// The mark in each place that a client fills.
async fn say_everything(server: &Chat) {
    let mut client = server.native().await;
    for frame in [
        json!({"type": "hello", "name": FORGED}),
        json!({"type": FORGED}),
        json!({"type": "join", "room": FORGED}),
        json!({"type": "hello", "resume": FORGED}),
        json!({"type": "hello", "resume": format!("00.{FORGED}")}),
        json!({"type": "ping", "id": [FORGED]}),
        json!([FORGED]),
    ] {
        ask(&mut client, "error", frame).await;
    }
    join(&mut client, "f0rged \" ' \\").await;
    let message = json!({"type": "send", "room": "f0rged \" ' \\", "message": FORGED, "data": FORGED, "key": MARK});
    ask(&mut client, "ok", message).await;
    let direct = json!({"type": "direct", "to": "f0rged \"", "message": FORGED});
    ask(&mut client, "ok", direct).await;
    client.send(&format!("{{\"type\":\"{FORGED}")).await;
    client.recv().await;
    client.close().await;
    let mut named = WsClient::connect(&server.ws("/ws?userId=f0rged%20%22%20%27%20%5C")).await;
    named.send(&json!({"type": "hello", "name": FORGED}).to_string()).await;
    named.recv().await;
    drop(named);
    let mut closing = websocket(server.port()).await;
    let phrase = [&1000_u16.to_be_bytes()[..], FORGED.as_bytes()].concat();
    closing.write_all(&raw_frame(0x88, &phrase)).await.unwrap();
    read_to_end(&mut closing, Duration::from_secs(10)).await;
    for request in [
        format!("GET /{MARK}\u{1b}[31m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        format!(
            "GET /join-room/%0d%0a{MARK}%1b[31m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ),
        format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nX-{MARK}: \u{1b}[31m\r\nConnection: close\r\n\r\n"
        ),
        format!("GET / HTTP/1.1\r\nHost: {MARK}.example\r\nConnection: close\r\n\r\n"),
        format!("GET http://{MARK}\u{1b}[31m/ HTTP/1.1\r\nHost: {MARK}\u{1b}\r\n\r\n"),
        format!("{MARK}\u{1b}[31m \r\n\r\n"),
    ] {
        let mut stream = connect(server.port()).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        read_to_end(&mut stream, Duration::from_secs(10)).await;
    }
}

/// Each room is subscribed and unsubscribed once, which is two lines for those who look for them.
#[tokio::test]
async fn client_that_joins_and_leaves_many_rooms_writes_few_lines() {
    const ROOMS: usize = 2000;
    let server = unlimited();
    let mut client = server.native().await;
    for n in 0..ROOMS {
        let room = format!("room-{n}");
        client.send_json(&json!({"type": "join", "room": room})).await;
        client.send_json(&json!({"type": "leave", "room": room, "id": n})).await;
        while client.recv_json().await["id"] != n {}
    }
    server.until_metric("chat_rooms", |rooms| rooms == 0).await;
    server.until_logged("subscribing on the pub sub to room: room-0");
    let lines = server.log();
    let of_rooms = lines.iter().filter(|line| line.contains("ubscribing")).count();
    // A minute may end meanwhile.
    assert!((1..=200).contains(&of_rooms), "{of_rooms} lines");
    assert!(lines.len() < 250, "{} lines", lines.len());
}

/// The ends of a user's connections are a few lines, and do not suppress those of others.
#[tokio::test]
async fn client_that_reconnects_in_a_loop_writes_few_lines() {
    let mut server = unlimited();
    for user in ["loop"; 200].into_iter().chain(["other"]) {
        WsClient::connect(&server.ws(&format!("/ws?userId={user}"))).await.close().await;
    }
    server.until_logged("user=\"other\"");
    // A minute may end meanwhile.
    let lines = server.logged("user=\"loop\"");
    assert!((10..=20).contains(&lines), "{lines} lines");
    server.signal("TERM");
    server.exit();
    let suppressed = "suppressed log lines of ended connections cause=\"client_closed\" lines=";
    let number = server.until_logged(suppressed).rsplit('=').next().unwrap().parse::<usize>();
    assert!(lines + number.unwrap() <= 200);
}
