//! The chat server as a program: settings, log, listeners, and a clean end.

mod settings;

use std::io::{self, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::process::ExitCode;

use chat_server::{Server, ServerBuilder};
use settings::{LogFormat, Settings};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

fn main() -> ExitCode {
    let settings = match Settings::load() {
        Ok(settings) => settings,
        Err(exit) => return exit.report(),
    };
    let outcome = runtime(settings.threads)
        .map_err(|error| format!("cannot start threads: {error}"))
        .and_then(|runtime| runtime.block_on(run(settings)));
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

async fn run(settings: Settings) -> Result<(), String> {
    start_log(&settings)?;
    let told = told_to_stop().map_err(|error| format!("cannot listen for signals: {error}"))?;
    let mut told = std::pin::pin!(told);
    let listeners = listen(&settings).await?;
    let builder = tokio::select! {
        builder = with_broker(&settings) => builder?,
        () = &mut told => return Ok(()),
    };
    let server = builder.config(settings.server()).start();
    for listener in &listeners {
        if let Ok(address) = listener.local_addr() {
            info!("listening on http://{address}");
        }
    }
    server.serve(listeners, told).await;
    info!("stopped");
    Ok(())
}

fn start_log(settings: &Settings) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.log)
        .map_err(|error| format!("invalid value {:?} for log: {error}", settings.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stdout().is_terminal())
        // A reader of the log that goes away must not take the server with it.
        .log_internal_errors(false);
    match settings.log_format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Both loopback addresses, unless told otherwise.
async fn listen(settings: &Settings) -> Result<Vec<TcpListener>, String> {
    let port = settings.port;
    let Some(host) = &settings.host else {
        return listen_on_loopback(port).await;
    };
    let bind = TcpListener::bind((host.trim_matches(['[', ']']), port)).await;
    bind.map(|listener| vec![listener])
        .map_err(|error| format!("cannot listen on {host}, port {port}: {error}"))
}

async fn listen_on_loopback(port: u16) -> Result<Vec<TcpListener>, String> {
    let fail = |error: io::Error| format!("cannot listen on port {port} of localhost: {error}");
    let v4 = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), port)).await.map_err(fail)?;
    // A port taken by the system is the same on both.
    let port = v4.local_addr().map_err(fail)?.port();
    let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
    match TcpListener::bind(v6).await {
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
    let config = chat_broker::RedisConfig::new(url)
        .prefix(&settings.redis_prefix)
        .lease(settings.presence_lease)
        .grace(settings.server().hub.grace);
    let (broker, events) = chat_broker::RedisBroker::connect(config).await.map_err(|error| {
        format!("invalid value for redis-url, redis-prefix or presence-…: {error}")
    })?;
    Ok(Server::builder().broker(broker, events))
}

#[cfg(not(feature = "redis"))]
async fn with_redis(_: &Settings, _: &str) -> Result<ServerBuilder, String> {
    Err("this chat-server was built without the feature \"redis\"".to_owned())
}

/// Resolves at SIGTERM or Ctrl-C.
fn told_to_stop() -> io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: shutting down"),
            _ = interrupt.recv() => info!("interrupted: shutting down"),
        }
    })
}
