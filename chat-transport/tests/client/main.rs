//! The client, against a server that says what a test wants.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod connecting;
mod direct;
mod ends;
mod limits;
mod mock;
mod pace;
mod rooms;
mod sends;
mod slow_reader;
mod tls;
mod tokens;
