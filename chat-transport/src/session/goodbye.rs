//! The last part of a session: the close frames, and the end of the stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use chat_core::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Peer, Session, Stop};
use crate::error::End;
use crate::stream::with_scratch;
use crate::timer::after;

/// How long the peer may take to answer once all is written.
const LINGER: Duration = Duration::from_secs(2);

/// How much of what the peer still sends is read and thrown away.
const LINGER_BYTES: usize = 1024 * 1024;

/// How far a goodbye is.
struct Goodbye {
    deadline: Instant,
    /// All is written, the close frame included.
    written: bool,
    /// This side of the stream is shut down.
    shut: bool,
    /// The peer's side has ended, or is of no interest any more.
    ended: bool,
    discarded: usize,
}

impl<S> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    /// Says goodbye: writes what is queued and the close frame, waits for the peer's, shuts
    /// the stream down, and returns why the session ended. A session that was still open is
    /// closed with [`CloseReason::Normal`].
    ///
    /// Takes at most [`close_timeout`](crate::TransportConfig::close_timeout), and at most 2 s
    /// once all is written. Meanwhile up to 1 MiB of input is read and dropped: a stream that
    /// is closed with input unread is reset, and the close frame lost.
    ///
    /// # Cancel safety
    /// It can be called again: the goodbye goes on, with a new deadline.
    pub async fn finish(&mut self) -> End {
        self.outbox.close(CloseReason::Normal);
        if !matches!(self.end, Some(End::Lost(_))) {
            let mut goodbye = Goodbye::new(after(Instant::now(), self.config.close_timeout));
            poll_fn(|cx| self.poll_finish(cx, &mut goodbye)).await;
        }
        self.outbox.abandon();
        let closed = || self.outbox.closed_with().map(End::Local);
        self.end.take().or_else(closed).unwrap_or(End::Lost(None))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, goodbye: &mut Goodbye) -> Poll<()> {
        if !goodbye.written {
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => goodbye.all_written(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        loop {
            if goodbye.written && goodbye.ended {
                return Poll::Ready(());
            }
            let heard_out = goodbye.written && self.peer != Peer::Talking;
            if heard_out && !goodbye.shut {
                goodbye.shut = Pin::new(&mut self.io).poll_shutdown(cx).is_ready();
            }
            if !goodbye.ended && self.poll_discard(cx, goodbye).is_ready() {
                continue;
            }
            if goodbye.shut && self.peer == Peer::Done {
                return Poll::Ready(());
            }
            return self.clocks.poll_until(cx, goodbye.deadline);
        }
    }

    /// Reads something and throws it away, but for a close frame.
    fn poll_discard(&mut self, cx: &mut Context<'_>, goodbye: &mut Goodbye) -> Poll<()> {
        if self.peer != Peer::Talking {
            return self.poll_discard_bytes(cx).map(|read| goodbye.discard(read));
        }
        self.poll_message(cx).map(|message| match message {
            Ok(message) => {
                if message.is_close() {
                    self.peer = Peer::Done;
                }
                goodbye.discard(Some(message.len()));
            }
            Err(Stop::Broken(_)) => self.peer = Peer::Broken,
            Err(Stop::Io(_)) => goodbye.discard(None),
        })
    }

    /// How much was read; `None` at the end.
    fn poll_discard_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        with_scratch(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            let result = Pin::new(&mut self.io).poll_read(cx, &mut buf);
            result.map(|read| read.ok().map(|()| buf.filled().len()).filter(|read| *read > 0))
        })
    }
}

impl Goodbye {
    fn new(deadline: Instant) -> Self {
        Self { deadline, written: false, shut: false, ended: false, discarded: 0 }
    }

    fn all_written(&mut self) {
        self.written = true;
        self.deadline = self.deadline.min(Instant::now() + LINGER);
    }

    fn discard(&mut self, bytes: Option<usize>) {
        self.discarded += bytes.unwrap_or(0);
        self.ended = bytes.is_none() || self.discarded > LINGER_BYTES;
    }
}
