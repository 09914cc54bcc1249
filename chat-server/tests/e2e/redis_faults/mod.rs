//! Faults of Redis and of the way to it, under people who talk: nobody is disconnected, what
//! was acknowledged reaches everybody once and in order, and what was missed is told.
//!
//! `LONG_FAULTS` says how many seconds a fault may last in these tests: 30 and 300 are worth
//! it now and then.

mod connections;
mod contents;
mod crowd;
mod outages;
mod proxy;
mod refusals;
mod verdict;

use std::io::Write;
use std::time::Duration;

/// How long an answer may take: the deadline of the broker, the time for an answer of Redis,
/// and a busy machine.
const ANSWERED: Duration = Duration::from_secs(5 + 2 + 2);

/// Those of `seconds` that are not too long.
fn lasting<const N: usize>(seconds: [u64; N]) -> impl Iterator<Item = Duration> {
    let longest = std::env::var("LONG_FAULTS").ok().and_then(|text| text.parse().ok());
    let longest = longest.unwrap_or(4);
    seconds.into_iter().filter(move |seconds| *seconds <= longest).map(Duration::from_secs)
}

/// A line that is shown also when the test succeeds.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "redis faults: {line}");
}

/// A pause that is a part of the fault, or time for people to talk.
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
