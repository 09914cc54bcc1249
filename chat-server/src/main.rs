//! The chat server as a program: settings, log, listeners, and a clean end.

mod log;
mod settings;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use chat_server::{Server, ServerBuilder, ServerConfig};
use log::Log;
use settings::{Settings, Task, Tokens};
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

fn main() -> ExitCode {
    let settings = match Task::load() {
        Ok(Task::Serve(settings)) => settings,
        Ok(Task::Print(text)) => return settings::print(&text),
        Err(exit) => return exit.report(),
    };
    let outcome = log::start(&settings).and_then(|log| {
        let runtime = runtime(settings.threads);
        let runtime = runtime.map_err(|error| format!("cannot start threads: {error}"));
        let outcome = runtime.and_then(|runtime| runtime.block_on(run(*settings, &log)));
        log.flush();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => settings::complain(&error),
    }
}

/// One thread needs nothing that several need to share work.
fn runtime(threads: NonZeroUsize) -> io::Result<Runtime> {
    let mut builder = match threads {
        NonZeroUsize::MIN => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads.get()).enable_all().build()
}

async fn run(settings: Settings, log: &Arc<Log>) -> Result<(), String> {
    let mut signals =
        Signals::new().map_err(|error| format!("cannot listen for signals: {error}"))?;
    if settings.limits_are_off {
        warn!("limits are off: rates and counts are not limited, whatever else is set");
    }
    let config = with_system(&settings);
    let listeners = listen(&settings).await?;
    let operators = listen_for_operators(&settings).await?;
    let builder = tokio::select! {
        builder = with_broker(&settings) => builder?,
        _ = signals.recv() => return Ok(()),
    };
    let server = with_tokens(builder, settings.tokens.as_ref())?.config(config).start();
    if let Some(listener) = operators {
        let server = server.clone();
        tokio::spawn(async move { server.serve_operators(listener).await });
    }
    for listener in &listeners {
        if let Ok(address) = listener.local_addr() {
            info!("listening on http://{address}");
        }
    }
    let (tell, told) = oneshot::channel();
    let log = Arc::clone(log);
    tokio::spawn(async move {
        info!("{}: shutting down", signals.recv().await);
        // Nobody waits for it if the server has ended by itself.
        let _ = tell.send(());
        info!("{} again: stopping at once", signals.recv().await);
        log.flush();
        std::process::exit(1);
    });
    server.serve(listeners, async { drop(told.await) }).await;
    info!("stopped");
    Ok(())
}

/// The settings, within what the system gives: as many files as it allows, and so many
/// connections that some are left over for what the server itself needs.
fn with_system(settings: &Settings) -> ServerConfig {
    /// For Redis, the log, listeners, and what is over before it counts.
    const SPARE: usize = 64;
    let mut config = settings.server();
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) if settings.connections_by_system => {
            let files = usize::try_from(files).unwrap_or(usize::MAX);
            let least = |limit: Option<usize>, max: usize| limit.map(|limit| limit.min(max.max(1)));
            let limits = &mut config.limits;
            limits.http_connections = least(limits.http_connections, files / 4);
            // Those who only ask are there besides, and may be silent.
            let besides = limits.http_connections.map_or(SPARE, |asking| asking + SPARE);
            limits.connections = least(limits.connections, files.saturating_sub(besides));
        }
        Ok(_) => {}
        Err(error) => info!("the limit of open files stays as it is: {error}"),
    }
    config
}

async fn listen_for_operators(settings: &Settings) -> Result<Option<TcpListener>, String> {
    let Some(address) = settings.metrics_addr else { return Ok(None) };
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    if let Ok(address) = listener.local_addr() {
        info!("metrics on http://{address}/metrics");
    }
    Ok(Some(listener))
}

#[cfg(feature = "jwt")]
fn with_tokens(builder: ServerBuilder, tokens: Option<&Tokens>) -> Result<ServerBuilder, String> {
    use chat_server::JwtAuthenticator;
    use settings::TokenKey;

    let Some(Tokens { key, audience, issuer }) = tokens else {
        info!("no JWT_SECRET and no JWT_PUBLIC_KEY: anybody is let in under any name");
        return Ok(builder);
    };
    let authenticator = match key {
        TokenKey::Secret(secret) => JwtAuthenticator::with_secret(secret.as_bytes())
            .map_err(|error| format!("invalid value for jwt-secret: {}", error.why())),
        TokenKey::Public(file) => {
            let pem = std::fs::read(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            JwtAuthenticator::with_public_key(&pem)
                .map_err(|error| format!("invalid value for jwt-public-key: {}", error.why()))
        }
    };
    let mut authenticator = authenticator?;
    if !audience.is_empty() {
        authenticator = authenticator.audience(audience);
    }
    if !issuer.is_empty() {
        authenticator = authenticator.issuer(issuer);
    }
    Ok(builder.authenticator(authenticator))
}

#[cfg(not(feature = "jwt"))]
fn with_tokens(builder: ServerBuilder, tokens: Option<&Tokens>) -> Result<ServerBuilder, String> {
    match tokens {
        None => Ok(builder),
        Some(_) => Err("this chat-server was built without the feature \"jwt\"".to_owned()),
    }
}

/// Both loopback addresses, unless told otherwise.
async fn listen(settings: &Settings) -> Result<Vec<TcpListener>, String> {
    let port = settings.port;
    let Some(host) = &settings.host else {
        return listen_on_loopback(port);
    };
    let fail = |error: io::Error| format!("cannot listen on {host}, port {port}: {error}");
    let addresses = lookup_host((host.trim_matches(['[', ']']), port)).await.map_err(fail)?;
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        outcome = bind(address);
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map(|listener| vec![listener]).map_err(fail)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    /// Connections that wait to be accepted, as far as the system allows as many. Those beyond
    /// try again by themselves after 1 s, 2 s, 4 s: too late for thousands who come at once.
    const BACKLOG: u32 = 16 * 1024;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn listen_on_loopback(port: u16) -> Result<Vec<TcpListener>, String> {
    let fail = |error: io::Error| format!("cannot listen on port {port} of localhost: {error}");
    let v4 = bind(SocketAddr::from(([127, 0, 0, 1], port))).map_err(fail)?;
    // A port taken by the system is the same on both.
    let port = v4.local_addr().map_err(fail)?.port();
    let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
    match bind(v6) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(fail(error)),
        Err(error) => {
            info!("no IPv6 here: {error}");
            Ok(vec![v4])
        }
    }
}

async fn with_broker(settings: &Settings) -> Result<ServerBuilder, String> {
    let Some(url) = &settings.redis_url else {
        info!("no REDIS_URL: rooms live in the memory of this process alone");
        return Ok(Server::builder());
    };
    with_redis(settings, url).await
}

#[cfg(feature = "redis")]
async fn with_redis(settings: &Settings, url: &str) -> Result<ServerBuilder, String> {
    let config = settings.redis(url)?;
    let (broker, events) = chat_broker::RedisBroker::connect(config).await.map_err(|error| {
        format!(
            "invalid value for redis-url, redis-ca, redis-cert, redis-key or redis-prefix: {error}"
        )
    })?;
    Ok(Server::builder().broker(broker, events))
}

#[cfg(not(feature = "redis"))]
async fn with_redis(_: &Settings, _: &str) -> Result<ServerBuilder, String> {
    Err("this chat-server was built without the feature \"redis\"".to_owned())
}

/// What tells the program to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    /// Waits for one, and says which.
    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "interrupted",
        }
    }
}
