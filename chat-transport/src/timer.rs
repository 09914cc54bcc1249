//! One timer for all deadlines of a session.

use std::pin::Pin;
use std::task::{Context, Poll};

use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Stands for a configured time that is too long for an [`Instant`].
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The end of a configured time.
pub(crate) fn after(start: Instant, time: Duration) -> Instant {
    start.checked_add(time).unwrap_or_else(|| start + CENTURY)
}

/// A deadline that is noticed later than this was missed: a busy runtime is not as late.
const LATEST: Duration = Duration::from_secs(1);

/// Whether a deadline passed while the process did not run: it was stopped, its machine slept, or
/// it got no processor. What the peer sent in that time may be in the socket, unread, so the
/// missed deadline says nothing about the peer.
pub(crate) fn was_missed(deadline: Instant, now: Instant) -> bool {
    now.saturating_duration_since(deadline) > LATEST
}

/// The timer of a session, for whichever deadline is next. It is moved only to an earlier deadline,
/// or once it has elapsed: a deadline that each message postpones costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready at `deadline`, or earlier: the caller polls again with the deadline of that moment.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.is_elapsed() || deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}
