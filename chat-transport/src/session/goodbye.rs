//! The last part of a session: the close frames, and the end of the stream.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use chat_core::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Peer, Session, Stop};
use crate::error::End;
use crate::stream::{END, LINGER, LINGER_BYTES, LINGER_PAUSE, Probes, poll_discard};
use crate::timer::after;

/// How long the peer may take to answer once all is written.
const ANSWER: Duration = Duration::from_secs(2);

/// How many bytes of messages are read while its answer is awaited. They are decoded, which costs
/// more than to throw them away.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// How long a peer that is lingered for must send nothing before this side is shut down. When one side
/// of a tunnel ends, a proxy ends both (nginx does), and resets a client that still sends.
const QUIET: Duration = Duration::from_millis(300);

/// The wait for a peer that may be in the middle of a large message, whose bytes are not decoded.
struct Linger {
    until: Instant,
    /// When bytes were received last.
    latest: Instant,
}

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
    /// Of a peer that has broken a rule.
    linger: Option<Linger>,
    /// The peer's answer has been waited for long enough.
    waited: bool,
    probes: Probes,
}

impl<S> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Says goodbye: writes what is queued and the close frame, waits for the peer's, shuts
    /// the stream down, and returns why the session ended. A session that was still open is
    /// closed with [`CloseReason::Normal`].
    ///
    /// Takes at most [`close_timeout`](crate::TransportConfig::close_timeout), and at most 2 s
    /// once all is written. Meanwhile up to 1 MiB of input is read and dropped: a stream that
    /// is closed with input unread is reset, and the close frame lost. A peer that has broken a rule
    /// is likely in the middle of a large message: of it 32 MiB are dropped, for up to 30 s while
    /// more arrives within a second.
    ///
    /// On a [TCP socket](Session::on_tcp) nothing stays in the kernel: then this side is shut down, and the peer
    /// has another second to take all and to end its side. A connection of which something is left
    /// by then, or to which not all could be written, is reset when the session is dropped.
    ///
    /// # Cancel safety
    /// It can be called again: the goodbye goes on, with a new deadline.
    pub async fn finish(&mut self) -> End {
        self.outbox.close(CloseReason::Normal);
        let mut goodbye = Goodbye::new(after(Instant::now(), self.config.close_timeout));
        if matches!(self.end, Some(End::Lost(_))) {
            goodbye.skip_close_frames();
        }
        poll_fn(|cx| self.poll_finish(cx, &mut goodbye)).await;
        self.outbox.release();
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
            if self.peer == Peer::Broken {
                goodbye.linger();
            }
            let heard_out = match self.peer {
                Peer::Talking => goodbye.ended || goodbye.waited,
                Peer::Broken => goodbye.ended || goodbye.waited || goodbye.is_quiet(),
                Peer::Done => true,
            };
            let is_due = goodbye.written && heard_out && !goodbye.shut;
            if is_due && Pin::new(&mut self.io).poll_shutdown(cx).is_ready() {
                goodbye.shut_down();
            }
            if goodbye.discards() && self.poll_discard(cx, goodbye).is_ready() {
                continue;
            }
            if self.is_finished(goodbye) {
                return Poll::Ready(());
            }
            if Instant::now() >= goodbye.deadline {
                if goodbye.written && !goodbye.waited && self.tcp.is_some() {
                    // A client that has read everything but sends no close frame gets FIN, not RST.
                    goodbye.waited = true;
                    continue;
                }
                return Poll::Ready(());
            }
            ready!(self.clocks.poll_until(cx, goodbye.next_check()));
        }
    }

    fn is_finished(&self, goodbye: &Goodbye) -> bool {
        match &self.tcp {
            Some(tcp) => goodbye.has_overrun() || goodbye.shut && tcp.is_closed(),
            None => goodbye.written && goodbye.ended || goodbye.shut && self.peer == Peer::Done,
        }
    }

    /// Reads something and throws it away, but for a close frame.
    fn poll_discard(&mut self, cx: &mut Context<'_>, goodbye: &mut Goodbye) -> Poll<()> {
        if self.peer != Peer::Talking {
            return poll_discard(Pin::new(&mut self.io), cx).map(|read| goodbye.discard(read));
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
}

impl Goodbye {
    fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            written: false,
            shut: false,
            ended: false,
            discarded: 0,
            linger: None,
            waited: false,
            probes: Probes::default(),
        }
    }

    /// The peer has shut down its side without a close frame, or the connection failed.
    fn skip_close_frames(&mut self) {
        self.written = true;
        self.ended = true;
    }

    fn all_written(&mut self) {
        self.written = true;
        self.deadline = self.deadline.min(Instant::now() + ANSWER);
    }

    fn shut_down(&mut self) {
        self.shut = true;
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

    /// When to check again unless the socket becomes readable before. Once the peer has shut down
    /// its side, the last acknowledgement makes no event.
    fn next_check(&mut self) -> Instant {
        let now = Instant::now();
        if self.shut && self.ended {
            return self.deadline.min(now + self.probes.pause());
        }
        let latest = self.linger.as_ref().map(|linger| linger.latest);
        let checks = latest.into_iter().flat_map(|at| [at + LINGER_PAUSE, at + QUIET]);
        checks.filter(|at| *at > now).chain([self.deadline]).min().unwrap_or(self.deadline)
    }

    /// Whether to read on: of a peer that is lingered for, not as fast as it can send.
    fn discards(&self) -> bool {
        let rests = |linger: &Linger| Instant::now() < linger.latest + LINGER_PAUSE;
        !self.ended && !self.linger.as_ref().is_some_and(rests)
    }

    fn has_overrun(&self) -> bool {
        let max = if self.linger.is_some() { LINGER_BYTES } else { MESSAGE_BYTES };
        self.discarded > max
    }

    fn discard(&mut self, bytes: Option<usize>) {
        self.discarded += bytes.unwrap_or(0);
        self.ended = bytes.is_none() || self.has_overrun();
        if let Some(linger) = self.linger.as_mut().filter(|_| !self.ended) {
            linger.latest = Instant::now();
            if self.written {
                self.deadline = linger.until.min(linger.latest + END);
            }
        }
    }
}
