//! One connection: frames in and out.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use chat_core::client::Disconnect;
use futures_util::{Sink, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::connect::Dialer;
use super::stream::{BoxedStream, Traffic};

/// How long the closing handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection after the handshake.
pub(super) struct Socket {
    stream: WebSocketStream<BoxedStream>,
    traffic: Arc<Traffic>,
    waiting: VecDeque<Message>,
    /// Bytes that the server had taken when a frame last did not fit; `None` while nothing waits.
    stuck_at: Option<u64>,
    /// Writing failed. The connection is still read: a close frame may say why.
    broken: bool,
}

/// An event of a connection.
#[derive(Debug)]
pub(super) enum Inbound {
    Text(Utf8Bytes),
    /// A ping or a pong.
    Alive,
    /// The server has taken everything (`true`), or a part since the last event (`false`).
    Writable(bool),
}

impl Socket {
    pub(super) async fn open(dialer: Arc<Dialer>, url: String) -> Result<Self, Disconnect> {
        let (stream, traffic) = dialer.dial(&url).await?;
        Ok(Self { stream, traffic, waiting: VecDeque::new(), stuck_at: None, broken: false })
    }

    /// Queues a frame. The queue is bounded by the requests that may be unanswered, and by the
    /// timeout for a server that takes nothing.
    pub(super) fn push(&mut self, text: String) {
        self.push_message(Message::text(text));
    }

    pub(super) fn ping(&mut self) {
        self.push_message(Message::Ping(Bytes::new()));
    }

    fn push_message(&mut self, message: Message) {
        if !self.broken {
            self.waiting.push_back(message);
        }
    }

    /// How many bytes the server has sent.
    pub(super) fn read_bytes(&self) -> u64 {
        self.traffic.read()
    }

    /// Writes what is queued and, if `reading`, waits for a frame. Nothing is lost when it is
    /// dropped.
    pub(super) async fn next(&mut self, reading: bool) -> Result<Inbound, Disconnect> {
        std::future::poll_fn(|cx| {
            if let Some(all) = self.poll_write(cx) {
                return Poll::Ready(Ok(Inbound::Writable(all)));
            }
            if reading { self.poll_read(cx) } else { Poll::Pending }
        })
        .await
    }

    /// Writes what is queued. Returns a change of whether the server takes it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Option<bool> {
        if self.broken {
            return None;
        }
        match self.try_write(cx) {
            Poll::Ready(Ok(())) => self.stuck_at.take().map(|_| true),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "writing to the server failed");
                self.broken = true;
                self.waiting.clear();
                self.stuck_at.take().map(|_| true)
            }
            // A part of a large frame counts as well.
            Poll::Pending => {
                let written = self.traffic.written();
                (self.stuck_at.replace(written) != Some(written)).then_some(false)
            }
        }
    }

    fn try_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut stream = Pin::new(&mut self.stream);
        while !self.waiting.is_empty() {
            ready!(stream.as_mut().poll_ready(cx))?;
            if let Some(message) = self.waiting.pop_front() {
                stream.as_mut().start_send(message)?;
            }
        }
        // Also the pongs, which the library queues by itself.
        stream.poll_flush(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Inbound, Disconnect>> {
        Poll::Ready(match ready!(self.stream.poll_next_unpin(cx)) {
            Some(Ok(Message::Text(text))) => Ok(Inbound::Text(text)),
            Some(Ok(Message::Close(frame))) => Err(loss_of(frame)),
            Some(Ok(_)) => Ok(Inbound::Alive),
            Some(Err(error)) if !is_end(&error) => Err(Disconnect::new(error.to_string())),
            Some(Err(_)) | None => {
                Err(Disconnect::new("the connection ended without a close frame"))
            }
        })
    }

    /// Ends the connection: a close frame, or the answer to the server's, and the rest of
    /// what the server sends, which is discarded.
    pub(super) async fn close(mut self, code: u16) {
        let end = async {
            let frame = CloseFrame { code: code.into(), reason: "".into() };
            // It fails where the server closed first.
            let _ = self.stream.close(Some(frame)).await;
            while let Some(Ok(message)) = self.stream.next().await {
                if message.is_close() {
                    break;
                }
            }
        };
        let _ = timeout(CLOSE_TIMEOUT, end).await;
    }
}

/// Whether a connection ended without a close frame: with its TCP connection, or with that of TLS.
fn is_end(error: &Error) -> bool {
    match error {
        Error::Protocol(error) => *error == ProtocolError::ResetWithoutClosingHandshake,
        Error::Io(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        _ => false,
    }
}

/// tungstenite reports a code that it does not know, such as the 1014 of a gateway, as 1002, which
/// would mean that this client violated the protocol.
fn is_unknown_code(frame: &CloseFrame) -> bool {
    frame.code == CloseCode::Protocol && frame.reason == "Protocol violation"
}

fn loss_of(frame: Option<CloseFrame>) -> Disconnect {
    match frame {
        Some(frame) if is_unknown_code(&frame) => Disconnect::new("closed with an unknown code"),
        Some(frame) => Disconnect::with_code(u16::from(frame.code), frame.reason.as_str()),
        None => Disconnect::new("the server closed the connection"),
    }
}
