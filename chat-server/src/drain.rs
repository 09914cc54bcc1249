//! Clients are asked to reconnect to other servers, spread over time: all of them at a shutdown, and a part of
//! them to make use of a server that was added.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use chat_core::wire::{Goodbye, ServerFrame};
use chat_core::{CloseReason, ConnectionId, Deliver};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::member::Member;
use crate::state::{State, Task};

/// Clients that receive `goodbye` at the same time.
const BATCH: usize = 250;

/// How much each client adds to the spread: 10,000 clients reconnect over 5 s.
const SPREAD_PER_CLIENT: Duration = Duration::from_micros(500);

impl State {
    /// Accepts no new clients, asks all clients to reconnect elsewhere, and waits until they have
    /// disconnected, at most for `drain_timeout`.
    pub(crate) async fn drain(&self) {
        // Before the list of connections is read in `send_goodbyes`: a connection that opens later sees
        // the flag and gets its `goodbye` from `Connection::open`.
        self.draining.store(true, Ordering::SeqCst);
        // Its clients would reconnect without the spread of the drain.
        self.rebalance.lock().take();
        let disconnected = async {
            self.send_goodbyes().await;
            self.sessions.until_empty().await;
        };
        if timeout(self.config.drain_timeout, disconnected).await.is_err() {
            tracing::warn!(
                connections = self.sessions.len(),
                "drain timed out with clients connected"
            );
        }
    }

    async fn send_goodbyes(&self) {
        let members = self.sessions.all(&self.drop_reporter);
        let count = members.len();
        // Half of the spread passes until the last goodbye, the other half until that client reconnects:
        // spread over both, neither the closes nor the reconnects are a burst.
        let spread = spread(count, self.config.drain_spread, self.config.drain_timeout) / 2;
        for (batch, members) in members.chunks(BATCH).enumerate() {
            if batch > 0 {
                sleep(spread.mul_f64(BATCH as f64 / count as f64)).await;
            }
            for (n, member) in members.iter().enumerate() {
                let after = spread.mul_f64(phase(batch * BATCH + n, count));
                send_goodbye(member, "shutdown", after);
            }
        }
    }

    /// Asks so many of 100 clients to reconnect elsewhere, one after the other within `time`. An earlier
    /// rebalance that goes on is ended. Returns how many clients are asked.
    pub(crate) fn rebalance(self: &Arc<Self>, percent: u8, time: Duration) -> usize {
        let mut connections = self.sessions.ids();
        connections.truncate((connections.len() * usize::from(percent)).div_ceil(100));
        let count = connections.len();
        let goodbyes = send_goodbyes_within(time, connections, Arc::downgrade(self));
        *self.rebalance.lock() = Some(Task(tokio::spawn(goodbyes)));
        count
    }
}

/// No client waits before it reconnects: unlike at a shutdown, there is time until each is asked.
async fn send_goodbyes_within(time: Duration, ids: Vec<ConnectionId>, state: Weak<State>) {
    let start = Instant::now();
    for (n, id) in ids.iter().enumerate() {
        sleep_until(start + time.mul_f64(n as f64 / ids.len() as f64)).await;
        let Some(state) = state.upgrade() else { return };
        // A connection that has ended meanwhile is not kept in memory for this.
        let member = state.sessions.member(*id, &state.drop_reporter);
        if let Some(member) = member.filter(|member| !member.is_closed()) {
            send_goodbye(&member, "rebalance", Duration::ZERO);
        }
    }
}

/// Asks a client to reconnect to another server after this time, and closes its connection.
pub(crate) fn send_goodbye(member: &Member, reason: &str, after: Duration) {
    let after_ms = after.as_millis() as u64;
    let mut goodbye = Goodbye::new(reason, true);
    goodbye.after_ms = after_ms;
    member.reply(&ServerFrame::Goodbye(goodbye));
    member.close(CloseReason::GoingAway);
}

/// The time over which the clients reconnect.
fn spread(clients: usize, longest: Duration, drain_timeout: Duration) -> Duration {
    let needed = SPREAD_PER_CLIENT.saturating_mul(u32::try_from(clients).unwrap_or(u32::MAX));
    needed.min(longest).min(drain_timeout / 2)
}

/// When the `n`th of `count` clients reconnects, as a fraction of the spread. Neighbours are far apart:
/// they may have connected one after the other, to the same rooms.
fn phase(n: usize, count: usize) -> f64 {
    /// The golden ratio: the fractions of its multiples fill the interval evenly for every `count`.
    const GOLDEN: f64 = 0.618_033_988_749_895;
    if count > 1 { (n as f64 * GOLDEN).fract() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_ends_a_rebalance() {
        let server = crate::Server::builder().start();
        server.state.rebalance(100, Duration::from_secs(3600));
        server.shutdown().await;
        assert!(server.state.rebalance.lock().is_none());
    }

    #[test]
    fn clients_are_spread_evenly() {
        let mut tenths = [0; 10];
        for n in 0..10_000 {
            tenths[(phase(n, 10_000) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (990..=1_010).contains(count)), "{tenths:?}");
        assert!((phase(0, 100) - phase(1, 100)).abs() > 0.3);
        assert_eq!(phase(0, 1), 0.0);
    }

    #[test]
    fn spread_grows_with_clients_up_to_half_the_timeout() {
        let second = Duration::from_secs(1);
        assert_eq!(spread(0, 5 * second, 10 * second), Duration::ZERO);
        assert_eq!(spread(1_000, 5 * second, 10 * second), second / 2);
        assert_eq!(spread(1_000_000, 5 * second, 10 * second), 5 * second);
        assert_eq!(spread(1_000_000, 20 * second, 10 * second), 5 * second);
    }
}
