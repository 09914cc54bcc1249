//! A server: a broker, a hub and the connections of its clients.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use chat_broker::{Broker, BrokerEvents, Hub, MemoryBroker, OccupiedRooms};
use chat_core::{RoomId, UserId};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::api::keys::ApiKey;
#[cfg(feature = "jwt")]
use crate::auth::TokenIssuer;
use crate::auth::{Authenticator, Authorizer};
use crate::config::{InvalidConfig, ServerConfig, check_hosts, check_origins};
use crate::error::Error;
use crate::handle::{RoomHandle, UserHandle};
use crate::hooks::Hooks;
use crate::limits::{Limits, LimitsConfig};
use crate::listener::{ListenerContext, Throttled, accept};
use crate::member::Member;
use crate::moderation::Ban;
use crate::process::host_name;
use crate::service::members;
use crate::state::{State, Task};
use crate::{api, fleet, http, operator, sampler};

/// The most connections to the operator routes.
const OPERATORS: usize = 64;

/// A chat server. A clone is another handle on the same server.
///
/// A server listens by itself ([`serve`](Self::serve)), or its routes ([`router`](Self::router)) are part
/// of an axum application.
///
/// ```no_run
/// use chat_server::Server;
/// use tokio::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let server = Server::builder().start();
/// let listener = TcpListener::bind("127.0.0.1:8080").await?;
/// let ctrl_c = async {
///     let _ = tokio::signal::ctrl_c().await;
/// };
/// server.serve(vec![listener], ctrl_c).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Server {
    pub(crate) state: Arc<State>,
}

/// Builds a [`Server`].
///
/// ```
/// use chat_broker::MemoryBroker;
/// use chat_server::{Server, ServerConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (broker, events) = MemoryBroker::connect();
/// let config = ServerConfig::default().max_message_bytes(4_096);
/// let server = Server::builder().config(config).broker(broker, events).start();
/// assert_eq!(server.connections(), 0);
/// # }
/// ```
#[derive(Debug, Default)]
pub struct ServerBuilder {
    config: ServerConfig,
    broker: Option<(Arc<dyn Broker>, BrokerEvents)>,
    authenticator: Option<Arc<dyn Authenticator>>,
    authorizer: Option<Arc<dyn Authorizer>>,
    hooks: Option<Arc<dyn Hooks>>,
    #[cfg(feature = "jwt")]
    token_issuer: Option<TokenIssuer>,
}

impl ServerBuilder {
    /// Sets the settings. Default: [`ServerConfig::default`].
    #[must_use]
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the broker, which carries messages between servers. Default: a [`MemoryBroker`] for this
    /// server only.
    ///
    /// An `Arc<dyn Broker>` is a broker as well, for an application that keeps a handle on it.
    /// [`start`](Self::start) logs the optional parts that the broker lacks.
    #[must_use]
    pub fn broker(mut self, broker: impl Broker, events: BrokerEvents) -> Self {
        self.broker = Some((Arc::new(broker), events));
        self
    }

    /// Sets what authenticates clients. Default: nothing, and clients name themselves.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Sets what decides what authenticated clients may do. Default: the grants of their identity.
    /// Without an [`authenticator`](Self::authenticator) it is not called.
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Some(Arc::new(authorizer));
        self
    }

    /// Sets what decides on joins and messages of clients before they take effect. Default: nothing.
    #[must_use]
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks = Some(Arc::new(hooks));
        self
    }

    /// Sets what signs the tokens that backends ask for (`POST /api/tokens`). Default: nothing, and
    /// the call is answered with 501.
    #[cfg(feature = "jwt")]
    #[must_use]
    pub fn token_issuer(mut self, issuer: TokenIssuer) -> Self {
        self.token_issuer = Some(issuer);
        self
    }

    /// Starts the server: spawns its background tasks on the current runtime. It accepts no connections
    /// by itself; see [`Server::serve`] and [`Server::router`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(self) -> Server {
        let Self { config, broker, authenticator, authorizer, hooks, .. } = self;
        let (broker, events) = broker.unwrap_or_else(|| {
            let (broker, events) = MemoryBroker::connect();
            (Arc::new(broker), events)
        });
        let (hub, driver) = Hub::new(broker, events, config.hub.clone());
        let driver = Task(tokio::spawn(driver.run()));
        let state = State::new(config, hub, driver, authenticator, authorizer, hooks);
        #[cfg(feature = "jwt")]
        {
            *state.token_issuer.write() = self.token_issuer;
        }
        let state = Arc::new(state);
        fleet::start(&state);
        sampler::start(&state);
        Server { state }
    }
}

impl Server {
    /// A builder with every default.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The routes of clients, for an axum application: the WebSocket, the page and its files,
    /// `POST /create-room`, and `/api` if there is a key. Merge them, or nest them under a path. With
    /// [`nest_service`](Router::nest_service) `/chat` and `/chat/` are the page, with
    /// [`nest`](Router::nest) `/chat` alone.
    ///
    /// When the application shuts down, call [`shutdown`](Self::shutdown): axum does not
    /// wait for WebSockets.
    ///
    /// Limits by address need the address of the socket: serve the application with
    /// [`into_make_service_with_connect_info::<SocketAddr>`](Router::into_make_service_with_connect_info).
    pub fn router(&self) -> Router {
        http::router(&self.state)
    }

    /// The WebSocket alone, at `/ws`, for an application that has pages of its own: without the page,
    /// `/create-room`, `/join-room/…` and `/api`. It may be merged with any routes, or nested.
    ///
    /// ```
    /// # fn example(chat: chat_server::Server) -> axum::Router {
    /// axum::Router::new().nest("/chat", chat.websocket_router()) // ws://…/chat/ws
    /// # }
    /// ```
    pub fn websocket_router(&self) -> Router {
        http::websocket(&self.state)
    }

    /// The routes below `/api`, for an address that only backends reach. [`router`](Self::router) has
    /// them as well, unless [`serve_api`](ServerConfig::serve_api) is off.
    pub fn api_router(&self) -> Router {
        api::router(&self.state).with_state(Arc::clone(&self.state))
    }

    /// The routes `/healthz`, `/readyz`, `/metrics` and those below `/api`, for an address that only
    /// operators and backends reach. [`router`](Self::router) has no `/metrics` and no health checks.
    pub fn operator_router(&self) -> Router {
        operator::router(Arc::clone(&self.state))
    }

    /// Serves [`operator_router`](Self::operator_router) on `listener` until the call is dropped, with at
    /// most 64 connections at a time. They do not count among those of clients, and their requests wait for
    /// no rate, except those with a wrong API key: these count for the
    /// [rates of clients](LimitsConfig::http_requests).
    ///
    /// ```no_run
    /// # async fn example(server: chat_server::Server) -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:9100").await?;
    /// tokio::spawn(async move { server.serve_operators(listener).await });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping the call stops serving.
    pub async fn serve_operators(&self, listener: TcpListener) {
        if let Ok(address) = listener.local_addr() {
            // Fails if there are several: the first one is announced.
            let _ = self.state.metrics_addr.set(address);
            self.state.operators_served.notify_one();
        }
        let mut few = LimitsConfig::off();
        few.http_connections = Some(OPERATORS);
        let (limits, state) = (Arc::new(Limits::new(few)), Arc::clone(&self.state));
        let (router, throttled) = (self.operator_router(), Throttled::Unauthorized);
        accept(listener, ListenerContext { router, limits, throttled, state }).await;
    }

    /// Serves clients on `listeners`, by [`router`](Self::router) and with `/healthz`, `/readyz` and,
    /// unless [`serve_metrics`](ServerConfig::serve_metrics) is off, `/metrics`, until `shutdown` resolves; then drains, as
    /// [`shutdown`](Self::shutdown) does, and returns. During the drain new clients are answered with 503
    /// (`draining`).
    ///
    /// # Cancel safety
    /// Dropping the call stops accepting. Open connections stay until [`shutdown`](Self::shutdown).
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let (limits, state) = (Arc::clone(&self.state.limits), Arc::clone(&self.state));
            let router = http::router_with_operators(&state);
            let throttled = Throttled::All;
            accepting.spawn(accept(listener, ListenerContext { router, limits, throttled, state }));
        }
        shutdown.await;
        self.shutdown().await;
    }

    /// Drains the server: it is not ready and accepts no new clients; every client is asked to reconnect
    /// to another server (`goodbye`, then close code 1001), each at another time
    /// ([`drain_spread`](ServerConfig::drain_spread)). Waits until all have disconnected, at most for
    /// [`drain_timeout`](ServerConfig::drain_timeout), and closes the broker.
    ///
    /// # Cancel safety
    /// If the call is dropped, clients without a `goodbye` stay connected; another call drains them.
    pub async fn shutdown(&self) {
        self.state.drain().await;
        // The next minute may not come: a drain ends more connections than have a line.
        self.state.client_lines.log_suppressed();
        self.state.hub.broker().close().await;
    }

    /// Replaces [`allow_origin`](ServerConfig::allow_origin): requests from now on are checked
    /// against it. Open connections stay.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let server = chat_server::Server::builder().start();
    /// server.set_allowed_origins(&["https://app.example".to_owned()]).expect("an origin");
    /// assert!(server.set_allowed_origins(&["app.example".to_owned()]).is_err());
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first invalid origin; then the former ones stay.
    pub fn set_allowed_origins(&self, allow_origin: &[String]) -> Result<(), InvalidConfig> {
        check_origins(allow_origin)?;
        self.state.origins.set(allow_origin);
        Ok(())
    }

    /// Replaces [`allow_host`](ServerConfig::allow_host), as
    /// [`set_allowed_origins`](Self::set_allowed_origins) replaces the origins.
    ///
    /// # Errors
    /// The first invalid host; then the former ones stay.
    pub fn set_allowed_hosts(&self, allow_host: &[String]) -> Result<(), InvalidConfig> {
        check_hosts(allow_host)?;
        self.state.hosts.set(allow_host);
        Ok(())
    }

    /// Replaces all keys of `/api`, [`ServerConfig::api_key`] included, at once: a call that has begun
    /// ends as it would have. The rates of the new keys are unused.
    ///
    /// ```
    /// use chat_server::{ApiKey, ApiScope, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), chat_server::InvalidApiKey> {
    /// let server = Server::builder().start();
    /// let (key, secret) = ApiKey::generate("shop")?;
    /// server.set_api_keys(vec![key.scopes([ApiScope::Send])]);
    /// # let _ = secret;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_api_keys(&self, keys: Vec<ApiKey>) {
        self.state.api_keys.replace(keys);
    }

    /// Replaces what signs the tokens that backends ask for; see
    /// [`ServerBuilder::token_issuer`].
    #[cfg(feature = "jwt")]
    pub fn set_token_issuer(&self, issuer: Option<TokenIssuer>) {
        *self.state.token_issuer.write() = issuer;
    }

    /// Replaces the settings that can be replaced while the server runs; others stay as they were at the
    /// start. Those are [`allow_host`](ServerConfig::allow_host),
    /// [`allow_origin`](ServerConfig::allow_origin), [`api_key`](ServerConfig::api_key) and
    /// [`api_keys`](ServerConfig::api_keys), as with the calls above;
    /// [`trusted_proxies`](ServerConfig::trusted_proxies) and
    /// [`forwarded_header`](ServerConfig::forwarded_header), for requests from now on;
    /// [`limits`](ServerConfig::limits); and [`shared_settings`](ServerConfig::shared_settings).
    ///
    /// Open connections have the new rates from their next frame on, and stay where a count is lowered
    /// below theirs. They keep the address that they have, count for a user or an address only if such
    /// a limit was on when they opened, and do not receive another `welcome`.
    ///
    /// ```
    /// use chat_server::{LimitsConfig, Server, ServerConfig};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), chat_server::InvalidConfig> {
    /// let config = ServerConfig::default();
    /// let server = Server::builder().config(config.clone()).start();
    /// server.reload(&config.limits(LimitsConfig::default().rooms(Some(16))))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first invalid setting; then nothing is replaced.
    pub fn reload(&self, config: &ServerConfig) -> Result<(), InvalidConfig> {
        config.check()?;
        let state = &self.state;
        state.origins.set(&config.allow_origin);
        state.hosts.set(&config.allow_host);
        state.proxies.replace(config.trusted_proxies.clone(), config.forwarded_header);
        state.limits.replace(config.limits.clone());
        state.api_keys.replace(config.all_api_keys());
        let mut in_effect = state.config.clone();
        in_effect.allow_origin.clone_from(&config.allow_origin);
        in_effect.allow_host.clone_from(&config.allow_host);
        in_effect.trusted_proxies.clone_from(&config.trusted_proxies);
        in_effect.forwarded_header = config.forwarded_header;
        in_effect.limits = config.limits.clone();
        in_effect.api_keys.clone_from(&config.api_keys);
        in_effect.shared_settings.clone_from(&config.shared_settings);
        *state.settings_digest.write() = in_effect.digest();
        let mut latest = state.latest_reload.write();
        latest.is_successful = true;
        latest.in_effect_since = SystemTime::now();
        Ok(())
    }

    /// Sets `chat_settings_need_restart` on the metrics page: for an application that has read settings
    /// which differ from those of the start and count from the next start on.
    pub fn set_needs_restart(&self, needs_restart: bool) {
        self.state.latest_reload.write().needs_restart = needs_restart;
    }

    /// Sets `chat_settings_reload_successful` on the metrics page to 0 until the next
    /// [`reload`](Self::reload) that succeeds: for an application that could not read its settings
    /// again, or not apply them.
    pub fn reload_failed(&self) {
        self.state.latest_reload.write().is_successful = false;
    }

    /// The random id of this server, which clients receive in `welcome`, and by which `GET /api/nodes`
    /// lists it.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.state.node
    }

    /// The name of its machine, pod or container, which `GET /api/nodes` lists with its id. `None` if the
    /// system does not say it.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        host_name()
    }

    /// [`ServerConfig::digest`] of the settings in effect, as the log and `GET /api/nodes` show it.
    #[must_use]
    pub fn settings_digest(&self) -> String {
        self.state.settings_digest.read().clone()
    }

    /// Whether the broker answers, the [authenticator](crate::Authenticator::is_ready) can check
    /// tokens, and the server is not shutting down, as in `/readyz`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.is_ready()
    }

    /// Why the server is not [ready](Self::is_ready), in the words of `/readyz`; `None` if it is.
    #[must_use]
    pub fn why_not_ready(&self) -> Option<Cow<'static, str>> {
        self.state.why_not_ready()
    }

    /// A room, to send messages, read its history and its members, and moderate it.
    ///
    /// ```
    /// use chat_core::RoomId;
    /// use chat_server::Server;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder().start();
    /// server.room(&RoomId::new("orders")?).send("Paid.").await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn room(&self, room: &RoomId) -> RoomHandle {
        RoomHandle::new(Arc::clone(&self.state), room.clone())
    }

    /// A user, to send direct messages, disconnect and ban.
    ///
    /// ```
    /// # async fn example(server: chat_server::Server) -> Result<(), Box<dyn std::error::Error>> {
    /// server.user(&"ann".parse()?).disconnect(Some("logged out")).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn user(&self, user: &UserId) -> UserHandle {
        UserHandle::new(Arc::clone(&self.state), user.clone())
    }

    /// A page of the rooms that have users, on any server, and whose names begin with `prefix`: those
    /// after the room `after`, or the first ones, at most `limit`, 1 to
    /// [`OccupiedRooms::MAX`] (1,000). A room that has users while all pages are read is in one of them.
    ///
    /// ```
    /// # async fn example(server: chat_server::Server) -> Result<(), chat_server::Error> {
    /// let mut after = None;
    /// loop {
    ///     let page = server.rooms("order-", after.as_ref(), 100).await?;
    ///     for occupied in page.rooms {
    ///         println!("{}: {} users", occupied.room, occupied.count);
    ///     }
    ///     after = page.next;
    ///     if after.is_none() {
    ///         return Ok(());
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Broker`]: the broker did not answer in time, or has no presence, or cannot list rooms
    /// ([`BrokerError::Unsupported`](chat_broker::BrokerError::Unsupported)).
    ///
    /// # Cancel safety
    /// Safe: a read.
    pub async fn rooms(
        &self,
        prefix: &str,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<OccupiedRooms, Error> {
        Ok(members::rooms(&self.state, prefix, after, limit).await?)
    }

    /// The active bans from rooms and from all servers, as this server knows them, in the order of
    /// their users and rooms. A ban or unban by this server is included as soon as its call has
    /// returned; one by another server some milliseconds later, or after an outage of the broker.
    ///
    /// ```
    /// # fn example(server: &chat_server::Server) {
    /// for ban in server.bans().iter().filter(|ban| ban.room.is_none()) {
    ///     println!("{} for {:?}: {:?}", ban.user, ban.expires_in, ban.reason);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn bans(&self) -> Vec<Ban> {
        self.state.moderation.bans(|_, _| true)
    }

    /// The hub, which has the members of rooms on this server.
    ///
    /// ```
    /// # fn example(server: &chat_server::Server) {
    /// println!("{} rooms have members on this server", server.hub().rooms());
    /// # }
    /// ```
    #[must_use]
    pub fn hub(&self) -> &Hub<Member> {
        &self.state.hub
    }

    /// The broker, with which the application can publish what is no message of a chat, and read what
    /// is behind the rooms.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        self.state.hub.broker()
    }

    /// The number of connections of clients.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.sessions.len()
    }
}
