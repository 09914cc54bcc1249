//! What all connections of a server share.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chat_broker::{Hub, Status};
use chat_core::{ConnectionId, UserId};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::auth::{Authenticator, Authorizer};
use crate::config::ServerConfig;
use crate::identity::{Resume, random_id};
use crate::limits::Limits;
use crate::member::Member;
use crate::metrics::Metrics;
use crate::moderation::Moderation;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: ServerConfig,
    /// The transport's part of `config`, as sessions share it.
    pub(crate) transport: Arc<chat_transport::TransportConfig>,
    pub(crate) hub: Hub<Member>,
    /// Without one, clients are who they say they are.
    pub(crate) authenticator: Option<Arc<dyn Authenticator>>,
    pub(crate) authorizer: Option<Arc<dyn Authorizer>>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) moderation: Arc<Moderation>,
    pub(crate) resume: Resume,
    /// Names this server process.
    pub(crate) node: String,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) metrics: Metrics,
    pub(crate) draining: AtomicBool,
    driver: Task,
    _moderator: Task,
}

/// Work behind the server. It ends when the broker is closed, or with the server.
#[derive(Debug)]
pub(crate) struct Task(pub(crate) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl State {
    /// Starts the work behind the server, too.
    pub(crate) fn new(
        config: ServerConfig,
        hub: Hub<Member>,
        driver: Task,
        authenticator: Option<Arc<dyn Authenticator>>,
        authorizer: Option<Arc<dyn Authorizer>>,
    ) -> Self {
        let (sessions, moderation) = (Arc::<Sessions>::default(), Arc::<Moderation>::default());
        let moderator = Arc::clone(&moderation).run(hub.clone(), Arc::clone(&sessions));
        Self {
            transport: Arc::new(config.transport.clone()),
            limits: Arc::new(Limits::new(config.limits.clone())),
            config,
            hub,
            authenticator,
            authorizer,
            moderation,
            resume: Resume::default(),
            node: random_id(10),
            sessions,
            metrics: Metrics::default(),
            draining: AtomicBool::new(false),
            driver,
            _moderator: Task(tokio::spawn(moderator)),
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
            && self.moderation.is_known()
            && self.hub.broker().status() == Status::Ready
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
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

    /// Has the connections of these users look at what concerns them.
    pub(crate) fn notify_users(&self, users: &[UserId]) {
        if users.is_empty() {
            return;
        }
        let users: HashSet<&UserId> = users.iter().collect();
        for shard in &self.shards {
            let shard = lock(shard);
            let concerned = shard.values().filter(|member| users.contains(&member.user.id));
            concerned.for_each(Member::notify);
        }
    }

    pub(crate) fn all(&self) -> Vec<Member> {
        self.shards
            .iter()
            .flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>())
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
        lock(&self.shards[id.0 as usize % Self::SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
