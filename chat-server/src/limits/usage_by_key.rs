//! Usage that several connections share: those of a user, or of an address.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::cost::{Rates, SharedBuckets};
use super::rate::{Rate, SharedBucket};

const SHARDS: usize = 16;

/// [`Usage`] by key. Sharded, since every new connection takes a lock.
#[derive(Debug)]
pub(crate) struct UsageByKey<K> {
    shards: [Mutex<Shard<K>>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Shard<K> {
    usage: HashMap<K, Arc<Usage>>,
    /// The number of keys at which unused ones are evicted next.
    evict_at: usize,
}

/// The usage of all connections of one key.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    connections: AtomicUsize,
    /// Memberships of these connections.
    rooms: AtomicUsize,
    buckets: SharedBuckets,
    /// The bucket of HTTP requests.
    requests: SharedBucket,
}

/// Counts a connection of a key until it is dropped.
#[derive(Debug)]
pub(crate) struct KeyPermit(Arc<Usage>);

impl<K: Eq + Hash> UsageByKey<K> {
    /// Counts a connection of `key`; `None` if there are `max` already.
    pub(crate) fn acquire(&self, key: K, max: usize, now: Duration) -> Option<KeyPermit> {
        let mut shard = self.shard(&key);
        shard.evict_idle(now);
        let usage = shard.usage.entry(key).or_default();
        // Grows under the lock of the shard alone; a concurrent drop can only lower it.
        if usage.connections.load(Ordering::Relaxed) >= max {
            return None;
        }
        usage.connections.fetch_add(1, Ordering::Relaxed);
        Some(KeyPermit(Arc::clone(usage)))
    }

    /// Keeps the tokens of all keys when the rates are replaced.
    pub(crate) fn convert_buckets(&self, old: &Rates, new: &Rates, now: Duration) {
        self.for_each(|usage| usage.buckets.convert(old, new, now));
    }

    /// As [`convert_buckets`](Self::convert_buckets), of HTTP requests.
    pub(crate) fn convert_requests(&self, old: Option<Rate>, new: Option<Rate>, now: Duration) {
        self.for_each(|usage| usage.requests.convert(old, new, now));
    }

    fn for_each(&self, each: impl Fn(&Usage)) {
        for shard in &self.shards {
            shard.lock().usage.values().for_each(|usage| each(usage));
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K>> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[index].lock()
    }
}

impl<K: Eq + Hash> Shard<K> {
    /// Removes keys without connections whose buckets are full. A key outlives its connections until
    /// then: a client that reconnects must not get a fresh burst.
    fn evict_idle(&mut self, now: Duration) {
        if self.usage.len() < self.evict_at {
            return;
        }
        self.usage.retain(|_, usage| {
            let is_used = usage.connections.load(Ordering::Relaxed) > 0;
            is_used || !usage.buckets.are_full(now) || !usage.requests.is_full(now)
        });
        self.evict_at = (2 * self.usage.len()).max(MIN_EVICTION_SIZE);
    }
}

/// The number of keys in a shard below which none are evicted. Twice as many as remained must be
/// there for the next eviction, so that its cost per connection is constant.
const MIN_EVICTION_SIZE: usize = 64;

impl<K> Default for UsageByKey<K> {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { usage: HashMap::new(), evict_at: MIN_EVICTION_SIZE });
        Self { shards: std::array::from_fn(|_| shard()), hasher: RandomState::new() }
    }
}

impl KeyPermit {
    pub(crate) fn buckets(&self) -> &SharedBuckets {
        &self.0.buckets
    }

    /// The bucket of HTTP requests.
    pub(crate) fn requests(&self) -> &SharedBucket {
        &self.0.requests
    }

    /// Counts a membership; `None` if there are `max` already.
    pub(crate) fn room(&self, max: usize) -> Option<RoomSlot> {
        let take = |rooms| (rooms < max).then_some(rooms + 1);
        let counted = self.0.rooms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        counted.is_ok().then(|| RoomSlot(Arc::clone(&self.0)))
    }
}

/// Counts a membership among the rooms of a user until it is dropped.
#[derive(Debug)]
pub(crate) struct RoomSlot(Arc<Usage>);

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
    use crate::limits::cost::{Cost, Owner};

    #[test]
    fn connections_of_a_key_are_limited() {
        let users = UsageByKey::default();
        let mut permits: Vec<_> = (0..3).map(|_| users.acquire("a", 3, Duration::ZERO)).collect();
        assert!(permits.iter().all(Option::is_some));
        assert!(users.acquire("a", 3, Duration::ZERO).is_none());
        assert!(users.acquire("b", 3, Duration::ZERO).is_some());
        permits.pop();
        assert!(users.acquire("a", 3, Duration::ZERO).is_some());
    }

    #[test]
    fn buckets_outlive_the_connection_until_they_are_full() {
        let users = UsageByKey::default();
        let rates = Rates { frames: Some(Rate::new(1, 1)), ..Rates::default() };
        let now = Duration::from_secs(5);
        let wait = |permit: &KeyPermit| {
            let buckets = permit.buckets();
            let wait = buckets.take(&Cost::frame(0), &rates, 1, Owner::User, now);
            wait.map_or(Duration::ZERO, |uncovered| uncovered.wait.time)
        };
        let permit = users.acquire(0, 9, now).unwrap();
        assert_eq!(wait(&permit), Duration::ZERO);
        drop(permit);
        let back = users.acquire(0, 9, now).unwrap();
        assert_eq!(wait(&back), Duration::from_secs(1), "the same buckets");
        drop(back);
        for key in 1..100_000 {
            drop(users.acquire(key, 9, now + Duration::from_secs(2)));
        }
        let held: usize = users.shards.iter().map(|shard| shard.lock().usage.len()).sum();
        assert!(held <= 2 * SHARDS * MIN_EVICTION_SIZE, "{held} unused keys");
    }
}
