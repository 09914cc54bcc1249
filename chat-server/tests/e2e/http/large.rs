//! Clients that send megabytes, and read nothing before they have sent all: they learn why it was
//! refused.

use chat_transport::testing::{raw_frame, raw_handshake};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{connect, server};
use crate::support::{Chat, DEADLINE};

async fn sent_and_answered(server: &Chat, head: &str, body: &[u8]) -> String {
    let mut stream = connect(server.port()).await;
    let exchange = async {
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.expect("the server reads on");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no reset before the answer");
        answer
    };
    timeout(DEADLINE, exchange).await.expect("an end")
}

#[tokio::test]
async fn answer_to_a_large_body_is_received() {
    let server = server(&["--api-key", "a key for backends"]);
    let key = "Authorization: Bearer a key for backends\r\nContent-Type: application/json\r\n";
    for (path, headers, status, code) in [
        ("/create-room", "", 413, "body_too_large"),
        ("/api/rooms/r/kick", key, 413, "body_too_large"),
        ("/nothing", "", 413, "body_too_large"),
    ] {
        let sizes = if path == "/create-room" { &[1, 5, 20][..] } else { &[2] };
        for megabytes in sizes {
            let body = vec![b'x'; megabytes << 20];
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n",
                body.len()
            );
            let answer = sent_and_answered(&server, &head, &body).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
            assert!(head.contains("connection: close"), "{head}");
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["code"], code, "{path}");
        }
    }
}

/// Whose length is not announced, or of which the answer does not depend on the body.
#[tokio::test]
async fn answer_to_large_chunks_is_received() {
    let server = server(&["--api-key", "a key for backends"]);
    let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
    let body = [chunk.repeat(64), b"0\r\n\r\n".to_vec()].concat();
    for (path, status) in [("/create-room", 413), ("/api/rooms/r/kick", 401), ("/nothing", 404)] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let answer = sent_and_answered(&server, &head, &body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(5 << 20));
    let answer = sent_and_answered(&server, &head, b"\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("head_too_large"), "{answer}");
}

#[tokio::test]
async fn close_code_of_a_large_frame_is_received() {
    let server = server(&[]);
    for megabytes in [3, 20] {
        let mut stream = raw_handshake(&format!("127.0.0.1:{}", server.port()), "/ws").await;
        let exchange = async {
            stream.write_all(&raw_frame(0x81, &vec![b'x'; megabytes << 20])).await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.expect("no reset before the close frame");
            received
        };
        let received = timeout(DEADLINE, exchange).await.expect("an end");
        assert_eq!(received[..1], [0x88], "{megabytes} MiB");
        assert_eq!(received[2..4], 1009_u16.to_be_bytes());
    }
}

/// One above the limit of connections, too, which sends its request at once.
#[tokio::test]
async fn connection_above_the_limit_gets_its_answer() {
    let mut limits = chat_server::LimitsConfig::default();
    limits.http_connections = Some(1);
    let config = chat_server::ServerConfig::default().limits(limits);
    let server = chat_server::Server::builder().config(config).start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving =
        tokio::spawn(async move { server.serve(vec![listener], std::future::pending()).await });
    let _silent = connect(port).await;
    for _ in 0..20 {
        let mut stream = connect(port).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no reset before the answer");
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("over_capacity"),
            "{answer}"
        );
    }
    serving.abort();
}
