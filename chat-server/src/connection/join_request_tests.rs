//! Clients of one server, over a broker with injected faults.

use std::sync::Arc;

use bytes::Bytes;
use chat_broker::testing::{Call, FaultyBroker, LossNotice};
use chat_broker::{
    Broker, HistoryRules, MemoryBroker, MemoryBus, PublishOptions, SetOptions, SharedTable,
};
use chat_core::{CloseReason, Epoch, Event, Message, Position, Retention, Sender, Topic, envelope};
use chat_transport::testing::WsClient;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::config::ServerConfig;
use crate::server::Server;
use crate::sessions::RoomRequest;

struct World {
    broker: Arc<FaultyBroker>,
    /// Another node, to publish through.
    other: MemoryBroker,
    address: std::net::SocketAddr,
    server: Server,
}

impl World {
    async fn start() -> Self {
        Self::start_with(ServerConfig::default()).await
    }

    async fn start_with(config: ServerConfig) -> Self {
        let bus = MemoryBus::new();
        let (broker, events) = bus.connect();
        let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
        let shared: Arc<dyn Broker> = Arc::clone(&broker) as _;
        let server = Server::builder().broker(shared, events).config(config).start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(vec![listener], std::future::pending()).await });
        Self { broker, other: bus.connect().0, address, server }
    }

    /// A client of the native protocol.
    async fn client(&self, user: &str) -> WsClient {
        let url = format!("ws://{}/ws?userId={user}", self.address);
        WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await
    }

    async fn publish(&self, room: &str, text: &str, retention: Retention) -> Position {
        let topic = Topic::Room(RoomId::new(room).unwrap());
        let options = PublishOptions::default().retention(retention);
        let published = self.other.publish(&topic, message(text), options).await.unwrap().await;
        published.unwrap().position.expect("persisted")
    }
}

fn message(text: &str) -> Bytes {
    let user = Sender::new("u", "U", "#FFFFFF");
    envelope::encode(&Event::Message(Message::new(user, text, 0)))
}

/// Joins, and returns the next frame of this type.
async fn join(client: &mut WsClient, room: &str, since: Option<Position>, kind: &str) -> Value {
    client.send_json(&json!({"type": "join", "room": room, "since": since})).await;
    next_of(client, kind).await
}

async fn next_of(client: &mut WsClient, kind: &str) -> Value {
    loop {
        let frame = client.recv_json().await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

/// A position in another sequence, which the hub does not have in memory.
fn other_epoch() -> Option<Position> {
    Some(Position { epoch: Epoch::from_random(7), offset: 1 })
}

#[tokio::test]
async fn join_with_any_offset_is_answered() {
    let world = World::start().await;
    let here = world.publish("r", "a", Retention::default()).await;
    let mut client = world.client("ann").await;
    for offset in [2, 1 << 53, u64::MAX] {
        let joined = join(&mut client, "r", Some(Position { offset, ..here }), "joined").await;
        assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(false), &json!(1)));
        for side in ["after", "before"] {
            client.send_json(&json!({"type": "history", "room": "r", side: offset})).await;
            let page = next_of(&mut client, "history").await;
            let count = usize::from(side == "before");
            assert_eq!(page["messages"].as_array().unwrap().len(), count, "{side} {offset}");
        }
    }
    client.send_json(&json!({"type": "history", "room": "r", "before": 0, "limit": 0})).await;
    let page = next_of(&mut client, "history").await;
    assert_eq!((&page["messages"], &page["more"]), (&json!([]), &json!(false)));
}

/// A client that has received messages on another server that this one has not.
async fn ahead(world: &World) -> (WsClient, WsClient, Position) {
    world.publish("r", "1", Retention::default()).await;
    let mut watcher = world.client("watcher").await;
    join(&mut watcher, "r", None, "joined").await;
    world.broker.lose_publications(2, LossNotice::Nothing);
    world.publish("r", "2", Retention::default()).await;
    let here = world.publish("r", "3", Retention::default()).await;
    let mut client = world.client("ann").await;
    let joined = join(&mut client, "r", Some(here), "joined").await;
    assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(true), &json!(3)));
    (client, watcher, here)
}

#[tokio::test]
async fn ban_is_enforced_while_the_server_is_behind() {
    let world = World::start().await;
    let (mut client, _watcher, _) = ahead(&world).await;
    let ban = Bytes::from_static(b"{\"id\":\"1\"}");
    world.other.set("ban\nann", ban, SetOptions::default()).await.unwrap();
    let closed = timeout(Duration::from_secs(5), client.recv_until_close()).await;
    let (_, (code, _)) = closed.expect("without waiting for the room");
    assert_eq!(code, CloseReason::InternalError.code(), "the client reconnects, and is rejected");
    let url = format!("ws://{}/ws?userId=ann", world.address);
    let again = WsClient::try_connect(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    assert_eq!(again.err().map(|status| status.as_u16()), Some(403));
}

#[tokio::test]
async fn request_of_a_backend_waits_while_the_server_is_behind() {
    let world = World::start().await;
    let (mut client, _watcher, _) = ahead(&world).await;
    let state = &world.server.state;
    let ann = Topic::User("ann".parse().unwrap());
    let request = || RoomRequest::Join(RoomId::new("other").unwrap());
    let connection = state.hub.members(&ann).iter().map(|(id, _)| *id).next().unwrap();
    state.sessions.request(connection, request()).unwrap();
    client.send_json(&json!({"type": "ping"})).await;
    world.publish("r", "4", Retention::default()).await;
    assert_eq!(next_of(&mut client, "message").await["message"], "4");
    assert_eq!(next_of(&mut client, "joined").await["room"], "other");
}

#[tokio::test]
async fn failed_rejoin_keeps_the_membership() {
    let world = World::start().await;
    let mut client = world.client("ann").await;
    join(&mut client, "r", None, "joined").await;
    world.broker.fail_next(Call::History, 1);
    join(&mut client, "r", other_epoch(), "error").await;
    world.publish("r", "x", Retention::default()).await;
    assert_eq!(next_of(&mut client, "message").await["message"], "x");
}

/// A member receives no live messages while it catches up, so it must not stay in that state.
#[tokio::test]
async fn member_that_cannot_catch_up_is_closed() {
    let world = World::start().await;
    for _ in 0..30 {
        world.publish("r", &"x".repeat(30_000), Retention::default()).await;
    }
    // The narrow socket takes one page: the server reads the next one later.
    let mut client = WsClient::connect_narrow(&format!("ws://{}/ws", world.address)).await;
    client.send_json(&json!({"type": "hello"})).await;
    let joined = join(&mut client, "r", None, "joined").await;
    let epoch = Epoch::parse(joined["epoch"].as_str().unwrap().as_bytes()).unwrap();
    let since = Some(Position { epoch, offset: 0 });
    assert_eq!(join(&mut client, "r", since, "joined").await["recovered"], true);
    world.broker.fail_next(Call::History, 1);
    let (_, (code, _)) = client.recv_until_close().await;
    assert_eq!(code, CloseReason::InternalError.code());
}

#[tokio::test]
async fn failed_rejoin_within_grace_publishes_no_leave() {
    let world = World::start().await;
    let mut watcher = world.client("watcher").await;
    join(&mut watcher, "r", None, "presence").await;
    let mut ann = world.client("ann").await;
    join(&mut ann, "r", None, "joined").await;
    assert_eq!(next_of(&mut watcher, "presence").await["user"]["id"], "ann");
    drop(ann);

    let mut ann = world.client("ann").await;
    world.broker.fail_next(Call::History, 1);
    join(&mut ann, "r", other_epoch(), "error").await;
    join(&mut ann, "r", other_epoch(), "joined").await;
    world.publish("r", "x", Retention::default()).await;
    let next = watcher.recv_json().await;
    assert_eq!((&next["type"], &next["message"]), (&json!("message"), &json!("x")));
}

/// The client asks for more than its outbox holds.
#[tokio::test]
async fn many_large_answers_do_not_close_the_client() {
    const ROOMS: usize = 64;
    let world = World::start().await;
    let text = "x".repeat(30_000);
    for n in 0..ROOMS {
        for _ in 0..8 {
            world.publish(&format!("r{n}"), &text, Retention::default()).await;
        }
    }
    let mut client = WsClient::connect_narrow(&format!("ws://{}/ws", world.address)).await;
    client.send_json(&json!({"type": "hello"})).await;
    for n in 0..ROOMS {
        client.send_json(&json!({"type": "join", "room": format!("r{n}"), "history": 8})).await;
        client.send_json(&json!({"type": "history", "room": format!("r{n}")})).await;
    }
    for n in 0..ROOMS {
        for kind in ["joined", "history"] {
            let answer = next_of(&mut client, kind).await;
            assert_eq!(answer["room"], format!("r{n}"));
            assert_eq!(answer["messages"].as_array().unwrap().len(), 8);
        }
    }
}

/// A byte of the history takes six bytes of a frame.
#[tokio::test]
async fn messages_with_escapes_are_recovered() {
    const MESSAGES: u64 = 250;
    let world = World::start().await;
    let text = "\u{1}".repeat(10_000);
    let all = Retention::default().bytes(usize::MAX);
    for _ in 0..MESSAGES {
        world.publish("r", &text, all).await;
    }
    let mut client = WsClient::connect_narrow(&format!("ws://{}/ws", world.address)).await;
    client.send_json(&json!({"type": "hello"})).await;
    let joined = join(&mut client, "r", Some(Position::default()), "joined").await;
    assert_eq!(joined["recovered"], true);
    for offset in joined["offset"].as_u64().unwrap() + 1..=MESSAGES {
        assert_eq!(next_of(&mut client, "message").await["offset"], offset);
    }
}

#[tokio::test]
async fn history_in_memory_is_read_without_the_broker() {
    let few = Retention::default().messages(3);
    let mut config = ServerConfig::default();
    config.hub = config.hub.history(HistoryRules::new(Some(few)));
    let world = World::start_with(config).await;
    for text in ["a", "b", "c", "d", "e"] {
        world.publish("r", text, few).await;
    }
    let mut first = world.client("ann").await;
    join(&mut first, "r", None, "joined").await;
    let reads = world.broker.count(Call::History);
    let mut late = world.client("bob").await;
    late.send_json(&json!({"type": "join", "room": "r", "history": 50})).await;
    let joined = next_of(&mut late, "joined").await;
    assert_eq!(joined["messages"].as_array().unwrap().len(), 3);
    assert_eq!(world.broker.count(Call::History), reads);
}

#[tokio::test]
async fn expired_history_is_read_without_the_broker() {
    let world = World::start().await;
    let brief = Retention::default().ttl(Duration::ZERO);
    world.publish("r", "a", brief).await;
    let mut first = world.client("ann").await;
    join(&mut first, "r", None, "joined").await;
    let reads = world.broker.count(Call::History);
    let mut late = world.client("bob").await;
    late.send_json(&json!({"type": "join", "room": "r", "history": 50})).await;
    let joined = next_of(&mut late, "joined").await;
    assert_eq!((&joined["messages"], &joined["offset"]), (&json!([]), &json!(1)));
    late.send_json(&json!({"type": "history", "room": "r", "after": 0})).await;
    let page = next_of(&mut late, "history").await;
    assert_eq!((&page["messages"], &page["more"]), (&json!([]), &json!(false)));
    assert_eq!(world.broker.count(Call::History), reads);
}
