//! How much of the server a client may use.

mod bytes;
mod direct;
mod obeying;
mod places;
mod rates;
mod requests;
mod settings;

use chat_transport::testing::{WsClient, raw_frame, raw_handshake};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::e2e::auth::{SECRET, granting, native};
use crate::support::{Chat, DEADLINE, ask, command, counted, next_of};

const NATIVE: (&str, &str) = ("Sec-WebSocket-Protocol", "chat.v1");

fn server(args: &[&str]) -> Chat {
    Chat::start(command().args(["--port", "0", "--limits", "on"]).args(args))
}

async fn limited(server: &Chat, limit: &str) -> u64 {
    server.metric(&format!("chat_limited_total{{limit=\"{limit}\"}}")).await
}

/// How many frames were carried out, and what was said of the others.
#[derive(Debug, Default)]
struct Outcome {
    done: u64,
    refused: Vec<Value>,
}

/// Sends all frames at once, and reads an answer to each: one of type `done`, or an error.
async fn at_once(
    client: &mut WsClient,
    done: &str,
    frames: impl IntoIterator<Item = Value>,
) -> Outcome {
    let mut left = 0;
    for frame in frames {
        client.send_json(&frame).await;
        left += 1;
    }
    let mut outcome = Outcome::default();
    while left > 0 {
        let answer = client.recv_json().await;
        if answer["type"] == done {
            outcome.done += 1;
        } else if answer["type"] == "error" {
            assert_eq!(answer["code"], "rate_limited", "{answer}");
            outcome.refused.push(answer);
        } else {
            continue;
        }
        left -= 1;
    }
    outcome
}

/// So many frames that are all answered: direct messages to a user who is not there.
async fn requests(client: &mut WsClient, count: usize) -> Outcome {
    let direct = |id| json!({"type": "direct", "to": "nobody", "message": ".", "id": id});
    at_once(client, "ok", (0..count).map(direct)).await
}

/// The bytes that come on a connection until it ends.
async fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    tokio::time::timeout(DEADLINE, read).await.expect("an end").expect("a clean one");
    bytes
}

#[tokio::test]
async fn limits_off_lifts_every_rate_and_count_and_no_bound() {
    let mut rates = vec!["join-rate".to_owned(), "sanction-rate".to_owned()];
    for kind in ["rate", "byte-rate", "answer-rate", "kept-rate"] {
        rates.extend(["", "-per-user", "-per-address"].map(|of| format!("{kind}{of}")));
    }
    let rates = rates.iter().map(|rate| format!("--{rate}=1/1"));
    let counts = [
        ["--max-rooms", "1"],
        ["--max-rooms-per-user", "1"],
        ["--max-connections", "1"],
        ["--max-connections-per-address", "1"],
        ["--max-control-frames", "10"],
        ["--trusted-proxies", "127.0.0.0/8,::1"],
    ];
    let mut program = command();
    program.args(["--port", "0"]).args(rates).args(counts.as_flattened());
    let server = Chat::start(program.env("JWT_SECRET", SECRET).env("CHAT_LIMITS", "off"));
    let token = granting("a", &[("*", &["*"])]);
    let (mut client, mut other) = (native(&server, &token).await, native(&server, &token).await);
    for client in [&mut client, &mut other] {
        assert_eq!(requests(client, 500).await.done, 500);
    }
    for n in 0..200 {
        ask(&mut client, "joined", json!({"type": "join", "room": n.to_string()})).await;
        ask(&mut client, "ok", json!({"type": "kick", "room": "0", "user": n.to_string()})).await;
        client.send("{").await;
        next_of(&mut client, "error").await;
    }
    let path = format!("/ws?token={token}");
    let mut raw = raw_handshake(&format!("127.0.0.1:{}", server.port()), &path).await;
    raw.write_all(&raw_frame(0x89, b"").repeat(100)).await.unwrap();
    raw.write_all(&raw_frame(0x88, &1000_u16.to_be_bytes())).await.unwrap();
    assert!(until_end(&mut raw).await.ends_with(&[0x88, 2, 0x03, 0xe8]), "no breach");

    let (_, _, page) = server.http("GET", "/metrics").await;
    assert_eq!(counted(&page, "chat_limited_total{"), [""; 0]);
    client.send(&"x".repeat(233_473)).await;
    assert_eq!(client.recv_until_close().await.1.0, 1009);
}
