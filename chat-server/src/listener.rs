//! Accepting connections, and speaking HTTP on them until they become WebSockets.

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
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chat_core::Backoff;
use chat_transport::SharedTcp;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until, timeout};

use crate::config::ServerConfig;
use crate::limits::{Limits, SharedBucket};
use crate::log_budget::OncePerMinute;
use crate::peer;
use crate::refusal::Refusal;
use crate::state::State;

use body::{RequestBody, ResponseBody};
use clock::{Clock, Phase, Times};
use keep_alive::KeepAlive;
pub(crate) use stream::HttpStream;

/// The smallest head that hyper can be told to keep to.
const SMALLEST_HEAD: usize = 8 * 1024;

/// How long the server may work on a response, besides the waits that are settings, and how long a
/// client may take to receive it.
const RESPONSE: Duration = Duration::from_secs(30);

/// The whole answer to a connection above the limit: nothing is read of what it asks.
static FULL: LazyLock<String> = LazyLock::new(|| {
    let body = r#"{"code":"over_capacity","message":"This server has too many HTTP connections."}"#;
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
});

/// Connections above the limit that are read at a time until they end, so that the answer is not lost
/// with a reset. Beyond that they are closed at once: they must not take the files of others.
const MAX_REJECTING: usize = 64;

/// How long a client that took too long may take to close the connection.
const LATE: Duration = Duration::from_secs(1);

/// How long no connection is accepted after the system had no file descriptor, at first and at most.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What is behind a listener.
#[derive(Debug)]
pub(crate) struct ListenerContext {
    pub(crate) router: Router,
    /// How many may come in.
    pub(crate) limits: Arc<Limits>,
    pub(crate) state: Arc<State>,
}

/// Accepts connections for ever.
pub(crate) fn accept(
    listener: TcpListener,
    context: ListenerContext,
) -> impl Future<Output = ()> + Send + 'static {
    let mut http = http1::Builder::new();
    // The clock of each connection knows more than hyper, which cannot tell an idle connection from
    // a slow head.
    http.header_read_timeout(None).max_buf_size(max_head_bytes(&context.state.config));
    let rejecting = Arc::new(Semaphore::new(MAX_REJECTING));
    async move {
        let mut backoff = Backoff::new(ACCEPT_PAUSE, LONGEST_ACCEPT_PAUSE);
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    backoff.reset();
                    context.serve(&http, stream, peer, &rejecting);
                }
                // The client was gone before it was accepted: nothing is wrong here.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => wait_for_files(&mut backoff, &error).await,
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
        let is_proxy = peer::is_trusted(address, &state.config.trusted_proxies);
        let Some(place) = limits.admit_asking((!is_proxy).then_some(address)) else {
            state.metrics.limited("http_connections");
            return reject_connection(stream, rejecting);
        };
        let tcp = SharedTcp::bounded(stream, state.config.transport.socket_buffer_bytes);
        let clock = Arc::new(Clock::new(times(&state.config)));
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
            pacer: Pacer { limits, state, bucket: (!is_proxy).then(SharedBucket::default) },
            clock,
        };
        let talk = serve_http(http.clone(), stream, requests);
        tokio::spawn(async move {
            let ended = talk.await;
            match &ended {
                Ended::TooLate(Phase::Head | Phase::Body) => metrics.limited("handshake_timeout"),
                Ended::TooLate(Phase::Work | Phase::Response) => {
                    metrics.limited("response_timeout");
                }
                Ended::ByError(error) if error.is_parse_too_large() => metrics.limited("head_size"),
                Ended::TooLate(Phase::Idle) | Ended::ByError(_) | Ended::Done => {}
            }
            // The slot is released after the socket, whose unread answers the kernel would keep.
            if let Ended::TooLate(_) = ended {
                // No answer could be lost, and a client that sends a byte a second would stay.
                let _ = timeout(LATE, tcp.end()).await;
            } else {
                tcp.end().await;
            }
            drop(place);
        });
    }
}

fn reject_connection(stream: TcpStream, rejecting: &Arc<Semaphore>) {
    // It is closed either way.
    let _ = stream.try_write(FULL.as_bytes());
    if let Ok(permit) = Arc::clone(rejecting).try_acquire_owned() {
        tokio::spawn(async move {
            SharedTcp::new(stream).end().await;
            drop(permit);
        });
    }
}

fn times(config: &ServerConfig) -> Times {
    Times {
        head: config.transport.handshake_timeout,
        body: config.transport.handshake_timeout,
        work: RESPONSE.saturating_add(config.auth_timeout).saturating_add(config.limits.max_wait),
        response: RESPONSE,
        // Not before the announced time.
        idle: config.keep_alive_timeout.saturating_add(Duration::from_secs(1)),
    }
}

/// How the HTTP of a connection ended.
enum Ended {
    /// Actor either side, or in a WebSocket.
    Done,
    ByError(hyper::Error),
    /// What it was at took too long.
    TooLate(Phase),
}

/// Speaks HTTP on a connection until it ends, or becomes a WebSocket.
async fn serve_http(http: http1::Builder, stream: HttpStream, requests: Requests) -> Ended {
    let clock = Arc::clone(&requests.clock);
    let requests = Arc::new(requests);
    let service = service_fn(move |request| Arc::clone(&requests).serve(request));
    let mut talk = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut alarm = pin!(sleep_until(clock.deadline().1));
    poll_fn(|cx| {
        if let Poll::Ready(ended) = talk.as_mut().poll(cx) {
            return Poll::Ready(match ended {
                Ok(()) => Ended::Done,
                Err(error) => {
                    tracing::debug!(%error, "an HTTP connection ended early");
                    Ended::ByError(error)
                }
            });
        }
        // Whatever has moved the deadline has done so within the poll above.
        let (phase, deadline) = clock.deadline();
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(cx).map(|()| Ended::TooLate(phase))
    })
    .await
}

/// What serves the requests of a connection.
struct Requests {
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
    pacer: Pacer,
    keep_alive: KeepAlive,
    clock: Arc<Clock>,
}

impl Requests {
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
        let mut response = match self.pacer.reserve(&request) {
            Ok(wait) => {
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                if is_unread.load(Ordering::Relaxed) {
                    self.clock.awaits_body();
                }
                self.router.call(request).await?
            }
            Err(refusal) => closing(refusal),
        };
        self.keep_alive.announce(&mut response, is_default, is_unread.load(Ordering::Relaxed));
        Ok(response.map(|body| ResponseBody::new(body, Arc::clone(&self.clock))))
    }
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
        let address = self.state.config.client_address(request.headers(), request.extensions());
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

/// Waits while the system has no file descriptors to give, longer each time.
async fn wait_for_files(backoff: &mut Backoff, error: &io::Error) {
    // Clients that open and close connections at the limit of files can trigger this line
    // 100 times a second.
    static LOGGED: OncePerMinute = OncePerMinute::new();
    let pause = backoff.next_pause();
    if LOGGED.is_due() {
        tracing::error!(%error, ?pause, "cannot accept connections");
    }
    sleep(pause).await;
}
