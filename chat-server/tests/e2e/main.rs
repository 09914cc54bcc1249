//! The real program, driven over real sockets, with a real Redis between its processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod auth;
mod client;
mod direct;
mod embedded;
mod history;
mod limits;
mod mixed;
mod moderation;
mod native;
mod nginx;
mod operations;
mod outage;
mod presence;
mod redis_faults;
mod rooms;
mod support;
mod topics;
mod versions;
