//! The client of the transport, on servers that ask for tokens and put people out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use chat_broker::testing::RedisServer;
use chat_core::UserId;
use chat_server::{JwtSigner, TokenClaims};
use chat_transport::client::{Client, ClientConfig, Event, Events, Position, State};
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::support::{Chat, DEADLINE, command, counted, exchange};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KEY: &str = "a key for backends";

/// A backend that gives Ann tokens for three seconds.
#[derive(Default)]
struct Backend {
    is_away: AtomicBool,
    asked: AtomicU32,
}

impl Backend {
    fn token(&self) -> Result<String, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_away.load(Ordering::Relaxed) {
            return Err("the backend is away".to_owned());
        }
        let claims = TokenClaims::new(&UserId::new("ann").unwrap(), Duration::from_secs(3));
        Ok(JwtSigner::with_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap())
    }
}

async fn next(events: &mut Events) -> Event {
    timeout(DEADLINE, events.recv()).await.expect("an event in time").expect("another event")
}

/// Reads as many messages, and gives the texts of each room's; and the events that follow.
async fn read(mut events: Events, mut count: usize) -> (BTreeMap<String, Vec<String>>, Events) {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while count > 0 {
        if let Event::Message(message) = events.recv().await.expect("another event") {
            texts.entry(message.room).or_default().push(message.text);
            count -= 1;
        }
    }
    (texts, events)
}

/// With the limits that a server has if nothing is set, it has nothing to refuse.
#[tokio::test]
async fn clients_keep_the_rates_of_the_server() {
    let server = Chat::start(command().args(["--port", "0"]));
    let rooms: Vec<String> = (0..128).map(|n| format!("room-{n}")).collect();
    let texts: Vec<String> = (0..4).map(|n| format!("m{n}")).collect();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (client, events) =
            Client::connect([server.ws("/ws")], ClientConfig::default()).unwrap();
        clients.push((client, tokio::spawn(read(events, texts.len() * rooms.len()))));
    }
    let joins =
        clients.iter().flat_map(|(client, _)| rooms.iter().map(|room| client.join(room, 0)));
    for joined in join_all(joins.collect::<Vec<_>>()).await {
        joined.unwrap();
    }
    let sender = &clients[0].0;
    let sends = texts.iter().flat_map(|text| rooms.iter().map(|room| sender.send(room, text)));
    for sent in join_all(sends.collect::<Vec<_>>()).await {
        sent.unwrap();
    }
    for (client, reading) in &mut clients {
        let reading = timeout(DEADLINE, reading).await.expect("all messages in time");
        let (received, _events) = reading.unwrap();
        assert!(rooms.iter().all(|room| received[room] == texts));
        assert_eq!(client.state(), State::Online);
    }
    let (_, _, metrics) = server.http("GET", "/metrics").await;
    assert_eq!(counted(&metrics, "chat_rejected_total{code=\"rate_limited\""), [""; 0]);
}

#[tokio::test]
async fn the_client_stays_for_longer_than_a_token_and_goes_when_it_is_put_out() {
    let mut program = command();
    program.env("JWT_SECRET", SECRET).env("API_KEY", KEY);
    let server = Chat::start(program.args(["--port", "0", "--token-grace", "1s"]));
    let backend = Arc::new(Backend::default());
    let asked = Arc::clone(&backend);
    let config = ClientConfig::default().token_from(move || {
        let token = asked.token();
        async move { token }
    });
    let (client, mut events) = Client::connect([server.ws("/ws")], config).unwrap();
    client.join("r", 0).await.unwrap();
    while !matches!(next(&mut events).await, Event::Joined { .. }) {}
    let still_there = async {
        while backend.asked.load(Ordering::Relaxed) < 4 {
            client.send("r", "still here").await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(DEADLINE, still_there).await.expect("three renewals");

    let body = r#"{"user":"ann","reason":"calm down"}"#;
    let request = format!(
        "POST /api/rooms/r/kick HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(exchange(server.port(), &request).await.0, 200);
    loop {
        match next(&mut events).await {
            Event::Left { room, reason, message, .. } => {
                let told = (&*room, &*reason, message.as_deref());
                assert_eq!(told, ("r", "kicked", Some("calm down")));
                break;
            }
            Event::Message(_) | Event::Presence { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    // Without a new token the connection ends, and with the next one there is another.
    backend.is_away.store(true, Ordering::Relaxed);
    while !matches!(
        next(&mut events).await,
        Event::State(State::Waiting { loss, .. }) if loss.code == Some(4004)
    ) {}
    backend.is_away.store(false, Ordering::Relaxed);
    while !matches!(next(&mut events).await, Event::State(State::Online)) {}
    assert_eq!(client.user().unwrap().id, "ann");
    client.join("r", 0).await.unwrap();
}

/// A client in the room `r`, since this position.
async fn join_since(server: &Chat, since: Position) -> (Client, Events) {
    let (client, events) = Client::connect([server.ws("/ws")], ClientConfig::default()).unwrap();
    client.join_since("r", since).await.unwrap();
    (client, events)
}

/// Sends messages with these texts.
async fn send(server: &Chat, texts: &[&str]) {
    let (client, _events) = join_since(server, Position::default()).await;
    for text in texts {
        client.send("r", text).await.unwrap();
    }
    client.close().await;
}

/// Reads these messages, with nothing lost before them, and returns the position of the last.
async fn expect(events: &mut Events, texts: &[&str]) -> Position {
    let mut position = Position::default();
    for text in texts {
        position = loop {
            match next(events).await {
                Event::Message(message) => {
                    assert_eq!(message.text, *text);
                    break message.position.expect("a room with history");
                }
                gap @ Event::Gap { .. } => panic!("{gap:?} before {text}"),
                _ => {}
            }
        };
    }
    position
}

#[tokio::test]
async fn client_continues_from_its_position_after_a_restart_of_all() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    send(&server, &["1", "2", "3"]).await;
    let (client, mut events) = join_since(&server, Position::default()).await;
    let saved = expect(&mut events, &["1", "2"]).await;
    client.close().await;
    drop(server);

    let server = Chat::on(&redis);
    send(&server, &["4", "5"]).await;
    let saved = saved.to_string().parse().unwrap();
    let (_client, mut events) = join_since(&server, saved).await;
    let last = expect(&mut events, &["3", "4", "5"]).await;
    assert_eq!(last.offset, 5);
}

#[tokio::test]
async fn position_of_a_lost_history_is_a_gap() {
    let server = Chat::alone();
    send(&server, &["1", "2", "3"]).await;
    let (_client, mut events) = join_since(&server, Position::default()).await;
    let saved = expect(&mut events, &["1", "2"]).await;
    drop(server);

    let server = Chat::alone();
    send(&server, &["new"]).await;
    let (_client, mut events) = join_since(&server, saved).await;
    let position = loop {
        if let Event::Gap { position, .. } = next(&mut events).await {
            break position.expect("a room with history");
        }
    };
    assert!(position.epoch != saved.epoch && position.offset == 0, "{position:?}");
    assert_eq!(expect(&mut events, &["new"]).await.offset, 1);
}
