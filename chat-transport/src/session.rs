//! One WebSocket session, from the handshake to the last byte.

mod clocks;
mod closing;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use chat_core::{CloseReason, DeliveryOutcome, Frames};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::codec::{self, Codec, Violation};
use crate::config::TransportConfig;
use crate::error::{End, LimitViolation};
use crate::message::{Incoming, Text};
use crate::outbox::{Next, Outbox, OutboxState};
use crate::stats::OutboxStats;
use crate::stream::{SharedTcp, with_scratch};

use clocks::{Clocks, Due};

/// A WebSocket session on the server's side of an upgraded stream, owned by one task.
///
/// It does nothing by itself: [`recv`](Self::recv), [`drive`](Self::drive) and
/// [`send`](Self::send) make it progress, and spawn nothing. Dropping it closes the stream without
/// a close frame, and resets a [TCP socket](Self::on_tcp); [`finish`](Self::finish) closes it in
/// order.
#[derive(Debug)]
pub struct Session<S> {
    io: S,
    /// `io` itself, if it is a TCP socket: the outbox writes to it, and the kernel reports how the
    /// connection ended.
    tcp: Option<SharedTcp>,
    /// Also holds the settings of the session.
    codec: Codec,
    /// Received and not decoded: further messages, or part of a frame's header. `None` instead of
    /// nothing, and boxed: this and [`end`](Self::end) are empty in nearly all sessions.
    unread: Option<Box<Bytes>>,
    outbox: Outbox,
    /// Bytes were written to `io` since it was flushed.
    unflushed: bool,
    /// Bytes that the socket had taken before the last read. The heartbeat counts from there; it is
    /// kept here so that a read takes no lock for it.
    written: u64,
    clocks: Clocks,
    /// Why the session ended, unless this side closed it by its own will.
    end: Option<Box<Ended>>,
    peer: PeerState,
}

/// How the bytes of the peer are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PeerState {
    /// They are decoded.
    Open,
    /// The peer has sent its close frame: further bytes are discarded.
    Closed,
    /// The peer has violated the protocol or a limit: its bytes cannot be decoded any more.
    Violating,
}

/// What the peer did that ended the session.
#[derive(Debug)]
enum Ended {
    /// It closed, or the connection was lost.
    By(End),
    Violation(Violation),
}

/// Why the session cannot continue.
enum Failure {
    /// The stream failed, or ended (`None`).
    Io(Option<io::Error>),
    Violation(Violation),
}

impl Session<SharedTcp> {
    /// [`new`](Self::new), for a TCP socket: its outbox writes to the socket on the caller's
    /// thread, and at the end the connection is reset unless the peer has received everything.
    ///
    /// ```no_run
    /// # async fn serve(stream: tokio::net::TcpStream, leftover: bytes::Bytes) {
    /// use chat_transport::Session;
    ///
    /// // `leftover`: what an HTTP server has read after the request.
    /// let mut session = Session::on_tcp(stream, leftover, Default::default());
    /// while let Some(message) = session.recv().await {
    ///     println!("{message:?}");
    /// }
    /// session.finish().await;
    /// # }
    /// ```
    #[must_use]
    pub fn on_tcp(
        tcp: impl Into<SharedTcp>,
        leftover: Bytes,
        config: Arc<TransportConfig>,
    ) -> Self {
        let tcp = tcp.into();
        tcp.configure(&config);
        Self::on_accepted(tcp, leftover, config)
    }

    /// [`on_tcp`](Self::on_tcp), for a socket of a
    /// [prepared](SharedTcp::prepare_listener) listener: the options of the socket are set already.
    #[must_use]
    pub fn on_accepted(tcp: SharedTcp, leftover: Bytes, config: Arc<TransportConfig>) -> Self {
        let outbox = Outbox::new(&config, Some(tcp.clone()));
        Self::with_outbox(tcp.clone(), leftover, outbox, Some(tcp), config)
    }
}

impl<S> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// A session on `io`, on which the handshake is done; `leftover` are bytes that were read
    /// after it. On a TCP stream, [`on_tcp`](Session::on_tcp) is faster.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use std::sync::Arc;
    /// use bytes::Bytes;
    /// use chat_transport::{Incoming, Session, TransportConfig};
    ///
    /// let (_client, server) = tokio::io::duplex(1024);
    /// // A frame that was read together with the request.
    /// let leftover = Bytes::from_static(b"\x81\x82\0\0\0\0hi");
    /// let mut session = Session::new(server, leftover, Arc::new(TransportConfig::default()));
    /// assert!(matches!(session.recv().await, Some(Incoming::Text(text)) if &*text == "hi"));
    /// # }
    /// ```
    #[must_use]
    pub fn new(io: S, leftover: Bytes, config: Arc<TransportConfig>) -> Self {
        Self::with_outbox(io, leftover, Outbox::new(&config, None), None, config)
    }

    /// The session, adding to `stats` what its outbox accepts from now on.
    ///
    /// ```
    /// use chat_core::Frames;
    /// use chat_transport::{OutboxStats, Session};
    ///
    /// let stats = OutboxStats::new();
    /// let (_client, server) = tokio::io::duplex(1024);
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # let _guard = runtime.enter();
    /// let session = Session::new(server, Default::default(), Default::default()).with_stats(&stats);
    /// let _ = session.outbox().send(&Frames::text("hi"));
    /// assert_eq!(stats.waiting_bytes(), 4, "a header of 2 bytes, and the text");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn with_stats(self, stats: &OutboxStats) -> Self {
        self.outbox.count_in(stats.stripe());
        self
    }

    fn with_outbox(
        io: S,
        leftover: Bytes,
        outbox: Outbox,
        tcp: Option<SharedTcp>,
        config: Arc<TransportConfig>,
    ) -> Self {
        Self {
            io,
            tcp,
            codec: Codec::new(config),
            unread: unread(&leftover),
            outbox,
            unflushed: false,
            written: 0,
            clocks: Clocks::new(Instant::now()),
            end: None,
            peer: PeerState::Open,
        }
    }

    /// The next message; `None` once the session is over, and from then on: either side has
    /// closed, the peer violated a rule, or the connection was lost. Then call
    /// [`finish`](Self::finish).
    ///
    /// While it waits, it writes what is in the outbox, answers pings and keeps the heartbeat.
    ///
    /// # Cancel safety
    /// No message is lost when it is dropped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use chat_transport::{Incoming, Session};
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let (mut client, server) = tokio::io::duplex(1024);
    /// client.write_all(b"\x81\x82\0\0\0\0hi\x88\x80\0\0\0\0").await?; // a text, and a close frame
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// while let Some(incoming) = session.recv().await {
    ///     let Incoming::Text(text) = incoming else { continue };
    ///     assert_eq!(&*text, "hi");
    /// }
    /// session.finish().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Option<Incoming> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Runs `work`; until it is done, writes what is in the outbox and keeps the heartbeat. The
    /// peer's messages stay in the socket, which slows the peer down.
    ///
    /// `work` is run to its end even if the session ends.
    ///
    /// # Cancel safety
    /// That of `work`: the session loses nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use chat_transport::Session;
    ///
    /// async fn look_up(user: &str) -> usize { user.len() }
    ///
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// assert_eq!(session.drive(look_up("ann")).await, 3);
    /// # }
    /// ```
    pub async fn drive<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            let output = work.as_mut().poll(cx);
            if output.is_pending() {
                self.poll_service(cx);
            }
            output
        })
        .await
    }

    /// Sends `frames`, text or binary, and waits for room in the outbox: [`DeliveryOutcome::Queued`] or
    /// [`DeliveryOutcome::Closed`]. Other tasks use the [`outbox`](Self::outbox), which does not
    /// wait.
    ///
    /// # Cancel safety
    /// When it is dropped, the outbox has accepted either all of `frames` or nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use chat_core::{DeliveryOutcome, Frames};
    /// use chat_transport::Session;
    ///
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// assert_eq!(session.send(&Frames::text("hi")).await, DeliveryOutcome::Queued);
    /// # }
    /// ```
    pub async fn send(&mut self, frames: &Frames) -> DeliveryOutcome {
        poll_fn(|cx| self.poll_send(cx, frames.bytes(), frames.count() as usize)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        // Before reading: a peer that sends without pause must not hold back what it is sent.
        self.poll_flush_outbox(cx);
        loop {
            match self.outbox.take_state() {
                OutboxState::Open { written } => self.written = written,
                OutboxState::Notified => return Poll::Ready(Some(Incoming::Notified)),
                OutboxState::Closed => return Poll::Ready(None),
            }
            match self.poll_message(cx) {
                Poll::Ready(Ok(message)) => {
                    if let Some(incoming) = self.handle_message(message) {
                        return Poll::Ready(Some(incoming));
                    }
                }
                Poll::Ready(Err(failure)) => self.fail(failure),
                Poll::Pending => {
                    // Only now: a message whose rest is in the socket already is not late.
                    if self.codec.mid_message() || self.unread.is_some() {
                        self.clocks.incomplete(Instant::now());
                    }
                    self.poll_flush_outbox(cx);
                    self.poll_clocks(cx, true);
                    if !self.is_over() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &Bytes,
        frames: usize,
    ) -> Poll<DeliveryOutcome> {
        let mut delivery = self.outbox.offer(bytes, frames);
        if delivery == DeliveryOutcome::Full {
            // Writing may make room; if it does not, it has registered the waker.
            self.poll_service(cx);
            delivery = self.outbox.offer(bytes, frames);
        }
        if delivery == DeliveryOutcome::Full { Poll::Pending } else { Poll::Ready(delivery) }
    }

    /// Everything but reading.
    fn poll_service(&mut self, cx: &mut Context<'_>) {
        self.poll_flush_outbox(cx);
        if !self.is_over() {
            self.poll_clocks(cx, false);
        }
    }

    /// The next message in what is unread, or in what the socket has.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Failure>> {
        if let Some(mut input) = self.unread.take() {
            match self.codec.decode(&mut *input) {
                Ok(Some(message)) => {
                    self.unread = Some(input).filter(|input| !input.is_empty());
                    return Poll::Ready(Ok(message));
                }
                Err(violation) => return Poll::Ready(Err(Failure::Violation(violation))),
                Ok(None) => self.unread = unread(&input),
            }
        }
        loop {
            let read = with_scratch(|scratch| self.poll_read(cx, scratch));
            if let Some(message) = ready!(read)? {
                return Poll::Ready(Ok(message));
            }
        }
    }

    /// Reads once, behind what is unread, and decodes.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<Option<Message>, Failure>> {
        let unread_before = self.unread.as_deref().map_or(&[][..], |unread| unread);
        let begun = unread_before.len();
        let (before, room) = scratch.split_at_mut(begun);
        before.copy_from_slice(unread_before);
        let mut buf = ReadBuf::new(room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)).map_err(|e| Failure::Io(Some(e)))?;
        let read = buf.filled().len();
        if read == 0 {
            return Poll::Ready(Err(Failure::Io(None)));
        }
        self.clocks.received(Instant::now(), self.written);
        let mut input = &scratch[..begun + read];
        let message = self.codec.decode(&mut input).map_err(Failure::Violation);
        self.unread = unread(input);
        Poll::Ready(message)
    }

    /// Acts on a message; returns it if it is for the application.
    fn handle_message(&mut self, message: Message) -> Option<Incoming> {
        if message.is_text() || message.is_binary() {
            self.clocks.complete();
        }
        match message {
            Message::Text(text) => return Some(Incoming::Text(Text::new(text))),
            Message::Binary(bytes) => return Some(Incoming::Binary(bytes)),
            Message::Ping(payload) => {
                self.count_control();
                self.outbox.pong(payload);
            }
            Message::Pong(_) | Message::Frame(_) => self.count_control(),
            Message::Close(frame) => {
                let (code, phrase) = frame
                    .as_ref()
                    .map(|frame| (u16::from(frame.code), frame.reason.as_str().into()))
                    .unzip();
                let end = End::ByPeer { code, phrase: phrase.unwrap_or_default() };
                self.end = Some(Box::new(Ended::By(end)));
                self.peer = PeerState::Closed;
                self.outbox.close_by_peer(codec::close_reply(frame));
            }
        }
        None
    }

    /// Bounds the work for pings and pongs, which the application does not see.
    fn count_control(&mut self) {
        if !self.clocks.allows_control_frame(self.codec.config().max_control_frames) {
            self.fail(Failure::Violation(Violation {
                reason: CloseReason::PolicyViolation,
                limit: Some(LimitViolation::ControlFrames),
                detail: "a flood of control frames".to_owned(),
            }));
        }
    }

    #[cold]
    fn fail(&mut self, failure: Failure) {
        match failure {
            // The kernel gave the connection up: TCP_USER_TIMEOUT.
            Failure::Io(Some(error))
                if error.kind() == io::ErrorKind::TimedOut && !self.is_over() =>
            {
                self.close_for(Violation::of_time(
                    CloseReason::HeartbeatLost,
                    LimitViolation::Heartbeat,
                ));
            }
            Failure::Io(error) => {
                if !self.is_over() {
                    self.end = Some(Box::new(Ended::By(End::Lost(error))));
                }
                self.outbox.abandon();
            }
            Failure::Violation(violation) => {
                self.peer = PeerState::Violating;
                self.close_for(violation);
            }
        }
    }

    fn close_for(&mut self, violation: Violation) {
        // Another thread may have closed the outbox since the last look: that is why the session ends.
        if !self.is_over() {
            self.outbox.close(violation.reason);
            self.end = Some(Box::new(Ended::Violation(violation)));
        }
    }

    fn poll_flush_outbox(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            self.fail(Failure::Io(Some(error)));
        }
    }

    /// Ready when everything is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(written) = with_scratch(|scratch| self.poll_write_next(cx, scratch)) {
            let Poll::Ready(count) = written? else {
                self.clocks.stalled(Instant::now());
                return Poll::Pending;
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.written(count);
            self.clocks.progressed();
            self.unflushed = true;
        }
        if self.unflushed {
            let Poll::Ready(()) = Pin::new(&mut self.io).poll_flush(cx)? else {
                self.clocks.stalled(Instant::now());
                return Poll::Pending;
            };
            self.clocks.progressed();
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_next(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Option<Poll<io::Result<usize>>> {
        let io = Pin::new(&mut self.io);
        match self.outbox.next(cx.waker(), scratch) {
            Next::Nothing => None,
            Next::Chunk(bytes) => Some(io.poll_write(cx, &bytes)),
            Next::Coalesced(count) => Some(io.poll_write(cx, &scratch[..count])),
        }
    }

    /// Acts on the deadlines that have passed, and registers for the next one.
    fn poll_clocks(&mut self, cx: &mut Context<'_>, reading: bool) {
        loop {
            let (config, sent) = (self.codec.config(), || self.outbox.accepted_bytes());
            match self.clocks.poll(cx, reading, config, sent) {
                Poll::Pending => return,
                Poll::Ready(Due::Ping) => {
                    self.outbox.ping();
                    self.poll_flush_outbox(cx);
                }
                Poll::Ready(Due::Close(reason, limit)) => {
                    return self.close_for(Violation::of_time(reason, limit));
                }
            }
        }
    }
}

impl<S> Session<S> {
    /// The sending side. Clone it for other tasks and threads.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use chat_core::{DeliveryOutcome, Frames};
    /// use chat_transport::Session;
    ///
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let session = Session::new(server, Default::default(), Default::default());
    /// let outbox = session.outbox().clone();
    /// let sender = std::thread::spawn(move || outbox.send(&Frames::text("hi")));
    /// assert_eq!(sender.join().unwrap(), DeliveryOutcome::Queued);
    /// # }
    /// ```
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The limit that the peer exceeded, if that ended the session.
    #[must_use]
    pub fn violation(&self) -> Option<LimitViolation> {
        self.violated()?.limit
    }

    /// What the peer did, in words for a log, if it violated the protocol or a limit and the name of
    /// that does not say it.
    #[must_use]
    pub fn violation_detail(&self) -> Option<&str> {
        Some(self.violated()?.detail.as_str()).filter(|detail| !detail.is_empty())
    }

    /// The code of the peer's close frame, once [`recv`](Self::recv) has returned `None` because of it,
    /// if it had a code.
    #[must_use]
    pub fn peer_close_code(&self) -> Option<u16> {
        match self.end.as_deref()? {
            Ended::By(End::ByPeer { code, .. }) => *code,
            _ => None,
        }
    }

    fn violated(&self) -> Option<&Violation> {
        match self.end.as_deref()? {
            Ended::Violation(violation) => Some(violation),
            Ended::By(_) => None,
        }
    }

    fn is_over(&self) -> bool {
        self.outbox.is_closed()
    }
}

/// What is left of the input. A copy of the last few bytes: a slice would keep the whole read buffer
/// alive.
fn unread(left: &[u8]) -> Option<Box<Bytes>> {
    (!left.is_empty()).then(|| Box::new(Bytes::copy_from_slice(left)))
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        self.outbox.release();
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of_val;

    use super::*;

    #[tokio::test]
    async fn idle_session_is_small() {
        let (_client, server) = tokio::io::duplex(1);
        let mut session = Session::new(server, Bytes::new(), Arc::default());
        let session_bytes = size_of::<Session<SharedTcp>>();
        let recv_bytes = size_of_val(&session.recv());
        let drive_bytes = size_of_val(&session.drive(std::future::ready(())));
        let send_bytes = size_of_val(&session.send(&Frames::text("")));
        let finish_bytes = size_of_val(&session.finish());
        let config = Arc::default();
        let accept_bytes = size_of_val(&crate::accept(tokio::io::duplex(1).0, &[], &config));
        println!("accept {accept_bytes}");
        println!("session {session_bytes}, outbox {}", Outbox::SHARED_BYTES);
        println!(
            "recv {recv_bytes}, drive {drive_bytes}, send {send_bytes}, finish {finish_bytes}"
        );
        assert!(session_bytes <= 176);
        assert!(session_bytes + Outbox::SHARED_BYTES <= 448);
        assert!(recv_bytes <= 64);
        assert!(drive_bytes <= 64);
        assert!(send_bytes <= 128);
        assert!(finish_bytes <= 128);
    }
}
