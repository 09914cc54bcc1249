//! One WebSocket session, from the handshake to the last byte.

mod clocks;
mod goodbye;

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
/// [`send`](Self::send) move it on, and spawn nothing. Dropping it closes the stream without
/// a goodbye, and resets a [TCP socket](Self::on_tcp); [`finish`](Self::finish) says one.
#[derive(Debug)]
pub struct Session<S> {
    io: S,
    /// `io` itself, if it is a TCP socket: the outbox writes to it, and how the connection ends is
    /// known of it.
    tcp: Option<SharedTcp>,
    codec: Codec,
    /// Received and not decoded: further messages, or part of a frame's header.
    unread: Bytes,
    outbox: Outbox,
    unflushed: bool,
    /// How many bytes the socket had taken before the last read: the heartbeat counts from there,
    /// and a read takes no lock for it.
    written: u64,
    clocks: Clocks,
    config: Arc<TransportConfig>,
    /// How it ended, unless this side closed.
    end: Option<End>,
    breach: Option<LimitViolation>,
    peer: Peer,
}

/// What to think of the bytes that come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Talking,
    /// It has sent its close frame: there should be no more.
    Done,
    /// They make no sense any more.
    Broken,
}

/// Why reading came to an end.
enum Stop {
    Io(Option<io::Error>),
    Broken(Violation),
}

impl Session<SharedTcp> {
    /// [`new`](Self::new), for a TCP socket: its outbox writes to the socket from the caller's
    /// thread, and at the end the connection is reset unless the peer has received everything.
    #[must_use]
    pub fn on_tcp(
        tcp: impl Into<SharedTcp>,
        leftover: Bytes,
        config: Arc<TransportConfig>,
    ) -> Self {
        let tcp = tcp.into();
        tcp.bound(config.socket_buffer_bytes);
        if let Some(time) = config.dead_line_timeout() {
            tcp.give_up_unacknowledged(time);
        }
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
    #[must_use]
    pub fn new(io: S, leftover: Bytes, config: Arc<TransportConfig>) -> Self {
        Self::with_outbox(io, leftover, Outbox::new(&config, None), None, config)
    }

    /// The session, adding to `stats` what its outbox takes from now on.
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
            codec: Codec::new(Arc::clone(&config)),
            // A copy, which is mostly empty, lets go of the buffer it is a part of.
            unread: Bytes::copy_from_slice(&leftover),
            outbox,
            unflushed: false,
            written: 0,
            clocks: Clocks::new(Instant::now()),
            config,
            end: None,
            breach: None,
            peer: Peer::Talking,
        }
    }

    /// The next message; `None` once the session is over, and from then on: either side has
    /// closed, a rule was broken, or the connection is gone. Then call
    /// [`finish`](Self::finish).
    ///
    /// Meanwhile writes what is in the outbox, answers pings and keeps the heartbeat.
    ///
    /// # Cancel safety
    /// No message is lost when it is dropped.
    pub async fn recv(&mut self) -> Option<Incoming> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Runs `work` and meanwhile writes what is in the outbox and keeps the heartbeat. The
    /// peer's messages stay in the socket: this is how it is slowed down.
    ///
    /// `work` is run to its end even if the session ends.
    ///
    /// # Cancel safety
    /// That of `work`: the session loses nothing.
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

    /// Sends `frames`, and waits for room in the outbox: [`DeliveryOutcome::Queued`] or
    /// [`DeliveryOutcome::Closed`]. Other tasks use the [`outbox`](Self::outbox), which refuses.
    ///
    /// # Cancel safety
    /// When it is dropped, either all of `frames` was taken or nothing.
    pub async fn send(&mut self, frames: &Frames) -> DeliveryOutcome {
        poll_fn(|cx| self.poll_send(cx, frames.bytes(), frames.count() as usize)).await
    }

    /// [`send`](Self::send) for one binary message.
    ///
    /// # Cancel safety
    /// When it is dropped, either all of `payload` was taken or nothing.
    pub async fn send_binary(&mut self, payload: Bytes) -> DeliveryOutcome {
        let frame = codec::binary(payload);
        poll_fn(|cx| self.poll_send(cx, &frame, 1)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        self.poll_write_out(cx);
        loop {
            match self.outbox.take_state() {
                OutboxState::Open { written } => self.written = written,
                OutboxState::Notified => return Poll::Ready(Some(Incoming::Notified)),
                OutboxState::Closed => return Poll::Ready(None),
            }
            match self.poll_message(cx) {
                Poll::Ready(Ok(message)) => {
                    if let Some(incoming) = self.take_in(message) {
                        return Poll::Ready(Some(incoming));
                    }
                }
                Poll::Ready(Err(stop)) => self.stop(stop),
                Poll::Pending => {
                    if self.codec.mid_message() || !self.unread.is_empty() {
                        self.clocks.incomplete(Instant::now());
                    }
                    self.poll_write_out(cx);
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
            self.poll_service(cx);
            delivery = self.outbox.offer(bytes, frames);
        }
        if delivery == DeliveryOutcome::Full { Poll::Pending } else { Poll::Ready(delivery) }
    }

    /// All but reading.
    fn poll_service(&mut self, cx: &mut Context<'_>) {
        self.poll_write_out(cx);
        if !self.is_over() {
            self.poll_clocks(cx, false);
        }
    }

    /// The next message in what is unread, or in what the socket has.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Stop>> {
        if !self.unread.is_empty() {
            match self.codec.decode(&mut self.unread) {
                Ok(Some(message)) => return Poll::Ready(Ok(message)),
                Err(violation) => return Poll::Ready(Err(Stop::Broken(violation))),
                // A copy of the last few bytes lets go of the rest.
                Ok(None) => self.unread = Bytes::copy_from_slice(&self.unread),
            }
        }
        loop {
            let read = with_scratch(|scratch| self.poll_read(cx, scratch));
            if let Some(message) = ready!(read)? {
                return Poll::Ready(Ok(message));
            }
        }
    }

    /// Reads once, after what is unread, and decodes.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<Option<Message>, Stop>> {
        let (before, room) = scratch.split_at_mut(self.unread.len());
        before.copy_from_slice(&self.unread);
        let mut buf = ReadBuf::new(room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)).map_err(|e| Stop::Io(Some(e)))?;
        let read = buf.filled().len();
        if read == 0 {
            return Poll::Ready(Err(Stop::Io(None)));
        }
        self.clocks.heard(Instant::now(), self.written);
        let mut input = &scratch[..self.unread.len() + read];
        let message = self.codec.decode(&mut input).map_err(Stop::Broken);
        self.unread = Bytes::copy_from_slice(input);
        Poll::Ready(message)
    }

    /// Acts on a message; gives it back if it is for the application.
    fn take_in(&mut self, message: Message) -> Option<Incoming> {
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
                self.end = Some(End::ByPeer { code, phrase: phrase.unwrap_or_default() });
                self.peer = Peer::Done;
                self.outbox.answer(codec::close_reply(frame));
            }
        }
        None
    }

    /// Pings and pongs are not the application's to count.
    fn count_control(&mut self) {
        if !self.clocks.may_control(self.config.max_control_frames) {
            self.stop(Stop::Broken(Violation {
                reason: CloseReason::PolicyViolation,
                breach: Some(LimitViolation::ControlFrames),
                detail: "a flood of control frames".to_owned(),
            }));
        }
    }

    fn stop(&mut self, stop: Stop) {
        match stop {
            Stop::Io(Some(error)) if error.kind() == io::ErrorKind::TimedOut && !self.is_over() => {
                self.breach = Some(LimitViolation::Heartbeat);
                self.outbox.close(CloseReason::HeartbeatLost);
            }
            Stop::Io(error) => {
                if !self.is_over() {
                    self.end = Some(End::Lost(error));
                }
                self.outbox.abandon();
            }
            Stop::Broken(violation) => {
                tracing::debug!(reason = violation.reason.as_str(), "{}", violation.detail);
                self.peer = Peer::Broken;
                self.breach = violation.breach;
                self.outbox.close(violation.reason);
            }
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            self.stop(Stop::Io(Some(error)));
        }
    }

    /// Ready when all is written.
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
            self.clocks.took();
            self.unflushed = true;
        }
        if self.unflushed {
            let Poll::Ready(()) = Pin::new(&mut self.io).poll_flush(cx)? else {
                self.clocks.stalled(Instant::now());
                return Poll::Pending;
            };
            self.clocks.took();
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
            Next::Copied(count) => Some(io.poll_write(cx, &scratch[..count])),
        }
    }

    /// Acts on what is due, and waits for what is due next.
    fn poll_clocks(&mut self, cx: &mut Context<'_>, reading: bool) {
        loop {
            match self.clocks.poll(cx, reading, &self.config, || self.outbox.taken_bytes()) {
                Poll::Pending => return,
                Poll::Ready(Due::Ping) => {
                    self.outbox.ping();
                    self.poll_write_out(cx);
                }
                Poll::Ready(Due::Close(reason, breach)) => {
                    self.breach = Some(breach);
                    return self.outbox.close(reason);
                }
            }
        }
    }
}

impl<S> Session<S> {
    /// Where to send. Clone it for other tasks.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The limit that the peer went beyond, if one has ended the session.
    #[must_use]
    pub fn breach(&self) -> Option<LimitViolation> {
        self.breach
    }

    fn is_over(&self) -> bool {
        self.outbox.is_closed()
    }
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
        assert!(session_bytes + Outbox::SHARED_BYTES <= 1024);
        assert!(recv_bytes <= 64);
        assert!(drive_bytes <= 64);
        assert!(send_bytes <= 128);
        assert!(finish_bytes <= 128);
    }
}
