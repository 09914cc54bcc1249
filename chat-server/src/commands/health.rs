//! `chat-server health`: a probe for images without a shell.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;
use chat_core::printable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{address_for_clients, print, reachable};
use crate::settings::{Exit, HealthArgs, Invalid, Listen, Settings};

/// The most that is read of an answer, whose body is one line.
const MAX_ANSWER: u64 = 8192;

pub(super) async fn run(args: &HealthArgs, settings: &Settings) -> Result<ExitCode, Exit> {
    let deadline = Instant::now() + args.timeout;
    // It may look up the name of a host.
    let Ok(address) = timeout_at(deadline, address(&settings.listen)).await else {
        print(&format!("the host has no address: {}", no_answer_within(args.timeout)));
        return Ok(ExitCode::FAILURE);
    };
    let address = address?;
    let path = if args.live { "/healthz" } else { "/readyz" };
    let outcome = timeout_at(deadline, ask(address, path)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(no_answer_within(args.timeout)));
    Ok(match outcome {
        Ok((status, body)) if status.is_success() => {
            print(&body);
            ExitCode::SUCCESS
        }
        Ok((status, body)) => {
            print(&format!("http://{address}{path}: {} {body}", status.as_u16()));
            ExitCode::FAILURE
        }
        Err(why) => {
            print(&format!("http://{address}{path}: {why}"));
            ExitCode::FAILURE
        }
    })
}

/// Where the server answers probes: clients cannot fill the address of metrics, so it is asked there
/// if the server has one.
async fn address(listen: &Listen) -> Result<SocketAddr, Invalid> {
    match listen.metrics_addr {
        Some(address) if address.port() == 0 => {
            Err(Invalid::new("metrics-addr", address, "its port is not known"))
        }
        Some(address) => Ok(reachable(address)),
        None => address_for_clients(listen).await,
    }
}

/// Without a client of HTTP: a server without a free connection writes its 503 before it has read a
/// request, and hyper takes that for a broken connection.
async fn ask(address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let stream = TcpStream::connect(address);
    let mut stream = stream.await.map_err(|error| format!("cannot connect: {error}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let read = stream.take(MAX_ANSWER).read_to_end(&mut answer).await;
    let failure = sent.err().or(read.err()).map(|error| format!(": {error}"));
    parse(&answer).ok_or_else(|| format!("no answer{}", failure.unwrap_or_default()))
}

/// The status and the body; `None` if there is no head of a response.
fn parse(answer: &[u8]) -> Option<(StatusCode, String)> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, printable(body.trim_end()).into_owned()))
}

fn no_answer_within(time: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(time))
}
