//! What all connections of a server share.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use chat_broker::{Broker, Hub, Status};
use chat_core::{ConnectionId, HeavyHitters, User, UserId, UserName};
use chat_transport::OutboxStats;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::api::keys::ApiKeys;
#[cfg(feature = "jwt")]
use crate::auth::TokenIssuer;
use crate::auth::{Authenticator, Authorizer};
use crate::client_lines::ClientLines;
use crate::config::ServerConfig;
use crate::hooks::Hooks;
use crate::host::Hosts;
use crate::identity::{Resume, random_id};
use crate::limits::Limits;
use crate::member::Member;
use crate::metrics::Metrics;
use crate::moderation::Moderation;
use crate::origin::Origins;
use crate::peer::Proxies;
use crate::public_url::PublicUrl;
use crate::samples::Samples;
use crate::searches::Searches;
use crate::sessions::{Client, Sessions};
use crate::undelivered::{self, DropReporter};

/// How long an answer to a leave, kick or ban waits until the member lists of this server show it.
pub(crate) const LIST_TIMEOUT: Duration = Duration::from_secs(1);

/// The most exports of histories at a time.
pub(crate) const MAX_EXPORTS: usize = 2;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: ServerConfig,
    /// [`ServerConfig::digest`] of the settings in effect.
    pub(crate) settings_digest: RwLock<String>,
    pub(crate) latest_reload: RwLock<Reload>,
    /// `config.transport`, shared with the sessions.
    pub(crate) transport: Arc<chat_transport::TransportConfig>,
    /// The URL of this server in links.
    pub(crate) public_url: Option<PublicUrl>,
    /// The hosts that this server answers for.
    pub(crate) hosts: Hosts,
    /// The origins of web pages that may use this server.
    pub(crate) origins: Origins,
    pub(crate) proxies: Proxies,
    pub(crate) hub: Hub<Member>,
    /// Without an authenticator clients name themselves.
    pub(crate) authenticator: Option<Arc<dyn Authenticator>>,
    pub(crate) authorizer: Option<Arc<dyn Authorizer>>,
    pub(crate) hooks: Option<Arc<dyn Hooks>>,
    /// What signs the tokens that backends ask for.
    #[cfg(feature = "jwt")]
    pub(crate) token_issuer: RwLock<Option<TokenIssuer>>,
    /// Permits for exports.
    pub(crate) exports: Arc<Semaphore>,
    /// The keys of backends.
    pub(crate) api_keys: ApiKeys,
    pub(crate) limits: Arc<Limits>,
    pub(crate) moderation: Arc<Moderation>,
    pub(crate) resume: Resume,
    pub(crate) started: SystemTime,
    /// The random id of this server process.
    pub(crate) node: String,
    /// The sender of messages of the application that names no other.
    pub(crate) backend: User,
    pub(crate) sessions: Arc<Sessions>,
    /// Bytes sent to clients, and bytes queued for them.
    pub(crate) outboxes: OutboxStats,
    pub(crate) metrics: Metrics,
    pub(crate) client_lines: Arc<ClientLines>,
    /// The clients with the most traffic: frames and bytes received.
    pub(crate) clients: HeavyHitters<Client, 2>,
    /// Random: which frames are sampled for [`clients`](Self::clients).
    pub(crate) sample_seed: u64,
    pub(crate) draining: AtomicBool,
    /// What asks a part of the clients to reconnect elsewhere.
    pub(crate) rebalance: Mutex<Option<Task>>,
    pub(crate) drop_reporter: DropReporter,
    /// The task of [`fleet`](crate::fleet).
    pub(crate) fleet: OnceLock<Task>,
    /// Questions to the other servers of the fleet.
    pub(crate) searches: Searches,
    /// Where this server serves operators, and what wakes up the task of [`fleet`](crate::fleet), which
    /// announces it.
    pub(crate) metrics_addr: OnceLock<SocketAddr>,
    pub(crate) operators_served: Arc<Notify>,
    /// The figures of the last ten minutes, and the task that collects them.
    pub(crate) samples: Samples,
    pub(crate) sampler: OnceLock<Task>,
    driver: Task,
    _moderator: Task,
    _reporter: Task,
    _line_counter: Task,
}

/// How the latest reload of the settings ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reload {
    pub(crate) is_successful: bool,
    /// Whether settings have changed that count from the next start on.
    pub(crate) needs_restart: bool,
    /// When the settings in effect were read: at the latest reload that succeeded, or at the start.
    pub(crate) in_effect_since: SystemTime,
}

/// A task that is aborted when this is dropped.
#[derive(Debug)]
pub(crate) struct Task<T = ()>(pub(crate) JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl State {
    /// Also starts the background tasks.
    pub(crate) fn new(
        config: ServerConfig,
        hub: Hub<Member>,
        driver: Task,
        authenticator: Option<Arc<dyn Authenticator>>,
        authorizer: Option<Arc<dyn Authorizer>>,
        hooks: Option<Arc<dyn Hooks>>,
    ) -> Self {
        let (sessions, moderation) = (Arc::<Sessions>::default(), Arc::<Moderation>::default());
        let (metrics, client_lines) =
            (Metrics::new(hooks.is_some()), Arc::<ClientLines>::default());
        let (drop_reporter, reports) = undelivered::channel(metrics.lost_reports.clone());
        if let Err(error) = config.check() {
            tracing::error!(%error, "invalid setting ignored");
        }
        let (started, node) = (SystemTime::now(), node_id(&**hub.broker()));
        let public_url = config.public_url.as_deref().and_then(|url| PublicUrl::parse(url).ok());
        if hub.broker().table().is_none() {
            tracing::warn!(
                "the broker has no shared table: kicks and bans are rejected as unsupported, and \
                 resume secrets are valid on this server only, until it stops"
            );
        }
        let reporter = tokio::spawn(undelivered::publish(reports, Arc::clone(hub.broker())));
        let moderator = Arc::clone(&moderation).run(hub.clone(), Arc::clone(&sessions));
        Self {
            transport: Arc::new(config.transport.clone()),
            #[cfg(feature = "jwt")]
            token_issuer: RwLock::default(),
            exports: Arc::new(Semaphore::new(MAX_EXPORTS)),
            api_keys: ApiKeys::new(config.all_api_keys()),
            limits: Arc::new(Limits::new(config.limits.clone())),
            hosts: Hosts::new(&config.allow_host, public_url.as_ref().map(PublicUrl::host)),
            origins: Origins::new(&config.allow_origin),
            proxies: Proxies::new(config.trusted_proxies.clone(), config.forwarded_header),
            public_url,
            settings_digest: RwLock::new(config.digest()),
            config,
            hub,
            authenticator,
            authorizer,
            hooks,
            moderation,
            resume: Resume::default(),
            started,
            latest_reload: RwLock::new(Reload {
                is_successful: true,
                needs_restart: false,
                in_effect_since: started,
            }),
            node,
            backend: backend(),
            sessions,
            outboxes: OutboxStats::new(),
            metrics,
            _line_counter: Task(tokio::spawn(Arc::clone(&client_lines).report())),
            client_lines,
            clients: HeavyHitters::new(Instant::now()),
            // Without random numbers clients can be served, and one can hide from that list.
            sample_seed: getrandom::u64().unwrap_or_default(),
            draining: AtomicBool::new(false),
            rebalance: Mutex::default(),
            drop_reporter,
            fleet: OnceLock::new(),
            searches: Searches::default(),
            metrics_addr: OnceLock::new(),
            operators_served: Arc::default(),
            samples: Samples::default(),
            sampler: OnceLock::new(),
            driver,
            _moderator: Task(tokio::spawn(moderator)),
            _reporter: Task(reporter),
        }
    }

    /// The id of a connection, unique over all servers.
    pub(crate) fn session_name(&self, id: ConnectionId) -> String {
        format!("{}-{}", self.node, id.get())
    }

    /// The id of a user that has given none.
    #[allow(clippy::expect_used, reason = "letters, digits and a dash")]
    pub(crate) fn user_id(&self, id: ConnectionId) -> UserId {
        UserId::new(self.session_name(id)).expect("a session's name is a name")
    }

    /// The time so long after the start of the server, in milliseconds since 1970.
    pub(crate) fn millis_at(&self, since_start: Duration) -> u64 {
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (started + since_start).as_millis() as u64
    }

    pub(crate) fn heartbeat_ms(&self) -> u64 {
        let heartbeat = self.config.transport.heartbeat;
        heartbeat.map_or(0, |heartbeat| heartbeat.interval.as_millis() as u64)
    }

    /// Whether a balancer should send clients here.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_draining()
            && !self.driver.0.is_finished()
            && self.moderation.is_loaded()
            && self.can_authenticate()
            && self.hub.broker().status() == Status::Ready
    }

    /// Why [`is_ready`](Self::is_ready) is not so; `None` if it is.
    pub(crate) fn why_not_ready(&self) -> Option<Cow<'static, str>> {
        if self.is_ready() {
            return None;
        }
        let broker = self.hub.broker();
        Some(if self.is_draining() {
            "draining".into()
        } else if broker.status() == Status::Ready && !self.moderation.is_loaded() {
            "the bans are not known yet".into()
        } else if !self.can_authenticate() {
            "the keys of tokens are not known yet, or all have ended".into()
        } else {
            broker.stats().outage.map_or("the broker takes no messages".into(), Cow::Owned)
        })
    }

    /// Whether the authenticator, if there is one, can check what clients send.
    pub(crate) fn can_authenticate(&self) -> bool {
        self.authenticator.as_ref().is_none_or(|authenticator| authenticator.is_ready())
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}

/// That of the broker, by which the logs of other servers name this one, unless it has none or one that
/// cannot be part of a user's id.
fn node_id(broker: &dyn Broker) -> String {
    const LONGEST: usize = 32;
    let is_valid = |id: &&str| {
        !id.is_empty() && id.len() <= LONGEST && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    broker.node().filter(is_valid).map_or_else(|| random_id(10), str::to_owned)
}

/// The user that a message of the application is of. No client can be a user whose id begins with `@`.
#[allow(clippy::expect_used, reason = "constants")]
fn backend() -> User {
    let id = UserId::new("@server").expect("an id");
    User::new(id, Some(UserName::new("Server").expect("a name")))
}
