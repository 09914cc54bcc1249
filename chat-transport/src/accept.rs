//! The handshake on a raw stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, SEC_WEBSOCKET_PROTOCOL};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::write_response;

use crate::config::TransportConfig;
use crate::error::TransportError;
use crate::handshake::{HandshakeError, respond};
use crate::session::Session;
use crate::stream::{SharedTcp, discard};
use crate::timer::after;

/// How long a refused peer may take to receive the answer.
const ANSWER: Duration = Duration::from_secs(2);

/// A connection after the handshake.
#[derive(Debug)]
#[non_exhaustive]
pub struct Accepted<S> {
    /// The session.
    pub session: Session<S>,
    /// What the client asked for: path, query and headers.
    pub request: Request<()>,
    /// The subprotocol that was agreed on.
    pub protocol: Option<String>,
}

/// Does the handshake on `io`, where nothing has been read. Offers the subprotocols
/// `protocols`, as [`respond`] does. On a TCP stream, [`accept_tcp`] makes a faster session.
///
/// A request that is refused gets its answer, 400 to 431, and one that takes longer than
/// [`handshake_timeout`](TransportConfig::handshake_timeout) gets 408.
///
/// # Errors
/// No WebSocket was asked for, not in time or not in the right way, or `io` failed.
///
/// # Cancel safety
/// Dropping it closes the connection.
pub async fn accept<S>(
    io: S,
    protocols: &[&str],
    config: &Arc<TransportConfig>,
) -> Result<Accepted<S>, TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (io, Opening { request, protocol, leftover }) = negotiate(io, protocols, config).await?;
    let session = Session::new(io, leftover, Arc::clone(config));
    Ok(Accepted { session, request, protocol })
}

/// [`accept`] on a TCP stream: the session is [on that](Session::on_tcp).
///
/// # Errors
/// As [`accept`].
///
/// # Cancel safety
/// As [`accept`].
pub async fn accept_tcp(
    stream: impl Into<SharedTcp>,
    protocols: &[&str],
    config: &Arc<TransportConfig>,
) -> Result<Accepted<SharedTcp>, TransportError> {
    let negotiated = negotiate(stream.into(), protocols, config).await?;
    let (tcp, Opening { request, protocol, leftover }) = negotiated;
    let session = Session::on_tcp(tcp, leftover, Arc::clone(config));
    Ok(Accepted { session, request, protocol })
}

/// What the handshake gave.
struct Opening {
    request: Request<()>,
    protocol: Option<String>,
    /// What was read after the request.
    leftover: Bytes,
}

async fn negotiate<S>(
    mut io: S,
    protocols: &[&str],
    config: &TransportConfig,
) -> Result<(S, Opening), TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = after(Instant::now(), config.handshake_timeout);
    let read = timeout_at(deadline, read_head(&mut io, config.max_head_bytes));
    let refusal = match read.await {
        Ok(Ok((request, leftover))) => match answer(&request, protocols) {
            Ok(response) => {
                timeout_at(deadline, write_head(&mut io, &response, ""))
                    .await
                    .map_err(|_| TransportError::Timeout)??;
                let protocol = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
                let protocol = protocol.and_then(|name| name.to_str().ok()).map(str::to_owned);
                return Ok((io, Opening { request, protocol, leftover: leftover.freeze() }));
            }
            Err(error) => error.into(),
        },
        Ok(Err(error)) => error,
        Err(_) => TransportError::Timeout,
    };
    refuse(io, &refusal).await;
    Err(refusal)
}

/// A request on a raw stream needs a valid host (RFC 9112, section 3.2): no HTTP server has checked it.
fn answer(request: &Request<()>, protocols: &[&str]) -> Result<Response<()>, HandshakeError> {
    let mut hosts = request.headers().get_all(HOST).into_iter();
    let host = hosts.next().filter(|_| hosts.next().is_none());
    let host = host.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    if host.is_none_or(|host| host.as_str().contains('@')) {
        return Err(HandshakeError::Host);
    }
    respond(request, protocols)
}

async fn read_head<S>(io: &mut S, max: usize) -> Result<(Request<()>, BytesMut), TransportError>
where
    S: AsyncRead + Unpin,
{
    let mut head = BytesMut::with_capacity(1024);
    loop {
        let before = head.len();
        if io.read_buf(&mut head).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // Parsing starts from the beginning: not for every byte of a slow client.
        let may_end = before == 0 || has_line_end_twice(&head[before.saturating_sub(2)..]);
        if may_end && let Some((end, request)) = parse(&head)? {
            if end > max {
                return Err(HandshakeError::HeadTooLarge.into());
            }
            let leftover = head.split_off(end);
            return Ok((request, leftover));
        }
        if head.len() > max {
            return Err(HandshakeError::HeadTooLarge.into());
        }
    }
}

fn parse(head: &[u8]) -> Result<Option<(usize, Request<()>)>, HandshakeError> {
    Request::try_parse(head).map_err(HandshakeError::from_parser)
}

/// Whether an empty line ends here: the `\r` is optional to lenient parsers.
fn has_line_end_twice(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|end| end == b"\n\r\n")
}

/// Answers, and makes sure as far as possible that the answer arrives.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut io: S, error: &TransportError) {
    let mut response = match error {
        TransportError::Handshake(error) => error.response(),
        TransportError::Timeout => {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
            response
        }
        TransportError::Io(_) => return,
    };
    let body = format!("{error}\n");
    let headers = response.headers_mut();
    headers.entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, body.len().into());
    let goodbye = async {
        write_head(&mut io, &response, &body).await?;
        io.shutdown().await
    };
    // It is refused either way.
    if timeout(ANSWER, goodbye).await.is_ok() {
        discard(&mut io).await;
    }
}

async fn write_head<S>(io: &mut S, response: &Response<()>, body: &str) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let mut bytes = Vec::with_capacity(256 + body.len());
    write_response(&mut bytes, response).map_err(io::Error::other)?;
    bytes.extend_from_slice(body.as_bytes());
    io.write_all(&bytes).await?;
    io.flush().await
}
