//! The real program, driven over real sockets, with a real Redis between its processes.
//!
//! One target, so that what the suites share is compiled once; `cargo test --test server faults`
//! runs one of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod abuse;
mod attackers;
mod chaos;
mod e2e;
mod faults;
mod soak;
mod support;
