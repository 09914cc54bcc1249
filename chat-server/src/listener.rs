//! Accepting connections, and speaking HTTP on them until they become WebSockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chat_transport::SharedTcp;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::limits::{Limits, SharedBucket};
use crate::log_budget::OncePerMinute;
use crate::peer;
use crate::refusal::Refusal;
use crate::state::State;

/// The smallest head that hyper can be told to keep to.
const SMALLEST_HEAD: usize = 8 * 1024;

/// How long a connection may be used for requests; then it may finish the one in hand.
const LIFETIME: Duration = Duration::from_secs(30);

/// The whole answer to a connection above the limit: nothing is read of what it asks.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What is behind a listener.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) router: Router,
    /// How many may come in.
    pub(crate) limits: Arc<Limits>,
    pub(crate) state: Arc<State>,
}

/// Accepts connections for ever.
pub(crate) fn accept(
    listener: TcpListener,
    gate: Gate,
) -> impl Future<Output = ()> + Send + 'static {
    let transport = &gate.state.config.transport;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(transport.handshake_timeout)
        .max_buf_size(transport.max_head_bytes.max(SMALLEST_HEAD));
    async move {
        let mut pause = Pause::default();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    pause = Pause::default();
                    gate.serve(&http, stream, peer);
                }
                // The client was gone before it was accepted: nothing is wrong here.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => pause.after(&error).await,
            }
        }
    }
}

impl Gate {
    /// Serves a connection in a task of its own, unless the limit of HTTP connections is reached.
    fn serve(&self, http: &http1::Builder, stream: TcpStream, peer: SocketAddr) {
        let (limits, state) = (Arc::clone(&self.limits), Arc::clone(&self.state));
        let address = peer.ip().to_canonical();
        let is_proxy = peer::is_trusted(address, &state.config.trusted_proxies);
        let Some(place) = limits.admit_asking((!is_proxy).then_some(address)) else {
            state.metrics.limited("http_connections");
            // It is closed either way.
            let _ = stream.try_write(FULL);
            return;
        };
        let tcp = SharedTcp::bounded(stream, state.config.transport.socket_buffer_bytes);
        let patience = state.config.transport.handshake_timeout;
        let metrics = state.metrics.clone();
        let pacer = Pacer { limits, state, bucket: (!is_proxy).then(SharedBucket::default) };
        let talk = talk_http(http.clone(), tcp.clone(), peer, self.router.clone(), pacer, patience);
        tokio::spawn(async move {
            match talk.await {
                Err(error) if error.is_timeout() => metrics.limited("handshake_timeout"),
                Err(error) if error.is_parse_too_large() => metrics.limited("head_size"),
                _ => {}
            }
            // The slot is released after the socket, whose unread answers the kernel would keep.
            tcp.end().await;
            drop(place);
        });
    }
}

/// Speaks HTTP on a connection until it ends, or becomes a WebSocket. `patience` is how long the
/// last answer may take.
async fn talk_http(
    http: http1::Builder,
    tcp: SharedTcp,
    peer: SocketAddr,
    router: Router,
    pacer: Pacer,
    patience: Duration,
) -> hyper::Result<()> {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let (turn, router) = (pacer.reserve(&request), router.clone());
        async move {
            match turn {
                Ok(wait) => {
                    if !wait.is_zero() {
                        sleep(wait).await;
                    }
                    router.call(request).await
                }
                Err(refusal) => Ok(closing(refusal)),
            }
        }
    });
    let talk = http.serve_connection(TokioIo::new(tcp), service).with_upgrades();
    let mut talk = pin!(talk);
    // One that becomes a WebSocket ends here. Of the others, none may stay for ever by not
    // reading its answers.
    match timeout(LIFETIME, talk.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            talk.as_mut().graceful_shutdown();
            timeout(patience, talk).await.unwrap_or(Ok(()))
        }
    }
    .inspect_err(|error| tracing::debug!(%error, "an HTTP connection ended early"))
}

/// The request rate of a connection.
struct Pacer {
    limits: Arc<Limits>,
    state: Arc<State>,
    /// `None` for a connection of a trusted proxy, which carries requests of many clients.
    bucket: Option<SharedBucket>,
}

impl Pacer {
    /// How long a request has to wait before it is served. hyper reads no further request meanwhile.
    fn reserve<B>(&self, request: &hyper::Request<B>) -> Result<Duration, Refusal> {
        let address = peer::address(request.headers(), request.extensions(), &self.state.config);
        // Requests of a proxy itself, such as health checks, have no address of a client.
        let is_own =
            |address: &IpAddr| peer::is_trusted(*address, &self.state.config.trusted_proxies);
        let address = address.filter(|address| self.bucket.is_some() || !is_own(address));
        let turn = self.limits.request(self.bucket.as_ref(), address);
        if turn.as_ref().map_or(true, |wait| !wait.is_zero()) {
            self.state.metrics.limited("http_rate");
        }
        turn.map_err(Refusal::http_rate)
    }
}

/// A response that ends the connection: requests pipelined behind it are not read.
fn closing(refusal: Refusal) -> Response {
    let mut response = refusal.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
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
        // Clients that open and close connections at the limit of files can trigger this line
        // 100 times a second.
        static LOGGED: OncePerMinute = OncePerMinute::new();
        if LOGGED.is_due() {
            tracing::error!(%error, pause = ?self.0, "cannot accept connections");
        }
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(Self::LONGEST);
    }
}
