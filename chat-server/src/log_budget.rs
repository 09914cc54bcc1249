//! Log lines that a client can trigger at any rate.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Permits one log line a minute.
#[derive(Debug)]
pub(crate) struct OncePerMinute {
    /// When the next line is permitted, in milliseconds since the first call of `is_due`.
    next: AtomicU64,
}

impl OncePerMinute {
    const MINUTE_MS: u64 = 60_000;

    pub(crate) const fn new() -> Self {
        Self { next: AtomicU64::new(0) }
    }

    /// Whether the line may be written now. If so, the next one may be in a minute.
    pub(crate) fn is_due(&self) -> bool {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        self.allows(BEGAN.elapsed())
    }

    fn allows(&self, now: Duration) -> bool {
        let now = now.as_millis() as u64;
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (now >= next).then_some(now + Self::MINUTE_MS)
        });
        taken.is_ok()
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
}
