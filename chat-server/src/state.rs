//! What all connections of a server share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chat_broker::{Hub, Status};
use chat_core::{CloseReason, ConnectionId, Deliver, Reply, UserId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::config::ServerConfig;
use crate::identity::{Resume, random_id};
use crate::member::Member;
use crate::metrics::Metrics;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: ServerConfig,
    /// The transport's part of `config`, as sessions share it.
    pub(crate) transport: Arc<chat_transport::TransportConfig>,
    pub(crate) hub: Hub<Member>,
    pub(crate) resume: Resume,
    /// Names this server process.
    pub(crate) node: String,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Metrics,
    draining: AtomicBool,
    driver: Driver,
}

/// The hub's task. It ends when the broker is closed, or with the server.
#[derive(Debug)]
pub(crate) struct Driver(pub(crate) JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl State {
    pub(crate) fn new(config: ServerConfig, hub: Hub<Member>, driver: Driver) -> Self {
        Self {
            transport: Arc::new(config.transport.clone()),
            config,
            hub,
            resume: Resume::default(),
            node: random_id(10),
            sessions: Sessions::default(),
            metrics: Metrics::default(),
            draining: AtomicBool::new(false),
            driver,
        }
    }

    /// Names a connection among those of all servers.
    pub(crate) fn session_name(&self, id: ConnectionId) -> String {
        format!("{}-{}", self.node, id.0)
    }

    /// Names a user who is known by nothing else.
    #[allow(clippy::expect_used, reason = "letters, digits and a dash")]
    pub(crate) fn user_id(&self, id: ConnectionId) -> UserId {
        UserId::new(self.session_name(id)).expect("a session's name is a name")
    }

    pub(crate) fn heartbeat_ms(&self) -> u64 {
        let heartbeat = self.config.transport.heartbeat;
        heartbeat.map_or(0, |heartbeat| heartbeat.interval.as_millis() as u64)
    }

    /// Whether a balancer should send clients here.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_draining()
            && !self.driver.0.is_finished()
            && self.hub.broker().status() == Status::Ready
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Tells all clients to go elsewhere, and waits until they have been told, for
    /// `drain_timeout` at most.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        for member in self.sessions.all() {
            member.reply(&Reply::Goodbye { reason: "shutdown", reconnect: true, after_ms: 0 });
            member.close(CloseReason::GoingAway);
        }
        let all_gone = tokio::time::timeout(self.config.drain_timeout, self.sessions.none());
        if all_gone.await.is_err() {
            tracing::warn!(connections = self.sessions.len(), "clients did not leave in time");
        }
    }
}

/// The connections of this server.
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
        ConnectionId(self.next.fetch_add(1, Ordering::Relaxed))
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
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn all(&self) -> Vec<Member> {
        self.shards
            .iter()
            .flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Waits until there are no connections.
    async fn none(&self) {
        loop {
            let gone = self.gone.notified();
            if self.len() == 0 {
                return;
            }
            gone.await;
        }
    }

    fn shard(&self, id: ConnectionId) -> MutexGuard<'_, HashMap<ConnectionId, Member>> {
        lock(&self.shards[id.0 as usize % Self::SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
