//! Faults of Redis and of the way to it, under people who talk: nobody is disconnected, what
//! was acknowledged reaches everybody once and in order, and what was missed is told.
//!
//! `LONG_OUTAGES` says how many seconds a fault may last in these tests: 30 and 300 are worth
//! it now and then.

mod connections;
mod contents;
mod crowd;
mod damage;
mod full;
mod outages;
mod refusals;
mod verdict;

use std::time::{Duration, Instant};

use crate::support::{Chat, assert_within};

/// How long an answer may take: the deadline of the broker, the time for an answer of Redis,
/// and a busy machine.
const ANSWERED: Duration = Duration::from_secs(5 + 2 + 2);

/// In which `/readyz` tells the truth: two probes, each of a second and two for its answer.
const TOLD: Duration = Duration::from_secs(2 * (1 + 2));

/// How long an outage may last at least, in seconds.
const SHORT: u64 = 4;

/// Those of `seconds` that are not too long.
fn lasting(seconds: &[u64]) -> Vec<Duration> {
    let longest = std::env::var("LONG_OUTAGES").map_or(0, |text| text.parse().expect("seconds"));
    let mut lasting = seconds.to_vec();
    lasting.retain(|seconds| *seconds <= longest.max(SHORT));
    assert!(!lasting.is_empty(), "{seconds:?}: none is tried");
    lasting.into_iter().map(Duration::from_secs).collect()
}

/// How long it takes until all of these answer so on `/readyz`.
async fn until_told(servers: &[&Chat], status: u16) -> Duration {
    let began = Instant::now();
    for server in servers {
        server.until_status("/readyz", status).await;
    }
    let took = began.elapsed();
    assert_within("/readyz", took, TOLD);
    took
}

/// A pause that is a part of the fault, or time for people to talk.
async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
