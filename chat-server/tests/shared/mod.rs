//! What tests of faults have in common.

pub(crate) mod bystanders;
pub(crate) mod process;

use std::io::Write;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::{Chat, DEADLINE};

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

/// The value of a metric; 0 if it has a label that nothing was counted under yet.
pub(crate) async fn metric(server: &Chat, name: &str) -> u64 {
    let (_, _, page) = server.http("GET", "/metrics").await;
    match value_of(&page, name) {
        None if name.contains('{') => 0,
        value => value.unwrap_or_else(|| panic!("no {name} in\n{page}")),
    }
}

/// Waits until a metric is at least so much.
pub(crate) async fn until_metric(server: &Chat, name: &str, least: u64) {
    eventually(name, async || metric(server, name).await >= least).await;
}

/// What the page of metrics says of one.
pub(crate) fn value_of(page: &str, name: &str) -> Option<u64> {
    let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
    let value = lines.find_map(|rest| rest.strip_prefix(' '))?;
    Some(value.trim().parse().expect("a whole number"))
}
