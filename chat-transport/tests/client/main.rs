//! The client, against a server that says what a test wants.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod ends;
mod mock;
mod rooms;
mod sends;
mod slow_reader;
mod tokens;
