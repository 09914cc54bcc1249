//! Log lines that clients can trigger at any rate.

use std::time::Duration;

use tokio::time::Instant;

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// How many lines are logged individually in each minute. Further lines are only counted.
#[derive(Debug)]
pub(super) struct LogBudget {
    per_minute: u32,
    /// The end of the current minute, which starts with its first line.
    ends: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl LogBudget {
    pub(super) const fn new(per_minute: u32) -> Self {
        Self { per_minute, ends: None, logged: 0, suppressed: 0 }
    }

    /// Whether one more line is logged individually; it is counted otherwise.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.ends.is_none_or(|ends| now >= ends) {
            self.ends = Some(now + MINUTE);
            self.logged = 0;
        }
        let is_within = self.logged < self.per_minute;
        if is_within {
            self.logged += 1;
        } else {
            self.suppressed += 1;
        }
        is_within
    }

    /// How many lines were only counted since the last call; `None` for none.
    pub(super) fn take_suppressed(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.suppressed)).filter(|lines| *lines > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_budget_of_a_minute_are_counted() {
        let (mut budget, began) = (LogBudget::new(3), Instant::now());
        let mut logged = |at, lines: usize| {
            let now = began + Duration::from_secs(at);
            (0..lines).filter(|_| budget.take(now)).count()
        };
        assert_eq!(logged(0, 2), 2);
        assert_eq!(logged(59, 3), 1);
        assert_eq!(logged(60, 5), 3, "the next minute");
        assert_eq!(logged(500, 1), 1);
        assert_eq!(budget.take_suppressed(), Some(4));
        assert_eq!(budget.take_suppressed(), None);
    }
}
