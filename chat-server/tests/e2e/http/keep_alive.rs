//! Connections that stay open between requests.

use std::future::pending;
use std::time::{Duration, Instant};

use chat_server::{LimitsConfig, Server, ServerConfig};
use chat_transport::testing::read_head;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{ask_on, connect, server};
use crate::support::{Chat, DEADLINE};

const GET: &str = "GET /web/dom.js HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// How long the server keeps the connection from now on.
async fn kept(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let end = timeout(DEADLINE, stream.read_u8()).await.expect("an end");
    assert!(end.is_err(), "nothing but the end");
    began.elapsed()
}

/// Where a head has a time of its own, of a tenth of what an idle connection has.
#[tokio::test]
async fn idle_connection_is_kept_as_announced() {
    let server = server(&["--keep-alive-timeout", "3s", "--handshake-timeout", "1s"]);
    let mut stream = connect(server.port()).await;
    for pause in [0, 0, 1500] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let (status, head, _) = ask_on(&mut stream, GET).await;
        assert_eq!(status, 200);
        assert!(head.contains("\r\nkeep-alive: timeout=3\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: keep-alive\r\n"), "{head}");
    }
    let idle = kept(&mut stream).await;
    assert!(idle >= Duration::from_secs(3), "{idle:?}");

    // A further head has as long as the first one, from its first byte.
    let mut stream = connect(server.port()).await;
    ask_on(&mut stream, GET).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stream.write_all(b"GET / HT").await.unwrap();
    let head = kept(&mut stream).await;
    assert!(head >= Duration::from_millis(900), "{head:?}");
    // The slow head alone counts as a limit that a client met: it was not idle for too long.
    assert_eq!(server.metric("chat_limited_total{limit=\"handshake_timeout\"}").await, 1);
}

#[tokio::test]
async fn last_response_says_that_it_is_the_last() {
    let off = server(&["--keep-alive-timeout", "0s"]);
    let mut stream = connect(off.port()).await;
    let (_, head, _) = ask_on(&mut stream, GET).await;
    assert!(head.contains("\r\nconnection: close\r\n") && !head.contains("keep-alive"), "{head}");
    kept(&mut stream).await;

    let server = Chat::alone();
    for (request, says, keeps) in [
        (GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), "connection: close", false),
        (GET.replace("HTTP/1.1", "HTTP/1.0"), "", false),
        (
            GET.replace("HTTP/1.1", "HTTP/1.0")
                .replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n"),
            "connection: keep-alive",
            true,
        ),
        // The rest of the body would be read as a request.
        (GET.replace("\r\n\r\n", "\r\nContent-Length: 9\r\n\r\nhalf"), "connection: close", false),
        (
            "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf".to_owned(),
            "connection: close",
            false,
        ),
        (
            "POST /create-room HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
                .to_owned(),
            "connection: keep-alive",
            true,
        ),
        (
            "POST /create-room HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\n{}\r\n0\r\n\r\n"
                .to_owned(),
            "",
            true,
        ),
    ] {
        let mut stream = connect(server.port()).await;
        let (_, head, _) = ask_on(&mut stream, &request).await;
        assert!(head.contains(says), "{request}: {head}");
        if keeps {
            assert_eq!(ask_on(&mut stream, GET).await.0, 200, "{request}");
        } else {
            kept(&mut stream).await;
        }
    }
}

async fn serve(config: ServerConfig) -> (u16, JoinHandle<()>) {
    let server = Server::builder().config(config).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { server.serve(vec![listener], pending()).await });
    (port, serving)
}

/// Idle connections must not keep others from theirs: half of the places is always for those that
/// ask for something.
#[tokio::test]
async fn idle_connections_leave_half_of_the_places() {
    for is_proxy in [false, true] {
        let mut limits = LimitsConfig::default();
        limits.http_connections = Some(8);
        let proxies = if is_proxy { vec!["127.0.0.1/32".parse().unwrap()] } else { vec![] };
        let (port, serving) =
            serve(ServerConfig::default().limits(limits).trusted_proxies(proxies)).await;
        let mut idle = Vec::new();
        for nth in 1..=6 {
            let mut stream = connect(port).await;
            let (status, head, _) = ask_on(&mut stream, GET).await;
            assert_eq!(status, 200, "{nth}");
            // A proxy has few connections, and each carries requests of many clients.
            let is_kept = is_proxy || nth <= 4;
            assert_eq!(head.contains("\r\nkeep-alive: timeout=150\r\n"), is_kept, "{nth}: {head}");
            assert_eq!(head.contains("\r\nconnection: close\r\n"), !is_kept, "{nth}: {head}");
            if is_kept {
                idle.push(stream);
            } else {
                kept(&mut stream).await;
            }
        }
        serving.abort();
    }
}

/// Balancers keep connections busy for hours. The server ended them after half a minute once.
#[tokio::test]
async fn used_connection_is_not_cut() {
    let server = server(&["--keep-alive-timeout", "2s", "--handshake-timeout", "1s"]);
    let mut stream = connect(server.port()).await;
    let began = Instant::now();
    let mut requests = 0;
    while began.elapsed() < Duration::from_secs(32) {
        let (status, head, _) = ask_on(&mut stream, GET).await;
        assert!(status == 200 && head.contains("keep-alive: timeout=2"), "{requests}: {head}");
        requests += 1;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    // Requests that are sent behind one another are answered in turn.
    stream.write_all(GET.repeat(3).as_bytes()).await.unwrap();
    for _ in 0..3 {
        let (status, _, _) = ask_on(&mut stream, "").await;
        assert_eq!(status, 200);
    }
}

/// A client that does not send the body that it has announced, or reads no answer, has its time.
#[tokio::test]
async fn draining_server_closes_connections_with_the_response() {
    let server = server(&["--drain-timeout", "5s"]);
    let mut client = server.native().await;
    let mut stream = connect(server.port()).await;
    ask_on(&mut stream, GET).await;
    server.signal("TERM");
    while client.recv_json().await["type"] != "goodbye" {}
    stream.write_all(GET.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await.to_ascii_lowercase();
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
}

/// "timeout=0" would say that the connection ends.
#[tokio::test]
async fn less_than_a_second_is_announced_as_one() {
    let half = Duration::from_millis(500);
    let (port, serving) = serve(ServerConfig::default().keep_alive_timeout(half)).await;
    let mut stream = connect(port).await;
    let (_, head, _) = ask_on(&mut stream, GET).await;
    assert!(head.contains("\r\nkeep-alive: timeout=1\r\n"), "{head}");
    let idle = kept(&mut stream).await;
    assert!(idle >= Duration::from_secs(1), "{idle:?}");
    serving.abort();
}
