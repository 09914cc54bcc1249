//! The chat server inside an axum application: its routes under `/chat`, beside those of the
//! application, one of which sends a message to a room; a shutdown sends a `goodbye` to the clients.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use chat_broker::MemoryBroker;
use chat_core::RoomId;
use chat_server::{Error, OutgoingMessage, Server, ServerConfig};

/// Sends a message to the order's room: all members receive it, on every server.
async fn paid(State(chat): State<Server>, Path(order): Path<RoomId>) -> Result<(), Error> {
    // With a key, a request that is repeated within five minutes is published once.
    let message = OutgoingMessage::new("Your order is paid.").key("paid");
    chat.room(&order).send(message).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In production: `RedisBroker::connect(RedisConfig::new(url)).await?`
    let (broker, events) = MemoryBroker::connect();
    let config = ServerConfig::default()
        .max_message_bytes(4096)
        // The name that browsers know this application by.
        .allow_host(vec!["chat.example".to_owned()]);
    let chat = Server::builder().broker(broker, events).config(config).start();

    let routes = Router::new()
        .route("/", get(|| async { "an application of your own\n" }))
        .route("/orders/{order}/paid", post(paid))
        .with_state(chat.clone())
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
