//! When a connection ends whose client has not authenticated, or whose token has expired.

use std::time::Duration;

use tokio::time::Instant;

/// How late a running process notices a deadline at most. A deadline that is noticed later has passed
/// while the process was stopped, and the client could not meet it.
pub(crate) const MAX_TIMER_DELAY: Duration = Duration::from_secs(1);

/// How long a client may take to authenticate after a deadline that was noticed late: the server first
/// reads what the client has sent in time, and a client that was stopped as well needs a new token.
const EXTENSION: Duration = Duration::from_secs(5);

/// The end of a connection, unless its client authenticates before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    is_extended: bool,
}

impl Deadline {
    pub(crate) fn new(at: Option<Instant>) -> Self {
        Self { at, is_extended: false }
    }

    /// The same, `time` later.
    pub(crate) fn later(self, time: Duration) -> Self {
        Self { at: self.at.and_then(|at| at.checked_add(time)), ..self }
    }

    /// `None` for a connection that may stay.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Whether the connection has to end. A deadline that is noticed late is extended: the socket may
    /// hold what the client sent in time while the process was stopped. It is extended only once: a
    /// client whose commands keep its task busy past each deadline would otherwise never be closed.
    pub(crate) fn has_passed(&mut self) -> bool {
        let now = Instant::now();
        let Some(at) = self.at.filter(|at| *at <= now) else { return false };
        if now.duration_since(at) > MAX_TIMER_DELAY && !self.is_extended {
            *self = Self { at: Some(now + EXTENSION), is_extended: true };
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn late_deadline_is_extended_once() {
        let second = Duration::from_secs(1);
        let mut deadline = Deadline::new(Some(Instant::now() + second));
        assert!(!deadline.has_passed());
        advance(4 * second).await;
        assert!(!deadline.has_passed(), "the process was stopped");
        assert_eq!(deadline.at(), Some(Instant::now() + EXTENSION));
        advance(EXTENSION + 4 * second).await;
        assert!(deadline.has_passed());
        let mut on_time = Deadline::new(Some(Instant::now()));
        advance(MAX_TIMER_DELAY).await;
        assert!(on_time.has_passed());
        assert!(!Deadline::default().has_passed());
    }
}
