//! A client keeps the rates that the server gives in `welcome`, and nothing fails for it.

use std::collections::BTreeMap;
use std::time::Duration;

use chat_transport::client::{Client, ClientConfig, Event, Events};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::mock::{Mock, Peer, ann, joined_frame, online};

/// The rates of a server that is not set otherwise.
fn default_rates() -> Value {
    json!({"frames":{"per_second":50,"burst":300},"joins":{"per_second":10,"burst":256},
        "bytes":{"per_second":262_144,"burst":524_288}})
}

/// The server's own count of what a client may send.
struct Bucket {
    per_second: f64,
    burst: f64,
    level: f64,
    filled_at: Instant,
}

impl Bucket {
    /// That of `frames`, `joins` or `bytes`, full.
    fn new(rates: &Value, kind: &str) -> Self {
        let number = |name: &str| rates[kind][name].as_f64().unwrap_or(f64::MAX);
        let burst = number("burst");
        Self { per_second: number("per_second"), burst, level: burst, filled_at: Instant::now() }
    }

    /// Fails if the client sends more than it may.
    fn take(&mut self, tokens: f64, what: &Value) {
        let filled = self.filled_at.elapsed().as_secs_f64() * self.per_second;
        self.level = (self.level + filled).min(self.burst) - tokens;
        self.filled_at = Instant::now();
        assert!(self.level >= 0.0, "too fast: {what}");
    }
}

/// What a connection of a server has received: the texts of each room's messages, and joins.
#[derive(Debug, Default)]
struct Received {
    messages: BTreeMap<String, Vec<String>>,
    joins: BTreeMap<String, usize>,
    others: usize,
}

/// Answers all requests, and fails if they arrive faster than `rates`. Ends with the connection.
async fn serve(mut peer: Peer, rates: Value) -> Received {
    let mut received = Received::default();
    let [mut frames, mut joins, mut bytes] =
        ["frames", "joins", "bytes"].map(|kind| Bucket::new(&rates, kind));
    // The `hello` counts, too.
    frames.take(1.0, &json!("hello"));
    while let Some(Ok(frame)) = peer.recv_raw().await {
        let Ok(text) = frame.to_text() else { continue };
        let Ok(request) = serde_json::from_str::<Value>(text) else { continue };
        frames.take(1.0, &request);
        bytes.take(text.len() as f64, &request);
        let room = request["room"].as_str().unwrap_or_default().to_owned();
        match request["type"].as_str().unwrap() {
            "join" => {
                joins.take(1.0, &request);
                *received.joins.entry(room).or_default() += 1;
                peer.send(joined_frame(&request, 0, false, &[])).await;
            }
            "send" => {
                let messages = received.messages.entry(room).or_default();
                messages.push(request["message"].as_str().unwrap().to_owned());
                peer.ok(&request, messages.len() as u64).await;
            }
            _ => {
                received.others += 1;
                peer.send(json!({"type":"members","id":request["id"],"room":room,
                    "members":[ann()],"count":1}))
                    .await;
            }
        }
    }
    received
}

/// A client of a server with these rates, and what the server will have received.
async fn connect(config: ClientConfig, rates: Value) -> (Client, JoinHandle<Received>) {
    let mock = Mock::start().await;
    let (client, mut events) = mock.client(config);
    let peer = mock.welcome_at(rates.clone()).await;
    online(&mut events).await;
    read(events);
    (client, tokio::spawn(serve(peer, rates)))
}

/// Reads all events.
fn read(mut events: Events) {
    tokio::spawn(async move { while events.recv().await.is_some() {} });
}

async fn received(client: Client, server: JoinHandle<Received>) -> Received {
    client.close().await;
    server.await.unwrap()
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("m{n}")).collect()
}

#[tokio::test(start_paused = true)]
async fn thousand_sends_in_a_loop_keep_the_rate() {
    let (client, server) = connect(ClientConfig::default(), default_rates()).await;
    client.join("r", 0).await.unwrap();
    let begun = Instant::now();
    for text in numbered(1_000) {
        client.send("r", &text).await.unwrap();
    }
    let took = begun.elapsed().as_secs();
    assert!((14..=15).contains(&took), "{took} s");
    assert_eq!(received(client, server).await.messages["r"], numbered(1_000));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_sends_at_once_arrive_in_order() {
    let (client, server) = connect(ClientConfig::default(), default_rates()).await;
    client.join("r", 0).await.unwrap();
    let texts = numbered(10_000);
    for sent in join_all(texts.iter().map(|text| client.send("r", text))).await {
        sent.unwrap();
    }
    assert!(received(client, server).await.messages["r"] == texts, "not in order");
}

#[tokio::test(start_paused = true)]
async fn thousand_sends_over_a_hundred_rooms_take_turns() {
    let (client, server) = connect(ClientConfig::default(), default_rates()).await;
    let rooms: Vec<String> = (0..100).map(|n| format!("room-{n}")).collect();
    for joined in join_all(rooms.iter().map(|room| client.join(room, 0))).await {
        joined.unwrap();
    }
    let texts = numbered(10);
    let sends = texts.iter().flat_map(|text| rooms.iter().map(|room| client.send(room, text)));
    for sent in join_all(sends.collect::<Vec<_>>()).await {
        sent.unwrap();
    }
    let received = received(client, server).await;
    assert!(rooms.iter().all(|room| received.messages[room] == texts));
    assert!(rooms.iter().all(|room| received.joins[room] == 1));
}

#[tokio::test(start_paused = true)]
async fn large_messages_keep_the_rate_of_bytes() {
    let (client, server) = connect(ClientConfig::default(), default_rates()).await;
    let rooms: Vec<String> = (0..10).map(|n| format!("room-{n}")).collect();
    for joined in join_all(rooms.iter().map(|room| client.join(room, 0))).await {
        joined.unwrap();
    }
    // Each is 196,608 bytes on the wire.
    let text = "\u{1b}".repeat(32_768);
    let begun = Instant::now();
    for sent in join_all(rooms.iter().map(|room| client.send(room, &text))).await {
        sent.unwrap();
    }
    assert!(begun.elapsed().as_secs() >= 5, "{:?}", begun.elapsed());
    assert_eq!(received(client, server).await.messages.len(), 10);
}

/// At one a second the last of them waits longer than a request does for its answer.
#[tokio::test(start_paused = true)]
async fn joins_wait_for_their_rate_and_do_not_time_out() {
    let rates = json!({"joins":{"per_second":1,"burst":2}});
    let (client, server) = connect(ClientConfig::default(), rates).await;
    let rooms: Vec<String> = (0..40).map(|n| format!("room-{n}")).collect();
    let joins = join_all(rooms.iter().map(|room| client.join(room, 0)));
    let others = async {
        // What is no join is not held back by them.
        for _ in 0..10 {
            let members = client.members("room-0");
            timeout(Duration::from_millis(10), members).await.expect("at once").unwrap();
        }
    };
    for joined in tokio::join!(joins, others).0 {
        joined.unwrap();
    }
    let received = received(client, server).await;
    assert!(received.joins.values().all(|joins| *joins == 1), "{received:?}");
    assert_eq!(received.joins.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_their_turns_and_do_not_time_out() {
    let rates = json!({"frames":{"per_second":1,"burst":2}});
    let (client, server) = connect(ClientConfig::default(), rates).await;
    let begun = Instant::now();
    for members in join_all((0..40).map(|_| client.members("r"))).await {
        members.unwrap();
    }
    assert_eq!(begun.elapsed().as_secs(), 39);
    assert_eq!(received(client, server).await.others, 40);
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_their_turns_and_do_not_time_out() {
    let rates = json!({"frames":{"per_second":1,"burst":2}});
    let (client, server) = connect(ClientConfig::default(), rates).await;
    client.join("r", 0).await.unwrap();
    let texts = numbered(100);
    for sent in join_all(texts.iter().map(|text| client.send("r", text))).await {
        sent.unwrap();
    }
    assert!(received(client, server).await.messages["r"] == texts, "not in order");
}

/// Frames that are left behind by a lost connection do not slow the next one.
#[tokio::test(start_paused = true)]
async fn each_connection_begins_with_full_buckets() {
    let mock = Mock::start().await;
    let rates = json!({"frames":{"per_second":1,"burst":10},"joins":{"per_second":1,"burst":8}});
    let config = ClientConfig::default().backoff_base(Duration::ZERO).backoff_cap(Duration::ZERO);
    let (client, mut events) = mock.client(config);
    let rooms: Vec<String> = (0..8).map(|n| format!("room-{n}")).collect();
    let first = async {
        let mut peer = mock.welcome_at(rates.clone()).await;
        for _ in 0..8 {
            let join = peer.recv("join").await;
            peer.send(joined_frame(&join, 0, false, &[])).await;
        }
    };
    for joined in tokio::join!(join_all(rooms.iter().map(|room| client.join(room, 0))), first).0 {
        joined.unwrap();
    }
    let begun = Instant::now();
    let peer = mock.welcome_at(rates.clone()).await;
    let server = tokio::spawn(serve(peer, rates));
    let mut rejoined = 0;
    while rejoined < 8 {
        let event = events.recv().await.unwrap();
        rejoined += usize::from(matches!(event, Event::Joined { rejoined: true, .. }));
    }
    assert_eq!(begun.elapsed().as_secs(), 0);
    read(events);
    assert_eq!(received(client, server).await.joins.len(), 8);
}

/// What may be unanswered: as many messages as the server says, and 64 KiB, but one at least.
#[tokio::test(start_paused = true)]
async fn messages_unanswered_are_limited_over_all_rooms() {
    for (size, expected) in [(1, 64), (16_000, 4), (32_600, 2), (32_768, 1), (11_000, 5)] {
        let mock = Mock::start().await;
        let (client, events) = mock.client(ClientConfig::default());
        read(events);
        let mut peer = mock.welcome().await;
        for n in 0..80 {
            let room = format!("room-{n}");
            let serve = async {
                let join = peer.recv("join").await;
                peer.send(joined_frame(&join, 0, false, &[])).await;
            };
            tokio::join!(client.join(&room, 0), serve).0.unwrap();
        }
        for n in 0..80 {
            let (client, text) = (client.clone(), "x".repeat(size));
            tokio::spawn(async move { client.send(&format!("room-{n}"), &text).await });
        }
        let mut unanswered = Vec::new();
        while let Ok(send) = timeout(Duration::from_secs(1), peer.recv("send")).await {
            unanswered.push(send);
        }
        assert_eq!(unanswered.len(), expected, "of {size} bytes");
        // Each answer makes room for the next.
        peer.ok(&unanswered[0], 1).await;
        peer.recv("send").await;
    }
}

/// A server may read a client more slowly than its `welcome` said, if others share its rate.
#[tokio::test(start_paused = true)]
async fn requests_unanswered_are_limited() {
    let mock = Mock::start().await;
    let (client, mut events) = mock.client(ClientConfig::default().send_queue(1_000));
    let mut peer = mock.welcome().await;
    online(&mut events).await;
    read(events);
    for _ in 0..200 {
        let client = client.clone();
        tokio::spawn(async move { client.members("r").await });
    }
    let mut unanswered = Vec::new();
    while let Ok(request) = timeout(Duration::from_secs(1), peer.recv("members")).await {
        unanswered.push(request);
    }
    assert_eq!(unanswered.len(), 128);
    peer.refuse(&unanswered[0], "not_in_room").await;
    peer.recv("members").await;
}
