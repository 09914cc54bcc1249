//! A TCP stream that other threads may write to while a session owns it, and the buffer that all
//! sessions of a thread share.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, Read};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::TransportConfig;

/// A TCP stream whose session lets [`Outbox::send`](crate::Outbox::send) write to the socket
/// on the caller's thread, without waking the session's task.
///
/// The clones are the same socket: it is closed when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct SharedTcp(Arc<TcpStream>);

impl SharedTcp {
    /// Wraps `stream` and turns Nagle's algorithm off, which would delay small frames.
    ///
    /// ```no_run
    /// # async fn connect() -> std::io::Result<()> {
    /// let stream = tokio::net::TcpStream::connect("a.example:80").await?;
    /// let tcp = chat_transport::SharedTcp::new(stream);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        // It fails on a dead socket, whose first read fails as well.
        let _ = stream.set_nodelay(true);
        Self(Arc::new(stream))
    }

    /// Sets on a listening socket what a session sets on its own: the sizes of the kernel's buffers,
    /// no delay of small frames, and the time after which the kernel closes the connection of an unresponsive peer.
    /// On Linux the connections that it accepts from then on inherit them, which saves six system
    /// calls for each: see [`accepted`](Self::accepted).
    pub fn prepare_listener(listener: &TcpListener, config: &TransportConfig) {
        configure(&SockRef::from(listener), config);
    }

    /// Wraps a stream that a [prepared](Self::prepare_listener) listener has accepted, for
    /// [`Session::on_accepted`](crate::Session::on_accepted). Sets the options that the stream has
    /// not inherited.
    ///
    /// ```no_run
    /// # async fn serve() -> std::io::Result<()> {
    /// use chat_transport::{SharedTcp, TransportConfig};
    ///
    /// let config = TransportConfig::default();
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// SharedTcp::prepare_listener(&listener, &config);
    /// let (stream, _) = listener.accept().await?;
    /// let tcp = SharedTcp::accepted(stream, &config);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn accepted(stream: TcpStream, config: &TransportConfig) -> Self {
        let tcp = Self(Arc::new(stream));
        // The connection may be older than the options: it has waited to be accepted. `configure` sets
        // this one last, so a connection that has it has inherited all of them.
        if !SockRef::from(&*tcp.0).tcp_nodelay().unwrap_or(false) {
            tcp.configure(config);
        }
        tcp
    }

    /// Sets what a [prepared](Self::prepare_listener) listener has set on its connections.
    pub(crate) fn configure(&self, config: &TransportConfig) {
        configure(&SockRef::from(&*self.0), config);
    }

    /// Closes the connection so that the kernel keeps nothing of it; does nothing if there is another
    /// handle. Shuts down this side, discards input while the peer still sends (for at most 30 s
    /// and 24 MiB), and waits 1 s until the peer has received everything and has shut down its side.
    /// After that the connection is reset.
    ///
    /// # Cancel safety
    /// When it is dropped, the connection is reset.
    ///
    /// ```no_run
    /// # async fn refuse(stream: tokio::net::TcpStream) {
    /// use chat_transport::SharedTcp;
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let mut tcp = SharedTcp::new(stream);
    /// let _ = tcp.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    /// tcp.end().await; // the client gets the answer even if it still sends
    /// # }
    /// ```
    pub async fn end(self) {
        let Some(stream) = Arc::into_inner(self.0) else { return };
        let mut tcp = ResetOnDrop(Self(Arc::new(stream)));
        let _ = SockRef::from(&*tcp.0.0).shutdown(Shutdown::Write);
        if discard(&mut tcp.0).await {
            let _ = timeout(END, tcp.0.closed()).await;
        }
    }

    async fn closed(&self) {
        let mut probes = ProbeIntervals::default();
        while !self.is_closed() {
            sleep(probes.pause()).await;
        }
    }

    /// Whether the kernel holds nothing of the connection any more: both sides have sent FIN and
    /// have acknowledged everything, or it was reset. There is no readiness event for it.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.peer_addr().is_err()
    }

    /// Has the kernel reset the connection when the last handle is dropped, unless it is closed.
    /// Otherwise the kernel would keep for minutes what the peer does not read, and no limit counts
    /// that memory.
    pub(crate) fn reset_unless_closed(&self) {
        if !self.is_closed() {
            let _ = SockRef::from(&*self.0).set_linger(Some(Duration::ZERO));
        }
    }

    /// Writes what the socket takes without waiting. This calls `send` directly: the readiness that
    /// tokio keeps is on another cache line, and is nearly always "writable".
    #[cfg(target_os = "linux")]
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(&*self.0).send_with_flags(bytes, libc::MSG_NOSIGNAL)
    }

    /// Writes what the socket takes without waiting.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    /// Reads what the socket holds; `None` if it holds nothing.
    ///
    /// A read that leaves room in the buffer has emptied the socket. The closure then reports
    /// `WouldBlock`, so that tokio clears the readiness in the same step: this saves the read that
    /// would find nothing, which is one of two for most messages.
    fn try_read(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut read = None;
        let tried = self.0.try_io(Interest::READABLE, || {
            let count = (&*SockRef::from(&*self.0)).read(buf)?;
            read = Some(count);
            let is_empty = EDGE_TRIGGERED && (1..buf.len()).contains(&count);
            if is_empty { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match tried {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(read),
        }
    }
}

/// Sets the options of a session. They fail on a dead socket, whose first read fails as well.
fn configure(socket: &SockRef<'_>, config: &TransportConfig) {
    // 0 leaves the sizes to the kernel.
    let bytes = config.socket_buffer_bytes;
    if bytes > 0 {
        let _ = socket.set_send_buffer_size(bytes);
        let _ = socket.set_recv_buffer_size(bytes);
    }
    // The kernel ends the connection, with `ErrorKind::TimedOut`, when that of the peer has
    // acknowledged none of the sent bytes for this time. Other systems have no such setting: there the
    // heartbeat alone finds a dead connection. A time that is too long is an error: then there is none.
    #[cfg(target_os = "linux")]
    if let Some(time) = config.tcp_user_timeout() {
        let _ = socket.set_tcp_user_timeout(Some(time));
    }
    // Last: see `SharedTcp::accepted`.
    let _ = socket.set_tcp_nodelay(true);
}

/// Resets the connection when a wait for its end is over or cancelled.
struct ResetOnDrop(SharedTcp);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        self.0.reset_unless_closed();
    }
}

/// How long a peer may take, once this side is shut down, to receive what was sent and to shut down
/// its side; counted from its latest bytes while it still sends.
pub(crate) const END: Duration = Duration::from_secs(1);

/// How long, and how much, input is discarded at the end (RFC 9112, section 9.6). The kernel resets a
/// connection that is closed with unread input, and the peer loses what was sent: a client that sends
/// too much reads the reason only when it has sent all of it. 20 MB take 8 s at 20 Mbit/s.
pub(crate) const LINGER: Duration = Duration::from_secs(30);
pub(crate) const LINGER_BYTES: usize = 24 * 1024 * 1024;

/// The pause after each read of at most 64 KiB: 6 MiB a second. Without it, two attackers that sent
/// 1.3 to 2.8 GB a second used half of a core; with it, their load is not measurable.
pub(crate) const LINGER_PAUSE: Duration = Duration::from_millis(10);

/// Discards input while the peer still sends. Returns whether the peer has shut down its side.
pub(crate) async fn discard(io: &mut (impl AsyncRead + Unpin)) -> bool {
    let deadline = Instant::now() + LINGER;
    let mut discarded = 0;
    while discarded <= LINGER_BYTES {
        let read = poll_fn(|cx| poll_discard(Pin::new(&mut *io), cx));
        match timeout_at(deadline.min(Instant::now() + END), read).await {
            Ok(Some(count)) => discarded += count,
            Ok(None) => return true,
            Err(_) => return false,
        }
        sleep(LINGER_PAUSE).await;
    }
    false
}

/// Reads something and drops it. Returns how many bytes; `None` at the end.
pub(crate) fn poll_discard(
    io: Pin<&mut impl AsyncRead>,
    cx: &mut Context<'_>,
) -> Poll<Option<usize>> {
    with_scratch(|scratch| {
        let mut buf = ReadBuf::new(scratch);
        let read = io.poll_read(cx, &mut buf);
        read.map(|read| read.ok().map(|()| buf.filled().len()).filter(|count| *count > 0))
    })
}

/// When to check again whether a connection is closed.
#[derive(Debug)]
pub(crate) struct ProbeIntervals(Duration);

impl Default for ProbeIntervals {
    fn default() -> Self {
        Self(Duration::from_millis(1))
    }
}

impl ProbeIntervals {
    const LONGEST: Duration = Duration::from_millis(100);

    /// The time until the next check: about as long as has passed already.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        pause
    }
}

/// Where tokio uses an edge-triggered epoll, bytes that arrive after a short read raise another
/// event: the readiness may be cleared although they arrive right after the read.
const EDGE_TRIGGERED: bool = cfg!(any(target_os = "linux", target_os = "android"));

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

/// Runs `work` with a buffer of 64 KiB that belongs to the thread: no session has one.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    // Taken out, not borrowed: the stream of a session may itself poll a session.
    let mut scratch = FREE.take();
    scratch.resize(SCRATCH, 0);
    let result = work(&mut scratch);
    FREE.set(scratch);
    result
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// The options of a connection, before and after it is accepted.
    async fn options(is_older: bool) -> [(bool, usize, usize, Option<Duration>); 2] {
        let config = TransportConfig::default().socket_buffer_bytes(64 * 1024);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap());
        let older = if is_older { Some(connect().await.unwrap()) } else { None };
        SharedTcp::prepare_listener(&listener, &config);
        let _client = match older {
            Some(older) => older,
            None => connect().await.unwrap(),
        };
        let (stream, _) = listener.accept().await.unwrap();
        let options = |stream: &TcpStream| {
            let socket = SockRef::from(stream);
            let sizes = (socket.send_buffer_size().unwrap(), socket.recv_buffer_size().unwrap());
            let timeout = socket.tcp_user_timeout().unwrap();
            (socket.tcp_nodelay().unwrap(), sizes.0, sizes.1, timeout)
        };
        let before = options(&stream);
        let accepted = SharedTcp::accepted(stream, &config);
        [before, options(&accepted.0)]
    }

    #[tokio::test]
    async fn connection_inherits_the_options_of_its_listener() {
        let [inherited, accepted] = options(false).await;
        assert_eq!(inherited, accepted);
        assert_eq!(inherited.3, TransportConfig::default().tcp_user_timeout());
    }

    #[tokio::test]
    async fn connection_older_than_the_options_gets_them() {
        let [inherited, accepted] = options(true).await;
        assert!(!inherited.0, "nothing is inherited");
        assert_eq!(accepted, options(false).await[1]);
    }
}
