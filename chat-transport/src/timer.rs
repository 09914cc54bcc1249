//! One timer for all deadlines of a session.

use std::pin::Pin;
use std::task::{Context, Poll};

use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// As good as never: what a configured time comes to that is too long to count.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The end of a configured time.
pub(crate) fn after(start: Instant, time: Duration) -> Instant {
    start.checked_add(time).unwrap_or_else(|| start + CENTURY)
}

/// How late a deadline may be noticed: a busy runtime is not as late as this.
const LATEST: Duration = Duration::from_secs(1);

/// Whether a deadline passed while the process did not run: it was stopped, its machine slept, or
/// it was starved of processors. What the peer did meanwhile may be in the socket, unread, so the
/// deadline says nothing of the peer.
pub(crate) fn was_missed(deadline: Instant, now: Instant) -> bool {
    now.saturating_duration_since(deadline) > LATEST
}

/// Moves only when it must ring earlier, or has rung: a deadline that is put off on every
/// message costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready at `deadline`, or before it: ask again with the deadline of that moment.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.is_elapsed() || deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}
