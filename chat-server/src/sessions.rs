//! The connections of this server.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use chat_core::{ConnectionId, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::member::Member;

/// The connections by id. Sharded, since each join and close of a client takes a lock.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: [Mutex<HashMap<ConnectionId, Member>>; Sessions::SHARDS],
    next: AtomicU64,
    /// Notified when a shard becomes empty.
    removed: Notify,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { shards: Default::default(), next: AtomicU64::new(1), removed: Notify::new() }
    }
}

impl Sessions {
    const SHARDS: usize = 16;

    pub(crate) fn next_id(&self) -> ConnectionId {
        ConnectionId::new(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a connection, or changes its handle.
    pub(crate) fn insert(&self, id: ConnectionId, member: Member) {
        self.shard(id).insert(id, member);
    }

    pub(crate) fn remove(&self, id: ConnectionId) {
        let mut shard = self.shard(id);
        shard.remove(&id);
        if shard.is_empty() {
            self.removed.notify_waiters();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// The number of connections of a user.
    pub(crate) fn of_user(&self, user: &UserId) -> usize {
        let of_shard = |shard: &Mutex<HashMap<ConnectionId, Member>>| {
            shard.lock().values().filter(|member| member.user.id == *user).count()
        };
        self.shards.iter().map(of_shard).sum()
    }

    /// Makes the connections of these users check their sanctions.
    pub(crate) fn notify_users<'a>(&self, users: impl Iterator<Item = &'a UserId>) {
        let users: HashSet<&UserId> = users.collect();
        if users.is_empty() {
            return;
        }
        for shard in &self.shards {
            let shard = shard.lock();
            let affected = shard.values().filter(|member| users.contains(&member.user.id));
            affected.for_each(Member::notify);
        }
    }

    pub(crate) fn all(&self) -> Vec<Member> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Waits until there are no connections.
    pub(crate) async fn until_empty(&self) {
        loop {
            // Created before the count: `notify_waiters` reaches only futures that exist.
            let removed = self.removed.notified();
            if self.len() == 0 {
                return;
            }
            removed.await;
        }
    }

    fn shard(&self, id: ConnectionId) -> MutexGuard<'_, HashMap<ConnectionId, Member>> {
        self.shards[id.get() as usize % Self::SHARDS].lock()
    }
}
