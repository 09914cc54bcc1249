//! `chat-server health`: a probe for images without a shell.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONNECTION, HOST};
use axum::http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{address_for_clients, print, reachable};
use crate::settings::{Exit, HealthArgs, Invalid, Listen, Settings};

/// The most that is read of an answer, which is one line.
const MAX_BODY: usize = 4096;

pub(super) async fn run(args: &HealthArgs, settings: &Settings) -> Result<ExitCode, Exit> {
    let address = address(&settings.listen).await?;
    let path = if args.live { "/healthz" } else { "/readyz" };
    let outcome = timeout(args.timeout, ask(address, path)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(no_answer_within(args.timeout)));
    Ok(match outcome {
        Ok((status, body)) if status.is_success() => {
            print(body.trim_end());
            ExitCode::SUCCESS
        }
        Ok((status, body)) => {
            print(&format!("http://{address}{path}: {} {}", status.as_u16(), body.trim_end()));
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

async fn ask(address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let stream = TcpStream::connect(address);
    let stream = stream.await.map_err(|error| format!("cannot connect: {error}"))?;
    let no_answer = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, address.to_string()).header(CONNECTION, "close");
    let request = request.body(Body::empty()).map_err(|error| error.to_string())?;
    let (head, body) = sender.send_request(request).await.map_err(no_answer)?.into_parts();
    let body = to_bytes(Body::new(body), MAX_BODY).await;
    let body = body.map_err(|error| format!("no answer: {error}"))?;
    Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
}

fn no_answer_within(time: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(time))
}
