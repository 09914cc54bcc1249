//! The connections of this server.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use chat_core::{ConnectionId, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::member::Member;

/// Actor their numbers.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: [Mutex<HashMap<ConnectionId, Member>>; Sessions::SHARDS],
    next: AtomicU64,
    gone: Notify,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { shards: Default::default(), next: AtomicU64::new(1), gone: Notify::new() }
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
            self.gone.notify_waiters();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Has the connections of these users look at what concerns them.
    pub(crate) fn notify_users<'a>(&self, users: impl Iterator<Item = &'a UserId>) {
        let users: HashSet<&UserId> = users.collect();
        if users.is_empty() {
            return;
        }
        for shard in &self.shards {
            let shard = shard.lock();
            let concerned = shard.values().filter(|member| users.contains(&member.user.id));
            concerned.for_each(Member::notify);
        }
    }

    pub(crate) fn all(&self) -> Vec<Member> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Waits until there are no connections.
    pub(crate) async fn none(&self) {
        loop {
            let gone = self.gone.notified();
            if self.len() == 0 {
                return;
            }
            gone.await;
        }
    }

    fn shard(&self, id: ConnectionId) -> MutexGuard<'_, HashMap<ConnectionId, Member>> {
        self.shards[id.get() as usize % Self::SHARDS].lock()
    }
}
