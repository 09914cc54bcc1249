//! One user cannot keep another offline.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::testing::{WsClient, raw_frame, raw_handshake};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::NATIVE;
use crate::support::{Chat, FAST, ask, join, next_of};

/// A user who reads nothing, on a socket that takes little.
async fn deaf(server: &Chat, user: &str) -> WsClient {
    let mut deaf = WsClient::connect_narrow(&server.ws(&format!("/?userId={user}"))).await;
    deaf.send_json(&json!({"type": "hello"})).await;
    deaf.send_json(&json!({"type": "join", "room": "r"})).await;
    deaf
}

/// Sends direct messages until one is dropped; that message's `undelivered`.
async fn until_dropped(sender: &mut WsClient, to: &str) -> Value {
    let text = "x".repeat(30_000);
    let deadline = Instant::now() + Duration::from_secs(30);
    for n in 0.. {
        assert!(Instant::now() < deadline, "nothing is dropped");
        let frame = json!({"type": "direct", "to": to, "message": text, "id": n});
        ask(sender, "ok", frame).await;
        if let Ok(frame) = timeout(Duration::from_millis(1), sender.recv_json()).await {
            return frame;
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_messages_to_a_full_outbox_are_dropped_and_reported() {
    let redis = RedisServer::start();
    let args = [&FAST[..], &["--write-timeout", "2m"]].concat();
    let [here, there] = Chat::several::<2>(&redis, &args).await;
    let mut victim = deaf(&here, "victim").await;
    let mut watcher = here.native().await;
    join(&mut watcher, "r").await;
    let connect = async |server: &Chat, user: &str| {
        let url = server.ws(&format!("/ws?userId={user}"));
        let mut client = WsClient::connect_with(&url, &[NATIVE]).await;
        let welcome = ask(&mut client, "welcome", json!({"type": "hello"})).await;
        (client, welcome["session"].clone())
    };
    // From another server as from the same one.
    let (mut far, far_session) = connect(&there, "far").await;
    let (mut near, near_session) = connect(&here, "near").await;
    let (mut tab, _) = connect(&there, "near").await;
    let dropped = until_dropped(&mut far, "victim").await;
    assert_eq!(dropped["type"], "undelivered");
    assert_eq!((&dropped["session"], &dropped["to"]), (&far_session, &json!("victim")));
    assert!(dropped["id"].is_u64());
    let frame = json!({"type": "direct", "to": "victim", "message": "y".repeat(30_000), "id": "a"});
    ask(&mut near, "ok", frame).await;
    let expected =
        json!({"type": "undelivered", "session": near_session, "id": "a", "to": "victim"});
    assert_eq!(next_of(&mut near, "undelivered").await, expected);
    // The sender's other connections can tell that it is not theirs.
    assert_eq!(next_of(&mut tab, "undelivered").await, expected);
    assert!(here.metric("chat_direct_dropped_total").await >= 2);

    // Rooms have the other half of the outbox: the victim is still there, and gets what is said.
    for n in 0..20 {
        let send = json!({"type": "send", "room": "r", "message": n.to_string()});
        ask(&mut watcher, "ok", send).await;
    }
    assert_eq!(here.metric("chat_closed_total{code=\"4000\"}").await, 0);
    for n in 0..20 {
        assert_eq!(next_of(&mut victim, "message").await["message"], n.to_string());
    }
    assert_eq!(here.metric("chat_slow_consumers_total").await, 0);
}

/// Sends a frame again and again, in the room "r", and reads what comes meanwhile.
async fn flood(port: u16, frame: Value) {
    let stream = raw_handshake(&format!("127.0.0.1:{port}"), "/").await;
    let (mut read, mut write) = stream.into_split();
    let join = json!({"type": "join", "room": "r"}).to_string();
    write.write_all(&raw_frame(0x81, join.as_bytes())).await.unwrap();
    let frame = raw_frame(0x81, frame.to_string().as_bytes());
    let sending = async { while write.write_all(&frame).await.is_ok() {} };
    let mut nowhere = tokio::io::sink();
    let reading = tokio::io::copy(&mut read, &mut nowhere);
    tokio::select! {
        () = sending => {}
        _ = reading => {}
    }
}

/// With the settings that a server has by default: two senders against a reader of 20 Mbit/s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reader_on_a_line_of_20_mbit_is_not_closed() {
    const PER_TICK: usize = 25_000;
    const TICK: Duration = Duration::from_millis(10);
    let server = Chat::alone();
    let url = server.ws("/ws?userId=victim");
    let mut victim = WsClient::connect_narrow(&url.replace("/ws?", "/?")).await;
    victim.send_json(&json!({"type": "hello", "id": 1})).await;
    ask(&mut victim, "joined", json!({"type": "join", "room": "r"})).await;
    let text = "x".repeat(32_000);
    let direct = json!({"type": "direct", "to": "victim", "message": text});
    let send = json!({"type": "send", "room": "r", "message": text});
    let senders = [direct, send].map(|frame| tokio::spawn(flood(server.port(), frame)));
    // Reads as much as the line brings in each tick.
    let (mut received, mut messages) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(7) {
        let due = began.elapsed().as_millis() as usize / TICK.as_millis() as usize * PER_TICK;
        if received >= due {
            tokio::time::sleep(TICK).await;
        } else if let Ok(frame) = timeout(TICK, victim.recv()).await {
            received += frame.len();
            messages += 1;
        }
    }
    assert!(messages > 40, "{messages} messages: no flood");
    assert_eq!(server.metric("chat_closed_total{code=\"4000\"}").await, 0);
    senders.iter().for_each(tokio::task::JoinHandle::abort);
}
