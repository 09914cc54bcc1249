//! Sizes and times that are settings.

use std::time::{Duration, Instant};

use chat_transport::testing::{WsClient, raw_frame, raw_handshake};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{limited, server, until_end};
use crate::support::{Chat, DEADLINE, FAST, ask, join, next_of};

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
        "--max-header-bytes",
        "8192",
    ]);
    let mut client = server.native().await;
    for (frame, code) in [
        (json!({"type": "join", "room": "123456789"}), "room_name_invalid"),
        (json!({"type": "hello", "name": "123456789"}), "bad_field"),
        (json!({"type": "direct", "to": "123456789", "message": "."}), "bad_field"),
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
    // Nine kilobytes are less than what is let through by default.
    for (server, status) in [(&server, 431), (&Chat::alone(), 200)] {
        let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n", "x".repeat(9_000));
        let answer = server.raw(&format!("{head}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.0, status, "{}", answer.1);
    }
}

#[tokio::test]
async fn times_are_settings() {
    let server = server(&["--handshake-timeout", "1s", "--message-timeout", "1s"]);
    let by_default = Chat::alone();
    let silent = async |server: &Chat| {
        let mut silent = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        silent.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        until_end(&mut silent).await
    };
    let answer = after_a_second(silent(&server), silent(&by_default)).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    assert_eq!(limited(&server, "handshake_timeout").await, 1);

    let slow = async |server: &Chat| {
        let mut slow = raw(server).await;
        slow.write_all(b"\x81\xfd_").await.unwrap();
        close_code(&mut slow).await
    };
    assert_eq!(after_a_second(slow(&server), slow(&by_default)).await, 1008);
}

/// What `soon` gives, after a second at least, and before `late` ends, which begins first.
async fn after_a_second<T>(soon: impl Future<Output = T>, late: impl Future) -> T {
    let began = Instant::now();
    tokio::select! {
        biased;
        _ = late => panic!("it took as long as by default"),
        outcome = soon => {
            assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
            outcome
        }
    }
}

#[tokio::test]
async fn pings_in_a_second_are_a_setting() {
    let server = server(&["--max-control-frames", "10"]);
    let mut client = raw(&server).await;
    client.write_all(&raw_frame(0x89, b"").repeat(10)).await.unwrap();
    client.write_all(&raw_frame(0x88, &1000_u16.to_be_bytes())).await.unwrap();
    assert_eq!(close_code(&mut client).await, 1000, "ten are no breach");
    // Whatever second they come in: of two, one has more than ten.
    let mut client = raw(&server).await;
    client.write_all(&raw_frame(0x89, b"").repeat(22)).await.unwrap();
    assert_eq!(close_code(&mut client).await, 1008);
}

async fn raw(server: &Chat) -> TcpStream {
    raw_handshake(&format!("127.0.0.1:{}", server.port()), "/ws").await
}

/// That of the close frame with which a stream ends.
async fn close_code(stream: &mut TcpStream) -> u16 {
    let bytes = until_end(stream).await;
    let close = bytes.iter().rposition(|byte| *byte == 0x88).expect("a close frame");
    u16::from_be_bytes([bytes[close + 2], bytes[close + 3]])
}

#[tokio::test]
async fn what_waits_for_a_client_is_a_setting() {
    // 256 frames of a kilobyte and the long ones before them are far less than a megabyte.
    for (setting, value, most) in
        [("--outbox-bytes", "65536", 65_536), ("--outbox-frames", "256", 400_000)]
    {
        let args = ["--write-timeout", "2m", "--max-frame-bytes", "65536", setting, value];
        let server = server(&[&FAST[..], &args].concat());
        let (mut writer, _stalled) = stall(&server).await;
        let deadline = Instant::now() + DEADLINE;
        while server.metric("chat_slow_consumers_total").await == 0 {
            say(&mut writer, 1_000).await;
            let waiting = server.metric("chat_outbox_bytes_max").await;
            assert!(waiting <= most, "{waiting} bytes with {setting} {value}");
            assert!(Instant::now() < deadline, "{waiting} bytes with {setting} {value}");
        }
    }
}

#[tokio::test]
async fn how_long_a_client_may_take_nothing_is_a_setting() {
    let by_default = server(&FAST);
    let server = server(&[&FAST[..], &["--write-timeout", "1s"]].concat());
    let _both = tokio::join!(stall(&by_default), stall(&server));
    let closed = "chat_closed_total{code=\"4000\"}";
    server.until_metric(closed, |closed| closed == 1).await;
    assert_eq!(by_default.metric(closed).await, 0);
}

/// A client that reads nothing, so that its kernel and that of the server hold all they can and
/// something waits; and one that has said it all.
async fn stall(server: &Chat) -> (WsClient, WsClient) {
    let mut stalled = WsClient::connect_narrow(&server.ws("/")).await;
    ask(&mut stalled, "joined", json!({"type": "join", "room": "r", "id": 1})).await;
    let mut writer = server.native().await;
    join(&mut writer, "r").await;
    let deadline = Instant::now() + DEADLINE;
    while server.metric("chat_outbox_bytes_max").await == 0 {
        say(&mut writer, 30_000).await;
        assert!(Instant::now() < deadline, "it all goes somewhere");
    }
    (writer, stalled)
}

async fn say(writer: &mut WsClient, length: usize) {
    let text = "x".repeat(length);
    // Until it has been handed to all.
    ask(writer, "message", json!({"type": "send", "room": "r", "message": text})).await;
}

/// Python's and PHP's JSON write all that is not ASCII as escapes.
#[tokio::test]
async fn any_legal_text_fits_in_a_frame() {
    let server = Chat::alone();
    let mut client = server.native().await;
    join(&mut client, "r").await;
    let escaped = |escape: &str, count: usize| {
        let text = escape.repeat(count);
        format!(r#"{{"type":"send","room":"r","message":"{text}"}}"#)
    };
    for (escape, bytes) in [("\\u0436", 2), ("\\u4e2d", 3), ("\\\"", 1), ("\\u001b", 1)] {
        let most = 32_768 / bytes;
        client.send(&escaped(escape, most)).await;
        next_of(&mut client, "ok").await;
        client.send(&escaped(escape, most + 1)).await;
        assert_eq!(next_of(&mut client, "error").await["code"], "message_too_long", "{escape}");
    }
    // With as much of data, an id, a key and a room whose names are escaped as well.
    let (room, tag) = ("\\u0436".repeat(64), "x".repeat(126));
    client.send(&format!(r#"{{"type":"join","room":"{room}"}}"#)).await;
    next_of(&mut client, "joined").await;
    let data = format!("\"{}\"", "d".repeat(32_766));
    let text = "\\u001b".repeat(32_768);
    client
        .send(&format!(
            r#"{{"type":"send","id":"{tag}","key":"{tag}","room":"{room}","message":"{text}","data":{data}}}"#
        ))
        .await;
    next_of(&mut client, "ok").await;
}

/// docs/protocol.md promises clients that no frame is larger.
#[tokio::test]
async fn no_frame_of_a_server_has_two_mebibytes() {
    const MOST: usize = 2 * 1024 * 1024;
    let server = server(&FAST);
    let mut writer = server.native().await;
    join(&mut writer, "r").await;
    for _ in 0..20 {
        let text = "\u{1b}".repeat(32_768);
        ask(&mut writer, "ok", json!({"type": "send", "room": "r", "message": text})).await;
    }
    let mut largest = 0;
    for frame in [
        json!({"type": "join", "room": "r", "since": {"epoch": "", "offset": 0}}),
        json!({"type": "join", "room": "r", "history": 256}),
        json!({"type": "history", "room": "r", "after": 0}),
    ] {
        let mut reader = server.native().await;
        ask(&mut reader, "joined", json!({"type": "join", "room": "r"})).await;
        reader.send_json(&frame).await;
        let answer = loop {
            let text = reader.recv().await;
            if text.len() > 100_000 {
                break text;
            }
        };
        largest = largest.max(answer.len());
    }
    assert!((MOST / 2..MOST).contains(&largest), "{largest} bytes");
}
