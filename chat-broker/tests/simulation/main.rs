//! Nodes over a simulated Redis and a scripted network, in paused time.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by a panic and says what it measured, in its helpers too"
)]

mod checks;
mod conformance;
mod differential;
mod leases;
mod network;
mod node;
mod redis;
mod resend;
mod rng;
mod script;
mod seeds;
#[path = "../redis/support.rs"]
#[allow(dead_code, reason = "what only the tests with a real Redis use")]
mod support;
mod world;
