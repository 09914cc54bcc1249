//! How full Redis is and what it deletes then, and a line in the log when that changes.
//!
//! A full Redis (`maxmemory` under `noeviction`) refuses what rooms keep and nothing else, on every
//! server alike: it is no reason to send clients elsewhere, and one to wake an operator.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// How often Redis is asked how much memory it uses.
const INTERVAL: Duration = Duration::from_secs(10);

/// For how long every probe must be taken before Redis counts as having room again. At its limit
/// it takes some and refuses some, and the log would have a line for each.
const RECOVERY: Duration = Duration::from_secs(5);

/// Percent of `maxmemory` above which the log warns, and below which it may warn again.
const HIGH: u64 = 80;
const LOW: u64 = 75;

/// Under which Redis refuses to write instead.
const NO_EVICTION: &str = "noeviction";

/// What those policies delete that spare keys without a lifetime, and those that do not.
const VOLATILE: &str = "histories, positions and keys of messages";
const ALL: &str = "histories, positions, keys of messages, who is in which room, leases of servers, \
                   bans and the resume secret";

/// What is known of the memory of Redis, for all publishing connections.
#[derive(Debug, Default)]
pub(crate) struct Capacity {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When Redis refused a probe last, if it has been full since.
    refused: Option<Instant>,
    asked: Option<Instant>,
    memory: Memory,
    is_high: bool,
}

/// Bytes; 0 if there is no limit, or nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Memory {
    pub(crate) used: u64,
    pub(crate) max: u64,
}

impl Capacity {
    pub(crate) fn is_full(&self) -> bool {
        self.state().refused.is_some()
    }

    /// As last seen.
    pub(crate) fn memory(&self) -> Memory {
        self.state().memory
    }

    /// Redis refused to keep something for want of memory.
    pub(crate) fn refused(&self, cause: &str) {
        if self.state().refused.replace(Instant::now()).is_none() {
            tracing::warn!(cause, "redis is full: rooms with history refuse messages");
        }
    }

    /// Redis kept something.
    pub(crate) fn taken(&self) {
        if self.state().refused.take_if(|refused| refused.elapsed() >= RECOVERY).is_some() {
            tracing::info!("redis has free memory again");
        }
    }

    /// Whether it is time to ask Redis for its memory; one connection does for all.
    pub(crate) fn is_due(&self) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let is_due = state.asked.is_none_or(|asked| now - asked >= INTERVAL);
        if is_due {
            state.asked = Some(now);
        }
        is_due
    }

    /// Takes what Redis answered to `INFO memory`.
    pub(crate) fn set(&self, memory: Memory) {
        let mut state = self.state();
        state.memory = memory;
        let is_above = |percent| memory.max > 0 && memory.used / percent > memory.max / 100;
        if is_above(HIGH) && !state.is_high {
            state.is_high = true;
            let Memory { used, max } = memory;
            tracing::warn!(used, max, "redis uses more than {HIGH} % of maxmemory");
        } else if !is_above(LOW) {
            state.is_high = false;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Memory {
    /// Reads `INFO memory`.
    pub(crate) fn parse(info: &str) -> Self {
        let bytes = |name| info_field(info, name).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        Self { used: bytes("used_memory:"), max: bytes("maxmemory:") }
    }
}

/// A line of an answer to `INFO`, without its name.
pub(crate) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name))
}

/// The policy by which Redis makes room, as it was last seen.
#[derive(Debug, Default)]
pub(crate) struct Eviction {
    policy: Mutex<String>,
}

impl Eviction {
    /// Says in the log what a policy deletes, once. Histories and keys of messages have a lifetime,
    /// and so are deleted by the policies that delete nothing else, too.
    pub(crate) fn seen(&self, policy: &str) {
        let mut known = self.policy.lock();
        if *known != policy {
            policy.clone_into(&mut known);
            if policy != NO_EVICTION {
                let may_delete = if policy.starts_with("allkeys") { ALL } else { VOLATILE };
                tracing::warn!(
                    policy,
                    "redis may delete {may_delete} when it is full: set maxmemory-policy to noeviction"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn redis_is_full_until_refusals_stop() {
        let capacity = Capacity::default();
        capacity.taken();
        assert!(!capacity.is_full());
        for _ in 0..3 {
            capacity.refused("OOM");
            advance(RECOVERY - Duration::from_millis(1)).await;
            capacity.taken();
            assert!(capacity.is_full(), "another probe may be refused");
        }
        advance(Duration::from_millis(1)).await;
        capacity.taken();
        assert!(!capacity.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_reads_the_memory_for_all() {
        let capacity = Capacity::default();
        assert_eq!([capacity.is_due(), capacity.is_due()], [true, false]);
        advance(INTERVAL).await;
        assert_eq!([capacity.is_due(), capacity.is_due()], [true, false]);
    }

    #[test]
    fn memory_is_high_above_80_percent_until_it_is_below_75() {
        let capacity = Capacity::default();
        let is_high = |used, max| {
            capacity.set(Memory { used, max });
            capacity.state().is_high
        };
        let max = 256 << 20;
        let percent = |percent| is_high(percent * max / 100, max);
        assert_eq!(
            [79, 82, 78, 76, 74, 78, 82].map(percent),
            [false, true, true, true, false, false, true]
        );
        assert!(!is_high(u64::MAX, 0), "there is no limit any more");
        assert!(is_high(u64::MAX, 1));
    }

    #[test]
    fn memory_is_read_from_info() {
        let info = "# Memory\r\nused_memory:123\r\nused_memory_human:1K\r\nmaxmemory:9\r\n\
                    maxmemory_human:9B\r\n";
        assert_eq!(Memory::parse(info), Memory { used: 123, max: 9 });
        assert_eq!(Memory::parse("maxmemory:-1"), Memory::default());
    }

    #[test]
    fn field_of_info_is_found() {
        let info = "# Server\r\nredis_version:7\r\nrun_id:4f2a\r\ntcp_port:1\r\n";
        assert_eq!(info_field(info, "run_id:"), Some("4f2a"));
        assert_eq!(info_field("# Server\r\n", "run_id:"), None);
    }
}
