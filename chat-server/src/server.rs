//! A server: a broker, a hub and the connections of its clients.

use std::sync::Arc;

use axum::Router;
use chat_broker::{Broker, BrokerEvents, Hub, MemoryBroker};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::auth::{Authenticator, Authorizer};
use crate::config::ServerConfig;
use crate::limits::{Limits, LimitsConfig};
use crate::listener::{ListenerContext, accept};
use crate::state::{State, Task};
use crate::{http, operator};

/// Connections of operators at a time.
const OPERATORS: usize = 64;

/// A chat server. A clone is another handle on the same one.
///
/// Either let it listen by itself ([`serve`](Self::serve)), or put its routes
/// ([`router`](Self::router)) into an axum application of your own.
#[derive(Debug, Clone)]
pub struct Server {
    state: Arc<State>,
}

/// Collects what a [`Server`] is made of.
#[derive(Debug, Default)]
pub struct ServerBuilder {
    config: ServerConfig,
    broker: Option<(Arc<dyn Broker>, BrokerEvents)>,
    authenticator: Option<Arc<dyn Authenticator>>,
    authorizer: Option<Arc<dyn Authorizer>>,
}

impl ServerBuilder {
    /// Settings. Actor default those of [`ServerConfig::default`].
    #[must_use]
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// What carries messages between servers. Actor default a [`MemoryBroker`]: this server
    /// is alone.
    ///
    /// An `Arc<dyn Broker>` is a broker, too, for an application that keeps a handle on it; so is
    /// what [`Server::broker`] returns. Optional parts that a broker lacks are logged at the start.
    #[must_use]
    pub fn broker(mut self, broker: impl Broker, events: BrokerEvents) -> Self {
        self.broker = Some((Arc::new(broker), events));
        self
    }

    /// What finds out who clients are. Actor default nothing does: they are who they say.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// What decides what clients may do, once an [`authenticator`](Self::authenticator) has
    /// found out who they are. Actor default the grants of their identity.
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Some(Arc::new(authorizer));
        self
    }

    /// Starts the server: its hub works from here on, in a task of the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(self) -> Server {
        let Self { config, broker, authenticator, authorizer } = self;
        let (broker, events) = broker.unwrap_or_else(|| {
            let (broker, events) = MemoryBroker::connect();
            (Arc::new(broker), events)
        });
        let (hub, driver) = Hub::new(broker, events, config.hub.clone());
        let driver = Task(tokio::spawn(driver.run()));
        let state = State::new(config, hub, driver, authenticator, authorizer);
        Server { state: Arc::new(state) }
    }
}

impl Server {
    /// A builder with every default.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The routes, for an axum application: merge them, or nest them under a path. With
    /// [`nest_service`](Router::nest_service) `/chat` and `/chat/` are the page, with
    /// [`nest`](Router::nest) `/chat` alone.
    ///
    /// When the application shuts down, call [`shutdown`](Self::shutdown): axum does not
    /// wait for WebSockets.
    ///
    /// Limits by address need to know where clients are: serve the application with
    /// [`into_make_service_with_connect_info::<SocketAddr>`](Router::into_make_service_with_connect_info).
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.state))
    }

    /// `/healthz`, `/readyz` and `/metrics` alone, for an address that only operators reach.
    pub fn operator_router(&self) -> Router {
        operator::router(Arc::clone(&self.state))
    }

    /// Serves [`operator_router`](Self::operator_router) on `listener` for ever: at most 64
    /// connections at a time, which clients cannot take away.
    ///
    /// # Cancel safety
    /// Dropping the call stops serving.
    pub async fn serve_operators(&self, listener: TcpListener) {
        let mut few = LimitsConfig::off();
        few.http_connections = Some(OPERATORS);
        let (limits, state) = (Arc::new(Limits::new(few)), Arc::clone(&self.state));
        accept(listener, ListenerContext { router: self.operator_router(), limits, state }).await;
    }

    /// Serves clients on `listeners` until `shutdown` resolves; then drains, as
    /// [`shutdown`](Self::shutdown) does, and returns. Until then whoever comes is told that
    /// the server shuts down.
    ///
    /// # Cancel safety
    /// Dropping the call stops accepting. Connections live on until they are shut down.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let (limits, state) = (Arc::clone(&self.state.limits), Arc::clone(&self.state));
            accepting
                .spawn(accept(listener, ListenerContext { router: self.router(), limits, state }));
        }
        shutdown.await;
        self.shutdown().await;
    }

    /// From here on the server is not ready and takes no new clients. Tells every client to go
    /// elsewhere (`goodbye`, then close code 1001), batch by batch and each at another time
    /// ([`drain_spread`](ServerConfig::drain_spread)), waits until they are gone, for
    /// [`drain_timeout`](ServerConfig::drain_timeout) at most, and closes the broker.
    ///
    /// # Cancel safety
    /// Clients that were not told yet keep their connections. Calling again goes on.
    pub async fn shutdown(&self) {
        self.state.drain().await;
        self.state.hub.broker().close().await;
    }

    /// Whether the broker answers and the server is not shutting down: what `/readyz`
    /// says.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.is_ready()
    }

    /// The broker, also the default one: to publish to rooms, or to read who is in them, from the
    /// application.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        self.state.hub.broker()
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.sessions.len()
    }
}
