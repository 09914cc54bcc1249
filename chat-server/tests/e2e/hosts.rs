//! Requests for hosts that are not this server's: what a page does whose name was made to resolve
//! to this machine (DNS rebinding).

use chat_transport::testing::{WsClient, read_head};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{Chat, command};

const FOREIGN: &str = "evil.example";

const REFUSED: &str = "chat_refused_handshakes_total{status=\"403\",reason=\"foreign_host\"}";

fn server(args: &[&str]) -> Chat {
    Chat::start(command().args(["--port", "0"]).args(args))
}

/// The status and the body of the answer to a request for `host`.
async fn ask(server: &Chat, line: &str, host: &str) -> (u16, String) {
    let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    let (status, _, body) = server.raw(&format!("{head}Content-Length: 0\r\n\r\n")).await;
    (status, body)
}

/// The status of the answer to a handshake that a page at `host` opens.
async fn handshake(server: &Chat, host: &str) -> u16 {
    let head = format!("GET /ws HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    stream.write_all(format!("{head}{upgrade}").as_bytes()).await.unwrap();
    let answer = read_head(&mut stream).await;
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn foreign_host_is_refused_on_every_route() {
    let server = server(&["--api-key", "a key for backends"]);
    for line in [
        "GET /",
        "GET /ws",
        "POST /create-room",
        "OPTIONS /create-room",
        "GET /join-room/r",
        "GET /web/app.js",
        "GET /metrics",
        "POST /api/users/u/disconnect",
        "GET /nothing",
        "DELETE /",
    ] {
        let (status, body) = ask(&server, line, FOREIGN).await;
        assert_eq!(status, 403, "{line}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["code"], "host_not_allowed", "{line}");
        assert!(body["message"].as_str().unwrap().contains("allow-host"), "{body}");
    }
    assert_eq!(handshake(&server, FOREIGN).await, 403);
    assert_eq!(server.metric("chat_limited_total{limit=\"host\"}").await, 11);
    assert_eq!(server.metric(REFUSED).await, 1);
}

#[tokio::test]
async fn target_counts_over_the_header() {
    let server = server(&[]);
    assert_eq!(ask(&server, "GET http://evil.example/", "localhost").await.0, 403);
    assert_eq!(ask(&server, "GET http://localhost/", FOREIGN).await.0, 200);
}

#[tokio::test]
async fn probes_are_answered_for_any_host() {
    let server = server(&[]);
    assert_eq!(ask(&server, "GET /healthz", FOREIGN).await.0, 200);
    server.until_ready().await;
    assert_eq!(ask(&server, "GET /readyz", FOREIGN).await.0, 200);
    let (status, _, _) = server.raw("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, 200, "without a host");
    let (status, _, _) = server.raw("OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, 204, "what HAProxy asks by default");
}

/// RFC 9112, section 3.2: on any path, and on handshakes.
#[tokio::test]
async fn one_valid_host_is_needed_everywhere() {
    let server = server(&["--api-key", "a key for backends"]);
    const UPGRADE: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut handshakes = 0;
    for line in [
        "GET /",
        "GET /ws",
        "GET /join-room/r",
        "POST /create-room",
        "GET /web/app.js",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "POST /api/rooms/r/kick",
        "GET /nothing",
        "OPTIONS *",
        "GET http://localhost/",
    ] {
        for host in [
            "",
            "Host: localhost\r\nHost: localhost\r\n",
            "Host: localhost\r\nhost: evil.example\r\n",
            "Host:\r\n",
            "Host: a b\r\n",
            "Host: http://localhost\r\n",
            "Host: user@localhost\r\n",
            "Host: localhost/x\r\n",
            "Host: [zzz]\r\n",
            "Host: localhost:99999\r\n",
        ] {
            for (connection, upgrade) in [("close", ""), ("Upgrade, close", UPGRADE)] {
                let head = format!("{line} HTTP/1.1\r\n{host}Connection: {connection}\r\n");
                let (status, _, body) = server.raw(&format!("{head}{upgrade}\r\n")).await;
                assert_eq!(status, 400, "{line} {host:?} {body}");
                let body: Value = serde_json::from_str(&body).unwrap();
                assert_eq!(body["code"], "bad_field", "{line} {host:?}");
                handshakes += u64::from(!upgrade.is_empty());
            }
        }
    }
    let refused = "chat_refused_handshakes_total{status=\"400\",reason=\"invalid_host\"}";
    assert_eq!(server.metric(refused).await, handshakes);
}

/// The rule for origins goes by the host that the request is for.
#[tokio::test]
async fn origin_is_compared_with_the_target() {
    let server = server(&["--allow-host", ".example"]);
    for (target, host, origin, status) in [
        ("http://chat.example/ws", "evil.example", "http://chat.example", 101),
        ("http://chat.example/ws", "evil.example", "http://evil.example", 403),
        ("http://chat.example/ws", "localhost", "http://localhost", 403),
        ("/ws", "chat.example", "http://chat.example", 101),
        ("/ws", "chat.example", "http://evil.example", 403),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n");
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        stream.write_all(format!("{head}{upgrade}").as_bytes()).await.unwrap();
        let answer = read_head(&mut stream).await;
        assert!(answer.contains(&format!(" {status} ")), "{target} {host} {origin}: {answer}");
    }
}

#[tokio::test]
async fn local_names_and_addresses_need_no_setting() {
    let server = server(&[]);
    for host in ["localhost", "localhost:1234", "chat.localhost", "127.0.0.1", "10.1.2.3", "[::1]"]
    {
        assert_eq!(ask(&server, "GET /", host).await.0, 200, "{host}");
        assert_eq!(handshake(&server, host).await, 101, "{host}");
    }
}

#[tokio::test]
async fn public_url_and_allowed_hosts_are_answered() {
    let server = server(&[
        "--public-url",
        "https://chat.example/base",
        "--allow-host",
        "internal.example:8080, *.pages.example, m\u{fc}nchen.example, tls.example:443",
    ]);
    for (host, status) in [
        ("chat.example", 200),
        ("chat.example:444", 200),
        ("internal.example:8080", 200),
        ("internal.example", 403),
        ("a.pages.example", 200),
        ("pages.example", 403),
        ("xn--mnchen-3ya.example", 200),
        ("tls.example", 200),
        (FOREIGN, 403),
    ] {
        assert_eq!(ask(&server, "GET /", host).await.0, status, "{host}");
    }
    let any = self::server(&["--allow-host", "*"]);
    assert_eq!(ask(&any, "GET /", FOREIGN).await.0, 200);
}

#[tokio::test]
async fn refused_host_is_logged_once_a_minute() {
    let server = server(&[]);
    for n in 0..20 {
        assert_eq!(ask(&server, "GET /", &format!("{n}.{FOREIGN}")).await.0, 403);
    }
    let line = server.until_logged("--allow-host");
    assert!(
        line.contains("WARN") && line.contains(FOREIGN) && line.contains("CHAT_PUBLIC_URL"),
        "{line}"
    );
    assert_eq!(server.logged("request for an unknown host rejected"), 1);
}

/// The library's own client names the host of its URL.
#[tokio::test]
async fn clients_connect_by_the_name_of_this_machine() {
    let server = server(&[]);
    let url = format!("ws://localhost:{}/ws", server.port());
    let mut client = WsClient::connect(&url).await;
    client.send(r#"{"type":"ping"}"#).await;
    client.expect(r#"{"type":"pong"}"#).await;
}
