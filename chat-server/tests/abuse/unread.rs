//! Clients that ask for much and read nothing of it: what the kernel holds for them is bounded,
//! counted, and gone with the connection.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use chat_transport::testing::{raw_frame, read_head};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::sockets::Sockets;
use crate::support::{Chat, DEADLINE, ask, command, join, say};

const CLIENTS: usize = 20;

/// How many bytes the kernel may hold for one of them: `socket_buffer_bytes` is 128 KiB, for which
/// Linux takes twice as much, and one segment more.
const EACH: u64 = 320 * 1024;

/// How long the kernel may hold anything after the server has counted the end: it would hold it for
/// minutes if the server did not reset the connection.
const GONE: Duration = DEADLINE;

/// A server with a room of 4 MiB that a client can ask for.
async fn with_history() -> Chat {
    let server = Chat::start(command().args(["--port", "0", "--write-timeout", "1s"]));
    let mut writer = server.native().await;
    join(&mut writer, "r").await;
    let send = json!({"type": "send", "room": "r", "message": "x".repeat(16 * 1024)});
    for _ in 0..256 {
        ask(&mut writer, "ok", send.clone()).await;
    }
    writer.close().await;
    server.until_metric("chat_connections", |open| open == 0).await;
    server
}

/// A WebSocket with a receive buffer of a few KiB that has asked for pages.
async fn asking(port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: chat.v1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    for frame in [
        json!({"type": "join", "room": "r", "since": {"epoch": "", "offset": 0}}),
        json!({"type": "history", "room": "r", "limit": 256}),
        json!({"type": "members", "room": "r"}),
        json!({"type": "history", "room": "r", "limit": 256}),
    ] {
        stream.write_all(&raw_frame(0x81, frame.to_string().as_bytes())).await.unwrap();
    }
    stream
}

/// The most that the kernel has held until the server counts no connection any more.
async fn most_until_counted_out(server: &Chat) -> Sockets {
    let mut most = Sockets::default();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = Sockets::of_server(server.port());
        most.count = most.count.max(now.count);
        most.unsent = most.unsent.max(now.unsent);
        if server.metric("chat_connections").await == 0 {
            return most;
        }
        assert!(Instant::now() < deadline, "{now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_pages_are_bounded_and_gone_with_the_connection() {
    let server = with_history().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(asking(server.port()).await);
    }
    let most = most_until_counted_out(&server).await;
    Sockets::until_at_most(server.port(), 0, GONE).await;
    assert_eq!(server.metric("chat_closed_total{code=\"4000\"}").await, CLIENTS as u64);
    say(&format!("{CLIENTS} clients that read nothing: at most {most:?}"));
    assert!(most.unsent > 0, "nothing was sent: the test tests nothing");
    assert!(most.unsent < CLIENTS as u64 * EACH, "{most:?}");
}

/// They have closed in both senses, so that no deadline of the server's holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_pages_of_half_closed_clients_are_gone_with_the_connection() {
    let server = with_history().await;
    let mut clients = Vec::new();
    for nth in 0..CLIENTS {
        let mut stream = asking(server.port()).await;
        if nth % 2 == 0 {
            stream.write_all(&raw_frame(0x88, &1000_u16.to_be_bytes())).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        clients.push(stream);
    }
    let most = most_until_counted_out(&server).await;
    Sockets::until_at_most(server.port(), 0, GONE).await;
    assert!(most.unsent < CLIENTS as u64 * EACH, "{most:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_by_http_are_bounded_and_gone_with_the_connection() {
    let server = Chat::start(command().args(["--port", "0", "--handshake-timeout", "1s"]));
    let request = b"GET /web/chat-client.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let address = (Ipv4Addr::LOCALHOST, server.port()).into();
        let mut stream = socket.connect(address).await.unwrap();
        let written = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&request));
        assert!(written.await.is_ok(), "the kernel takes the requests");
        stream.shutdown().await.unwrap();
        clients.push(stream);
    }
    let began = Instant::now();
    let mut most = Sockets::default();
    while Sockets::of_server(server.port()).count > 0 {
        let now = Sockets::of_server(server.port());
        most.unsent = most.unsent.max(now.unsent);
        // The time for a response.
        assert!(began.elapsed() < Duration::from_secs(30) + DEADLINE, "{now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    say(&format!(
        "{CLIENTS} clients that read no answers: gone after {:?}, {most:?}",
        began.elapsed()
    ));
    assert!(most.unsent > 0 && most.unsent < CLIENTS as u64 * EACH, "{most:?}");
}
