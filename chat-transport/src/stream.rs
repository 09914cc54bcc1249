//! A TCP stream that others may write to while a session owns it, and the buffer that all
//! sessions of a thread share.

use std::cell::Cell;
use std::io::{self, Read};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A TCP stream whose session lets [`Outbox::send`](crate::Outbox::send) write to the socket
/// on the caller's thread, without waking the session's task.
///
/// The clones are the same socket: it is closed when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct SharedTcp(Arc<TcpStream>);

impl SharedTcp {
    /// Wraps `stream` and turns Nagle's algorithm off, which would hold small frames back.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        // A socket that cannot be set up is dead, which the first read tells.
        let _ = stream.set_nodelay(true);
        Self(Arc::new(stream))
    }

    /// Writes what the socket takes at once. It is asked directly: what tokio knows of it lies
    /// elsewhere in memory, and says as a rule that it can be written to.
    #[cfg(target_os = "linux")]
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(&*self.0).send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    /// Writes what the socket takes at once.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    /// Reads what is there; `None` if nothing is.
    ///
    /// A read that leaves room in the buffer has emptied the socket. tokio is told so in the
    /// same step, which spares the read that finds nothing: one of two for most messages.
    fn try_read(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut read = None;
        let tried = self.0.try_io(Interest::READABLE, || {
            let count = (&*SockRef::from(&*self.0)).read(buf)?;
            read = Some(count);
            let is_empty = TELLS_EDGES && (1..buf.len()).contains(&count);
            if is_empty { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match tried {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(read),
        }
    }
}

/// Where tokio waits with an edge-triggered epoll, whatever comes after a short read is
/// announced anew.
const TELLS_EDGES: bool = cfg!(any(target_os = "linux", target_os = "android"));

impl From<TcpStream> for SharedTcp {
    fn from(stream: TcpStream) -> Self {
        Self::new(stream)
    }
}

impl AsyncRead for SharedTcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            if let Some(count) = self.try_read(buf.initialize_unfilled())? {
                buf.advance(count);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for SharedTcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.0).shutdown(Shutdown::Write))
    }
}

const SCRATCH: usize = 64 * 1024;

thread_local! {
    static FREE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` with a buffer of 64 KiB that stays with the thread: no session keeps one.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    // Taken, not borrowed: a stream may itself be polling a session.
    let mut scratch = FREE.take();
    scratch.resize(SCRATCH, 0);
    let result = work(&mut scratch);
    FREE.set(scratch);
    result
}
