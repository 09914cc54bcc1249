//! Faults of clients and of servers: whoever is slow, gone, or one of thousands at once, and
//! whatever a process lacks or is told to do.
//!
//! `LONG_FAULTS=1` has the crowds at their full size.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../abuse/bystanders.rs"]
mod bystanders;
mod clients;
mod drain;
mod nodes;
#[path = "../abuse/process.rs"]
#[allow(dead_code, reason = "what the other tests use of it is not all used here")]
mod process;
mod proxy;
mod raw;
mod resuming;
mod scarcity;
mod slow;
mod storms;
#[path = "../e2e/support.rs"]
#[allow(dead_code, reason = "what the other tests use of it is not all used here")]
mod support;
#[path = "../chaos/verdict.rs"]
mod verdict;

use std::io::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{Chat, DEADLINE};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::MutexGuard;
use tokio::task::block_in_place;
use tokio::time::sleep;

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

/// The value of a metric.
async fn metric(server: &Chat, name: &str) -> u64 {
    let (_, _, page) = server.http("GET", "/metrics").await;
    let line =
        page.lines().find(|line| line.strip_prefix(name).is_some_and(|s| s.starts_with(' ')));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
}

/// Waits until a metric is at least so much.
async fn until_metric(server: &Chat, name: &str, least: u64) {
    eventually(name, async || metric(server, name).await >= least).await;
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + 3 * DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A line that is shown also when the test succeeds.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "faults: {line}");
}
