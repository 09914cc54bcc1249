//! Pages, requests and clients of two dialects.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use chat_broker::testing::free_port;
use chat_transport::TransportConfig;
use chat_transport::testing::{WsClient, raw_frame, raw_handshake, read_head};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::instance::{Balancer, Program, has_ipv6, replaced};
use super::{Site, by_turns, for_each_balancer, join, native, next, request, restarted, say, tls};
use crate::support::{Chat, DEADLINE, command, exchange};

for_each_balancer! {
    clients_are_distributed_and_meet
    clients_are_distributed_and_meet_over_tls
    page_is_not_counted_as_a_client
    clients_may_use_ipv6
    servers_know_the_host
    links_are_those_of_the_public_url
    close_code_of_a_large_frame_is_passed_on
    pages_of_operators_are_not_public
    clients_of_a_dead_server_continue_elsewhere
    heartbeat_is_shorter_than_the_timeout
    draining_server_is_passed_over
    without_servers_clients_learn_when_to_retry
    addresses_of_clients_are_counted
    websockets_alone_are_passed_on
}

async fn clients_are_distributed_and_meet(program: &'static Program) {
    let site = Site::start(program).await;
    chat_through(site.balancer.port(), &site, "plain").await;
}

async fn clients_are_distributed_and_meet_over_tls(program: &'static Program) {
    let site = Site::start(program).await;
    let port = tls::tunnel(site.balancer.tls_port(), &site.balancer.certificate()).await;
    chat_through(port, &site, "secret").await;
}

/// Clients of two dialects, distributed over both servers by what listens on `port`.
async fn chat_through(port: u16, site: &Site, room: &str) {
    let mut clients = Vec::from(by_turns(port, async || {}).await);
    clients.extend(by_turns(port, async || {}).await);

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

async fn page_is_not_counted_as_a_client(program: &'static Program) {
    let site = Site::start(program).await;
    let port = site.balancer.port();
    by_turns(port, async || assert_eq!(request(port, "GET /", "").await.0, 200)).await;
}

async fn clients_may_use_ipv6(program: &'static Program) {
    if !has_ipv6() {
        return;
    }
    let server = Chat::alone();
    let balancer = Balancer::start(program, [server.port(), server.port()]);
    for port in [balancer.port(), balancer.tls_port()] {
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.expect("it listens on IPv6");
    }
    raw_handshake(&format!("[::1]:{}", balancer.port()), "/ws").await;
}

async fn servers_know_the_host(program: &'static Program) {
    let site = Site::start(program).await;
    let port = site.balancer.port();
    for _ in 0..2 {
        let (status, _, body) = request(port, "POST /create-room", "").await;
        assert_eq!(status, 201, "{body}");
        let created: Value = serde_json::from_str(&body).unwrap();
        let room = created["roomId"].as_str().unwrap();
        assert_eq!(created["url"], format!("http://chat.example/join-room/{room}"));
    }
    // The rule for origins compares with the host, too.
    let own = request(port, "POST /create-room", "Origin: https://chat.example\r\n").await;
    assert_eq!(own.0, 201);
    let other = request(port, "POST /create-room", "Origin: https://evil.example\r\n").await;
    assert_eq!(other.0, 403);
    let (status, head, _) = request(port, "GET /", "").await;
    assert_eq!(status, 200);
    assert!(head.contains("wss://chat.example:*"), "{head}");
}

async fn links_are_those_of_the_public_url(program: &'static Program) {
    let server =
        Chat::start(command().args(["--port", "0", "--public-url", "https://chat.example"]));
    let balancer = Balancer::start(program, [server.port(), server.port()]);
    let port = tls::tunnel(balancer.tls_port(), &balancer.certificate()).await;
    let (_, _, body) = request(port, "POST /create-room", "").await;
    assert!(body.contains(r#""url":"https://chat.example/join-room/"#), "{body}");
}

/// nginx ends both sides of a tunnel when one of them ends.
async fn close_code_of_a_large_frame_is_passed_on(program: &'static Program) {
    let server = Chat::start(command().args(["--port", "0", "--allow-host", "chat.example"]));
    let balancer = Balancer::start(program, [server.port(), server.port()]);
    let mut stream = raw_handshake(&format!("127.0.0.1:{}", balancer.port()), "/ws").await;
    let frame = raw_frame(0x81, &vec![b'x'; 5 << 20]);
    stream.write_all(&frame).await.expect("it is read to its end");
    let mut close = [0; 4];
    stream.read_exact(&mut close).await.expect("no reset before the close frame");
    assert_eq!(close[2..], 1009_u16.to_be_bytes());
}

async fn pages_of_operators_are_not_public(program: &'static Program) {
    let site = Site::start(program).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (status, _, body) = request(site.balancer.port(), &format!("GET {path}"), "").await;
        assert_eq!(status, 404, "{path}: {body}");
        assert_eq!(site.first.http("GET", path).await.0, 200, "{path}");
    }
    let (status, _, body) = request(site.balancer.port(), "GET /api/bans", "").await;
    assert_eq!(status, 404);
    assert!(!body.contains("not_found"), "the balancer answers, not a server: {body}");
}

async fn clients_of_a_dead_server_continue_elsewhere(program: &'static Program) {
    let mut site = Site::start(program).await;
    let port = site.balancer.port();
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
    tokio::time::timeout(DEADLINE, one_ends).await.expect("the balancer passes the end on");

    for message in ["I", "am", "back"] {
        let (mut back, node) = native(port).await;
        assert_eq!(node, second, "no client meets the dead server");
        join(&mut back, "r").await;
        say(&mut back, "r", message).await;
        assert_eq!(next(&mut on_second, "message").await["message"], message);
    }

    site.first = restarted(&site.redis, site.first.port()).await;
    let deadline = Instant::now() + DEADLINE;
    while native(port).await.1 == second {
        assert!(Instant::now() < deadline, "the server that came back is not found");
    }
}

/// The server, and not the balancer, closes a connection whose client is silent.
async fn heartbeat_is_shorter_than_the_timeout(program: &'static Program) {
    let heartbeat = TransportConfig::default().heartbeat.unwrap();
    let least = heartbeat.interval + heartbeat.timeout;
    for timeout in program.timeouts {
        let (_, rest) = program.documented.split_once(timeout).unwrap();
        let seconds = rest.trim_start().split_once('s').unwrap().0.parse().unwrap();
        assert!(least < Duration::from_secs(seconds), "{timeout} {seconds}s");
    }
}

/// A server that is shutting down but for its health: it refuses every other request with 503, and
/// hands over what it received.
async fn draining() -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (received, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_head(&mut stream).await;
            // It lives, and a balancer that asks for its readiness has not noticed yet.
            let is_check =
                ["GET /healthz ", "GET /readyz "].iter().any(|get| head.starts_with(get));
            let status = if is_check { "200 OK" } else { "503 Service Unavailable" };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            // A balancer that ends may have left.
            let _ = stream.write_all(answer.as_bytes()).await;
            if !is_check {
                let _ = received.send(head.to_ascii_lowercase());
            }
        }
    });
    (port, requests)
}

async fn draining_server_is_passed_over(program: &'static Program) {
    let (draining, mut requests) = draining().await;
    let server = Chat::alone();
    let balancer = Balancer::start(program, [draining, server.port()]);
    let url = format!("ws://127.0.0.1:{}/", balancer.port());
    let forged = [("X-Forwarded-For", "10.9.8.7"), ("Forwarded", "for=10.9.8.7")];
    let deadline = Instant::now() + DEADLINE;
    let handshake = loop {
        let mut client = WsClient::connect_with(&url, &forged).await;
        client.send(r#"{"type":"ping"}"#).await;
        client.expect(r#"{"type":"pong"}"#).await;
        if let Ok(request) = requests.try_recv() {
            break request;
        }
        assert!(Instant::now() < deadline, "no handshake was sent to the draining server");
    };
    for line in [
        &format!("host: 127.0.0.1:{}", balancer.port()),
        "connection: upgrade",
        "upgrade: websocket",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
    ] {
        assert!(handshake.lines().any(|found| found == line), "{line} in:\n{handshake}");
    }
    assert!(!handshake.contains("10.9.8.7"), "{handshake}");

    let create = "POST /create-room HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    while !requests.try_recv().is_ok_and(|request| request.starts_with("post ")) {
        let (status, _, body) = exchange(balancer.port(), create).await;
        assert_eq!(status, 201, "{body}");
        assert!(Instant::now() < deadline, "no POST was sent to the draining server");
    }
    assert_eq!(balancer.errors_answered(), Vec::<String>::new());
}

/// As a server itself would say it, for clients and backends that read the code.
async fn without_servers_clients_learn_when_to_retry(program: &'static Program) {
    let balancer = Balancer::start(program, [free_port(), free_port()]);
    for line in ["POST /create-room", "GET /ws"] {
        let (status, head, body) = request(balancer.port(), line, "").await;
        let head = head.to_ascii_lowercase();
        assert_eq!(status, 503, "{head}{body}");
        for line in ["retry-after: 1", "content-type: application/json"] {
            assert!(head.lines().any(|found| found == line), "{line} in {head}");
        }
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
        assert_eq!(body["code"], "no_server");
        assert!(body["message"].is_string());
    }
}

/// The servers trust the balancer, and limit each client by its own address.
async fn addresses_of_clients_are_counted(program: &'static Program) {
    let server = Chat::start(command().args([
        "--port",
        "0",
        "--trusted-proxies",
        "127.0.0.1",
        "--max-connections-per-address",
        "1",
    ]));
    let balancer = Balancer::start(program, [server.port(), server.port()]);
    let handshake = async |address: [u8; 4]| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        let mut stream =
            socket.connect((Ipv4Addr::LOCALHOST, balancer.port()).into()).await.unwrap();
        let head = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        (head.split(' ').nth(1).unwrap().to_owned(), stream)
    };
    let (first, _first) = handshake([127, 0, 0, 2]).await;
    let (second, _second) = handshake([127, 0, 0, 2]).await;
    let (other, _other) = handshake([127, 0, 0, 3]).await;
    assert_eq!([first, second, other], ["101", "429", "101"]);
}

async fn websockets_alone_are_passed_on(program: &'static Program) {
    let server = Chat::start(command().args(["--port", "0", "--allow-host", "chat.example"]));
    let (everything, websockets) = program.websockets_alone;
    let balancer = Balancer::start_with(program, [server.port(), server.port()], |text| {
        replaced(text, everything, websockets)
    });
    native(balancer.port()).await;
    // Caddy answers with nothing what it does not pass on, and 200.
    let file = async |port| request(port, "GET /web/app.js", "").await.2.contains("import");
    assert!(file(server.port()).await);
    assert!(!file(balancer.port()).await, "pages are the application's");
}
