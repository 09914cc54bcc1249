//! Log lines that a client can trigger at any rate.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The origin of all times.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

const MINUTE: Duration = Duration::from_secs(60);

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

/// Permits one log line a minute for each key, and at most [`MAX_KEYS`](Self::MAX_KEYS) lines a minute:
/// clients can make up any number of keys.
#[derive(Debug, Default)]
pub(crate) struct OncePerMinuteEach {
    hasher: RandomState,
    /// When the next line of a key is permitted, by the hash of the key: a key may be long.
    next: Mutex<HashMap<u64, Duration>>,
}

impl OncePerMinuteEach {
    const MAX_KEYS: usize = 32;

    /// Whether the line of this key may be written now. If so, the next one may be in a minute.
    pub(crate) fn is_due(&self, key: &str) -> bool {
        self.allows(key, START.elapsed())
    }

    fn allows(&self, key: &str, now: Duration) -> bool {
        let key = self.hasher.hash_one(key);
        let mut next = self.next.lock();
        next.retain(|_, next| *next > now);
        let is_due = next.len() < Self::MAX_KEYS && !next.contains_key(&key);
        if is_due {
            next.insert(key, now + MINUTE);
        }
        is_due
    }
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
    fn one_line_a_minute_for_each_of_a_few_keys() {
        let lines = OncePerMinuteEach::default();
        let at = |seconds, key: &str| lines.allows(key, Duration::from_secs(seconds));
        assert!(at(0, "a") && at(1, "b"));
        assert!(!at(0, "a") && !at(59, "a") && !at(60, "b"));
        assert!(at(60, "a") && at(61, "b"));
        let written = (0..1000).filter(|n| at(200, &n.to_string())).count();
        assert_eq!(written, OncePerMinuteEach::MAX_KEYS);
        assert!(!at(259, "c") && at(260, "c"));
    }
}
