//! Two servers behind a real nginx, with the configuration that the documentation shows.

mod instance;
mod tls;
mod websockets;

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::TransportConfig;
use chat_transport::testing::{WsClient, raw_frame, raw_handshake, read_head};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{Chat, DEADLINE, command, exchange};
use instance::{Nginx, replaced};

/// What the documentation draws: nginx, two servers, one Redis.
struct Site {
    nginx: Nginx,
    first: Chat,
    second: Chat,
    redis: RedisServer,
}

impl Site {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let name = ["--allow-host", "chat.example"];
        let [first, second] = Chat::several(&redis, &name).await;
        let nginx = Nginx::start([first.port(), second.port()]);
        Self { nginx, first, second, redis }
    }

    /// Two clients in the room `r`, of which one is on the first server and one on the
    /// second, and the second server's name.
    async fn one_on_each(&self) -> (WsClient, WsClient, String) {
        let port = self.nginx.port();
        let ((mut a, on_a), (mut b, on_b)) = (native(port).await, native(port).await);
        let (_, second) = native(self.second.port()).await;
        assert_ne!(on_a, on_b);
        join(&mut a, "r").await;
        join(&mut b, "r").await;
        if on_a == second { (b, a, second) } else { (a, b, second) }
    }
}

/// A client of the native protocol, and the name of the server where it is.
async fn native(port: u16) -> (WsClient, String) {
    let url = format!("ws://127.0.0.1:{port}/ws");
    let mut client = WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    assert_eq!(client.protocol(), Some("chat.v1"));
    client.send(r#"{"type":"hello"}"#).await;
    let welcome = client.recv_json().await;
    let node = welcome["node"].as_str().expect("the name of a server").to_owned();
    (client, node)
}

async fn join(client: &mut WsClient, room: &str) {
    client.send_json(&json!({"type": "join", "room": room})).await;
    assert_eq!(next(client, "joined").await["room"], room);
}

async fn say(client: &mut WsClient, room: &str, message: &str) {
    client.send_json(&json!({"type": "send", "room": room, "message": message})).await;
}

/// The next frame of a type. The comings of others are passed over.
async fn next(client: &mut WsClient, kind: &str) -> Value {
    loop {
        let frame = client.recv_json().await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

/// Clients of two dialects, spread over both servers by whatever listens on `port`.
async fn chat_through(port: u16, site: &Site, room: &str) {
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(native(port).await);
    }
    assert_ne!(clients[0].1, clients[1].1, "by turns");
    assert_ne!(clients[2].1, clients[3].1, "by turns");

    let url = format!("ws://127.0.0.1:{port}/");
    let (mut a, mut b) = (WsClient::connect(&url).await, WsClient::connect(&url).await);
    for client in [&mut a, &mut b] {
        client.send(&format!(r#"{{"type":"SUBSCRIBE","room":"{room}"}}"#)).await;
    }
    for server in [&site.first, &site.second] {
        server.until_logged(&format!("subscribing on the pub sub to room: {room}"));
    }
    let hey = format!(r#"{{"type":"sendMessage","roomId":"{room}","message":"hey"}}"#);
    for (client, _) in &mut clients {
        join(client, room).await;
    }
    a.send(&hey).await;
    a.expect(&hey).await;
    b.expect(&hey).await;
    for (client, _) in &mut clients {
        assert_eq!(next(client, "message").await["message"], "hey");
    }
    say(&mut clients[0].0, room, "hello").await;
    for (client, _) in &mut clients {
        assert_eq!(next(client, "message").await["message"], "hello");
    }
    let hello = hey.replace("hey", "hello");
    a.expect(&hello).await;
    b.expect(&hello).await;
}

#[tokio::test]
async fn clients_go_round_and_meet() {
    let site = Site::start().await;
    chat_through(site.nginx.port(), &site, "plain").await;
}

/// On more than one thread: the tunnel goes on while the test waits for a log.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_go_round_and_meet_over_tls() {
    let site = Site::start().await;
    let port = tls::tunnel(site.nginx.tls_port(), &site.nginx.certificate()).await;
    chat_through(port, &site, "secret").await;
}

#[tokio::test]
async fn a_page_is_not_a_turn() {
    let site = Site::start().await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        assert_eq!(ask(site.nginx.port(), "GET /", "").await.0, 200);
        clients.push(native(site.nginx.port()).await);
    }
    assert_ne!(clients[0].1, clients[1].1);
}

/// A request through nginx for `chat.example`.
async fn ask(port: u16, line: &str, header: &str) -> (u16, String, String) {
    let head = format!("{line} HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n");
    exchange(port, &format!("{head}Content-Length: 0\r\n{header}\r\n")).await
}

#[tokio::test]
async fn the_servers_know_the_host() {
    let site = Site::start().await;
    let port = site.nginx.port();
    for _ in 0..2 {
        let (status, _, body) = ask(port, "POST /create-room", "").await;
        assert_eq!(status, 201, "{body}");
        let created: Value = serde_json::from_str(&body).unwrap();
        let room = created["roomId"].as_str().unwrap();
        assert_eq!(created["url"], format!("http://chat.example/join-room/{room}"));
    }
    // The rule for origins compares with the host, too.
    let own = ask(port, "POST /create-room", "Origin: https://chat.example\r\n").await;
    assert_eq!(own.0, 201);
    let other = ask(port, "POST /create-room", "Origin: https://evil.example\r\n").await;
    assert_eq!(other.0, 403);
    let (status, head, _) = ask(port, "GET /", "").await;
    assert_eq!(status, 200);
    assert!(head.contains("wss://chat.example:*"), "{head}");
}

#[tokio::test]
async fn links_are_those_of_the_public_url() {
    let server =
        Chat::start(command().args(["--port", "0", "--public-url", "https://chat.example"]));
    let nginx = Nginx::start([server.port(), server.port()]);
    let port = tls::tunnel(nginx.tls_port(), &nginx.certificate()).await;
    let (_, _, body) = ask(port, "POST /create-room", "").await;
    assert!(body.contains(r#""url":"https://chat.example/join-room/"#), "{body}");
}

/// nginx ends both sides of a tunnel when one of them ends.
#[tokio::test]
async fn close_code_of_a_large_frame_comes_through() {
    let server = Chat::start(command().args(["--port", "0", "--allow-host", "chat.example"]));
    let nginx = Nginx::start([server.port(), server.port()]);
    let mut stream = raw_handshake(&format!("127.0.0.1:{}", nginx.port()), "/ws").await;
    let frame = raw_frame(0x81, &vec![b'x'; 5 << 20]);
    stream.write_all(&frame).await.expect("it is read to its end");
    let mut close = [0; 4];
    stream.read_exact(&mut close).await.expect("no reset before the close frame");
    assert_eq!(close[2..], 1009_u16.to_be_bytes());
}

/// As docs/nginx.md says: nginx takes the path away.
#[tokio::test]
async fn chat_may_be_below_a_path() {
    let url = "https://chat.example/chat";
    let server = Chat::start(command().args(["--port", "0", "--public-url", url]));
    let nginx = Nginx::start_with([server.port(), server.port()], |configuration| {
        let below = "location /chat/ {\n            proxy_pass http://chat/;";
        replaced(configuration, "location / {\n            proxy_pass http://chat;", below)
    });
    let page = async |path: &str| ask(nginx.port(), &format!("GET {path}"), "").await;
    for path in ["/chat/", "/chat/join-room/x", "/chat/join-room/x/"] {
        let (status, _, html) = page(path).await;
        assert!(status == 200 && html.contains("src=\"/chat/web-"), "{path}: {status} {html}");
    }
    assert_eq!(page("/chat/web/app.js").await.0, 200);
    let (_, _, body) = ask(nginx.port(), "POST /chat/create-room", "").await;
    assert!(body.contains(r#""url":"https://chat.example/chat/join-room/"#), "{body}");
    WsClient::connect(&format!("ws://127.0.0.1:{}/chat/ws", nginx.port())).await;
}

#[tokio::test]
async fn what_operators_ask_is_not_public() {
    let site = Site::start().await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (status, _, body) = ask(site.nginx.port(), &format!("GET {path}"), "").await;
        assert_eq!(status, 404, "{path}: {body}");
        assert_eq!(site.first.http("GET", path).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn who_was_on_a_server_that_died_goes_on_elsewhere() {
    let mut site = Site::start().await;
    let port = site.nginx.port();
    let (_on_first, mut on_second, second) = site.one_on_each().await;
    let address = format!("127.0.0.1:{port}");
    let mut raw = (raw_handshake(&address, "/").await, raw_handshake(&address, "/").await);

    site.first.signal("KILL");
    site.first.exit();
    let mut rest = (Vec::new(), Vec::new());
    let one_ends = async {
        tokio::select! {
            _ = raw.0.read_to_end(&mut rest.0) => {}
            _ = raw.1.read_to_end(&mut rest.1) => {}
        }
    };
    tokio::time::timeout(DEADLINE, one_ends).await.expect("nginx hands the end on");

    for message in ["I", "am", "back"] {
        let (mut back, node) = native(port).await;
        assert_eq!(node, second, "no client meets the dead server");
        join(&mut back, "r").await;
        say(&mut back, "r", message).await;
        assert_eq!(next(&mut on_second, "message").await["message"], message);
    }

    let port_of_first = site.first.port().to_string();
    let environment = [("PORT", port_of_first), ("REDIS_URL", site.redis.url())];
    site.first = Chat::start(command().envs(environment));
    let deadline = Instant::now() + DEADLINE;
    while native(port).await.1 == second {
        assert!(Instant::now() < deadline, "the server that came back is not found");
    }
}

#[tokio::test]
async fn a_server_is_taken_out_and_nobody_is_refused() {
    let mut site = Site::start().await;
    let port = site.nginx.port();
    let (mut on_first, mut on_second, second) = site.one_on_each().await;

    let address = format!("server 127.0.0.1:{} ", site.first.port());
    site.nginx.reconfigure(&address, &format!("{address}down "));
    let deadline = Instant::now() + DEADLINE;
    let mut in_a_row = 0;
    while in_a_row < 4 {
        assert!(Instant::now() < deadline, "nginx still asks the first server");
        in_a_row = if native(port).await.1 == second { in_a_row + 1 } else { 0 };
    }

    // Who is there may stay until the server says goodbye.
    say(&mut on_first, "r", "still here").await;
    assert_eq!(next(&mut on_second, "message").await["message"], "still here");
    site.first.signal("TERM");
    assert_eq!(next(&mut on_first, "goodbye").await["reconnect"], true);
    assert_eq!(on_first.recv_close().await.0, 1001);
    assert_eq!(site.first.exit().code(), Some(0));
    assert_eq!(native(port).await.1, second);
}

#[test]
fn the_server_notices_a_dead_client_before_nginx_does() {
    let (_, rest) = instance::DOCUMENTED.split_once("proxy_read_timeout ").unwrap();
    let patience: u64 = rest.split_once("s;").unwrap().0.parse().unwrap();
    let heartbeat = TransportConfig::default().heartbeat.unwrap();
    assert!(heartbeat.interval + heartbeat.timeout < Duration::from_secs(patience));
}

/// A server that is shutting down: it refuses every request with 503, and hands over what
/// it was asked.
async fn draining() -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, questions) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_head(&mut stream).await;
            let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            asked.send(head.to_ascii_lowercase()).unwrap();
        }
    });
    (port, questions)
}

#[tokio::test]
async fn a_server_that_is_shutting_down_is_passed_over() {
    let (draining, mut questions) = draining().await;
    let server = Chat::alone();
    let nginx = Nginx::start([draining, server.port()]);
    let url = format!("ws://127.0.0.1:{}/", nginx.port());
    let forged = [("X-Forwarded-For", "10.9.8.7")];
    for _ in 0..2 {
        let mut client = WsClient::connect_with(&url, &forged).await;
        client.send(r#"{"type":"ping"}"#).await;
        client.expect(r#"{"type":"pong"}"#).await;
    }
    let question = questions.try_recv().expect("the first or the second went there");
    for line in [
        &format!("host: 127.0.0.1:{}", nginx.port()),
        "connection: upgrade",
        "upgrade: websocket",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
    ] {
        assert!(question.lines().any(|found| found == line), "{line} in:\n{question}");
    }
    assert!(!question.contains("10.9.8.7"), "{question}");

    let create = "POST /create-room HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for _ in 0..2 {
        let (status, _, body) = exchange(nginx.port(), create).await;
        assert_eq!(status, 201, "{body}");
    }
    questions.try_recv().expect("a POST was sent to the server that is shutting down");
}
