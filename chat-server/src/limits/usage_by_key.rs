//! What several connections have in common: those of a user, or of an address.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::cost::SharedBuckets;
use super::rate::SharedBucket;

const SHARDS: usize = 16;

/// UsageByKey by key.
#[derive(Debug)]
pub(crate) struct UsageByKey<K> {
    shards: [Mutex<Shard<K>>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard<K> {
    shares: HashMap<K, Arc<KeyUsage>>,
    /// How many there may be before those of nobody are looked for.
    tidy_at: usize,
}

/// What the connections of one key share.
#[derive(Debug, Default)]
pub(crate) struct KeyUsage {
    connections: AtomicUsize,
    /// Rooms that these connections are in, together.
    rooms: AtomicUsize,
    buckets: SharedBuckets,
    /// Of requests by HTTP.
    requests: SharedBucket,
}

/// A connection's part in a share.
#[derive(Debug)]
pub(crate) struct KeyPermit(Arc<KeyUsage>);

impl<K: Eq + Hash> UsageByKey<K> {
    /// One more connection of `key`; `None` if there are `max` already.
    pub(crate) fn enter(&self, key: K, max: usize, now: Duration) -> Option<KeyPermit> {
        let mut shard = self.shard(&key);
        shard.tidy(now);
        let share = shard.shares.entry(key).or_default();
        // Only grows under the lock.
        if share.connections.load(Ordering::Relaxed) >= max {
            return None;
        }
        share.connections.fetch_add(1, Ordering::Relaxed);
        Some(KeyPermit(Arc::clone(share)))
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K>> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[index].lock()
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
            is_used || !share.buckets.are_full(now) || !share.requests.is_full(now)
        });
        self.tidy_at = (2 * self.shares.len()).max(FEW);
    }
}

/// Keys in a shard that are not worth tidying.
const FEW: usize = 64;

impl<K> Default for UsageByKey<K> {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { shares: HashMap::new(), tidy_at: FEW });
        Self { shards: std::array::from_fn(|_| shard()), hasher: RandomState::new() }
    }
}

impl KeyPermit {
    pub(crate) fn buckets(&self) -> &SharedBuckets {
        &self.0.buckets
    }

    /// Of requests by HTTP.
    pub(crate) fn requests(&self) -> &SharedBucket {
        &self.0.requests
    }

    /// A place among `max` rooms; `None` if all are taken.
    pub(crate) fn room(&self, max: usize) -> Option<RoomSlot> {
        let take = |rooms| (rooms < max).then_some(rooms + 1);
        let taken = self.0.rooms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok().then(|| RoomSlot(Arc::clone(&self.0)))
    }
}

/// A membership that counts among the rooms of a user.
#[derive(Debug)]
pub(crate) struct RoomSlot(Arc<KeyUsage>);

impl Drop for RoomSlot {
    fn drop(&mut self) {
        self.0.rooms.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for KeyPermit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Rate;
    use crate::limits::cost::{Cost, Owner, Rates};

    #[test]
    fn so_many_of_one_key_and_no_more() {
        let shares = UsageByKey::default();
        let mut parts: Vec<_> = (0..3).map(|_| shares.enter("a", 3, Duration::ZERO)).collect();
        assert!(parts.iter().all(Option::is_some));
        assert!(shares.enter("a", 3, Duration::ZERO).is_none());
        assert!(shares.enter("b", 3, Duration::ZERO).is_some());
        parts.pop();
        assert!(shares.enter("a", 3, Duration::ZERO).is_some());
    }

    #[test]
    fn buckets_outlive_the_connection_until_they_are_full() {
        let shares = UsageByKey::default();
        let rates = Rates { frames: Some(Rate::new(1, 1)), ..Rates::default() };
        let now = Duration::from_secs(5);
        let wait = |part: &KeyPermit| {
            let buckets = part.buckets();
            let wait = buckets.take(&Cost::frame(0), &rates, 1, Owner::User, now);
            wait.map_or(Duration::ZERO, |wait| wait.time)
        };
        let part = shares.enter(0, 9, now).unwrap();
        assert_eq!(wait(&part), Duration::ZERO);
        drop(part);
        let back = shares.enter(0, 9, now).unwrap();
        assert_eq!(wait(&back), Duration::from_secs(1), "the same buckets");
        drop(back);
        for key in 1..100_000 {
            drop(shares.enter(key, 9, now + Duration::from_secs(2)));
        }
        let held: usize = shares.shards.iter().map(|shard| shard.lock().shares.len()).sum();
        assert!(held <= 2 * SHARDS * FEW, "{held} keys of nobody");
    }
}
