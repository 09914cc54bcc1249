//! Accepting connections, and serving HTTP on them until they become WebSockets.

mod body;
mod clock;
mod keep_alive;
mod malformed;
mod stream;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chat_core::Backoff;
use chat_transport::{SharedTcp, handshake};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until, timeout};

use crate::config::ServerConfig;
use crate::limits::{LimitReached, Limits, RequestBucket};
use crate::log_budget::OncePerMinute;
use crate::refusal::Refusal;
use crate::state::State;

use body::{RequestBody, ResponseBody};
use clock::{Clock, Phase, PhaseTimeouts};
use keep_alive::KeepAlive;
pub(crate) use stream::HttpStream;

/// The smallest limit on a head that hyper supports.
const SMALLEST_HEAD: usize = 8 * 1024;

/// How long the server may work on a response, in addition to the waits that are settings, and how long
/// a client may take to receive it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to a connection above the limit, written without reading its request.
static OVER_CAPACITY: LazyLock<String> = LazyLock::new(|| {
    let body = r#"{"code":"over_capacity","message":"This server has too many HTTP connections. Try again later."}"#;
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
});

/// Connections above the limit that are read until they end, at a time: closing a socket with unread
/// bytes sends a reset, which discards the answer. Further ones are closed at once, so that they do
/// not use up file descriptors.
const MAX_REJECTING: usize = 64;

/// How long a client that has timed out may take to close the connection.
const TIMEOUT_CLOSE: Duration = Duration::from_secs(1);

/// The first and the longest pause after an `accept` that failed for lack of file descriptors.
const MIN_ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What a listener serves its connections with.
#[derive(Debug)]
pub(crate) struct ListenerContext {
    pub(crate) router: Router,
    /// The limits on HTTP connections and requests.
    pub(crate) limits: Arc<Limits>,
    /// The requests that the rates of requests are about.
    pub(crate) throttled: Throttled,
    pub(crate) state: Arc<State>,
}

/// The requests that wait for the rates of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Throttled {
    All,
    /// Those with a key that is not valid, by the rates of clients: backends and operators call as often
    /// as their keys allow.
    Unauthorized,
}

/// Accepts connections until the future is dropped.
pub(crate) fn accept(
    listener: TcpListener,
    context: ListenerContext,
) -> impl Future<Output = ()> + Send + 'static {
    SharedTcp::prepare_listener(&listener, &context.state.transport);
    let mut http = http1::Builder::new();
    // The clock of each connection replaces the timeout of hyper, which does not distinguish an idle
    // connection from a slow head.
    http.header_read_timeout(None).max_buf_size(max_head_bytes(&context.state.config));
    let rejecting = Arc::new(Semaphore::new(MAX_REJECTING));
    async move {
        let mut backoff = Backoff::new(MIN_ACCEPT_PAUSE, MAX_ACCEPT_PAUSE);
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    backoff.reset();
                    context.serve(&http, stream, peer, &rejecting);
                }
                // The client closed the connection before it was accepted.
                Err(error) if is_aborted_by_client(&error) => {}
                Err(error) => wait_for_descriptors(&mut backoff, &error).await,
            }
        }
    }
}

fn max_head_bytes(config: &ServerConfig) -> usize {
    config.transport.max_head_bytes.max(SMALLEST_HEAD)
}

impl ListenerContext {
    /// Serves a connection in a task of its own, unless the limit of HTTP connections is reached.
    fn serve(
        &self,
        http: &http1::Builder,
        stream: TcpStream,
        peer: SocketAddr,
        rejecting: &Arc<Semaphore>,
    ) {
        let (limits, state) = (Arc::clone(&self.limits), Arc::clone(&self.state));
        let address = peer.ip().to_canonical();
        let is_proxy = state.proxies.trust(address);
        let permit = match limits.admit_http((!is_proxy).then_some(address)) {
            Ok(permit) => permit,
            Err(reached) => {
                state.metrics.limited("http_connections");
                if reached == LimitReached::Address {
                    state.proxies.warn_of_crowd(address);
                }
                return reject_connection(stream, rejecting);
            }
        };
        let tcp = SharedTcp::accepted(stream, &state.transport);
        let clock =
            Arc::new(Clock::new(phase_timeouts(&state.config, state.limits.config().max_wait)));
        let stream =
            HttpStream::new(tcp.clone(), Arc::clone(&clock), max_head_bytes(&state.config));
        let metrics = state.metrics.clone();
        let requests = Requests {
            router: TowerToHyperService::new(self.router.clone()),
            peer,
            keep_alive: KeepAlive {
                limits: Arc::clone(&limits),
                state: Arc::clone(&state),
                is_proxy,
            },
            throttle: RequestThrottle {
                throttled: self.throttled,
                state,
                bucket: (!is_proxy).then(RequestBucket::default),
            },
            clock,
        };
        let serving = serve_http(http.clone(), stream, requests);
        tokio::spawn(async move {
            let outcome = serving.await;
            match &outcome {
                HttpOutcome::TimedOut(Phase::Head | Phase::Body) => {
                    metrics.limited("handshake_timeout")
                }
                HttpOutcome::TimedOut(Phase::Work | Phase::Response) => {
                    metrics.limited("response_timeout");
                }
                HttpOutcome::Failed(error) if error.is_parse_too_large() => {
                    metrics.limited("head_size")
                }
                HttpOutcome::TimedOut(Phase::Idle) | HttpOutcome::Failed(_) | HttpOutcome::Done => {
                }
            }
            // The permit is released after the socket: the kernel keeps the unread answers of a closing
            // connection, and a client must not pile them up beyond the limit.
            if let HttpOutcome::TimedOut(_) = outcome {
                // There is no answer to lose, and a client that sends a byte per second would stay.
                let _ = timeout(TIMEOUT_CLOSE, tcp.end()).await;
            } else {
                tcp.end().await;
            }
            drop(permit);
        });
    }
}

fn reject_connection(stream: TcpStream, rejecting: &Arc<Semaphore>) {
    // The connection is closed whether the write fails or not.
    let _ = stream.try_write(OVER_CAPACITY.as_bytes());
    if let Ok(permit) = Arc::clone(rejecting).try_acquire_owned() {
        tokio::spawn(async move {
            SharedTcp::new(stream).end().await;
            drop(permit);
        });
    }
}

fn phase_timeouts(config: &ServerConfig, max_wait: Duration) -> PhaseTimeouts {
    PhaseTimeouts {
        head: config.transport.handshake_timeout,
        body: config.transport.handshake_timeout,
        work: RESPONSE_TIMEOUT.saturating_add(config.auth_timeout).saturating_add(max_wait),
        response: RESPONSE_TIMEOUT,
        // Later than announced, so that a client that reuses the connection in time never meets a close.
        idle: config.keep_alive_timeout.saturating_add(Duration::from_secs(1)),
    }
}

/// How HTTP ended on a connection.
enum HttpOutcome {
    /// Either side closed the connection, or it became a WebSocket.
    Done,
    Failed(hyper::Error),
    /// The phase took too long.
    TimedOut(Phase),
}

/// Serves HTTP on a connection until it ends, or becomes a WebSocket.
async fn serve_http(http: http1::Builder, stream: HttpStream, requests: Requests) -> HttpOutcome {
    let clock = Arc::clone(&requests.clock);
    let requests = Arc::new(requests);
    let service = service_fn(move |request| Arc::clone(&requests).serve(request));
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut timer = pin!(sleep_until(clock.deadline().1));
    poll_fn(|cx| {
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(match result {
                Ok(()) => HttpOutcome::Done,
                Err(error) => {
                    tracing::debug!(%error, "HTTP connection ended with an error");
                    HttpOutcome::Failed(error)
                }
            });
        }
        // Only the poll above changes the phase, so the deadline is read after it and needs no waker.
        let (phase, deadline) = clock.deadline();
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| HttpOutcome::TimedOut(phase))
    })
    .await
}

/// Serves the requests of a connection.
struct Requests {
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
    throttle: RequestThrottle,
    keep_alive: KeepAlive,
    clock: Arc<Clock>,
}

impl Requests {
    /// Waits for the rate of requests, if the request counts.
    async fn wait_for_rate(&self, address: Option<IpAddr>, counts: bool) -> Result<(), Refusal> {
        if counts {
            let wait = self.throttle.reserve(address)?;
            if !wait.is_zero() {
                sleep(wait).await;
            }
        }
        Ok(())
    }

    async fn serve(
        self: Arc<Self>,
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<ResponseBody>, Infallible> {
        self.clock.requested();
        let is_default = KeepAlive::is_default(&request);
        let (parts, body) = request.into_parts();
        let (body, is_unread) = RequestBody::new(body, Arc::clone(&self.clock));
        let mut request = hyper::Request::from_parts(parts, body);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let address = self.throttle.address(&request);
        let all = self.throttle.throttled == Throttled::All;
        let is_handshake = handshake::is_requested(request.headers());
        let mut response = match self.wait_for_rate(address, all).await {
            Ok(()) => {
                if is_unread.load(Ordering::Relaxed) {
                    self.clock.awaits_body();
                }
                let response = self.router.call(request).await?;
                let is_guess = !all && response.status() == StatusCode::UNAUTHORIZED;
                match self.wait_for_rate(address, is_guess).await {
                    Ok(()) => response,
                    Err(refusal) => closing(refusal),
                }
            }
            Err(refusal) => {
                if is_handshake {
                    let lines = &self.throttle.state.client_lines;
                    lines.handshake_refused(&refusal, None, None, address);
                }
                closing(refusal)
            }
        };
        self.keep_alive.announce(&mut response, is_default, is_unread.load(Ordering::Relaxed));
        Ok(response.map(|body| ResponseBody::new(body, Arc::clone(&self.clock))))
    }
}

/// The request rate of a connection.
struct RequestThrottle {
    throttled: Throttled,
    state: Arc<State>,
    /// `None` for a connection of a trusted proxy, which carries requests of many clients.
    bucket: Option<RequestBucket>,
}

impl RequestThrottle {
    /// The address whose rate a request counts for.
    fn address<B>(&self, request: &hyper::Request<B>) -> Option<IpAddr> {
        let address = self.state.proxies.client_address(request.headers(), request.extensions());
        // A proxy's own requests, such as health checks, have no client: its address is not limited.
        let is_own = |address: &IpAddr| self.state.proxies.trust(*address);
        address.filter(|address| self.bucket.is_some() || !is_own(address))
    }

    /// How long a request waits. hyper reads no further request during the wait.
    ///
    /// # Errors
    /// The rejection of a request that would wait for too long.
    fn reserve(&self, address: Option<IpAddr>) -> Result<Duration, Refusal> {
        let wait = self.state.limits.request(self.bucket.as_ref(), address);
        if wait.as_ref().map_or(true, |wait| !wait.is_zero()) {
            self.state.metrics.limited("http_rate");
        }
        wait.map_err(Refusal::http_rate)
    }
}

/// A response after which the connection is closed: requests pipelined behind it are not read.
fn closing(refusal: Refusal) -> Response {
    let mut response = refusal.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn is_aborted_by_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Waits for free file descriptors, longer each time.
async fn wait_for_descriptors(backoff: &mut Backoff, error: &io::Error) {
    // Clients that open and close connections at the limit of files can trigger this line
    // 100 times a second.
    static LOGGED: OncePerMinute = OncePerMinute::new();
    let pause = backoff.next_pause();
    if LOGGED.is_due() {
        tracing::error!(%error, ?pause, "cannot accept connections, retrying");
    }
    sleep(pause).await;
}
