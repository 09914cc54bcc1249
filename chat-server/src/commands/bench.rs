//! `chat-server bench`: clients that send to rooms, and what they receive.

mod figures;
mod histogram;
mod load;
mod window;

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use parking_lot::Mutex;
use tokio::net::lookup_host;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::access::Access;
use super::{ended_by, listen_for_signals, print};
use crate::settings::{BenchArgs, Exit, Invalid, Settings, say};
use figures::{Figures, Phase};
use load::{Load, NotJoined};

/// How long all clients may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Pairs of a sender and a member that receives from it: the command keeps some 40 bytes of each.
const MAX_PAIRS: usize = 10_000_000;

/// Messages of a run: the command keeps some 30 bytes of each that does not arrive.
const MAX_MESSAGES: u64 = 100_000_000;

/// To the beginning of the line of a terminal, which it deletes (ECMA-48).
const CLEAR_LINE: &str = "\r\x1b[K";

pub(super) async fn run(args: &BenchArgs, settings: &Settings) -> Result<ExitCode, Exit> {
    check_size(args)?;
    let access = Access::new(&args.client, settings).await?;
    if let (Some(url), false) = (&args.client.url, args.remote) {
        check_is_here(url).await?;
    }
    let mut signals = listen_for_signals()?;
    let figures = Arc::new(Mutex::new(Figures::new(args.clients, args.rooms)));
    let joined = tokio::select! {
        joined = timeout(JOIN_TIMEOUT, Load::start(args, &access, &figures)) => joined,
        never = show_progress(&figures, Phase::Joining) => match never {},
        signal = signals.recv() => return Ok(ended_by(signal)),
    };
    let mut load = match joined.unwrap_or_else(|_| Err(too_slow())) {
        Ok(load) => load,
        Err(NotJoined::Invalid(exit)) => return Err(exit),
        Err(NotJoined::Failed(why)) => {
            let (joined, why) = (figures.lock().joined, with_hint(access.explain(why)));
            say(&format!("{}: {joined} of {} clients joined: {why}", access.url, args.clients));
            return Ok(ExitCode::FAILURE);
        }
    };
    tokio::select! {
        () = load.send_for(args.time) => {}
        never = show_progress(&figures, Phase::Sending) => match never {},
        _ = signals.recv() => {}
    }
    tokio::select! {
        () = load.drain() => {}
        never = show_progress(&figures, Phase::Waiting) => match never {},
        _ = signals.recv() => {}
    }
    let report = figures.lock().report(load.sending_time());
    print(&if args.json { report.json() } else { report.text() });
    tokio::select! {
        () = load.close() => {}
        _ = signals.recv() => {}
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The clients of this command have one address.
fn with_hint(why: String) -> String {
    if !["429 Too Many Requests", "over_capacity"].iter().any(|limited| why.contains(limited)) {
        return why;
    }
    format!(
        "{why} Raise max-connections, max-connections-per-address or http-rate-per-address of the \
         server, or start it with --limits off"
    )
}

fn too_slow() -> NotJoined {
    NotJoined::Failed(format!("not all clients have joined within {} s", JOIN_TIMEOUT.as_secs()))
}

/// # Errors
/// There are fewer clients than rooms, or the command would need too much memory.
fn check_size(args: &BenchArgs) -> Result<(), Invalid> {
    let BenchArgs { clients, rooms, rate, time, .. } = args;
    if rooms > clients {
        let why = format!("at least as many as --rooms, {rooms}");
        return Err(Invalid::new("clients", clients, why));
    }
    if clients * clients.div_ceil(*rooms) > MAX_PAIRS {
        let why = format!("a room has so many of them that it needs more --rooms than {rooms}");
        return Err(Invalid::new("clients", clients, why));
    }
    if u64::from(*rate) * time.as_secs() > MAX_MESSAGES {
        let why = format!("together with --for at most {MAX_MESSAGES} messages");
        return Err(Invalid::new("rate", rate, why));
    }
    Ok(())
}

/// # Errors
/// The server is on another machine, which a mistake in an address must not load. The address of a
/// server with these settings is one of this machine.
async fn check_is_here(url: &str) -> Result<(), Invalid> {
    let wrong = |why: String| Invalid::new("url", url, why);
    let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL".to_owned()))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let mut addresses = lookup_host((host, 0)).await.map_err(|error| wrong(error.to_string()))?;
    let is_elsewhere = |ip: IpAddr| !ip.to_canonical().is_loopback();
    if addresses.any(|address| is_elsewhere(address.ip())) {
        return Err(wrong("it is another machine: add --remote to load it".to_owned()));
    }
    Ok(())
}

/// Shows a line each second on a terminal. Never returns; when it is dropped, the line is deleted.
async fn show_progress(figures: &Mutex<Figures>, phase: Phase) -> Infallible {
    if !io::stderr().is_terminal() {
        return pending().await;
    }
    let _line = LiveLine;
    let start = Instant::now();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let line = figures.lock().progress(phase, start.elapsed());
        let _ = write!(io::stderr(), "{CLEAR_LINE}{line}");
    }
}

/// The line of a terminal that is overwritten each second. What follows it begins on an empty line.
struct LiveLine;

impl Drop for LiveLine {
    fn drop(&mut self) {
        let _ = write!(io::stderr(), "{CLEAR_LINE}");
    }
}
