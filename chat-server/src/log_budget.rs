//! Log lines that a client can trigger at any rate.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chat_core::printable;
use parking_lot::Mutex;

/// The origin of all times.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const MINUTE: Duration = Duration::from_secs(60);

/// The longest text of a line that a client may have written, in characters.
const LONGEST_TEXT: usize = 200;

/// Permits one log line a minute.
#[derive(Debug)]
pub(crate) struct OncePerMinute {
    /// When the next line is permitted, in milliseconds since the first call of `is_due`.
    next: AtomicU64,
}

impl OncePerMinute {
    pub(crate) const fn new() -> Self {
        Self { next: AtomicU64::new(0) }
    }

    /// Whether the line may be written now. If so, the next one may be in a minute.
    pub(crate) fn is_due(&self) -> bool {
        self.allows(START.elapsed())
    }

    fn allows(&self, now: Duration) -> bool {
        let now = now.as_millis() as u64;
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (now >= next).then_some(now + MINUTE.as_millis() as u64)
        });
        taken.is_ok()
    }
}

/// Permits a number of log lines a minute, of which each key may have some: clients can make up any
/// number of keys. Counts the lines that are not permitted.
#[derive(Debug)]
pub(crate) struct LogBudget {
    lines: u32,
    lines_per_key: u32,
    hasher: RandomState,
    spent: Mutex<Spent>,
}

/// What was spent in a minute.
#[derive(Debug, Default)]
struct Spent {
    /// The minute, since the origin of all times.
    minute: u64,
    lines: u32,
    /// The lines of each key that had some, by the hash of the key: a key may be long.
    by_key: HashMap<u64, u32>,
    /// Lines that were not permitted since they were last taken, also in earlier minutes.
    suppressed: u64,
}

impl LogBudget {
    pub(crate) fn new(lines: u32, lines_per_key: u32) -> Self {
        Self { lines, lines_per_key, hasher: RandomState::new(), spent: Mutex::default() }
    }

    /// Whether a line of this key may be written now.
    pub(crate) fn take(&self, key: &(impl Hash + ?Sized)) -> bool {
        self.take_at(key, START.elapsed())
    }

    fn take_at(&self, key: &(impl Hash + ?Sized), now: Duration) -> bool {
        let (key, minute) = (self.hasher.hash_one(key), now.as_secs() / MINUTE.as_secs());
        let mut spent = self.spent.lock();
        if spent.minute != minute {
            *spent = Spent { minute, suppressed: spent.suppressed, ..Spent::default() };
        }
        let of_key = spent.by_key.get(&key).copied().unwrap_or_default();
        let is_permitted = spent.lines < self.lines && of_key < self.lines_per_key;
        if is_permitted {
            spent.lines += 1;
            spent.by_key.insert(key, of_key + 1);
        } else {
            spent.suppressed += 1;
        }
        is_permitted
    }

    /// How many lines were not permitted since the last call, unless none.
    pub(crate) fn take_suppressed(&self) -> Option<u64> {
        let suppressed = std::mem::take(&mut self.spent.lock().suppressed);
        (suppressed > 0).then_some(suppressed)
    }
}

/// What a client may have written, in one line of a bounded length.
pub(crate) fn shown(text: &str) -> String {
    let clipped: String = text.chars().take(LONGEST_TEXT).collect();
    printable(&clipped).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute() {
        let line = OncePerMinute::new();
        let at = |seconds| line.allows(Duration::from_secs(seconds));
        assert!(at(0));
        assert!(!at(0) && !at(59));
        assert!(at(60));
        assert!(!at(100) && at(3600));
    }

    #[test]
    fn keys_share_the_lines_of_a_minute() {
        let budget = LogBudget::new(32, 2);
        let at = |seconds, key: &str| budget.take_at(key, Duration::from_secs(seconds));
        assert!(at(0, "a") && at(1, "a") && at(2, "b"));
        assert!(!at(3, "a") && !at(59, "a"));
        assert_eq!((budget.take_suppressed(), budget.take_suppressed()), (Some(2), None));
        assert!(at(60, "a"));
        let written = (0..1000).filter(|n| at(200, &n.to_string())).count();
        assert_eq!(written, 32);
        assert!(!at(239, "c") && at(240, "c"));
        assert_eq!(budget.take_suppressed(), Some(1000 - 32 + 1), "also of an earlier minute");
    }
}
