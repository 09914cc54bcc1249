//! Lines of the log that a client can cause as often as it likes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lets one line a minute through.
#[derive(Debug, Default)]
pub(crate) struct OncePerMinute {
    /// In milliseconds since the same moment as all times that it is asked with.
    next: AtomicU64,
}

impl OncePerMinute {
    const MINUTE_MS: u64 = 60_000;

    /// Whether the line may be written. `now` is the time since a moment that is always the same.
    pub(crate) fn allows(&self, now: Duration) -> bool {
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
        let line = OncePerMinute::default();
        let at = |seconds| line.allows(Duration::from_secs(seconds));
        assert!(at(0));
        assert!(!at(0) && !at(59));
        assert!(at(60));
        assert!(!at(100) && at(3600));
    }
}
