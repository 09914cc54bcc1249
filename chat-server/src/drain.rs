//! The end of a server that is told to stop: its clients go elsewhere, not all at once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chat_core::wire::{Goodbye, ServerFrame};
use chat_core::{CloseReason, Deliver};
use tokio::time::{sleep, timeout};

use crate::member::Member;
use crate::state::State;

/// Clients that are told in one go.
const BATCH: usize = 250;

/// How much later each client more lets the last one come back: 10,000 are back after 5 s.
const FOR_EACH: Duration = Duration::from_micros(500);

impl State {
    /// Tells all clients to go elsewhere, and waits until they are gone, for `drain_timeout`
    /// at most. Nobody is let in any more.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let patience = self.config.drain_timeout;
        let all_gone = async {
            self.tell_all().await;
            self.sessions.none().await;
        };
        if timeout(patience, all_gone).await.is_err() {
            tracing::warn!(connections = self.sessions.len(), "clients did not leave in time");
        }
    }

    async fn tell_all(&self) {
        let members = self.sessions.all();
        let count = members.len();
        // Half of it passes until the last one is told, the other half until it comes back.
        let spread = spread(count, self.config.drain_spread, self.config.drain_timeout) / 2;
        for (batch, told) in members.chunks(BATCH).enumerate() {
            if batch > 0 {
                sleep(spread.mul_f64(BATCH as f64 / count as f64)).await;
            }
            for (n, member) in told.iter().enumerate() {
                tell(member, spread.mul_f64(place(batch * BATCH + n, count)));
            }
        }
    }
}

/// Says goodbye to a client that is to come back after this time, to another server.
pub(crate) fn tell(member: &Member, after: Duration) {
    let after_ms = after.as_millis() as u64;
    let mut goodbye = Goodbye::new("shutdown", true);
    goodbye.after_ms = after_ms;
    member.reply(&ServerFrame::Goodbye(goodbye));
    member.close(CloseReason::GoingAway);
}

/// Over how long so many clients come back.
fn spread(clients: usize, longest: Duration, patience: Duration) -> Duration {
    let wanted = FOR_EACH.saturating_mul(u32::try_from(clients).unwrap_or(u32::MAX));
    wanted.min(longest).min(patience / 2)
}

/// The place of the `n`th of `count`, from 0 to 1: neighbours are far apart.
fn place(n: usize, count: usize) -> f64 {
    /// Of the golden section, whose multiples fill a circle evenly.
    const TURN: f64 = 0.618_033_988_749_895;
    if count > 1 { (n as f64 * TURN).fract() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_evenly() {
        let mut tenths = [0; 10];
        for n in 0..10_000 {
            tenths[(place(n, 10_000) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (990..=1_010).contains(count)), "{tenths:?}");
        assert!((place(0, 100) - place(1, 100)).abs() > 0.3);
        assert_eq!(place(0, 1), 0.0);
    }

    #[test]
    fn the_spread_grows_with_the_clients_and_ends_in_time() {
        let second = Duration::from_secs(1);
        assert_eq!(spread(0, 5 * second, 10 * second), Duration::ZERO);
        assert_eq!(spread(1_000, 5 * second, 10 * second), second / 2);
        assert_eq!(spread(1_000_000, 5 * second, 10 * second), 5 * second);
        assert_eq!(spread(1_000_000, 20 * second, 10 * second), 5 * second);
    }
}
