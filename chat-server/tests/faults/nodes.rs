//! Faults within a server: its own, and of what reads its log.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

use async_trait::async_trait;
use chat_core::UserId;
use chat_server::{
    Action, AuthError, Authenticator, Authorizer, Credentials, Identity, JwtSigner, Server,
    TokenClaims,
};
use chat_transport::testing::{WsClient, raw_frame, raw_handshake};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::support::raw::Raw;
use crate::support::{Chat, ask, command, eventually, exchange, join, next_of, say};

/// Believes what it is told.
#[derive(Debug)]
struct Trusting;

#[async_trait]
impl Authenticator for Trusting {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        let user = client.token.ok_or(AuthError::Missing)?;
        Ok(Identity::new(UserId::new(user).map_err(|why| AuthError::invalid(why.to_string()))?))
    }
}

/// Cannot cope with one of the users.
#[derive(Debug)]
struct Faulty;

#[async_trait]
impl Authorizer for Faulty {
    async fn allows(&self, who: &Identity, _: Action<'_>) -> bool {
        assert!(who.user.as_str() != "mallory", "a fault of the application's");
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_connection() {
    let server = Server::builder().authenticator(Trusting).authorizer(Faulty).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(vec![listener], std::future::pending()).await }
    });
    let client = async |user: &str| {
        let url = format!("ws://127.0.0.1:{port}/ws?token={user}");
        WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await
    };
    let (mut ann, mut bob, mut mallory) =
        (client("ann").await, client("bob").await, client("mallory").await);
    join(&mut ann, "r").await;
    join(&mut bob, "r").await;
    mallory.send_json(&json!({"type": "join", "room": "r"})).await;
    assert_eq!(mallory.recv_until_close().await.1.0, 1011);
    for n in 0..10 {
        ask(&mut ann, "ok", json!({"type": "send", "room": "r", "message": n.to_string()})).await;
        assert_eq!(next_of(&mut bob, "message").await["message"], n.to_string());
    }
    // The connection counts until its socket is gone.
    drop(mallory);
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let lines = ["chat_panics_total 1", "chat_connections 2", "chat_closed_total{code=\"1011\"} 1"];
    eventually("one connection to have ended", async || {
        let page = exchange(port, request).await.2;
        lines.iter().all(|line| page.contains(&format!("\n{line}\n")))
    })
    .await;
    serving.abort();
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The log goes to a pipe whose reader has stopped reading, as with `chat-server | sleep 1000`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_read_holds_nothing_up() {
    /// Each is worth a line at debug: more than the pipe and the server hold.
    const ROOMS: usize = 6_000;
    let (reader, writer) = std::io::pipe().unwrap();
    let args = ["--port", "0", "--limits", "off", "--log", "info,chat_broker=debug"];
    let process = command().args(args).stdout(writer).spawn().unwrap();
    let process = Running(process);
    let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
    let port = lines.find_map(|line| {
        let port = line.split("http://127.0.0.1:").nth(1)?;
        port.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok()
    });
    // Nobody reads any further, and the reader stays.
    let mut client = Raw::connect(port.unwrap()).await.unwrap();
    let talk = async {
        for n in 0..ROOMS {
            let room = format!("{n:-<128}");
            let join = json!({"type": "join", "room": room});
            client.ask("joined", &join).await.expect("the server goes on");
        }
    };
    timeout(Duration::from_secs(60), talk).await.expect("the server waits for its log");
    // What was too much was dropped, and the reader is told of it.
    let told = tokio::task::spawn_blocking(move || {
        lines.find(|line| line.contains("lines of the log were dropped"))
    });
    let told = timeout(Duration::from_secs(20), told).await;
    let told = told.expect("nobody is told").unwrap().expect("the server lives");
    say(&format!("a log that is not read, under {ROOMS} rooms: {told}"));
    drop(process);
}

/// A server is stopped for longer than all of its deadlines, and goes on. Its clients were there
/// all the time: what they said meanwhile is read first, and no one is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_was_stopped_closes_no_client() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let soon = "1s";
    let server = Chat::start(command().env("JWT_SECRET", SECRET).args([
        "--port",
        "0",
        "--ping-interval",
        soon,
        "--pong-timeout",
        soon,
        "--write-timeout",
        soon,
        "--message-timeout",
        soon,
        "--auth-timeout",
        soon,
    ]));
    let token = {
        let claims = TokenClaims::new(&UserId::new("ann").unwrap(), Duration::from_secs(600));
        JwtSigner::with_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap()
    };
    let hello = json!({"type": "hello", "token": token});
    let mut idle = Raw::connect(server.port()).await.unwrap();
    let mut busy = Raw::connect(server.port()).await.unwrap();
    for client in [&mut idle, &mut busy] {
        client.ask("welcome", &hello).await.unwrap();
        client.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
    }
    // One is in the middle of a frame, on a slow line; one has yet to say who it is.
    let address = format!("127.0.0.1:{}", server.port());
    let mut slow = raw_handshake(&address, &format!("/ws?token={token}")).await;
    let ping = raw_frame(0x81, br#"{"type":"ping"}"#);
    let mut late = Raw::connect(server.port()).await.unwrap();
    for _ in 0..3 {
        slow.write_all(&ping[..9]).await.unwrap();
        // The server has read that much.
        busy.ask("pong", &json!({"type": "ping"})).await.expect("it was closed");
        server.signal("STOP");
        busy.send(&json!({"type": "send", "room": "r", "message": "x"})).await;
        late.send(&hello).await;
        sleep(Duration::from_secs(3)).await;
        server.signal("CONT");
        // A runtime that answers has looked at its timers.
        server.until_ready().await;
        slow.write_all(&ping[9..]).await.unwrap();
        assert_eq!(next_frame(&mut slow).await, br#"{"type":"pong"}"#);
        for (client, kind) in [(&mut busy, "ok"), (&mut late, "welcome"), (&mut idle, "message")] {
            client.next_of(kind).await.expect("it was closed");
        }
    }
    for client in [&mut idle, &mut busy, &mut late] {
        client.ask("pong", &json!({"type": "ping"})).await.expect("it was closed");
    }
    for code in [1006, 1008, 4000, 4001] {
        assert_eq!(server.metric(&format!("chat_closed_total{{code=\"{code}\"}}")).await, 0);
    }
}

/// The payload of the next frame that is none of the heartbeat, of which it answers the pings.
async fn next_frame(stream: &mut TcpStream) -> Vec<u8> {
    loop {
        let [head, len] = [stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap()];
        let mut payload = vec![0; usize::from(len)];
        stream.read_exact(&mut payload).await.unwrap();
        if head != 0x89 {
            return payload;
        }
        stream.write_all(&raw_frame(0x8a, &payload)).await.unwrap();
    }
}
