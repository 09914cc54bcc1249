//! The chat server inside an axum application: its routes under `/chat`, beside those of the
//! application, one of which publishes to a room; a shutdown sends a `goodbye` to the clients.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use chat_broker::{Broker, HistoryRules, MemoryBroker};
use chat_core::{Content, RoomId, Topic, User, UserId};
use chat_server::{Server, ServerConfig};

/// A part of the application that publishes to the rooms of the chat.
#[derive(Clone)]
struct Orders {
    broker: Arc<dyn Broker>,
    /// Those of the server: how long each room keeps its messages.
    history: HistoryRules,
    shop: User,
}

/// Publishes to the order's room: all members receive it, on every server.
async fn paid(State(orders): State<Orders>, Path(id): Path<u64>) -> StatusCode {
    let Ok(room) = RoomId::new(format!("order-{id}")) else { return StatusCode::BAD_REQUEST };
    // With a key, a request that is repeated within five minutes is published once.
    let content = Content::from("Your order is paid.").key("paid");
    let (payload, options) = orders.history.prepare(&room, orders.shop.as_sender(), &content);
    let topic = Topic::Room(room);
    let publishing = async { orders.broker.publish(&topic, payload, options).await?.await };
    match publishing.await {
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In production: `RedisBroker::connect(RedisConfig::new(url)).await?`
    let (broker, events) = MemoryBroker::connect();
    let config = ServerConfig::default()
        .max_message_bytes(4096)
        // The name that browsers know this application by.
        .allow_host(vec!["chat.example".to_owned()]);
    let history = config.hub.history.clone();
    let chat = Server::builder().broker(broker, events).config(config).start();

    let orders = Orders {
        broker: Arc::clone(chat.broker()),
        history,
        shop: User::new(UserId::new("shop")?, None),
    };
    let routes = Router::new()
        .route("/", get(|| async { "an application of your own\n" }))
        .route("/orders/{id}/paid", post(paid))
        .with_state(orders)
        .nest_service("/chat", chat.router());
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);

    // First no new clients, then the goodbyes: axum does not wait for WebSockets.
    axum::serve(listener, routes).with_graceful_shutdown(interrupted()).await?;
    chat.shutdown().await;
    Ok(())
}

/// Resolves at Ctrl-C.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
