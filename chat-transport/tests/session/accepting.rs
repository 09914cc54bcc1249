//! The handshake on a raw stream: every request gets an answer.

use std::sync::Arc;
use std::time::Duration;

use chat_transport::testing::{WsClient, raw_frame};
use chat_transport::{Accepted, HandshakeError, TransportConfig, TransportError, accept};
use http::Request;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::time::Instant;

use crate::{echo_server, read_all, text};

const REQUEST: &str = "GET /ws?token=x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

type Outcome = Result<(Request<()>, Option<String>), TransportError>;

/// What becomes of `input`, and the answer.
async fn answer(input: &[u8], config: TransportConfig) -> (Outcome, String) {
    let (client, server) = duplex(256 * 1024);
    let (mut read, mut write) = tokio::io::split(client);
    write.write_all(input).await.unwrap();
    let accept = async {
        let accepted = accept(server, &["v1"], &Arc::new(config)).await;
        accepted.map(|Accepted { request, protocol, .. }| (request, protocol))
    };
    let read = async {
        let answer = read_all(&mut read).await;
        write.shutdown().await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    tokio::join!(accept, read)
}

#[tokio::test]
async fn rfc_example_is_accepted() {
    let (accepted, answer) = answer(REQUEST.as_bytes(), TransportConfig::default()).await;
    let (request, protocol) = accepted.unwrap();
    assert_eq!(request.uri(), "/ws?token=x");
    assert_eq!(request.headers()["host"], "h");
    assert_eq!(protocol, None);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn connection_and_upgrade_are_lists() {
    let lines = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
    for listed in [
        "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: h2c, WebSocket\r\n",
        "Connection:\tkeep-alive,\tUPGRADE\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
        "Connection: ,, keep-alive ,\t, upgrade,\r\nUpgrade: ,websocket ,\r\n",
        "Connection: \u{e9}, Upgrade\r\nUpgrade: \u{e9}, websocket\r\n",
    ] {
        let request = REQUEST.replace(lines, listed);
        let (accepted, answer) = answer(request.as_bytes(), TransportConfig::default()).await;
        assert!(accepted.is_ok(), "{listed}: {answer}");
        assert!(answer.contains("\r\nupgrade: websocket\r\n"), "{answer}");
    }
    for other in [
        "Connection: keep-alive\r\nUpgrade: websocket\r\n",
        "Connection: not-upgrade\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websockets\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c websocket\r\n",
    ] {
        let request = REQUEST.replace(lines, other);
        let (accepted, answer) = answer(request.as_bytes(), TransportConfig::default()).await;
        assert!(accepted.is_err(), "{other}");
        assert!(answer.starts_with("HTTP/1.1 426 "), "{other}: {answer}");
    }
}

#[tokio::test]
async fn refusals_have_a_status() {
    let without = |line: &str| REQUEST.replace(line, "");
    let with = |line: &str| REQUEST.replace("Host: h\r\n", line);
    let cases = [
        (REQUEST.replace("GET", "POST"), HandshakeError::Method, "405", "allow: GET"),
        (
            without("Upgrade: websocket\r\n"),
            HandshakeError::NotAnUpgrade,
            "426",
            "upgrade: websocket",
        ),
        (
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n".into(),
            HandshakeError::NotAnUpgrade,
            "426",
            "upgrade: websocket",
        ),
        (REQUEST.replace("13", "8"), HandshakeError::Version, "426", "sec-websocket-version: 13"),
        (REQUEST.replace("13", "8"), HandshakeError::Version, "426", "upgrade: websocket"),
        (
            with("Host: h\r\nSec-WebSocket-Version: 8\r\n"),
            HandshakeError::Version,
            "426",
            "sec-websocket-version: 13",
        ),
        (without("Host: h\r\n"), HandshakeError::Host, "400", ""),
        (with("Host: h\r\nHost: h\r\n"), HandshakeError::Host, "400", ""),
        (with("Host: a b\r\n"), HandshakeError::Host, "400", ""),
        (REQUEST.replace("Bub25j", "x"), HandshakeError::Key, "400", ""),
        (REQUEST.replace("dGhl", "!!!!"), HandshakeError::Key, "400", ""),
        (
            with("Host: h\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            HandshakeError::Key,
            "400",
            "",
        ),
        (REQUEST.replace("HTTP/1.1", "HTTP/1.0"), HandshakeError::HttpVersion, "400", ""),
        ("\x16\x03\x01 not HTTP".into(), HandshakeError::Malformed, "400", ""),
        (with(&"x: y\r\n".repeat(130)), HandshakeError::HeadTooLarge, "431", ""),
        (with(&format!("x: {}\r\n", "y".repeat(70_000))), HandshakeError::HeadTooLarge, "431", ""),
    ];
    for (input, want, status, header) in cases {
        let (result, answer) = answer(input.as_bytes(), TransportConfig::default()).await;
        let Err(TransportError::Handshake(error)) = result else { panic!("{want}: {result:?}") };
        assert_eq!(error, want);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{want}: {answer}");
        assert!(answer.contains(header), "{want}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{want}: {answer}");
        assert_eq!(body, format!("the handshake was refused: {want}\n"));
    }
}

/// The last character of a key has four bits that belong to none of its 16 bytes: clients that make
/// keys of random characters set them, as RFC 6455 does in its example of a key.
#[tokio::test]
async fn bits_after_the_key_are_ignored() {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for last in alphabet.chars() {
        let key = format!("AQIDBAUGBwgJCgsMDQ4PE{last}==");
        let request = REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", &key);
        let (accepted, answer) = answer(request.as_bytes(), TransportConfig::default()).await;
        assert!(accepted.is_ok(), "{key}: {answer}");
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        assert!(answer.contains(&accept), "{key}: of the key as it was sent: {answer}");
    }
    for wrong in [
        "AQIDBAUGBwgJCgsMDQ4PE===",
        "AQIDBAUGBwgJCgsMDQ4PECA=",
        "AQIDBAUGBwgJCgsMDQ4PECAA",
        "AQIDBAUGBwgJCgsMDQ4P_C==",
        "AQIDBAUGBwgJCgsMDQ4PEC",
        "AQIDBAUGBwgJCgsMDQ4PECAAA==",
        "AQIDBAUGBwgJ gsMDQ4PEC==",
    ] {
        let request = REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", wrong);
        let (accepted, _) = answer(request.as_bytes(), TransportConfig::default()).await;
        let Err(TransportError::Handshake(error)) = accepted else { panic!("{wrong}") };
        assert_eq!(error, HandshakeError::Key, "{wrong}");
    }
}

/// As its GET would be, since that is what a balancer wants to know.
#[tokio::test]
async fn head_without_an_upgrade_is_answered_as_get() {
    let request = http::Request::head("/ws").body(()).unwrap();
    let refused = chat_transport::handshake::respond(&request, &[]).unwrap_err();
    assert_eq!(refused, HandshakeError::NotAnUpgrade);
    let mut request = http::Request::head("/ws").body(()).unwrap();
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let refused = chat_transport::handshake::respond(&request, &[]).unwrap_err();
    assert_eq!(refused, HandshakeError::Method);
}

#[tokio::test]
async fn head_limit_is_inclusive() {
    for (limit, ok) in [(REQUEST.len(), true), (REQUEST.len() - 1, false)] {
        let config = TransportConfig::default().max_head_bytes(limit);
        let (result, _) = answer(REQUEST.as_bytes(), config).await;
        assert_eq!(result.is_ok(), ok, "limit {limit}: {result:?}");
    }
}

#[tokio::test]
async fn request_head_arrives_in_any_pieces_and_with_a_frame() {
    let input = [REQUEST.as_bytes(), &raw_frame(0x81, b"eager")].concat();
    for piece in [1, 2, 3, 100, 1000] {
        let (mut client, server) = duplex(piece);
        let config = Arc::new(TransportConfig::default());
        let server = async {
            let mut session = accept(server, &[], &config).await.unwrap().session;
            assert_eq!(text(session.recv().await), "eager");
        };
        let client = async {
            let (mut read, mut write) = tokio::io::split(&mut client);
            let (_, sent) = tokio::join!(read_all(&mut read), write.write_all(&input));
            sent.unwrap();
        };
        tokio::join!(server, client);
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_request_times_out() {
    for input in ["", "GET / HTTP/1.1\r\nHost: h\r\n"] {
        let (mut client, server) = duplex(1024);
        client.write_all(input.as_bytes()).await.unwrap();
        let start = Instant::now();
        let client = async {
            let answer = String::from_utf8(read_all(&mut client).await).unwrap();
            drop(client);
            answer
        };
        let config = Arc::default();
        let (result, answer) = tokio::join!(accept(server, &[], &config), client);
        assert!(matches!(result, Err(TransportError::Timeout)), "{result:?}");
        assert_eq!(start.elapsed(), Duration::from_secs(10));
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

#[tokio::test]
async fn hangup_during_handshake_is_an_error() {
    let (mut client, server) = duplex(1024);
    client.write_all(b"GET /").await.unwrap();
    drop(client);
    let result = accept(server, &[], &Arc::default()).await;
    assert!(matches!(result, Err(TransportError::Io(_))), "{result:?}");
}

/// A client that reads nothing before it has sent all of a large body.
#[tokio::test]
async fn refusal_reaches_a_client_that_sends_megabytes() {
    let url = echo_server(TransportConfig::default()).await;
    let address = url.trim_start_matches("ws://").trim_end_matches('/');
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b'x'; 20_000_000]).await.unwrap();
    let answer = String::from_utf8(read_all(&mut client).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[tokio::test]
async fn refused_client_gets_the_status() {
    let url = echo_server(TransportConfig::default()).await;
    let long = "x".repeat(20_000);
    let refused = WsClient::try_connect(&url, &[("x-long", &long)]).await;
    assert_eq!(refused.unwrap_err(), 431);
}
