//! The commands for operators, beside serving.

mod access;
mod bench;
mod check;
mod health;
mod send;
mod size;
mod tail;

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use chat_core::printable;
use serde_json::Value;
use tokio::net::lookup_host;
use tokio::runtime::Builder;

use crate::settings::{Exit, Invalid, Listen, OperatorCommand, Settings, Sources};
use crate::signals::Signals;

/// Carries out a command, on one thread. Returns its exit code.
///
/// # Errors
/// A setting is not valid.
pub(crate) fn run(
    command: OperatorCommand,
    settings: &Settings,
    sources: &Sources,
) -> Result<ExitCode, Exit> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Exit::System(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        match command {
            OperatorCommand::Check(args) => check::run(&args, settings, sources).await,
            OperatorCommand::Health(args) => health::run(&args, settings).await,
            OperatorCommand::Tail(args) => tail::run(&args, settings).await,
            OperatorCommand::Send(args) => send::run(&args, settings).await,
            OperatorCommand::Bench(args) => bench::run(&args, settings).await,
            OperatorCommand::Size(args) => size::run(&args, settings),
        }
    });
    // To drop the runtime is to wait for a look-up of a name, which takes as long as the resolver does.
    runtime.shutdown_background();
    outcome
}

/// # Errors
/// The system refuses.
fn listen_for_signals() -> Result<Signals, Exit> {
    Signals::new().map_err(|error| Exit::System(format!("cannot listen for signals: {error}")))
}

/// The exit code of a command that a signal ended, as shells have it: 128 and the signal's number.
fn ended_by(signal: &str) -> ExitCode {
    ExitCode::from(match signal {
        "SIGQUIT" => 131,
        "SIGTERM" => 143,
        _ => 130,
    })
}

/// Prints one line. Whether anything reads it is of no interest: the exit code has the outcome.
fn print(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// JSON for a terminal as well: of what it obeys, or what reorders text, JSON may leave some as it is.
fn json_text(value: &Value) -> String {
    let json = value.to_string();
    let Cow::Owned(_) = printable(&json) else { return json };
    let escape = |char: char| match printable(char.encode_utf8(&mut [0; 4])) {
        Cow::Borrowed(same) => same.to_owned(),
        Cow::Owned(_) => format!("\\u{:04x}", u32::from(char)),
    };
    json.chars().map(escape).collect()
}

/// Where a server with these settings listens for clients.
///
/// # Errors
/// The system chose its port, or the name of the host is not known.
async fn address_for_clients(listen: &Listen) -> Result<SocketAddr, Invalid> {
    let (host, port) = (listen.host().unwrap_or("127.0.0.1"), listen.port);
    if port == 0 {
        return Err(Invalid::new("port", port, "the port of the server is not known"));
    }
    let found = lookup_host((host.trim_matches(['[', ']']), port)).await;
    let first = found.map(|mut addresses| addresses.next());
    match first {
        Ok(Some(address)) => Ok(reachable(address)),
        Ok(None) => Err(Invalid::new("host", host, "it has no address")),
        Err(error) => Err(Invalid::new("host", host, error.to_string())),
    }
}

/// The address under which a server that listens on `address` is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::json_text;

    #[test]
    fn json_has_no_character_that_a_terminal_obeys() {
        let text = "a\"\u{1b}[2J\n\u{7f}\u{9b}\u{202e}\u{2028}é";
        let json = json_text(&json!({ "text": text }));
        assert_eq!(json, r#"{"text":"a\"\u001b[2J\n\u007f\u009b\u202e\u2028é"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["text"], text);
    }
}
