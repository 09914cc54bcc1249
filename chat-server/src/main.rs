//! The chat server as a program: settings, log, listeners, and a clean end.

mod listening;
mod log;
mod settings;
mod signals;

use std::io;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "jwt")]
use chat_server::Secret;
use chat_server::{Server, ServerBuilder, ServerConfig};
use log::Log;
use settings::{Exit, Settings, Sources, Task, TokenKey};
use signals::Signals;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tracing::{info, warn};

fn main() -> ExitCode {
    let mut sources = Sources::of_process();
    match Task::load(&mut sources) {
        Ok(Task::Serve(settings)) => match start(*settings, &sources) {
            Ok(()) => ExitCode::SUCCESS,
            Err(exit) => exit.report(&sources),
        },
        Ok(Task::Print(text)) => settings::print(&text, &sources),
        Err(exit) => exit.report(&sources),
    }
}

fn start(settings: Settings, sources: &Sources) -> Result<(), Exit> {
    let server = settings.server()?;
    let key = settings.tokens.key()?;
    let log = log::start(&settings.log)?;
    for warning in sources.warnings() {
        warn!("{warning}");
    }
    let runtime = runtime(settings.listen.threads())
        .map_err(|error| Exit::System(format!("cannot start threads: {error}")));
    let outcome = runtime.and_then(|runtime| runtime.block_on(run(settings, server, key, &log)));
    log.flush();
    outcome
}

/// One thread needs nothing that several need to share work.
fn runtime(threads: NonZeroUsize) -> io::Result<Runtime> {
    let mut builder = match threads {
        NonZeroUsize::MIN => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads.get()).enable_all().build()
}

async fn run(
    settings: Settings,
    server: ServerConfig,
    key: Option<TokenKey>,
    log: &Arc<Log>,
) -> Result<(), Exit> {
    let mut signals = Signals::new()
        .map_err(|error| Exit::System(format!("cannot listen for signals: {error}")))?;
    if !settings.limits.enabled {
        warn!("limits are off: rates and counts are not limited, whatever else is set");
    }
    let config = with_system(server, settings.limits.connections_by_system());
    let listeners = listening::for_clients(&settings.listen).await?;
    let operators = listening::for_operators(&settings.listen)?;
    let builder = tokio::select! {
        builder = with_broker(&settings, config.hub.grace) => builder?,
        _ = signals.recv() => return Ok(()),
    };
    let server = with_tokens(builder, key, &settings)?.config(config).start();
    if let Some(listener) = operators {
        let server = server.clone();
        tokio::spawn(async move { server.serve_operators(listener).await });
    }
    for listener in &listeners {
        if let Ok(address) = listener.local_addr() {
            info!("listening on http://{address}");
        }
    }
    let (stop, stopped) = oneshot::channel();
    let log = Arc::clone(log);
    tokio::spawn(async move {
        // Not among the arguments of a log line, which are not evaluated where it is not logged.
        let signal = signals.recv().await;
        info!("{signal}: shutting down");
        // Fails if the server has ended before.
        let _ = stop.send(());
        let signal = signals.recv().await;
        info!("{signal} again: stopping at once");
        log.flush();
        std::process::exit(1);
    });
    server.serve(listeners, async { drop(stopped.await) }).await;
    info!("stopped");
    Ok(())
}

/// The settings, within what the system gives: as many files as it allows, and so many
/// connections that some are left over for what the server itself needs.
fn with_system(mut config: ServerConfig, connections_by_system: bool) -> ServerConfig {
    /// For Redis, the log, listeners, and what is over before it counts.
    const SPARE: usize = 64;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) if connections_by_system => {
            let files = usize::try_from(files).unwrap_or(usize::MAX);
            let least = |limit: Option<usize>, max: usize| limit.map(|limit| limit.min(max.max(1)));
            let limits = &mut config.limits;
            limits.http_connections = least(limits.http_connections, files / 4);
            // Connections that speak HTTP, and spare files, come on top of the WebSocket connections.
            let besides = limits.http_connections.map_or(SPARE, |asking| asking + SPARE);
            limits.connections = least(limits.connections, files.saturating_sub(besides));
        }
        Ok(_) => {}
        Err(error) => info!("the limit of open files stays as it is: {error}"),
    }
    config
}

#[cfg(feature = "jwt")]
fn with_tokens(
    builder: ServerBuilder,
    key: Option<TokenKey>,
    settings: &Settings,
) -> Result<ServerBuilder, Exit> {
    use chat_server::JwtAuthenticator;
    use settings::Invalid;

    let Some(key) = key else {
        info!("no jwt-secret and no jwt-public-key: every client has access under any name");
        return Ok(builder);
    };
    let builder = match &key {
        TokenKey::Secret(secret) => with_issuer(builder, secret, settings)?,
        TokenKey::Public(_) => builder,
    };
    let authenticator = match key {
        TokenKey::Secret(secret) => JwtAuthenticator::with_secret(secret.reveal().as_bytes())
            .map_err(|error| Invalid::hidden("jwt-secret", error.to_string())),
        TokenKey::Public(file) => {
            let wrong = |why: String| Invalid::new("jwt-public-key", file.display(), why);
            let pem =
                std::fs::read(&file).map_err(|error| wrong(format!("cannot read it: {error}")))?;
            JwtAuthenticator::with_public_key(&pem).map_err(|error| wrong(error.to_string()))
        }
    };
    let tokens = &settings.tokens;
    let mut authenticator = authenticator?.leeway(tokens.token_leeway);
    if !tokens.audience().is_empty() {
        authenticator = authenticator.audience(tokens.audience());
    }
    if !tokens.issuer().is_empty() {
        authenticator = authenticator.issuer(tokens.issuer());
    }
    Ok(builder.authenticator(authenticator))
}

/// Who knows the secret of tokens can sign them: for backends, that is the server.
#[cfg(feature = "jwt")]
fn with_issuer(
    builder: ServerBuilder,
    secret: &Secret,
    settings: &Settings,
) -> Result<ServerBuilder, Exit> {
    use chat_server::{JwtSigner, TokenIssuer};
    use settings::Invalid;

    let signer = JwtSigner::with_secret(secret.reveal().as_bytes())
        .map_err(|error| Invalid::hidden("jwt-secret", error.to_string()))?;
    let tokens = &settings.tokens;
    let issuer = TokenIssuer::new(signer)
        .audience(tokens.audience().into_iter().next())
        .issuer(tokens.issuer().into_iter().next());
    Ok(builder.token_issuer(issuer))
}

#[cfg(not(feature = "jwt"))]
fn with_tokens(
    builder: ServerBuilder,
    key: Option<TokenKey>,
    _: &Settings,
) -> Result<ServerBuilder, Exit> {
    match key {
        None => Ok(builder),
        Some(_) => Err(without("jwt")),
    }
}

#[cfg(not(all(feature = "jwt", feature = "redis")))]
fn without(feature: &str) -> Exit {
    Exit::System(format!("this chat-server was built without the feature {feature:?}"))
}

async fn with_broker(settings: &Settings, grace: Duration) -> Result<ServerBuilder, Exit> {
    let Some(url) = settings.redis.url() else {
        info!("no redis-url: rooms live in the memory of this process alone");
        return Ok(Server::builder());
    };
    with_redis(settings, url, grace).await
}

#[cfg(feature = "redis")]
async fn with_redis(
    settings: &Settings,
    url: &str,
    grace: Duration,
) -> Result<ServerBuilder, Exit> {
    let config = settings.redis.config(url, grace)?;
    // What the settings are made of has been checked.
    let (broker, events) = chat_broker::RedisBroker::connect(config)
        .await
        .map_err(|error| settings::Invalid::hidden("redis-url", error.to_string()))?;
    Ok(Server::builder().broker(broker, events))
}

#[cfg(not(feature = "redis"))]
async fn with_redis(_: &Settings, _: &str, _: Duration) -> Result<ServerBuilder, Exit> {
    Err(without("redis"))
}
