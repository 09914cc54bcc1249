//! Whole histories.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{KEY, SHOP, call, post, server, server_with_key};
use crate::support::{Chat, eventually, exchange};

/// In HTTP/1.0, whose bodies have no chunks.
fn request(path: &str) -> String {
    format!("GET /api{path} HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n\r\n")
}

async fn export(server: &Chat, path: &str) -> Vec<Value> {
    let (status, head, body) = exchange(server.port(), &request(path)).await;
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("application/x-ndjson"), "{head}");
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn export_has_every_message_and_an_end() {
    let server = server(&["--history", "1000"]);
    for batch in 0..7 {
        let call = |number| json!({"method": "POST", "path": "/rooms/r/messages", "body": {"message": number}});
        let calls: Vec<_> = (0..100).map(|at| call((batch * 100 + at).to_string())).collect();
        post(&server, "/batch", json!({"calls": calls})).await;
    }
    let lines = export(&server, "/rooms/r/export").await;
    assert_eq!(
        (lines.len(), &lines[0]["room"], &lines[0]["offset"]),
        (702, &json!("r"), &json!(700))
    );
    for (at, line) in lines[1..701].iter().enumerate() {
        assert_eq!((&line["offset"], &line["message"]), (&json!(at + 1), &json!(at.to_string())));
    }
    assert_eq!(lines[701], json!({"end": true, "messages": 700}));
    let rest = export(&server, "/rooms/r/export?after=698").await;
    assert_eq!((rest.len(), &rest[3]), (4, &json!({"end": true, "messages": 2})));
    let empty = export(&server, "/rooms/empty/export").await;
    assert_eq!(
        empty,
        [json!({"room": "empty", "epoch": "", "offset": 0}), json!({"end": true, "messages": 0})]
    );
}

/// White space between the tokens of JSON is sent to members as it was.
#[tokio::test]
async fn line_feeds_in_data_forge_no_line() {
    let server = server(&[]);
    let body = "{\"message\":\"x\",\"data\":[\n{\"end\":true,\"messages\":0}\r\n]}";
    let send = format!(
        "POST /api/rooms/r/messages HTTP/1.0\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(exchange(server.port(), &send).await.0, 200);
    let lines = export(&server, "/rooms/r/export").await;
    assert_eq!((lines.len(), &lines[2]), (3, &json!({"end": true, "messages": 1})));
    assert_eq!(lines[1]["data"], json!([{"end": true, "messages": 0}]));
}

async fn send_large_messages(server: &Chat, batches: usize) {
    let send = json!({"method": "POST", "path": "/rooms/r/messages", "body": {"message": "x".repeat(30_000)}});
    for _ in 0..batches {
        post(server, "/batch", json!({"calls": vec![&send; 30]})).await;
    }
}

#[tokio::test]
async fn export_that_lacks_messages_says_so() {
    let server = server(&["--history", "900", "--history-bytes", "100000000"]);
    send_large_messages(&server, 30).await;
    let mut reader = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    reader.write_all(request("/rooms/r/export").as_bytes()).await.unwrap();
    // The answer has begun, and the rest is more than the sockets hold.
    reader.read_exact(&mut [0; 1000]).await.unwrap();
    send_large_messages(&server, 30).await;
    let mut rest = String::new();
    reader.read_to_string(&mut rest).await.unwrap();
    let end: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&end["end"], &end["code"]), (&json!(false), &json!("gap")), "{end}");
    let exported = end["messages"].as_u64().unwrap();
    assert!((1..900).contains(&exported), "{end}");
    // What is left can be exported.
    let left = export(&server, &format!("/rooms/r/export?after={exported}")).await;
    assert_eq!(left.last(), Some(&json!({"end": true, "messages": 900})));
}

/// Who has left has freed it.
#[tokio::test]
async fn server_makes_two_exports_at_a_time() {
    let server = server(&["--history", "1000", "--history-bytes", "100000000"]);
    send_large_messages(&server, 30).await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut reader = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        reader.write_all(request("/rooms/r/export").as_bytes()).await.unwrap();
        // The answer has begun, and the rest is more than the sockets hold.
        reader.read_exact(&mut [0; 1000]).await.unwrap();
        readers.push(reader);
    }
    let (status, answer) = call(&server, KEY, "GET /rooms/r/export", None).await;
    assert_eq!((status, answer["code"].as_str()), (429, Some("rate_limited")));
    readers.pop();
    eventually("a place is free again", async || {
        exchange(server.port(), &request("/rooms/r/export?after=899")).await.0 == 200
    })
    .await;
}

#[tokio::test]
async fn export_needs_the_scope_and_the_room() {
    let started = server_with_key("scopes = [\"read\"]", &[]);
    assert_eq!(call(&started.server, SHOP, "GET /rooms/r/export", None).await.0, 403);
}
