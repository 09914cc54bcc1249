//! A real-time chat server whose rooms stay in sync across any number of processes.
//!
//! ```text
//! client ── WebSocket ── Session ─┐                              ┌─ Session ── client
//!                     (transport) │                              │
//!                              connection ── publish ─▶ Broker ──┤
//!                                 │                  (Redis)     │
//!                                 └─ join ─▶ Hub ◀── events ─────┴─▶ Hub of every server
//!                                                                    with members there
//! ```
//!
//! The binary `chat-server` is one way to run it. This library is the other: a [`Server`]
//! listens by itself, or gives its routes to an axum application.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use chat_broker::MemoryBroker;
//! use chat_server::Server;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let (broker, events) = MemoryBroker::connect(); // or RedisBroker::connect(config).await?
//! let chat = Server::builder().broker(broker, events).start();
//! let app = Router::new().route("/hello", get(|| async { "hi" })).nest_service("/chat", chat.router());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! axum::serve(listener, app).await // clients connect to ws://127.0.0.1:3000/chat/ws
//! # }
//! ```

mod api;
mod auth;
mod config;
mod connection;
mod deadline;
mod drain;
mod header_list;
mod host;
mod host_check;
mod http;
mod identity;
mod limits;
mod listener;
mod log_budget;
mod member;
mod metrics;
mod moderation;
mod operator;
mod origin;
mod peer;
mod public_url;
mod query;
mod refusal;
mod routes;
mod scrape;
mod secret;
mod server;
mod sessions;
mod setters;
mod state;
mod undelivered;
mod upgrade;
mod web;

pub use auth::{Action, AuthError, Authenticator, Authorizer, Credentials, Identity};
#[cfg(feature = "jwt")]
pub use auth::{InvalidClaims, InvalidKey, JwtAuthenticator, JwtSigner, TokenClaims};
pub use config::{InvalidConfig, ServerConfig};
/// A network such as `10.0.0.0/8`: [`IpNet`](https://docs.rs/ipnet/2) of `ipnet` 2.
pub use ipnet::IpNet;
pub use limits::{InvalidRate, LimitsConfig, Rate, Rates};
pub use peer::ForwardedHeader;
pub use secret::Secret;
pub use server::{Server, ServerBuilder};
