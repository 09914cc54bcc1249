//! When a connection ends that has not said who it is, or whose token has run out.

use std::time::Duration;

use tokio::time::Instant;

/// How late a deadline may be noticed by a process that runs. One that is noticed later has passed
/// while the process was stopped, and says nothing of the client.
pub(crate) const LATEST: Duration = Duration::from_secs(1);

/// How long a client has to identify itself after a deadline that was noticed late: what it has sent
/// is read at once, and a client that was stopped as well needs another token.
const EXTENSION: Duration = Duration::from_secs(5);

/// The end of a connection, unless its client identifies itself before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    is_extended: bool,
}

impl Deadline {
    pub(crate) fn new(at: Option<Instant>) -> Self {
        Self { at, is_extended: false }
    }

    /// `None` for a connection that may stay.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Whether the connection has to end. A deadline that is noticed late is extended, but once only:
    /// a process that was stopped finds in the socket what the client has sent in time, and a client
    /// whose commands keep its task busy past each deadline would stay for as long as it likes.
    pub(crate) fn has_passed(&mut self) -> bool {
        let now = Instant::now();
        let Some(at) = self.at.filter(|at| *at <= now) else { return false };
        if now.duration_since(at) > LATEST && !self.is_extended {
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
        advance(LATEST).await;
        assert!(on_time.has_passed());
        assert!(!Deadline::default().has_passed());
    }
}
