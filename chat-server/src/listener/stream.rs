//! The stream below hyper: it notifies the clock of reads and flushes, and adds a body to the answers
//! that hyper gives itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use chat_transport::SharedTcp;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clock::Clock;
use super::malformed;

/// A TCP stream that serves HTTP.
#[derive(Debug)]
pub(crate) struct HttpStream {
    tcp: SharedTcp,
    clock: Arc<Clock>,
    /// The answer that is written instead of one of hyper.
    answer: Vec<u8>,
    max_head_bytes: usize,
}

impl HttpStream {
    pub(super) fn new(tcp: SharedTcp, clock: Arc<Clock>, max_head_bytes: usize) -> Self {
        Self { tcp, clock, answer: Vec::new(), max_head_bytes }
    }

    pub(crate) fn into_tcp(self) -> SharedTcp {
        self.tcp
    }

    fn poll_write_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answer.is_empty() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.answer))?;
            self.answer.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.clock.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_answer(cx))?;
        if let Some(answer) = malformed::with_body(bytes, self.max_head_bytes) {
            self.answer = answer;
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    /// hyper flushes when it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_answer(cx))?;
        self.clock.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_answer(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
