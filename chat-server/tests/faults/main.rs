//! Faults of clients and of servers: whoever is slow, gone, or one of thousands at once, and
//! whatever a process lacks or is told to do.
//!
//! `LONG_FAULTS=1` has the crowds at their full size.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod clients;
mod clock;
mod drain;
mod nodes;
mod raw;
mod resuming;
mod scarcity;
#[path = "../shared/mod.rs"]
#[allow(dead_code, reason = "what the other tests use of it is not all used here")]
mod shared;
mod slow;
mod storms;
#[path = "../e2e/support.rs"]
#[allow(dead_code, reason = "what the other tests use of it is not all used here")]
mod support;
#[path = "../chaos/verdict.rs"]
mod verdict;

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::MutexGuard;
use tokio::task::block_in_place;

/// Whether the crowds have their full size.
fn long() -> bool {
    std::env::var_os("LONG_FAULTS").is_some_and(|value| value != "0")
}

/// Crowds come one after the other.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ONE_AT_A_TIME.lock().await
}

/// Does something on a thread of its own: what keeps this process busy otherwise is not to be
/// held against a server.
fn aside<F: Future>(work: F) -> F::Output {
    static THREAD: OnceLock<Runtime> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    block_in_place(|| THREAD.get_or_init(start).block_on(work))
}
