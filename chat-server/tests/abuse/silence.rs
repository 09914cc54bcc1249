//! Connections on which nothing comes, or half of something.

use std::time::{Duration, Instant};

use chat_transport::testing::raw_frame;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::unlimited;
use super::wire::{close_code, connect, read_to_end, websocket};
use crate::support::control_clients::ControlClients;
use crate::support::process::Process;
use crate::support::{Chat, command, say};

/// How many keep silent.
const SILENT: usize = 1000;

/// How long a client may take to send the head of its request, as the server has it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// And what a busy machine may add. The server would keep a connection that it forgets for good.
const SLACK: Duration = Duration::from_secs(30);

/// What some say, and then nothing more.
const BEGINNINGS: [&[u8]; 8] = [
    b"",
    b"\r\n\r\n\n\n",
    b"G",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /",
    b"POST /create-room HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\n",
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_handshakes_end_and_keep_nobody_out() {
    // Those who have been served may be idle for longer by default.
    let server = Chat::start(command().args(["--port", "0", "--keep-alive-timeout", "8s"]));
    let process = Process(server.pid());
    let files = process.files();
    let mut silent = Vec::new();
    for nth in 0..SILENT {
        let mut stream = connect(server.port()).await;
        stream.write_all(BEGINNINGS[nth % BEGINNINGS.len()]).await.unwrap();
        silent.push(stream);
    }
    let began = Instant::now();
    let dripping = tokio::spawn(drip(connect(server.port()).await));
    let slowest = slowest_newcomer(&server).await;
    for stream in &mut silent {
        read_to_end(stream, (HEAD_TIMEOUT + SLACK).saturating_sub(began.elapsed())).await;
    }
    let took = began.elapsed();
    dripping.await.expect("a client that sends a byte a second was kept");
    drop(silent);
    process.until_files(files).await;
    say(&format!(
        "{SILENT} silent handshakes: gone after {took:.1?}, newcomers in within {slowest:.1?}"
    ));
}

/// A byte each second does not make a request that ends.
async fn drip(mut stream: TcpStream) {
    let began = Instant::now();
    while stream.write_all(b"G").await.is_ok() {
        assert!(began.elapsed() < HEAD_TIMEOUT + SLACK, "it goes on and on");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How long a message may take, as the server has it.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take to receive a response, as the server has it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests whose answers are not read: more than the kernel takes, and no more is answered than
/// that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_end_the_connection() {
    const CLIENTS: usize = 20;
    let server = unlimited();
    let process = Process(server.pid());
    let (files, before) = (process.files(), process.rss_kib());
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = connect(server.port()).await;
        let requests = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10_000);
        // It waits as soon as the server waits.
        let written = tokio::spawn(async move {
            let _ = stream.write_all(&requests).await;
            stream
        });
        clients.push(written);
    }
    slowest_newcomer(&server).await;
    let deadline = began + RESPONSE_TIMEOUT + SLACK;
    while process.files() > files {
        assert!(Instant::now() < deadline, "{} files instead of {files}", process.files());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (took, grown) = (began.elapsed(), process.rss_kib().saturating_sub(before));
    let limited = "chat_limited_total{limit=\"response_timeout\"}";
    assert_eq!(server.metric(limited).await, CLIENTS as u64);
    say(&format!(
        "{CLIENTS} clients that read no answers: gone after {took:.1?}, {grown} KiB more"
    ));
    assert!(grown < CLIENTS as u64 * 256, "{grown} KiB for {CLIENTS} clients");
}

/// A byte each second does not make a message that ends, either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_drips_is_ended() {
    let server = unlimited();
    let control_clients = ControlClients::at(server.port()).await;
    let mut stream = websocket(server.port()).await;
    let frame = raw_frame(0x81, &[b'x'; 125]);
    let began = Instant::now();
    let (head, payload) = frame.split_at(6);
    stream.write_all(head).await.unwrap();
    for byte in payload {
        stream.write_all(&[*byte]).await.unwrap();
        if let Ok(code) = timeout(Duration::from_secs(1), close_code(&mut stream)).await {
            assert_eq!(code, Some(1008));
            break;
        }
        assert!(began.elapsed() < MESSAGE_TIMEOUT + SLACK, "it goes on and on");
    }
    let took = began.elapsed();
    say(&format!(
        "a byte a second: closed after {took:.1?}; control clients: {}",
        control_clients.were_served().await
    ));
    assert!(took >= MESSAGE_TIMEOUT, "closed after {took:?} already");
}

/// While many are silent, others come and are served.
async fn slowest_newcomer(server: &Chat) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let began = Instant::now();
        let mut client = server.native().await;
        client.send(r#"{"type":"ping"}"#).await;
        client.expect(r#"{"type":"pong"}"#).await;
        slowest = slowest.max(began.elapsed());
    }
    slowest
}
