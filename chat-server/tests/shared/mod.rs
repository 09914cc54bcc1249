//! What tests of faults have in common.

pub(crate) mod bystanders;
pub(crate) mod process;
pub(crate) mod sockets;

use std::io::Write;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::DEADLINE;

/// A line that is shown also when the test succeeds, with the name of its target.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}: {line}", env!("CARGO_CRATE_NAME"));
}

/// Waits until it is so, for as long as a busy machine may take.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + 3 * DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for {what}");
        sleep(Duration::from_millis(50)).await;
    }
}
