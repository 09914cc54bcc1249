//! What several connections have in common: those of a user, or of an address.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rate::Bucket;

const SHARDS: usize = 16;

/// Shares by key.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    shards: [Mutex<Shard<K>>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard<K> {
    shares: HashMap<K, Arc<Share>>,
    /// How many there may be before those of nobody are looked for.
    tidy_at: usize,
}

/// What the connections of one key share.
#[derive(Debug, Default)]
pub(crate) struct Share {
    connections: AtomicUsize,
    frames: Bucket,
    sanctions: Bucket,
    requests: Bucket,
}

/// A connection's part in a share.
#[derive(Debug)]
pub(crate) struct Part(Arc<Share>);

impl<K: Eq + Hash> Shares<K> {
    /// One more connection of `key`; `None` if there are `max` already.
    pub(crate) fn enter(&self, key: K, max: usize, now: Duration) -> Option<Part> {
        let mut shard = self.shard(&key);
        shard.tidy(now);
        let share = shard.shares.entry(key).or_default();
        // Only grows under the lock.
        if share.connections.load(Ordering::Relaxed) >= max {
            return None;
        }
        share.connections.fetch_add(1, Ordering::Relaxed);
        Some(Part(Arc::clone(share)))
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K>> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Shard<K> {
    /// Forgets keys that have no connections and nothing to pay off. Not at once when they
    /// leave: whoever comes back in time finds the bucket as it was.
    fn tidy(&mut self, now: Duration) {
        if self.shares.len() < self.tidy_at {
            return;
        }
        self.shares.retain(|_, share| {
            let is_used = share.connections.load(Ordering::Relaxed) > 0;
            let buckets = [&share.frames, &share.sanctions, &share.requests];
            is_used || buckets.into_iter().any(|bucket| !bucket.is_full(now))
        });
        self.tidy_at = (2 * self.shares.len()).max(FEW);
    }
}

/// Keys in a shard that are not worth tidying.
const FEW: usize = 64;

impl<K> Default for Shares<K> {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { shares: HashMap::new(), tidy_at: FEW });
        Self { shards: std::array::from_fn(|_| shard()), hasher: RandomState::new() }
    }
}

impl Part {
    /// Of all frames.
    pub(crate) fn frames(&self) -> &Bucket {
        &self.0.frames
    }

    /// Of requests by HTTP.
    pub(crate) fn requests(&self) -> &Bucket {
        &self.0.requests
    }

    /// Of kicks and bans.
    pub(crate) fn sanctions(&self) -> &Bucket {
        &self.0.sanctions
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Rate;

    #[test]
    fn so_many_of_one_key_and_no_more() {
        let shares = Shares::default();
        let mut parts: Vec<_> = (0..3).map(|_| shares.enter("a", 3, Duration::ZERO)).collect();
        assert!(parts.iter().all(Option::is_some));
        assert!(shares.enter("a", 3, Duration::ZERO).is_none());
        assert!(shares.enter("b", 3, Duration::ZERO).is_some());
        parts.pop();
        assert!(shares.enter("a", 3, Duration::ZERO).is_some());
    }

    #[test]
    fn the_bucket_outlives_the_connection_and_not_for_ever() {
        let (shares, rate) = (Shares::default(), Rate::new(1, 1));
        let now = Duration::from_secs(5);
        let part = shares.enter(0, 9, now).unwrap();
        assert!(part.frames().take(rate, now).is_ok());
        drop(part);
        let back = shares.enter(0, 9, now).unwrap();
        assert!(back.frames().take(rate, now).is_err(), "the same bucket");
        drop(back);
        for key in 1..100_000 {
            drop(shares.enter(key, 9, now + Duration::from_secs(1)));
        }
        let held: usize =
            shares.shards.iter().map(|shard| shard.lock().unwrap().shares.len()).sum();
        assert!(held <= 2 * SHARDS * FEW, "{held} keys of nobody");
    }
}
