//! The closing handshake (RFC 6455, section 7.1) and the end of the stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use chat_core::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Ended, Failure, PeerState, Session};
use crate::close::LocalClose;
use crate::error::End;
use crate::stream::{END, LINGER, LINGER_BYTES, LINGER_PAUSE, ProbeIntervals, poll_discard};
use crate::timer::after;

/// How long the peer may take to answer once all is written.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of messages that are read while the answer is awaited. They are decoded to find the close
/// frame among them, which costs more than discarding them.
const MAX_DISCARDED_MESSAGES: usize = 1024 * 1024;

/// How long a peer that is lingered for must send nothing before this side is shut down. A proxy
/// ends both sides of a tunnel when one ends (nginx does), and resets a client that still sends.
const QUIET: Duration = Duration::from_millis(300);

/// A lingering close: the peer violated a rule and may be in the middle of a large message, whose
/// bytes are not decoded.
struct Linger {
    /// The lingering ends here, however much the peer still sends.
    until: Instant,
    /// When bytes were received last.
    latest: Instant,
}

/// The progress of a closing handshake.
struct ClosingHandshake {
    /// The current step ends here; it moves from step to step.
    deadline: Instant,
    /// The outbox is written, the close frame included.
    all_written: bool,
    /// This side of the stream is shut down.
    is_shut_down: bool,
    /// The peer's side has ended, or is no longer read.
    peer_ended: bool,
    /// Bytes that were read and dropped.
    discarded: usize,
    /// Set for a peer that violated a rule.
    linger: Option<Linger>,
    /// The peer did not answer in time: this side is shut down without the answer.
    answer_timed_out: bool,
    probes: ProbeIntervals,
}

impl<S> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Does the closing handshake: writes what is queued and the close frame, waits for the peer's
    /// close frame, shuts the stream down, and returns why the session ended. A session that was
    /// still open is closed with [`CloseReason::Normal`].
    ///
    /// Takes at most [`close_timeout`](crate::TransportConfig::close_timeout), and at most 2 s
    /// once all is written. During that time it reads and drops up to 1 MiB of input: a stream that
    /// is closed with unread input is reset, and the peer loses the close frame. A peer that
    /// violated a rule is likely in the middle of a large message: up to 24 MiB of it are dropped,
    /// for up to 30 s, as long as the peer sends something each second.
    ///
    /// On a [TCP socket](Session::on_tcp) nothing stays in the kernel: after the shutdown of this
    /// side, the peer has 1 s to receive everything and to shut its side down. A connection with
    /// unsent or unacknowledged data left by then is reset when the session is dropped.
    ///
    /// # Cancel safety
    /// It can be called again: the handshake continues, with a new deadline.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use chat_core::CloseReason;
    /// use chat_transport::{End, Session};
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let (mut client, server) = tokio::io::duplex(1024);
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// session.outbox().close(CloseReason::Kicked);
    ///
    /// client.write_all(b"\x88\x80\0\0\0\0").await?; // the close frame of the client
    /// assert!(matches!(session.finish().await, End::Local(CloseReason::Kicked)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn finish(&mut self) -> End {
        self.outbox.close(CloseReason::Normal);
        let deadline = after(Instant::now(), self.codec.config().close_timeout);
        let mut closing = ClosingHandshake::new(deadline);
        if matches!(self.end.as_deref(), Some(Ended::By(End::Lost(_)))) {
            closing.skip_close_frames();
        }
        poll_fn(|cx| self.poll_finish(cx, &mut closing)).await;
        // The socket is reset here unless it is closed: the kernel would keep for minutes what the
        // peer does not read.
        self.outbox.release();
        if let Some(Ended::By(end)) =
            self.end.take_if(|end| matches!(**end, Ended::By(_))).map(|end| *end)
        {
            return end;
        }
        self.outbox.closed_with().map_or(End::Lost(None), LocalClose::into_end)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, closing: &mut ClosingHandshake) -> Poll<()> {
        if !closing.all_written {
            match self.poll_write(cx) {
                Poll::Ready(Ok(())) => closing.set_all_written(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        loop {
            // A violation may be found only now, among the messages that are read below.
            if self.peer == PeerState::Violating {
                closing.linger();
            }
            let peer_is_done = match self.peer {
                PeerState::Open => closing.peer_ended || closing.answer_timed_out,
                PeerState::Violating => {
                    closing.peer_ended || closing.answer_timed_out || closing.is_quiet()
                }
                PeerState::Closed => true,
            };
            // Not before everything is written: a half-closed peer may drop what follows a FIN.
            let is_due = closing.all_written && peer_is_done && !closing.is_shut_down;
            if is_due && Pin::new(&mut self.io).poll_shutdown(cx).is_ready() {
                closing.shut_down();
            }
            if closing.discards() && self.poll_discard(cx, closing).is_ready() {
                continue;
            }
            if self.is_finished(closing) {
                return Poll::Ready(());
            }
            if Instant::now() >= closing.deadline {
                if closing.all_written && !closing.answer_timed_out && self.tcp.is_some() {
                    // A client that has read everything but sends no close frame gets FIN, not RST.
                    closing.answer_timed_out = true;
                    continue;
                }
                return Poll::Ready(());
            }
            ready!(self.clocks.poll_until(cx, closing.next_check()));
        }
    }

    fn is_finished(&self, closing: &ClosingHandshake) -> bool {
        match &self.tcp {
            Some(tcp) => closing.has_overrun() || closing.is_shut_down && tcp.is_closed(),
            None => {
                closing.all_written && closing.peer_ended
                    || closing.is_shut_down && self.peer == PeerState::Closed
            }
        }
    }

    /// Reads something and drops it, unless it is a close frame.
    fn poll_discard(&mut self, cx: &mut Context<'_>, closing: &mut ClosingHandshake) -> Poll<()> {
        if self.peer != PeerState::Open {
            return poll_discard(Pin::new(&mut self.io), cx).map(|read| closing.discard(read));
        }
        self.poll_message(cx).map(|message| match message {
            Ok(message) => {
                if message.is_close() {
                    self.peer = PeerState::Closed;
                }
                closing.discard(Some(message.len()));
            }
            Err(Failure::Violation(_)) => self.peer = PeerState::Violating,
            Err(Failure::Io(_)) => closing.discard(None),
        })
    }
}

impl ClosingHandshake {
    fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            all_written: false,
            is_shut_down: false,
            peer_ended: false,
            discarded: 0,
            linger: None,
            answer_timed_out: false,
            probes: ProbeIntervals::default(),
        }
    }

    /// The peer has shut down its side without a close frame, or the connection failed.
    fn skip_close_frames(&mut self) {
        self.all_written = true;
        self.peer_ended = true;
    }

    fn set_all_written(&mut self) {
        self.all_written = true;
        self.deadline = self.deadline.min(Instant::now() + ANSWER_TIMEOUT);
    }

    fn shut_down(&mut self) {
        self.is_shut_down = true;
        self.deadline = Instant::now() + END;
    }

    fn linger(&mut self) {
        let now = Instant::now();
        self.linger.get_or_insert(Linger { until: now + LINGER, latest: now });
    }

    /// Whether a peer that is lingered for has stopped sending.
    fn is_quiet(&self) -> bool {
        self.linger.as_ref().is_none_or(|linger| Instant::now() >= linger.latest + QUIET)
    }

    /// When to check again unless the socket becomes readable before. Once the peer has shut down its
    /// side, no readiness event reports the last acknowledgement: the socket is polled.
    fn next_check(&mut self) -> Instant {
        let now = Instant::now();
        if self.is_shut_down && self.peer_ended {
            return self.deadline.min(now + self.probes.pause());
        }
        let latest = self.linger.as_ref().map(|linger| linger.latest);
        let checks = latest.into_iter().flat_map(|at| [at + LINGER_PAUSE, at + QUIET]);
        checks.filter(|at| *at > now).chain([self.deadline]).min().unwrap_or(self.deadline)
    }

    /// Whether to read on: of a peer that is lingered for, not as fast as it can send.
    fn discards(&self) -> bool {
        let rests = |linger: &Linger| Instant::now() < linger.latest + LINGER_PAUSE;
        !self.peer_ended && !self.linger.as_ref().is_some_and(rests)
    }

    fn has_overrun(&self) -> bool {
        let max = if self.linger.is_some() { LINGER_BYTES } else { MAX_DISCARDED_MESSAGES };
        self.discarded > max
    }

    fn discard(&mut self, bytes: Option<usize>) {
        self.discarded += bytes.unwrap_or(0);
        self.peer_ended = bytes.is_none() || self.has_overrun();
        if let Some(linger) = self.linger.as_mut().filter(|_| !self.peer_ended) {
            linger.latest = Instant::now();
            if self.all_written {
                self.deadline = linger.until.min(linger.latest + END);
            }
        }
    }
}
