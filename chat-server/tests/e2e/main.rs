//! The real program, driven over real sockets, with a real Redis between its processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod auth;
mod client;
mod direct;
mod embedded;
mod history;
mod hosts;
mod http;
mod limits;
mod metrics;
mod mixed;
mod moderation;
mod native;
mod nginx;
mod operations;
mod outage;
mod parts;
mod presence;
mod redis_faults;
mod rooms;
#[path = "../shared/mod.rs"]
#[allow(dead_code, reason = "what the other tests use of it is not all used here")]
mod shared;
mod support;
mod topics;
mod versions;
