//! How full Redis is, and a line in the log when that changes.
//!
//! A full Redis (`maxmemory` under `noeviction`) refuses what rooms keep and nothing else, on every
//! server alike: it is no reason to send clients elsewhere, and one to wake an operator.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::peer::field;

/// How often Redis is asked how much memory it uses.
const INTERVAL: Duration = Duration::from_secs(10);

/// For how long every probe must be taken before Redis counts as having room again. At its limit
/// it takes some and refuses some, and the log would have a line for each.
const RECOVERY: Duration = Duration::from_secs(5);

/// Percent of `maxmemory` above which the log warns, and below which it may warn again.
const HIGH: u64 = 80;
const LOW: u64 = 75;

/// What all publishing connections have found out.
#[derive(Debug, Default)]
pub(super) struct Capacity {
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
pub(super) struct Memory {
    pub(super) used: u64,
    pub(super) max: u64,
}

impl Capacity {
    pub(super) fn is_full(&self) -> bool {
        self.state().refused.is_some()
    }

    /// As last seen.
    pub(super) fn memory(&self) -> Memory {
        self.state().memory
    }

    /// Redis refused to keep something for want of memory.
    pub(super) fn refused(&self, cause: &dyn fmt::Display) {
        if self.state().refused.replace(Instant::now()).is_none() {
            tracing::warn!(%cause, "redis is full: rooms with history refuse messages");
        }
    }

    /// Redis kept something.
    pub(super) fn taken(&self) {
        if self.state().refused.take_if(|refused| refused.elapsed() >= RECOVERY).is_some() {
            tracing::info!("redis has room again");
        }
    }

    /// Whether it is time to ask Redis for its memory; one connection does for all.
    pub(super) fn is_due(&self) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let is_due = state.asked.is_none_or(|asked| now - asked >= INTERVAL);
        if is_due {
            state.asked = Some(now);
        }
        is_due
    }

    /// Takes what Redis answered to `INFO memory`.
    pub(super) fn set(&self, memory: Memory) {
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// Reads `INFO memory`.
    pub(super) fn parse(info: &str) -> Self {
        let bytes = |name| field(info, name).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        Self { used: bytes("used_memory:"), max: bytes("maxmemory:") }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn redis_is_full_until_nothing_was_refused_for_a_while() {
        let capacity = Capacity::default();
        capacity.taken();
        assert!(!capacity.is_full());
        for _ in 0..3 {
            capacity.refused(&"OOM");
            advance(RECOVERY - Duration::from_millis(1)).await;
            capacity.taken();
            assert!(capacity.is_full(), "another probe may be refused");
        }
        advance(Duration::from_millis(1)).await;
        capacity.taken();
        assert!(!capacity.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_asks_for_all() {
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
}
