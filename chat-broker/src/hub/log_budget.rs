//! Lines of the log that clients can cause as often as they like.

use std::time::Duration;

use tokio::time::Instant;

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// How many lines of a minute are logged one by one. Of those beyond only their number is kept.
#[derive(Debug)]
pub(super) struct LogBudget {
    per_minute: u32,
    /// When the minute ends that began with its first line.
    ends: Option<Instant>,
    logged: u32,
    left_out: u64,
}

impl LogBudget {
    pub(super) const fn new(per_minute: u32) -> Self {
        Self { per_minute, ends: None, logged: 0, left_out: 0 }
    }

    /// Whether one more line is logged by itself.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.ends.is_none_or(|ends| now >= ends) {
            self.ends = Some(now + MINUTE);
            self.logged = 0;
        }
        let is_within = self.logged < self.per_minute;
        if is_within {
            self.logged += 1;
        } else {
            self.left_out += 1;
        }
        is_within
    }

    /// How many lines were not, since this was asked last; `None` for none.
    pub(super) fn take_left_out(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.left_out)).filter(|lines| *lines > 0)
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
        assert_eq!(budget.take_left_out(), Some(4));
        assert_eq!(budget.take_left_out(), None);
    }
}
