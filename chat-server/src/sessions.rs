//! The connections of this server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chat_core::{ConnectionId, Dialect, RoomId, User, UserId, UserName};
use chat_transport::Outbox;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::member::Member;
use crate::undelivered::DropReporter;

/// The connections by id. Sharded, since each join and close of a client takes a lock.
#[derive(Debug)]
pub(crate) struct Sessions {
    shards: [Mutex<Shard>; Sessions::SHARDS],
    next: AtomicU64,
    /// The origin of the times at which connections opened.
    started: Instant,
    /// Clients whose handshakes are accepted, and that are in no shard yet.
    arriving: AtomicUsize,
    /// Notified when a shard becomes empty, and when no client arrives any more.
    removed: Notify,
}

/// A client whose handshake is accepted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Arrival(Arc<Sessions>);

impl Drop for Arrival {
    fn drop(&mut self) {
        if self.0.arriving.fetch_sub(1, SeqCst) == 1 {
            self.0.removed.notify_waiters();
        }
    }
}

#[derive(Debug, Default)]
struct Shard {
    sessions: HashMap<ConnectionId, Session>,
    /// The addresses of clients that have one of IPv6.
    ipv6: HashMap<ConnectionId, Ipv6Addr>,
    /// What backends want these connections to do. Most have nothing to do.
    requests: HashMap<ConnectionId, Vec<RoomRequest>>,
}

/// As small as it can be: the table has some for clients to come, and keeps its size when they leave.
#[derive(Debug)]
struct Session {
    user: Arc<User>,
    outbox: Outbox,
    dialect: Dialect,
    /// Seconds since the start of the server.
    opened: u32,
    /// `0.0.0.0` if the client has none of IPv4.
    ipv4: Ipv4Addr,
}

/// What operators learn of an open connection.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) id: ConnectionId,
    pub(crate) name: UserName,
    pub(crate) address: Option<IpAddr>,
    /// When it opened, since the start of the server, to a second.
    pub(crate) opened: Duration,
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

impl Session {
    fn is_of(&self, user: &UserId) -> bool {
        self.user.id == *user
    }

    fn member(&self, reporter: &DropReporter) -> Member {
        Member::new(Arc::clone(&self.user), self.dialect, self.outbox.clone(), reporter.clone())
    }
}

impl Shard {
    fn address(&self, id: ConnectionId) -> Option<IpAddr> {
        let ipv4 = self.sessions.get(&id)?.ipv4;
        match ipv4.is_unspecified() {
            true => self.ipv6.get(&id).copied().map(IpAddr::V6),
            false => Some(IpAddr::V4(ipv4)),
        }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            next: AtomicU64::new(1),
            started: Instant::now(),
            arriving: AtomicUsize::new(0),
            removed: Notify::new(),
        }
    }
}

impl Sessions {
    const SHARDS: usize = 16;

    /// The most requests that wait for a connection, which carries them out one after another.
    const MAX_REQUESTS: usize = 256;

    pub(crate) fn next_id(&self) -> ConnectionId {
        ConnectionId::new(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Milliseconds since the start.
    pub(crate) fn milliseconds(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Adds a connection that opens now.
    pub(crate) fn open(&self, id: ConnectionId, member: &Member, address: Option<IpAddr>) {
        let opened = u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX);
        let mut shard = self.shard(id);
        let ipv4 = match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => address,
            Some(IpAddr::V6(address)) => {
                shard.ipv6.insert(id, address);
                Ipv4Addr::UNSPECIFIED
            }
            None => Ipv4Addr::UNSPECIFIED,
        };
        let (user, outbox) = (Arc::clone(&member.user), member.outbox().clone());
        let dialect = member.dialect;
        shard.sessions.insert(id, Session { user, outbox, dialect, opened, ipv4 });
    }

    /// Changes the handle of a connection.
    pub(crate) fn replace(&self, id: ConnectionId, member: &Member) {
        if let Some(session) = self.shard(id).sessions.get_mut(&id) {
            session.user = Arc::clone(&member.user);
            session.dialect = member.dialect;
        }
    }

    pub(crate) fn remove(&self, id: ConnectionId) {
        let mut shard = self.shard(id);
        shard.sessions.remove(&id);
        shard.requests.remove(&id);
        shard.ipv6.remove(&id);
        if shard.sessions.is_empty() {
            self.removed.notify_waiters();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().sessions.len()).sum()
    }

    /// The number of connections of a user.
    pub(crate) fn of_user(&self, user: &UserId) -> usize {
        let of_shard = |shard: &Mutex<Shard>| {
            shard.lock().sessions.values().filter(|session| session.is_of(user)).count()
        };
        self.shards.iter().map(of_shard).sum()
    }

    /// The oldest connections of a user, at most `max`, and how many the user has.
    pub(crate) fn origins(&self, user: &UserId, max: usize) -> (Vec<Origin>, usize) {
        let (mut oldest, mut count) = (Vec::new(), 0);
        for shard in &self.shards {
            let shard = shard.lock();
            for (id, session) in &shard.sessions {
                if session.is_of(user) {
                    count += 1;
                    let name = session.user.name.clone();
                    oldest.push((*id, name, shard.address(*id), session.opened));
                }
            }
            // Ids ascend. A user may have every connection of the server: each shard adds its own at most.
            oldest.sort_unstable_by_key(|(id, ..)| *id);
            oldest.truncate(max);
        }
        let origin = |(id, name, address, opened)| {
            let opened = Duration::from_secs(u64::from(opened));
            Origin { id, name, address, opened }
        };
        (oldest.into_iter().map(origin).collect(), count)
    }

    /// The users of whom `is_wanted` says so, at most `max`: the first by their ids, each with the name of
    /// one of the connections.
    pub(crate) fn users(
        &self,
        max: usize,
        is_wanted: impl Fn(ConnectionId, &User) -> bool,
    ) -> BTreeMap<UserId, UserName> {
        let mut first = BTreeMap::new();
        for shard in &self.shards {
            for (id, session) in &shard.lock().sessions {
                if !is_wanted(*id, &session.user) {
                    continue;
                }
                first.insert(session.user.id.clone(), session.user.name.clone());
                if first.len() > max {
                    first.pop_last();
                }
            }
        }
        first
    }

    /// The IP address of a connection, if its listener provided it; `None` if it has ended.
    pub(crate) fn address(&self, id: ConnectionId) -> Option<IpAddr> {
        self.shard(id).address(id)
    }

    /// The user of a connection at present; `None` if it has ended.
    pub(crate) fn user(&self, id: ConnectionId) -> Option<Arc<User>> {
        self.shard(id).sessions.get(&id).map(|session| Arc::clone(&session.user))
    }

    /// Makes the connections of these users check their sanctions.
    pub(crate) fn notify_users<'a>(&self, users: impl Iterator<Item = &'a UserId>) {
        let users: HashSet<&UserId> = users.collect();
        if users.is_empty() {
            return;
        }
        for shard in &self.shards {
            let shard = shard.lock();
            let sessions = shard.sessions.values();
            let affected = sessions.filter(|session| users.contains(&session.user.id));
            affected.for_each(|session| session.outbox.notify());
        }
    }

    /// All connections; `reporter` is that of the server.
    pub(crate) fn all(&self, reporter: &DropReporter) -> Vec<Member> {
        let of_shard = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            shard.sessions.values().map(|session| session.member(reporter)).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        let of_shard =
            |shard: &Mutex<Shard>| shard.lock().sessions.keys().copied().collect::<Vec<_>>();
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// A connection; `None` if it has ended.
    pub(crate) fn member(&self, id: ConnectionId, reporter: &DropReporter) -> Option<Member> {
        self.shard(id).sessions.get(&id).map(|session| session.member(reporter))
    }

    /// Makes a connection carry out `request`, if it is open.
    ///
    /// # Errors
    /// It has too many requests that wait.
    pub(crate) fn request(&self, id: ConnectionId, request: RoomRequest) -> Result<(), ()> {
        let mut shard = self.shard(id);
        let Shard { sessions, requests, .. } = &mut *shard;
        let Some(session) = sessions.get(&id) else { return Ok(()) };
        let waiting = requests.entry(id).or_default();
        if waiting.len() >= Self::MAX_REQUESTS {
            return Err(());
        }
        waiting.push(request);
        session.outbox.notify();
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

    /// Counts a client whose handshake is about to be accepted. [`until_empty`](Self::until_empty) waits for it:
    /// without this the process could end between the answer and the `goodbye`.
    pub(crate) fn arrive(self: &Arc<Self>) -> Arrival {
        self.arriving.fetch_add(1, SeqCst);
        Arrival(Arc::clone(self))
    }

    /// Waits until there are no connections.
    pub(crate) async fn until_empty(&self) {
        loop {
            // Created before the count: `notify_waiters` reaches only futures that exist.
            let removed = self.removed.notified();
            // In this order: who does not arrive any more is counted by `len`.
            if self.arriving.load(SeqCst) == 0 && self.len() == 0 {
                return;
            }
            removed.await;
        }
    }

    fn shard(&self, id: ConnectionId) -> MutexGuard<'_, Shard> {
        self.shards[id.get() as usize % Self::SHARDS].lock()
    }
}
