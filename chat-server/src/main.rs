//! The chat server as a program: settings, log, listeners, and a clean end.

mod commands;
mod engine;
mod listening;
mod log;
mod notify;
mod open_files;
mod panics;
mod reload;
mod settings;
mod signals;
mod tokens;

use std::io;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chat_server::{Server, ServerBuilder, ServerConfig, built};
use engine::Engine;
use log::{Log, SetFilter};
use reload::Reload;
use settings::{Exit, Settings, Sources, Task};
use signals::Signals;
use tokens::TokenAuth;
use tokio::net::TcpListener;
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
        Ok(Task::PrintKey(key)) => settings::print_key(&key, &sources),
        Ok(Task::Operate(command, settings)) => {
            commands::run(command, &settings, &sources).unwrap_or_else(|exit| exit.report(&sources))
        }
        Err(exit) => exit.report(&sources),
    }
}

fn start(settings: Settings, sources: &Sources) -> Result<(), Exit> {
    let server = settings.server()?;
    let (log, set_log_filter) = log::start(&settings.log)?;
    panics::log_panics();
    // Also when a panic of this thread ends the program.
    let _flush = log::FlushOnDrop(Arc::clone(&log));
    log_warnings(sources, &settings, &server)?;
    let runtime = runtime(settings.listen.threads())
        .map_err(|error| Exit::System(format!("cannot start threads: {error}")));
    runtime.and_then(|runtime| runtime.block_on(run(settings, server, &log, set_log_filter)))
}

/// Logs what the operator should know of the settings, beside errors.
pub(crate) fn log_warnings(
    sources: &Sources,
    settings: &Settings,
    server: &ServerConfig,
) -> Result<(), Exit> {
    for warning in sources.warnings().iter().chain(&settings.warnings(server)?) {
        warn!("{warning}");
    }
    // A filter whose only module does not exist hides its own warning.
    if !tracing::enabled!(tracing::Level::WARN) {
        settings.log.unknown_modules().iter().for_each(|warning| settings::say(warning));
    }
    Ok(())
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
    log: &Arc<Log>,
    set_log_filter: SetFilter,
) -> Result<(), Exit> {
    let no_signals = |error| Exit::System(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new().map_err(no_signals)?;
    let hangup = signals::hangup().map_err(no_signals)?;
    let config = open_files::bound(server, settings.limits.connections_by_system());
    // First: a setting that is wrong ends the program with 2, and a port that is taken with 1.
    let (builder, engine, tokens) = tokio::select! {
        started = connected(&settings, config.hub.grace) => started?,
        _ = signals.recv() => return Ok(()),
    };
    let listeners = listening::for_clients(&settings.listen).await?;
    let operators = listening::for_operators(&settings.listen)?;
    let server = builder.config(config).start();
    panics::name(server.node(), server.host());
    log_start(&settings, &server, &listeners, operators.as_ref());
    if let Some(listener) = operators {
        let server = server.clone();
        tokio::spawn(async move { server.serve_operators(listener).await });
    }
    let reload = Reload {
        server: server.clone(),
        engine,
        tokens,
        set_log_filter,
        started: settings,
        latest: None,
    };
    reload
        .start(hangup)
        .map_err(|error| Exit::System(format!("cannot start the thread of reloads: {error}")))?;
    let readiness = tokio::spawn(notify::readiness(server.clone()));
    let (stop, stopped) = oneshot::channel();
    let log = Arc::clone(log);
    tokio::spawn(async move {
        // Not among the arguments of a log line, which are not evaluated where it is not logged.
        let signal = signals.recv().await;
        info!("{signal}: shutting down");
        readiness.abort();
        notify::stopping(signal);
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

/// What an operator compares first: which program runs where, with which settings, on which Redis.
fn log_start(
    settings: &Settings,
    server: &Server,
    clients: &[TcpListener],
    operators: Option<&TcpListener>,
) {
    let url = |listener: &TcpListener| Some(format!("http://{}", listener.local_addr().ok()?));
    let clients: Vec<_> = clients.iter().filter_map(url).collect();
    let metrics = operators.and_then(url);
    let metrics = metrics.map_or(String::new(), |url| format!(", metrics on {url}/metrics"));
    info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = built::COMMIT,
        node = server.node(),
        host = server.host(),
        engine = settings.redis.engine(),
        settings = server.settings_digest(),
        "listening on {}{metrics}",
        clients.join(" and ")
    );
}

/// A server with its broker and its authenticator.
async fn connected(
    settings: &Settings,
    grace: Duration,
) -> Result<(ServerBuilder, Engine, Option<TokenAuth>), Exit> {
    let tokens = TokenAuth::start(&settings.tokens).await?;
    let (builder, engine) = Engine::start(&settings.redis, grace).await?;
    Ok(match tokens {
        Some(tokens) => (tokens.add_to(builder), engine, Some(tokens)),
        None => (builder, engine, None),
    })
}
