//! Nodes of the Redis broker: over a real Redis, and over a simulated one in paused time.
//!
//! One target, so that what both share is compiled once.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by a panic and says what it measured, in its helpers too"
)]

mod redis;
mod simulation;
mod support;
