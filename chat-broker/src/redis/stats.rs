//! The counters of a broker's connections.

use std::sync::atomic::{AtomicU64, Ordering};

use redis::RedisResult;
use tokio::time::Instant;

use crate::stats::Histogram;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) round_trips: Histogram,
    reconnects: AtomicU64,
    /// Connections of the pool that were lost, and not opened again yet.
    lost: AtomicU64,
}

impl Counters {
    /// Takes the time of `work`, which is one round trip, if it is answered.
    pub(super) async fn timed<T>(
        &self,
        work: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let began = Instant::now();
        let outcome = work.await;
        if outcome.is_ok() {
            self.round_trips.observe(began.elapsed());
        }
        outcome
    }

    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// A connection was opened in the place of one that was lost.
    pub(super) fn reconnected(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// The pool has lost a connection.
    pub(super) fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// The pool has opened a connection: a reconnect, if it has lost one.
    pub(super) fn opened(&self) {
        let less = |lost: u64| lost.checked_sub(1);
        if self.lost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            self.reconnected();
        }
    }
}
