//! Redis goes away and comes back; slow clients.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::{Chat, DEADLINE, FAST, ask, command, next_of};

/// Sends until the message is taken.
async fn say(client: &mut WsClient, text: &str) -> Value {
    loop {
        client.send_json(&json!({"type": "send", "room": "r", "message": text, "id": 1})).await;
        loop {
            let frame = client.recv_json().await;
            match frame["type"].as_str() {
                Some("ok") => return frame,
                Some("error") => {
                    assert_eq!(frame["code"], "broker_unavailable");
                    assert!(frame["retry_after_ms"].is_u64());
                    break;
                }
                _ => {}
            }
        }
    }
}

async fn in_room(server: &Chat) -> WsClient {
    let mut client = server.native().await;
    client.send(r#"{"type":"join","room":"r"}"#).await;
    next_of(&mut client, "joined").await;
    client
}

#[tokio::test]
async fn clients_stay_connected_while_redis_restarts() {
    let mut redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (in_room(&first).await, in_room(&second).await);
    say(&mut a, "before").await;
    assert_eq!(next_of(&mut b, "message").await["message"], "before");

    redis.kill();
    first.until_status("/readyz", 503).await;
    let (_, _, why) = first.http("GET", "/readyz").await;
    assert!(why.starts_with("Redis is unavailable: "), "{why}");
    let mut late = first.native().await;
    late.send(r#"{"type":"join","room":"elsewhere","id":7}"#).await;
    let refused = late.recv_json().await;
    assert_eq!((&refused["code"], &refused["id"]), (&json!("broker_unavailable"), &json!(7)));
    a.send_json(&json!({"type": "send", "room": "r", "message": "lost", "id": 8})).await;
    assert_eq!(next_of(&mut a, "error").await["code"], "broker_unavailable");
    assert_eq!(first.metric("chat_publish_failures_total").await, 1);

    redis.restart();
    first.until_ready().await;
    second.until_ready().await;
    say(&mut a, "after").await;
    // The counter was lost with Redis' memory: every client receives a gap.
    let gap = next_of(&mut b, "gap").await;
    assert_eq!(gap["room"], "r");
    assert_eq!(next_of(&mut b, "message").await["message"], "after");
    late.send(r#"{"type":"join","room":"elsewhere"}"#).await;
    next_of(&mut late, "joined").await;
}

#[tokio::test]
async fn a_lost_subscription_is_noticed_by_nobody() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (in_room(&first).await, in_room(&second).await);
    for round in 1..=20 {
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        say(&mut a, &format!("round {round}")).await;
        let frame = next_message_or_gap(&mut b).await;
        assert_eq!((&frame["type"], &frame["offset"]), (&json!("message"), &json!(round)));
    }
    let (_, _, page) = second.http("GET", "/metrics").await;
    assert!(page.contains("chat_gaps_total 0"), "{page}");
    assert!(!page.contains("chat_repaired_total 0"), "something was missed: {page}");
    // Each loss is counted, if there is time to connect before the next.
    for _ in 0..5 {
        let before = (first.metric(RECONNECTS).await, second.metric(RECONNECTS).await);
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        first.until_metric(RECONNECTS, |now| now > before.0).await;
        second.until_metric(RECONNECTS, |now| now > before.1).await;
    }
}

const RECONNECTS: &str = "chat_broker_reconnects_total";

async fn next_message_or_gap(client: &mut WsClient) -> Value {
    loop {
        let frame = client.recv_json().await;
        if frame["type"] == "message" || frame["type"] == "gap" {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_with_its_data_is_noticed_by_nobody() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (in_room(&first).await, in_room(&second).await);
    let before = say(&mut a, "before").await;
    for round in 1..=2 {
        if round == 1 {
            redis.stop();
        }
        redis.restart();
        // It waits for Redis.
        let send = json!({"type": "send", "room": "r", "message": "after", "key": round});
        let bad_key = ask(&mut a, "error", send).await;
        assert_eq!(bad_key["code"], "bad_field", "a key is a text");
        let key = round.to_string();
        let send = json!({"type": "send", "room": "r", "message": "after", "key": key});
        let after = ask(&mut a, "ok", send.clone()).await;
        assert_eq!((&after["offset"], &after["epoch"]), (&json!(1 + round), &before["epoch"]));
        assert_eq!(ask(&mut a, "ok", send).await, after, "once");
    }
    for offset in 1..=3 {
        let frame = next_message_or_gap(&mut b).await;
        assert_eq!((&frame["type"], &frame["offset"]), (&json!("message"), &json!(offset)));
    }
    // A client that was away has missed nothing, either.
    let since = json!({"epoch": before["epoch"], "offset": 1});
    let mut back = second.native().await;
    let frame = json!({"type": "join", "room": "r", "since": since});
    let joined = ask(&mut back, "joined", frame).await;
    assert_eq!(joined["recovered"], true);
    assert_eq!(joined["messages"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_send_waits_for_redis_and_is_then_of_unknown_outcome() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (in_room(&first).await, in_room(&second).await);
    redis.kill();
    let began = Instant::now();
    let send = json!({"type": "send", "room": "r", "message": "x", "key": "k", "id": 1});
    let refused = ask(&mut a, "error", send.clone()).await;
    let waited = began.elapsed();
    assert_eq!((&refused["code"], &refused["id"]), (&json!("broker_unavailable"), &json!(1)));
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    assert!(waited >= Duration::from_millis(4500), "after {waited:?}");

    redis.restart();
    first.until_ready().await;
    second.until_ready().await;
    for _ in 0..2 {
        let ok = ask(&mut a, "ok", send.clone()).await;
        assert_eq!(ok["offset"], 1, "once, however often it is sent");
    }
    assert_eq!(next_message_or_gap(&mut b).await["message"], "x");
    let ok = ask(&mut a, "ok", json!({"type": "send", "room": "r", "message": "y"})).await;
    assert_eq!(ok["offset"], 2);
    assert_eq!(next_message_or_gap(&mut b).await["message"], "y");
}

#[tokio::test]
async fn an_emptied_redis_is_told_to_everybody_and_nobody_hangs() {
    let mut redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (in_room(&first).await, in_room(&second).await);
    let before = say(&mut a, "before").await;
    next_of(&mut b, "message").await;
    redis.restart();
    let ended = Instant::now();
    for client in [&mut a, &mut b] {
        next_of(client, "gap").await;
    }
    let after = say(&mut a, "after").await;
    println!("said again {:.2?} after the end", ended.elapsed());
    assert_ne!(after["epoch"], before["epoch"], "no offset means two messages");
    let frame = next_of(&mut b, "message").await;
    assert_eq!((&frame["offset"], &frame["epoch"]), (&json!(1), &after["epoch"]));
    let since = json!({"epoch": before["epoch"], "offset": 1});
    let mut back = second.native().await;
    let frame = json!({"type": "join", "room": "r", "since": since});
    let joined = ask(&mut back, "joined", frame).await;
    assert_eq!((&joined["recovered"], &joined["epoch"]), (&json!(false), &after["epoch"]));
    assert_eq!(joined["messages"][0]["message"], "after");
    // All are members again.
    let deadline = Instant::now() + DEADLINE;
    while ask(&mut b, "members", json!({"type": "members", "room": "r"})).await["count"] != 3 {
        assert!(Instant::now() < deadline, "somebody is missing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A copy of its data takes the place of what Redis has learned since: what had been said is
/// lost, and nothing is taken for something else.
#[tokio::test]
async fn a_redis_that_comes_back_with_an_older_copy_begins_a_new_epoch() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (first, second) = Chat::pair(&redis).await;
    let (mut a, mut b) = (in_room(&first).await, in_room(&second).await);
    let (directory, copy) =
        (redis.directory().to_owned(), redis.directory().with_extension("copy"));
    let mut places = Places::default();
    let mut seen = Value::Null;
    for range in [1..=10, 11..=20] {
        for n in range {
            seen = say(&mut a, &n.to_string()).await;
            places.say(&seen, &n.to_string());
        }
        redis.stop();
        if !copy.exists() {
            run("cp", &["-R", directory.to_str().unwrap(), copy.to_str().unwrap()]);
            redis.restart();
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::rename(&copy, &directory).unwrap();
    redis.restart();
    let ended = Instant::now();
    let after = say(&mut a, "after 1").await;
    let recovered = ended.elapsed();
    assert_ne!(after["epoch"], seen["epoch"], "no offset means two messages");
    places.say(&after, "after 1");
    for n in 2..=20 {
        let text = format!("after {n}");
        places.say(&say(&mut a, &text).await, &text);
    }
    let (mut heard, mut gaps) = (Vec::new(), 0);
    while heard.last().is_none_or(|text| text != "after 20") {
        let frame = next_message_or_gap(&mut b).await;
        if frame["type"] == "gap" {
            gaps += 1;
        } else {
            heard.push(places.hear(&frame));
        }
    }
    println!("said again {recovered:.2?} after the end");
    assert_eq!(heard.len(), 40, "{heard:?}");
    assert_eq!(gaps, 1, "told once");

    let since = json!({"epoch": seen["epoch"], "offset": 15});
    let mut back = second.native().await;
    let frame = json!({"type": "join", "room": "r", "since": since});
    let joined = ask(&mut back, "joined", frame).await;
    assert_eq!((&joined["recovered"], &joined["epoch"]), (&json!(false), &after["epoch"]));
    for message in joined["messages"].as_array().unwrap() {
        places.hear(message);
    }
}

/// What stands where: never two texts in one place.
#[derive(Default)]
struct Places {
    texts: HashMap<(String, u64), String>,
    /// The epoch stands in the first message of one.
    epoch: String,
}

impl Places {
    /// This was acknowledged with this `ok`.
    fn say(&mut self, ok: &Value, text: &str) {
        self.put(ok["epoch"].as_str().unwrap().to_owned(), &ok["offset"], text);
    }

    fn hear(&mut self, message: &Value) -> String {
        if let Some(epoch) = message["epoch"].as_str() {
            epoch.clone_into(&mut self.epoch);
        }
        let text = message["message"].as_str().unwrap();
        self.put(self.epoch.clone(), &message["offset"], text);
        text.to_owned()
    }

    fn put(&mut self, epoch: String, offset: &Value, text: &str) {
        let place = (epoch, offset.as_u64().unwrap());
        let before = self.texts.entry(place).or_insert_with(|| text.to_owned());
        assert_eq!(before, text, "two texts in one place");
    }
}

fn run(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_alone() {
    let server = Chat::start(command().args(["--port", "0"]).args(FAST));
    let mut stalled = WsClient::connect_narrow(&server.ws("/")).await;
    stalled.send(r#"{"type":"SUBSCRIBE","room":"r"}"#).await;
    server.until_logged("subscribing on the pub sub to room: r");
    let (mut writer, mut reader) = (in_room(&server).await, in_room(&server).await);
    let text = "x".repeat(30_000);
    // The kernel takes up to 4 MiB and the outbox one: 12 MiB are too much for both.
    let mut said = 0;
    while server.metric("chat_slow_consumers_total").await == 0 {
        assert!(said < 400, "not cut after {said} messages");
        said += 10;
        for _ in 0..10 {
            say(&mut writer, &text).await;
            next_of(&mut reader, "message").await;
        }
    }
    // At once: the server waits for its close frame to be taken for as long as for any write.
    let (_, (code, _)) = stalled.recv_until_close().await;
    assert_eq!(code, 4000);
    // It is counted when the goodbye is over.
    let counted = ["chat_slow_consumers_total 1", "chat_closed_total{code=\"4000\"} 1"];
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (_, _, page) = server.http("GET", "/metrics").await;
        if counted.iter().all(|line| page.contains(line)) {
            break;
        }
        assert!(Instant::now() < deadline, "{page}");
    }
}

/// Somebody has put something else where Redis keeps a room: the others are none the worse.
#[tokio::test]
async fn a_room_that_cannot_be_read_keeps_nobody_else_out() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    redis.command(&["SET", "chat:{r.bad}", "not a list"]).await;
    let mut clients = Vec::new();
    for n in 0..16 {
        let room = if n == 7 { "bad".to_owned() } else { format!("good-{n}") };
        clients.push((server.native().await, room));
    }
    // All at once, so that they are read in one go.
    for (client, room) in &mut clients {
        client.send_json(&json!({"type": "join", "room": room})).await;
    }
    for (client, room) in &mut clients {
        let answer = client.recv_json().await;
        let expected = if room == "bad" { "error" } else { "joined" };
        assert_eq!(answer["type"], expected, "{answer}");
    }
}
