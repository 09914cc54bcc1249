#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
mod api;
mod api_lines;
mod auth;
#[doc(hidden)] // For the program.
pub mod built;
mod cause;
mod client_lines;
mod config;
mod connection;
mod deadline;
mod drain;
mod error;
mod fleet;
mod gzip;
mod handle;
mod header_list;
mod hooks;
mod host;
mod host_check;
mod http;
#[cfg(feature = "jwks")]
mod http_client;
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
mod process;
mod public_url;
mod query;
mod refusal;
mod routes;
mod sampler;
mod samples;
mod scrape;
mod searches;
mod secret;
mod server;
mod service;
mod sessions;
mod setters;
mod state;
mod throttled;
mod undelivered;
mod upgrade;
mod web;

#[cfg(doc)]
#[doc = include_str!("../GUIDE.md")]
pub mod guide {}

/// The crates of the types in this crate's signatures, of the version that fits: a dependency on them is
/// not needed.
pub use {chat_broker, chat_core, chat_transport};

pub use api::keys::{ApiKey, ApiScope, InvalidApiKey};
pub use auth::{
    Action, AuthError, Authenticator, Authorizer, Credentials, Identity, KeyEnds, KeyFetches,
    KeySet,
};
#[cfg(feature = "jwks")]
pub use auth::{FetchError, RemoteKeys, RemoteKeysConfig};
#[cfg(feature = "jwt")]
pub use auth::{
    InvalidClaims, InvalidKey, JwtAuthenticator, JwtKeys, JwtSigner, TokenClaims, TokenIssuer,
};
pub use config::{InvalidConfig, ServerConfig};
pub use error::Error;
pub use handle::{
    BanOptions, HistoryPage, OutgoingMessage, RoomFollow, RoomHandle, RoomItem, RoomMembers,
    UserHandle,
};
pub use hooks::{Draft, HookError, Hooks, JoinAttempt};
/// A network such as `10.0.0.0/8`: [`IpNet`](https://docs.rs/ipnet/2) of `ipnet` 2.
pub use ipnet::IpNet;
pub use limits::{InvalidRate, LimitsConfig, Rate, Rates};
pub use member::Member;
pub use moderation::{Ban, BannedBy};
pub use peer::ForwardedHeader;
pub use secret::Secret;
pub use server::{Server, ServerBuilder};
