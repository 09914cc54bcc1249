//! Nodes over a simulated Redis and a scripted network, in paused time.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by a panic and says what it measured, in its helpers too"
)]

mod conformance;
mod differential;
mod network;
mod redis;
mod rng;
