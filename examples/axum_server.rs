//! The chat server inside an axum application of your own: its routes under `/chat`, yours
//! beside them, and an end that says goodbye to the clients.

use axum::Router;
use axum::routing::get;
use chat_broker::MemoryBroker;
use chat_server::{Server, ServerConfig};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // In production: `RedisBroker::connect(RedisConfig::new(url)).await?`
    let (broker, events) = MemoryBroker::connect();
    let config = ServerConfig::default()
        .max_message_bytes(4096)
        // The name that browsers know this application by.
        .allow_host(vec!["chat.example".to_owned()]);
    let chat = Server::builder().broker(broker, events).config(config).start();

    let routes = Router::new()
        .route("/", get(|| async { "an application of your own\n" }))
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
