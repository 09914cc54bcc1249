//! The connections of this server.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use chat_core::{ConnectionId, RoomId, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::member::Member;

/// The connections by id. Sharded, since each join and close of a client takes a lock.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: [Mutex<Shard>; Sessions::SHARDS],
    next: AtomicU64,
    /// Notified when a shard becomes empty.
    removed: Notify,
}

#[derive(Debug, Default)]
struct Shard {
    members: HashMap<ConnectionId, Member>,
    /// What backends want these connections to do. Most have nothing to do.
    requests: HashMap<ConnectionId, Vec<RoomRequest>>,
}

/// A room that a backend makes a connection join or leave.
#[derive(Debug, Clone)]
pub(crate) enum RoomRequest {
    Join(RoomId),
    Leave(RoomId),
}

/// A connection, as lists of the busiest ones name it: it may have ended since. Two are equal if their ids
/// are.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) id: ConnectionId,
    pub(crate) user: UserId,
    pub(crate) address: Option<IpAddr>,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Client {}

impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self { shards: Default::default(), next: AtomicU64::new(1), removed: Notify::new() }
    }
}

impl Sessions {
    const SHARDS: usize = 16;

    /// The most requests that wait for a connection, which carries them out one after another.
    const MAX_REQUESTS: usize = 256;

    pub(crate) fn next_id(&self) -> ConnectionId {
        ConnectionId::new(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds a connection, or changes its handle.
    pub(crate) fn insert(&self, id: ConnectionId, member: Member) {
        self.shard(id).members.insert(id, member);
    }

    pub(crate) fn remove(&self, id: ConnectionId) {
        let mut shard = self.shard(id);
        shard.members.remove(&id);
        shard.requests.remove(&id);
        if shard.members.is_empty() {
            self.removed.notify_waiters();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().members.len()).sum()
    }

    /// The number of connections of a user.
    pub(crate) fn of_user(&self, user: &UserId) -> usize {
        let of_shard = |shard: &Mutex<Shard>| {
            shard.lock().members.values().filter(|member| member.user.id == *user).count()
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
            let affected = shard.members.values().filter(|member| users.contains(&member.user.id));
            affected.for_each(Member::notify);
        }
    }

    pub(crate) fn all(&self) -> Vec<Member> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().members.values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Makes a connection carry out `request`, if it is open.
    ///
    /// # Errors
    /// It has too many requests that wait.
    pub(crate) fn request(&self, id: ConnectionId, request: RoomRequest) -> Result<(), ()> {
        let mut shard = self.shard(id);
        let Shard { members, requests } = &mut *shard;
        let Some(member) = members.get(&id) else { return Ok(()) };
        let waiting = requests.entry(id).or_default();
        if waiting.len() >= Self::MAX_REQUESTS {
            return Err(());
        }
        waiting.push(request);
        member.notify();
        Ok(())
    }

    /// Whether requests wait for a connection.
    pub(crate) fn has_requests(&self, id: ConnectionId) -> bool {
        self.shard(id).requests.contains_key(&id)
    }

    /// Takes the requests that wait for a connection.
    pub(crate) fn take_requests(&self, id: ConnectionId) -> Vec<RoomRequest> {
        self.shard(id).requests.remove(&id).unwrap_or_default()
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

    fn shard(&self, id: ConnectionId) -> MutexGuard<'_, Shard> {
        self.shards[id.get() as usize % Self::SHARDS].lock()
    }
}
