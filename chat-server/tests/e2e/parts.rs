//! A server whose broker leaves out presence and the shared table.

use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use chat_broker::testing::{Call, FaultyBroker};
use chat_broker::{Broker, MemoryBus};
use chat_core::{RoomId, Topic, UserId};
use chat_server::{
    Action, AuthError, Authenticator, Authorizer, Credentials, Identity, Secret, Server,
    ServerBuilder, ServerConfig,
};
use chat_transport::testing::WsClient;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::{ask, exchange, next_of};

/// Publishing and histories alone.
fn bare(bus: &MemoryBus) -> (Arc<dyn Broker>, chat_broker::BrokerEvents) {
    let (broker, events) = bus.connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    broker.leave_out_presence();
    broker.leave_out_table();
    (broker, events)
}

/// A server on a port of its own.
struct Running {
    port: u16,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(builder: ServerBuilder) -> Self {
        let server = builder.start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move { server.serve(vec![listener], pending()).await });
        Self { port, serving }
    }

    async fn client(&self, query: &str) -> WsClient {
        let url = format!("ws://127.0.0.1:{}/ws{query}", self.port);
        WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The token is the id, and everybody may do everything.
#[derive(Debug)]
struct Open;

#[async_trait]
impl Authenticator for Open {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        let id = client.token.ok_or(AuthError::Missing)?;
        Ok(Identity::new(UserId::new(id).map_err(|_| AuthError::Missing)?))
    }
}

#[async_trait]
impl Authorizer for Open {
    async fn allows(&self, _: &Identity, _: Action<'_>) -> bool {
        true
    }
}

fn ids(list: &Value) -> Vec<&str> {
    let members = list["members"].as_array().unwrap();
    members.iter().map(|member| member["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn rooms_work_without_presence() {
    let bus = MemoryBus::new();
    let (first, second) = (bare(&bus), bare(&bus));
    let first = Running::start(Server::builder().broker(first.0, first.1)).await;
    let second = Running::start(Server::builder().broker(second.0, second.1)).await;
    let ready = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (status, _, body) = exchange(first.port, ready).await;
    assert_eq!(status, 200, "{body}");

    let mut ann = first.client("?userId=ann").await;
    let mut bob = second.client("?userId=bob").await;
    for (client, name) in [(&mut ann, "ann"), (&mut bob, "bob")] {
        let joined = ask(client, "joined", json!({"type": "join", "room": "r"})).await;
        assert_eq!((ids(&joined), &joined["count"]), (vec![name], &json!(1)));
    }
    let list = ask(&mut ann, "members", json!({"type": "members", "room": "r"})).await;
    assert_eq!((ids(&list), &list["count"]), (vec!["ann"], &json!(1)));
    ask(&mut bob, "left", json!({"type": "leave", "room": "r"})).await;
    ask(&mut bob, "joined", json!({"type": "join", "room": "r"})).await;
    ask(&mut bob, "ok", json!({"type": "send", "room": "r", "message": "hi", "id": 1})).await;
    // No event of a join or leave came before.
    let message = ann.recv_json().await;
    assert_eq!((&message["type"], &message["message"]), (&json!("message"), &json!("hi")));
}

/// A message of a broadcast that the broker did not take says when to send it again, as an answer of 503
/// does in its head.
#[tokio::test]
async fn refused_room_of_a_broadcast_says_when_to_send_again() {
    let (broker, events) = MemoryBus::new().connect();
    let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
    let config = ServerConfig::default().api_key(Some(Secret::new("a key for backends")));
    let builder = Server::builder().config(config);
    let server =
        Running::start(builder.broker(Arc::clone(&broker) as Arc<dyn Broker>, events)).await;
    broker.fail_next(Call::Publish, 1);
    let body = json!({"rooms": ["a", "b"], "message": "x"}).to_string();
    let request = format!(
        "POST /api/broadcast HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: a key for backends\r\n\
         Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (_, _, answer) = exchange(server.port, &request).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let results = answer["results"].as_array().unwrap();
    let refused = results.iter().filter(|result| result["code"] == "broker_unavailable");
    let seconds: Vec<_> = refused.map(|result| &result["retry_after"]).collect();
    assert_eq!(seconds, [&json!(1)], "{answer}");
}

#[tokio::test]
async fn kicks_and_bans_are_unsupported_without_a_table() {
    let (broker, events) = bare(&MemoryBus::new());
    let config = ServerConfig::default().api_key(Some(Secret::new("a key for backends")));
    let builder = Server::builder().config(config).authenticator(Open).authorizer(Open);
    let server = Running::start(builder.broker(broker, events)).await;
    let mut ann = server.client("?token=ann").await;
    ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;
    for kind in ["kick", "ban", "unban"] {
        let refused = json!({"type": kind, "id": 1, "room": "r", "user": "bob"});
        let error = ask(&mut ann, "error", refused).await;
        assert_eq!((&error["code"], &error["id"]), (&json!("unsupported"), &json!(1)), "{error}");
        assert_eq!(error["retry_after_ms"], Value::Null, "to repeat it does not help");
    }
    for (path, body) in [
        ("users/bob/disconnect", json!({})),
        ("users/bob/unban", json!({})),
        ("rooms/r/kick", json!({"user": "bob"})),
        ("rooms/r/unban", json!({"user": "bob"})),
    ] {
        let body = body.to_string();
        let request = format!(
            "POST /api/{path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: a key for backends\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, _, answer) = exchange(server.port, &request).await;
        assert_eq!(status, 501, "{path}: {answer}");
        assert!(answer.contains(r#""code":"unsupported""#), "{path}: {answer}");
    }
    ask(&mut ann, "ok", json!({"type": "send", "room": "r", "message": "still here"})).await;
}

#[tokio::test]
async fn resume_secret_is_of_its_server_alone_without_a_table() {
    let bus = MemoryBus::new();
    let (first, second) = (bare(&bus), bare(&bus));
    let first = Running::start(Server::builder().broker(first.0, first.1)).await;
    let second = Running::start(Server::builder().broker(second.0, second.1)).await;
    let hello = json!({"type": "hello", "name": "Ann"});
    let welcome = ask(&mut first.client("").await, "welcome", hello).await;
    let resume = json!({"type": "hello", "resume": welcome["resume"]});
    let again = ask(&mut first.client("").await, "welcome", resume.clone()).await;
    assert_eq!(again["user"]["id"], welcome["user"]["id"]);
    let refused = ask(&mut second.client("").await, "error", resume).await;
    assert_eq!(refused["code"], "unauthorized");
}

/// One broker for the server and for the application around it.
#[tokio::test]
async fn application_publishes_through_the_broker_of_its_server() {
    let server = Server::builder().start();
    let broker = Arc::clone(server.broker());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws?userId=ann", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { server.serve(vec![listener], pending()).await });
    let mut ann = WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;

    let room = RoomId::new("r").unwrap();
    let bot = chat_core::User::new(UserId::new("bot").unwrap(), None);
    let rules = chat_broker::HistoryRules::default();
    let (payload, options) = rules.prepare(&room, bot.as_sender(), &"paid".into());
    broker.publish(&Topic::Room(room), payload, options).await.unwrap().await.unwrap();
    let message = next_of(&mut ann, "message").await;
    assert_eq!((&message["message"], &message["offset"]), (&json!("paid"), &json!(1)));
    serving.abort();
}
