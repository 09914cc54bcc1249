//! An application that speaks in its rooms and moderates them, beside its clients.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{Path, State};
use chat_broker::testing::RedisServer;
use chat_broker::{HistoryRules, HubConfig, MemoryBus, PublishOptions, RedisBroker, RedisConfig};
use chat_core::{ErrorCode, HistoryRange, Position, Retention, RoomId, Topic, User, UserId};
use chat_server::{
    AuthError, Authenticator, BanOptions, BannedBy, Credentials, Identity, OutgoingMessage,
    RoomItem, Server, ServerConfig,
};
use chat_transport::testing::WsClient;
use futures_util::StreamExt;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::support::{ask, eventually, exchange, next_of};

/// A server of the application, and its port.
struct Node {
    server: Server,
    port: u16,
    serving: AbortHandle,
}

impl Node {
    async fn start(server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = server.clone();
        let serving = tokio::spawn(async move { serving.serve(vec![listener], pending()).await });
        Self { server, port, serving: serving.abort_handle() }
    }

    async fn client(&self, user: &str) -> WsClient {
        let url = format!("ws://127.0.0.1:{}/ws?userId={user}", self.port);
        WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await
    }

    async fn member(&self, user: &str, room: &str) -> WsClient {
        let mut client = self.client(user).await;
        ask(&mut client, "joined", json!({"type": "join", "room": room})).await;
        client
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn config() -> ServerConfig {
    let history = HistoryRules::default()
        .class("silent", None)
        .class("long", Some(Retention::default().messages(400)));
    ServerConfig::default().hub(HubConfig::default().history(history))
}

async fn pair_in_memory() -> [Node; 2] {
    let bus = MemoryBus::new();
    let start = async || {
        let (broker, events) = bus.connect();
        Node::start(Server::builder().config(config()).broker(broker, events).start()).await
    };
    [start().await, start().await]
}

async fn pair_on(redis: &RedisServer) -> [Node; 2] {
    let start = async || {
        let config = RedisConfig::new(redis.url());
        let (broker, events) = RedisBroker::connect(config).await.unwrap();
        Node::start(Server::builder().broker(broker, events).start()).await
    };
    [start().await, start().await]
}

fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

fn id(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn code<T: std::fmt::Debug>(outcome: Result<T, chat_server::Error>) -> ErrorCode {
    outcome.unwrap_err().code()
}

#[tokio::test]
async fn handler_speaks_in_a_room() {
    async fn paid(State(chat): State<Server>, Path(order): Path<RoomId>) -> String {
        let paid = OutgoingMessage::new("Paid.").data(json!({"state": "paid"})).key("paid");
        let sent = chat.room(&order).send(paid).await.unwrap();
        sent.position.unwrap().offset.to_string()
    }
    let server = Server::builder().start();
    let routes = axum::Router::new()
        .route("/orders/{order}/paid", axum::routing::post(paid))
        .with_state(server.clone())
        .nest("/chat", server.router());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    let url = format!("ws://127.0.0.1:{port}/chat/ws?userId=ann");
    let mut ann = WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    ask(&mut ann, "joined", json!({"type": "join", "room": "order-7"})).await;

    let post = "POST /orders/order-7/paid HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for _ in 0..2 {
        let (status, _, offset) = exchange(port, post).await;
        assert_eq!((status, &*offset), (200, "1"), "the key is that of the first");
    }
    let message = next_of(&mut ann, "message").await;
    assert_eq!(
        (&message["message"], &message["data"]),
        (&json!("Paid."), &json!({"state": "paid"}))
    );
    assert_eq!(
        (&message["user"]["id"], &message["user"]["name"]),
        (&json!("@server"), &json!("Server"))
    );
    assert!(message["at"].as_u64().unwrap() > 1_700_000_000_000, "{message}");
    server.room(&room("order-7")).send("Packed.").await.unwrap();
    assert_eq!(next_of(&mut ann, "message").await["message"], "Packed.", "the first came once");
    serving.abort();
}

#[tokio::test]
async fn history_and_members_are_those_of_all_servers() {
    both_servers_read_the_same(pair_in_memory().await).await;
}

#[tokio::test]
async fn history_and_members_are_those_of_all_servers_on_redis() {
    let redis = RedisServer::start();
    both_servers_read_the_same(pair_on(&redis).await).await;
}

/// The room has members on the first server alone.
async fn both_servers_read_the_same([first, second]: [Node; 2]) {
    let _ann = first.member("ann", "r").await;
    let mut bob = first.member("bob", "r").await;
    let shop = User::new(id("@shop"), None);
    let rooms = async |prefix: &str, after: Option<&RoomId>, limit| {
        let page = second.server.rooms(prefix, after, limit).await.unwrap();
        let rooms = page.rooms.iter().map(|one| (one.room.to_string(), one.count));
        (rooms.collect::<Vec<_>>(), page.next)
    };
    let both = ("r".to_owned(), 2);
    eventually("bob is listed", async || rooms("r", None, 9).await.0 == [both.clone()]).await;
    assert_eq!(rooms("r", Some(&room("r")), 9).await, (vec![], None));
    assert_eq!(rooms("x", None, 9).await, (vec![], None));
    for server in [&first.server, &second.server] {
        assert!(server.user(&id("ann")).is_online().await.unwrap());
        assert!(!server.user(&id("nobody")).is_online().await.unwrap());
        assert!(!server.user(&id("@servers")).is_online().await.unwrap());
    }
    for text in ["one", "two"] {
        second.server.room(&room("r")).send(text).await.unwrap();
    }
    let three = OutgoingMessage::new("three").user(shop.clone()).data([3]).key("k");
    let sent = second.server.room(&room("r")).send(three).await.unwrap();
    while next_of(&mut bob, "message").await["message"] != "three" {}
    let mut follow = second.server.room(&room("r")).follow(Some(Position::default()));
    for _ in 0..2 {
        follow.recv().await.unwrap();
    }
    assert_eq!(follow.recv().await.and_then(|item| item.position()), sent.position);

    for node in [&first, &second] {
        let room = node.server.room(&room("r"));
        let page = room.history(HistoryRange::Latest, 2).await.unwrap();
        assert_eq!((Some(page.position), page.more), (sent.position, true));
        let [two, three] = &page.messages[..] else { panic!("{page:?}") };
        assert_eq!((two.offset, &*two.text, &*two.user.id), (Some(2), "two", "@server"));
        assert_eq!((three.offset, &*three.text, &*three.user.id), (Some(3), "three", "@shop"));
        let data = three.data.as_ref().map(|data| data.get());
        assert_eq!((data, three.key.as_deref()), (Some("[3]"), Some("k")));
        assert!(three.at > 1_700_000_000_000);
        let rest = room.history(HistoryRange::Before(2), 256).await.unwrap();
        assert_eq!((rest.messages.len(), rest.more), (1, false));

        let members = room.members().await.unwrap();
        let mut ids: Vec<_> = members.users.iter().map(|user| user.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!((members.count, &ids[..]), (2, &["ann", "bob"][..]));
        assert_eq!(node.server.room(&self::room("empty")).members().await.unwrap().count, 0);
    }
    assert_eq!(first.server.user(&id("ann")).connections(), 1);
    assert_eq!(second.server.user(&id("ann")).connections(), 0);
    assert_eq!(first.server.hub().rooms(), 1);
}

/// A typing event is left out, and what is no message is a gap, as for clients.
#[tokio::test]
async fn follow_has_messages_and_gaps() {
    let [node, _] = pair_in_memory().await;
    let (room, mut ann) = (node.server.room(&room("r")), node.member("ann", "r").await);
    let mut follow = room.follow(None);
    let begin = follow.subscribed().await.unwrap();
    ann.send(r#"{"type":"typing","room":"r","typing":true}"#).await;
    ask(&mut ann, "pong", json!({"type": "ping"})).await;
    let options = PublishOptions::default().retention(Retention::default());
    let topic = Topic::Room(room.id().clone());
    let own = node.server.broker().publish(&topic, "own".into(), options).await.unwrap();
    let own = own.await.unwrap().position;
    let sent = room.send(OutgoingMessage::new("hello").data([3])).await.unwrap();

    let Some(RoomItem::Gap { from, to, .. }) = follow.recv().await else { panic!() };
    assert_eq!((from.map(|from| from.offset), begin.map(|begin| begin.offset)), (Some(0), Some(0)));
    assert_eq!(to, own);
    let Some(RoomItem::Message { message, position, .. }) = follow.next().await else { panic!() };
    assert_eq!((&*message.text, &*message.user.id), ("hello", "@server"));
    assert_eq!(message.data.as_deref().map(RawValue::get), Some("[3]"));
    assert_eq!((position, follow.position()), (sent.position, sent.position));

    let mut since_own = room.follow(own);
    assert_eq!(since_own.recv().await.and_then(|item| item.position()), sent.position);
    node.server.broker().close().await;
    assert!(follow.recv().await.is_none());
}

#[tokio::test]
async fn messages_of_the_application_are_kept_by_the_rule_of_the_room() {
    let [node, _] = pair_in_memory().await;
    let long = node.server.room(&room("long"));
    for n in 0..300 {
        long.send(n.to_string()).await.unwrap();
    }
    let page = long.history(HistoryRange::After(0), 1).await.unwrap();
    assert_eq!(page.messages[0].offset, Some(1), "256 are kept by the default rule");
    let silent = node.server.room(&room("silent"));
    assert_eq!(silent.send("x").await.unwrap().position, None);
    assert_eq!(code(silent.history(HistoryRange::Latest, 1).await), ErrorCode::HistoryDisabled);
}

#[tokio::test]
async fn application_moderates() {
    moderates(pair_in_memory().await).await;
}

#[tokio::test]
async fn application_moderates_on_redis() {
    let redis = RedisServer::start();
    moderates(pair_on(&redis).await).await;
}

/// The user is on the first server, the moderating application on the second, and then on the first.
async fn moderates([first, second]: [Node; 2]) {
    let join = json!({"type": "join", "room": "r"});
    let mut bob = first.member("bob", "r").await;
    let there = second.server.room(&room("r"));
    there.kick(&id("bob"), Some("calm down")).await.unwrap();
    let left = next_of(&mut bob, "left").await;
    assert_eq!((&left["reason"], &left["message"]), (&json!("kicked"), &json!("calm down")));

    ask(&mut bob, "joined", join.clone()).await;
    let here = first.server.room(&room("r"));
    let minute = BanOptions::default().reason("spam").expires_in(Duration::from_secs(60));
    here.ban(&id("bob"), minute).await.unwrap();
    assert_eq!(next_of(&mut bob, "left").await["reason"], "banned");
    // No wait: the call has returned when this server applies the ban.
    assert_eq!(ask(&mut bob, "error", join.clone()).await["code"], "banned");
    let bans = first.server.bans();
    let [ban] = &bans[..] else { panic!("{bans:?}") };
    assert_eq!((&ban.user, &ban.room), (&id("bob"), &Some(room("r"))));
    assert_eq!(ban.reason.as_deref(), Some("spam"));
    assert!((1..=60).contains(&ban.expires_in.as_secs()), "{ban:?}");
    assert_eq!(ban.by, Some(BannedBy::Application));
    assert_eq!((here.bans().len(), first.server.room(&room("x")).bans().len()), (1, 0));
    let as_bob = OutgoingMessage::new("on behalf").user(User::new(id("bob"), None));
    here.send(as_bob).await.expect("a ban does not apply to the application");

    here.unban(&id("bob")).await.unwrap();
    assert_eq!(here.bans(), []);
    ask(&mut bob, "joined", join).await;

    second.server.user(&id("bob")).disconnect(Some("logged out")).await.unwrap();
    let goodbye = next_of(&mut bob, "goodbye").await;
    let (reason, message) = (json!("disconnected"), json!("logged out"));
    assert_eq!((&goodbye["reason"], &goodbye["message"]), (&reason, &message));
    assert_eq!(bob.recv_close().await.0, 4002);
    first.server.user(&id("bob")).ban(BanOptions::default()).await.unwrap();
    assert_eq!(first.server.bans()[0].room, None);
    let url = format!("ws://127.0.0.1:{}/ws?userId=bob", first.port);
    let refused = WsClient::try_connect(&url, &[]).await;
    assert_eq!(refused.err().map(|status| status.as_u16()), Some(403));
    first.server.user(&id("bob")).unban().await.unwrap();
    first.client("bob").await;
}

#[tokio::test]
async fn application_sends_direct_messages() {
    let [first, second] = pair_in_memory().await;
    let ann = second.server.user(&id("ann"));
    assert_eq!(ann.send("hi").await.unwrap().nodes, 0);
    let mut native = first.client("ann").await;
    ask(&mut native, "welcome", json!({"type": "hello"})).await;
    let url = format!("ws://127.0.0.1:{}/ws?userId=ann", first.port);
    let mut direct = WsClient::connect(&url).await;
    let sent = ann.send(OutgoingMessage::new("sent").data(json!({"parcel": 7}))).await.unwrap();
    assert_eq!((sent.nodes, sent.position), (1, None));
    let message = next_of(&mut native, "direct").await;
    assert_eq!((&message["message"], &message["data"]["parcel"]), (&json!("sent"), &json!(7)));
    assert_eq!(message["user"]["id"], "@server");
    assert!(message["at"].as_u64().unwrap() > 1_700_000_000_000, "{message}");
    let frame = json!({"to": "ann", "message": "sent", "data": {"parcel": 7}});
    direct.expect_json(&frame).await;
}

#[tokio::test]
async fn messages_that_clients_could_not_send_are_rejected() {
    let mut config = config().max_message_bytes(10);
    config.limits = config.limits.name_bytes(20).json_depth(4);
    let server = Server::builder().config(config).start();
    let room = server.room(&room("r"));
    let deep = json!([[[[1]]]]);
    for (message, expected) in [
        (OutgoingMessage::new("12345678901"), ErrorCode::MessageTooLong),
        (OutgoingMessage::new("x").data("123456789"), ErrorCode::MessageTooLong),
        (OutgoingMessage::new(" "), ErrorCode::BadField),
        (OutgoingMessage::new("a\0"), ErrorCode::BadField),
        (OutgoingMessage::new("x").key("k".repeat(129)), ErrorCode::BadField),
        (OutgoingMessage::new("x").data(HashMap::from([([1], 1)])), ErrorCode::BadField),
        (OutgoingMessage::new("x").data(deep), ErrorCode::BadJson),
    ] {
        assert_eq!(code(room.send(message.clone()).await), expected, "{message:?}");
        let user = server.user(&id("ann"));
        assert_eq!(code(user.send(message.clone()).await), expected, "{message:?}");
    }
    room.send(OutgoingMessage::new("").data([[[1]]])).await.expect("data alone");
    let long = "x".repeat(21);
    let sent = server.room(&self::room(&long)).send("x").await;
    assert_eq!(code(sent), ErrorCode::RoomNameInvalid);
    assert_eq!(code(server.user(&id(&long)).send("x").await), ErrorCode::BadField);
    let reason = "r".repeat(513);
    assert_eq!(code(room.kick(&id("ann"), Some(&reason)).await), ErrorCode::BadField);
    let none = BanOptions::default().expires_in(Duration::ZERO);
    assert_eq!(code(room.ban(&id("ann"), none).await), ErrorCode::BadField);
    assert_eq!(server.bans(), []);
}

/// The user that the token names.
#[derive(Debug)]
struct Named;

#[async_trait]
impl Authenticator for Named {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        Ok(Identity::new(UserId::new(client.token.ok_or(AuthError::Missing)?).unwrap()))
    }
}

#[tokio::test]
async fn client_cannot_have_the_id_of_a_backend() {
    let status = async |node: &Node, query: &str| {
        let url = format!("ws://127.0.0.1:{}/ws?{query}", node.port);
        WsClient::try_connect(&url, &[]).await.err().map(|status| status.as_u16())
    };
    let [node, _] = pair_in_memory().await;
    assert_eq!(status(&node, "userId=%40shop").await, Some(400));
    let mut ann = node.client("ann").await;
    ask(&mut ann, "welcome", json!({"type": "hello"})).await;
    let direct = json!({"type": "direct", "to": "@shop", "message": "hi", "id": 1});
    assert_eq!(ask(&mut ann, "ok", direct).await["delivered"], 0);

    let node = Node::start(Server::builder().authenticator(Named).start()).await;
    assert_eq!(status(&node, "token=%40shop").await, Some(401));
    let url = format!("ws://127.0.0.1:{}/ws?token=ann", node.port);
    let mut ann = WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    let hello = json!({"type": "hello", "token": "@shop"});
    let error = ask(&mut ann, "error", hello).await;
    assert_eq!(error["code"], "unauthorized");
    assert!(error["message"].as_str().unwrap().contains("begins with @"), "{error}");
}
