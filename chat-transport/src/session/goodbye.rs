//! The last part of a session: the close frames, and the end of the stream.

use std::any::Any;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use chat_core::CloseReason;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Peer, Session, Stop};
use crate::error::End;
use crate::stream::{END, LINGER, LINGER_BYTES, LINGER_PAUSE, Probes, SharedTcp, poll_discard};
use crate::timer::after;

/// How long the peer may take to answer once all is written.
const ANSWER: Duration = Duration::from_secs(2);

/// How many bytes of messages are read while its answer is awaited. They are decoded, which costs
/// more than to throw them away.
const MESSAGE_BYTES: usize = 1024 * 1024;

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
    /// Until when input is discarded while more arrives, of a peer whose bytes are not decoded.
    linger_until: Option<Instant>,
    /// When to discard on: not as fast as the peer can send.
    rests_until: Option<Instant>,
    /// The peer's answer has been waited for long enough.
    waited: bool,
    probes: Probes,
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
    /// is closed with input unread is reset, and the close frame lost. A peer that has broken a rule
    /// is likely in the middle of a large message: of it 32 MiB are dropped, for up to 30 s while
    /// more arrives within a second.
    ///
    /// On a [`SharedTcp`] nothing stays in the kernel: then this side is shut down, and the peer
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
            let heard_out = self.peer != Peer::Talking || goodbye.ended || goodbye.waited;
            let is_due = goodbye.written && heard_out && !goodbye.shut;
            if is_due && Pin::new(&mut self.io).poll_shutdown(cx).is_ready() {
                goodbye.shut_down(self.peer);
            }
            if goodbye.discards() && self.poll_discard(cx, goodbye).is_ready() {
                continue;
            }
            if self.is_finished(goodbye) {
                return Poll::Ready(());
            }
            if Instant::now() >= goodbye.deadline {
                if goodbye.written && !goodbye.waited && self.tcp().is_some() {
                    // A client that has read everything but sends no close frame gets FIN, not RST.
                    goodbye.waited = true;
                    continue;
                }
                return Poll::Ready(());
            }
            ready!(self.clocks.poll_until(cx, goodbye.next_check()));
        }
    }

    fn tcp(&self) -> Option<&SharedTcp> {
        (&self.io as &dyn Any).downcast_ref()
    }

    fn is_finished(&self, goodbye: &Goodbye) -> bool {
        match self.tcp() {
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
            linger_until: None,
            rests_until: None,
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

    fn shut_down(&mut self, peer: Peer) {
        let now = Instant::now();
        self.shut = true;
        self.deadline = now + END;
        if peer == Peer::Broken {
            self.linger_until = Some(now + LINGER);
        }
    }

    /// When to check again unless the socket becomes readable before. Once the peer has shut down
    /// its side, the last acknowledgement makes no event.
    fn next_check(&mut self) -> Instant {
        if self.shut && self.ended {
            self.deadline.min(Instant::now() + self.probes.pause())
        } else {
            self.rests_until.map_or(self.deadline, |rest| self.deadline.min(rest))
        }
    }

    fn discards(&mut self) -> bool {
        self.rests_until = self.rests_until.filter(|rest| Instant::now() < *rest);
        !self.ended && self.rests_until.is_none()
    }

    fn has_overrun(&self) -> bool {
        let max = if self.linger_until.is_some() { LINGER_BYTES } else { MESSAGE_BYTES };
        self.discarded > max
    }

    fn discard(&mut self, bytes: Option<usize>) {
        self.discarded += bytes.unwrap_or(0);
        self.ended = bytes.is_none() || self.has_overrun();
        if let Some(until) = self.linger_until.filter(|_| !self.ended) {
            let now = Instant::now();
            self.deadline = until.min(now + END);
            self.rests_until = Some(now + LINGER_PAUSE);
        }
    }
}
