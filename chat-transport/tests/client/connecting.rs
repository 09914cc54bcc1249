//! Streams of the application, headers of the handshake, and why a connection cannot be opened.

use std::future::ready;
use std::io;

use chat_transport::client::{Client, ClientConfig, ClientError, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::mock::{Peer, next_state, online, quick, within};

/// A client whose connections are in memory, and the servers' ends of them.
fn in_memory(config: ClientConfig) -> (ClientConfig, mpsc::UnboundedReceiver<DuplexStream>) {
    let (opened, streams) = mpsc::unbounded_channel();
    let config = config.connector(move |endpoint| {
        assert_eq!((&*endpoint.host, endpoint.port, endpoint.is_tls), ("chat.example", 80, false));
        let (client, server) = duplex(4096);
        opened.send(server).unwrap();
        ready(Ok(client))
    });
    (config, streams)
}

#[tokio::test]
async fn client_uses_a_stream_of_the_application_for_each_connection() {
    let (config, mut streams) = in_memory(quick());
    let (client, mut events) = Client::connect(["ws://chat.example/ws"], config).unwrap();
    let (mut peer, headers) = Peer::accept(streams.recv().await.unwrap()).await;
    assert_eq!(headers["Host"], "chat.example");
    peer.welcome().await;
    online(&mut events).await;
    assert_eq!(client.last_disconnect(), None);
    drop(peer);
    Peer::accept(streams.recv().await.unwrap()).await.0.welcome().await;
    online(&mut events).await;
    assert_eq!(
        client.last_disconnect().unwrap().reason,
        "the connection ended without a close frame"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn client_connects_over_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("chat-client-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let socket = path.clone();
    let config = quick().connector(move |_| tokio::net::UnixStream::connect(socket.clone()));
    let (_client, mut events) = Client::connect(["ws://localhost/ws"], config).unwrap();
    let (stream, _) = within("a connection", listener.accept()).await.unwrap();
    Peer::accept(stream).await.0.welcome().await;
    online(&mut events).await;
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn headers_are_in_each_handshake() {
    let config = quick()
        .header("Cookie", "session=1")
        .header("Cookie", "theme=dark")
        .header("Authorization", "Bearer secret")
        .header("Origin", "https://app.example");
    let (config, mut streams) = in_memory(config);
    let (_client, _events) = Client::connect(["ws://chat.example/ws"], config).unwrap();
    for _ in 0..2 {
        let (_, headers) = Peer::accept(streams.recv().await.unwrap()).await;
        let cookies: Vec<_> = headers.get_all("Cookie").iter().collect();
        assert_eq!(cookies, ["session=1", "theme=dark"]);
        assert_eq!(headers["Authorization"], "Bearer secret");
        assert_eq!(headers["Origin"], "https://app.example");
    }
}

#[tokio::test]
async fn headers_of_the_handshake_are_refused() {
    let config = quick().header("Sec-WebSocket-Key", "a secret");
    let error = Client::connect(["ws://localhost/ws"], config).unwrap_err();
    assert!(matches!(&error, ClientError::Header { name, .. } if name == "Sec-WebSocket-Key"));
    assert!(!error.to_string().contains("a secret"));
}

#[test]
fn debug_hides_the_values_of_headers() {
    let shown = format!("{:?}", ClientConfig::default().header("Cookie", "session=secret"));
    assert!(shown.contains("Cookie") && !shown.contains("secret"), "{shown}");
}

/// Why the first connection could not be opened.
async fn failure(url: &str, config: ClientConfig) -> String {
    let (client, mut events) = Client::connect([url], config).unwrap();
    next_state(&mut events).await;
    let State::Waiting { loss, .. } = next_state(&mut events).await else { panic!("not waiting") };
    assert_eq!(client.last_disconnect(), Some(loss.clone()));
    loss.reason
}

#[tokio::test]
async fn failed_connections_have_a_reason() {
    let config = quick().connector(|_| ready(Err::<DuplexStream, _>(io::Error::other("no proxy"))));
    let reason = failure("ws://chat.example/ws", config).await;
    assert_eq!(reason, "cannot connect to chat.example, port 80: no proxy");

    for (body, why) in [
        ("", ""),
        ("<html>Forbidden</html>", ""),
        (r#"{"code":"banned"}"#, ""),
        (r#"{"code":"banned","message":"You are banned."}"#, ": banned: You are banned."),
    ] {
        let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}", body.len());
        let reason = failure_after(&format!("{head}\r\n\r\n{body}")).await;
        assert_eq!(reason, format!("the server answered the handshake with 403 Forbidden{why}"));
    }
}

/// What is not a chat server says so in its own ways.
#[tokio::test]
async fn answers_that_are_no_handshake_are_described() {
    let page = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhi\r\n";
    let login =
        "HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\nContent-Length: 0\r\n\r\n";
    for (answer, why) in [
        ("", "ends the connection without an answer; a server with TLS has an address with wss://"),
        ("\u{15}\u{3}\u{1}\u{0}\u{2}\u{2}F", "does not answer as a WebSocket server"),
        ("HTTP/1.0 200 OK\r\n\r\n", "does not answer as a WebSocket server"),
        (page, "200 OK: this is no chat server, or a proxy"),
        (login, "302 Found, to https://login.example/: this is no chat server"),
    ] {
        let reason = failure_after(answer).await;
        assert!(reason.contains(why), "{answer:?}: {reason}");
    }
}

/// Why the first connection to a server that answers this could not be opened.
///
/// Each answer has a listener of its own: a client connects again at once, and the next answer
/// would go to that connection.
async fn failure_after(answer: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let refuse = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        // A close with bytes unread is a reset, which may overtake the answer.
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        // The client reads to the end of this side, and ends its own after that.
        stream.shutdown().await.unwrap();
        let _ = stream.read(&mut request).await;
    };
    tokio::join!(failure(&url, quick()), refuse).0
}
