//! Faults of clients and of servers: clients that are slow, gone, or thousands at once, and servers
//! that lack files, memory or CPU, that drain, or that are stopped.
//!
//! `LONG_FAULTS=1` has the crowds at their full size.

mod clients;
mod clock;
mod drain;
mod nodes;
mod resuming;
mod scarcity;
mod slow;
mod storms;

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};
use tokio::task::block_in_place;

/// Whether the crowds have their full size.
fn long() -> bool {
    std::env::var_os("LONG_FAULTS").is_some_and(|value| value != "0")
}

/// Does something on a thread of its own: what keeps this process busy otherwise is not to be
/// held against a server.
fn aside<F: Future>(work: F) -> F::Output {
    static THREAD: OnceLock<Runtime> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    block_in_place(|| THREAD.get_or_init(start).block_on(work))
}
