//! A server: a broker, a hub and the connections of its clients.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use chat_broker::{Broker, BrokerEvents, Hub, MemoryBroker};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::config::ServerConfig;
use crate::http;
use crate::state::{Driver, State};

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
}

impl ServerBuilder {
    /// Settings. By default those of [`ServerConfig::default`].
    #[must_use]
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.config = config;
        self
    }

    /// What carries messages between servers. By default a [`MemoryBroker`]: this server
    /// is alone.
    #[must_use]
    pub fn broker(mut self, broker: impl Broker, events: BrokerEvents) -> Self {
        self.broker = Some((Arc::new(broker), events));
        self
    }

    /// Starts the server: its hub works from here on, in a task of the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(self) -> Server {
        let (broker, events) = self.broker.unwrap_or_else(|| {
            let (broker, events) = MemoryBroker::connect();
            (Arc::new(broker), events)
        });
        Server::over(broker, events, self.config)
    }
}

impl Server {
    pub(crate) fn over(
        broker: Arc<dyn Broker>,
        events: BrokerEvents,
        config: ServerConfig,
    ) -> Self {
        let (hub, driver) = Hub::new(broker, events, config.hub.clone());
        let driver = Driver(tokio::spawn(driver.run()));
        Self { state: Arc::new(State::new(config, hub, driver)) }
    }

    /// A builder with every default.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The routes, for an axum application: merge them, or nest them under a path.
    ///
    /// When the application shuts down, call [`shutdown`](Self::shutdown): axum does not
    /// wait for WebSockets.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.state))
    }

    /// Serves clients on `listeners` until `shutdown` resolves; then drains, as
    /// [`shutdown`](Self::shutdown) does, and returns.
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
            accepting.spawn(accept(listener, self.router()));
        }
        shutdown.await;
        accepting.abort_all();
        while accepting.join_next().await.is_some() {}
        self.shutdown().await;
    }

    /// Tells every client to go elsewhere (`goodbye`, then close code 1001), waits until
    /// they have been told, for [`drain_timeout`](ServerConfig::drain_timeout) at most,
    /// and closes the broker. From here on the server is not ready and takes no new
    /// clients.
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

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.sessions.len()
    }
}

/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts connections for ever.
async fn accept(listener: TcpListener, router: Router) {
    let mut pause = Pause::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                pause = Pause::default();
                tokio::spawn(talk_http(stream, router.clone()));
            }
            // The client was gone before it was accepted: nothing is wrong here.
            Err(error) if is_the_clients(&error) => {}
            Err(error) => pause.after(&error).await,
        }
    }
}

async fn talk_http(stream: TcpStream, router: Router) {
    // A chat message waits for no other to share its packet.
    let _ = stream.set_nodelay(true);
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    if let Err(error) = talk.await {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What accepting does while the system has no file descriptors to give: wait, longer
/// each time.
#[derive(Debug)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(10))
    }
}

impl Pause {
    const LONGEST: Duration = Duration::from_secs(1);

    async fn after(&mut self, error: &io::Error) {
        tracing::error!(%error, pause = ?self.0, "cannot accept connections");
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Self::LONGEST);
    }
}
