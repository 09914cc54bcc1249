//! The queue of an outbox: chunks in order, the close frame behind them, and the socket that a
//! chunk is written to directly while nothing waits.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use chat_core::{CloseReason, DeliveryOutcome};

use crate::close::LocalClose;
use crate::codec;
use crate::stats::Stripe;
use crate::stream::{SharedTcp, with_scratch};

/// Chunks smaller than this, in bytes, are copied together for one write.
const COALESCED_BELOW: usize = 16 * 1024;

/// Pongs that may wait, in bytes; beyond, only the newest is kept.
const PONG_BYTES: usize = 4 * 1024;

/// An empty queue keeps room for this many chunks.
const KEPT_CHUNKS: usize = 8;

/// What waits in an [`Outbox`](crate::Outbox).
///
/// ```
/// use chat_core::Frames;
/// use chat_transport::Session;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # let _guard = runtime.enter();
/// let (_client, server) = tokio::io::duplex(1024);
/// let session = Session::new(server, Default::default(), Default::default());
/// let _ = session.outbox().send(&Frames::text("hi"));
/// let usage = session.outbox().usage();
/// assert_eq!((usage.frames, usage.bytes), (1, 4));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OutboxUsage {
    /// Frames that are not fully written.
    pub frames: usize,
    /// Bytes of these frames that are not written.
    pub bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    chunks: VecDeque<Chunk>,
    usage: OutboxUsage,
    /// Whether part of the first chunk is written: its rest must follow before anything else.
    is_first_begun: bool,
    /// The chunks wait for the next frame, which is written with them, or for a
    /// [`flush`](Self::flush). The session's task does not write them until then.
    is_held: bool,
    pongs: Pongs,
    closing: Option<CloseState>,
    /// How this side closed, if it did. Apart from the state, which each send compares.
    local_close: Option<LocalClose>,
    /// Frames that were accepted since the beginning.
    accepted_frames: u64,
    /// Their bytes.
    accepted: u64,
    /// How many of the bytes the stripe has: a send writes to no memory that threads share.
    reported: u64,
    /// The part of the server's sums that this outbox adds to.
    stripe: Option<Arc<Stripe>>,
    /// The socket to write to directly.
    tcp: Option<SharedTcp>,
}

/// Whole frames, or the rest of some.
#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    frames: usize,
}

#[derive(Debug, Default)]
struct Pongs {
    /// Bytes of pongs that were queued since the queue was last empty.
    queued_bytes: usize,
    /// The pong that is queued when the queue is empty. Boxed: few peers flood pings, and each outbox
    /// has the field.
    newest: Option<Box<Bytes>>,
}

/// How the outbox was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseState {
    /// By this side; the close frame is still to be queued.
    Requested,
    /// By this side; the close frame is queued.
    FrameQueued,
    /// By the peer; the answer is queued.
    ByPeer,
    /// The connection was lost.
    Abandoned,
}

/// What became of frames that were offered while nothing else waited.
pub(super) enum Offered {
    Written,
    /// All or a part of them, for the session's task.
    Waiting,
    Closed,
}

/// What to write next.
pub(crate) enum Next {
    Nothing,
    Chunk(Bytes),
    /// The first this many bytes of the scratch buffer: small chunks, copied together.
    Coalesced(usize),
}

impl Queue {
    pub(super) fn new(tcp: Option<SharedTcp>) -> Self {
        Self { tcp, ..Self::default() }
    }

    pub(super) fn count_in(&mut self, stripe: Arc<Stripe>) {
        self.stripe = Some(stripe);
    }

    pub(super) fn usage(&self) -> OutboxUsage {
        self.usage
    }

    pub(super) fn accepted_frames(&self) -> u64 {
        self.accepted_frames
    }

    pub(super) fn accepted_bytes(&self) -> u64 {
        self.accepted
    }

    /// Accepted bytes that the socket has taken.
    pub(super) fn written_bytes(&self) -> u64 {
        // Pings, pongs and close frames wait, too, and are not counted as accepted.
        self.accepted.saturating_sub(self.usage.bytes as u64)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether the session has something to write.
    pub(super) fn has_work(&self) -> bool {
        !self.chunks.is_empty() && !self.is_held
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closing.is_some()
    }

    /// How this side closed the outbox, if it did.
    pub(super) fn closed_with(&self) -> Option<LocalClose> {
        self.local_close.clone()
    }

    fn count_accepted(&mut self, bytes: &Bytes, frames: usize) {
        self.accepted += bytes.len() as u64;
        self.accepted_frames += frames as u64;
    }

    /// Accepts `bytes`, which hold `frames` whole frames, while nothing else waits.
    #[inline]
    pub(super) fn offer(&mut self, bytes: &Bytes, frames: usize) -> Offered {
        if self.closing.is_some() {
            return Offered::Closed;
        }
        self.count_accepted(bytes, frames);
        // Only while nothing waits: a frame must not overtake an earlier one.
        let written = self.write_now(bytes);
        if written == bytes.len() {
            return Offered::Written;
        }
        self.push(bytes.slice(written..), frames);
        self.is_first_begun = written > 0;
        Offered::Waiting
    }

    /// Accepts them behind what waits, unless more than `max` would wait then.
    pub(super) fn offer_behind(
        &mut self,
        bytes: &Bytes,
        frames: usize,
        max: &OutboxUsage,
    ) -> DeliveryOutcome {
        if self.closing.is_some() {
            return DeliveryOutcome::Closed;
        }
        let was_held = self.is_held;
        // What is held is written now, as far as the socket takes it.
        if !was_held && !self.has_room(bytes.len(), frames, max) {
            return DeliveryOutcome::Full;
        }
        self.count_accepted(bytes, frames);
        if was_held {
            self.queue(bytes.clone(), frames);
            self.write_held();
        } else {
            self.push(bytes.clone(), frames);
        }
        DeliveryOutcome::Queued
    }

    /// Accepts them, to be written with the next frames or by [`flush`](Self::flush). If the socket is
    /// behind, they wait for that as others do.
    pub(super) fn hold(
        &mut self,
        bytes: &Bytes,
        frames: usize,
        max: &OutboxUsage,
    ) -> DeliveryOutcome {
        let joins_held = self.is_held && self.has_room(bytes.len(), frames, max);
        if self.closing.is_some() || !(self.chunks.is_empty() || joins_held) {
            return self.offer_behind(bytes, frames, max);
        }
        self.count_accepted(bytes, frames);
        self.is_held = true;
        self.queue(bytes.clone(), frames);
        DeliveryOutcome::Queued
    }

    /// Writes what is held, unless the session does so since it closes.
    pub(super) fn flush(&mut self) {
        if self.is_held && self.closing.is_none() {
            self.write_held();
        }
    }

    /// Writes what is held with one system call. It counts as waiting only if the socket does not
    /// take it.
    fn write_held(&mut self) {
        let written = with_scratch(|scratch| {
            let count = self.coalesce_into(scratch);
            self.write_now(&scratch[..count])
        });
        self.advance(written);
        self.end_hold();
    }

    fn end_hold(&mut self) {
        if std::mem::take(&mut self.is_held)
            && let Some(stripe) = &self.stripe
        {
            stripe.queued(self.usage.bytes, self.usage.bytes);
        }
    }

    fn has_room(&self, bytes: usize, frames: usize, max: &OutboxUsage) -> bool {
        self.usage.bytes + bytes <= max.bytes && self.usage.frames + frames <= max.frames
    }

    /// How much the socket took. An error is left to the session's task, whose next write or read
    /// fails with it, too.
    fn write_now(&self, bytes: &[u8]) -> usize {
        self.tcp.as_ref().and_then(|tcp| tcp.write_now(bytes).ok()).unwrap_or(0)
    }

    /// Queues a ping, whatever the limits: the heartbeat sends one at a time.
    pub(super) fn ping(&mut self) {
        if self.closing.is_none() {
            self.push(codec::ping(), 1);
        }
    }

    /// Queues the answer to a ping. When many wait already, only the newest is kept, as RFC 6455
    /// section 5.5.3 allows: a peer that floods pings and does not read takes no more memory.
    pub(super) fn pong(&mut self, payload: Bytes) {
        if self.closing.is_some() {
            return;
        }
        let pong = codec::pong(payload);
        if self.pongs.queued_bytes + pong.len() > PONG_BYTES {
            self.pongs.newest = Some(Box::new(pong));
        } else {
            self.push_pong(pong);
        }
    }

    /// Closes by this side. The first call counts.
    pub(super) fn request_close(&mut self, close: LocalClose) {
        if self.closing.is_none() {
            self.closing = Some(CloseState::Requested);
            self.local_close = Some(close);
        }
    }

    /// Closes with the answer to the peer's close frame.
    pub(super) fn close_by_peer(&mut self, close_frame: Bytes) {
        if self.closing.is_none() {
            self.closing = Some(CloseState::ByPeer);
            self.push(close_frame, 1);
        }
    }

    /// Drops everything: the connection was lost.
    pub(super) fn abandon(&mut self) {
        if self.closing.is_none() {
            self.closing = Some(CloseState::Abandoned);
        }
        self.report();
        self.clear();
    }

    /// Gives up the handle on the socket: see [`SharedTcp::reset_unless_closed`].
    pub(super) fn release_socket(&mut self) {
        if let Some(tcp) = self.tcp.take() {
            tcp.reset_unless_closed();
        }
    }

    /// What to write next; `scratch` takes what is copied together.
    pub(super) fn next(&mut self, scratch: &mut [u8]) -> Next {
        self.report();
        self.queue_close_frame();
        if self.is_held {
            return Next::Nothing;
        }
        let has_several = self.chunks.len() > 1;
        match self.chunks.front() {
            None => Next::Nothing,
            // One system call for many small frames; a large one is not worth the copy.
            Some(first) if has_several && first.bytes.len() < COALESCED_BELOW => {
                Next::Coalesced(self.coalesce_into(scratch))
            }
            Some(first) => Next::Chunk(first.bytes.clone()),
        }
    }

    /// Adds what was accepted since the last call to the stripe.
    fn report(&mut self) {
        if self.accepted > self.reported
            && let Some(stripe) = &self.stripe
        {
            stripe.sent(self.accepted - std::mem::replace(&mut self.reported, self.accepted));
        }
    }

    /// Queues the close frame that was requested. It is queued here, in the session's task, and not
    /// by the caller of `close`, so that a slow consumer's queue is dropped between two writes and
    /// not during one.
    fn queue_close_frame(&mut self) {
        if self.closing != Some(CloseState::Requested) {
            return;
        }
        if self.local_close == Some(LocalClose::Reason(CloseReason::SlowConsumer)) {
            self.drop_unwritten();
        }
        if let Some(frame) = self.local_close.as_ref().map(LocalClose::frame) {
            self.push(frame, 1);
        }
        self.closing = Some(CloseState::FrameQueued);
    }

    /// Drops all but the rest of a chunk that is partly written: a close frame in the middle of a
    /// frame would be read as its payload.
    fn drop_unwritten(&mut self) {
        let begun = if self.is_first_begun { self.chunks.pop_front() } else { None };
        self.clear();
        if let Some(chunk) = begun {
            self.push(chunk.bytes, chunk.frames);
            self.is_first_begun = true;
        }
    }

    fn coalesce_into(&self, scratch: &mut [u8]) -> usize {
        let mut room = scratch;
        let mut copied = 0;
        for chunk in &self.chunks {
            let count = chunk.bytes.len().min(room.len());
            let (here, rest) = room.split_at_mut(count);
            here.copy_from_slice(&chunk.bytes[..count]);
            copied += count;
            room = rest;
        }
        copied
    }

    /// The first `count` bytes are written.
    pub(super) fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.chunks.front_mut() {
            if count < first.bytes.len() {
                first.bytes.advance(count);
                self.unqueue(count);
                self.is_first_begun |= count > 0;
                return;
            }
            let (bytes, frames) = (first.bytes.len(), first.frames);
            count -= bytes;
            self.unqueue(bytes);
            self.usage.frames -= frames;
            self.is_first_begun = false;
            self.chunks.pop_front();
        }
        self.on_emptied();
    }

    fn on_emptied(&mut self) {
        // A peer that was slow once does not keep the memory of its longest queue.
        if self.chunks.capacity() > KEPT_CHUNKS {
            self.chunks = VecDeque::new();
        }
        self.pongs.queued_bytes = 0;
        if let Some(pong) = self.pongs.newest.take()
            && self.closing.is_none()
        {
            self.push_pong(*pong);
        }
    }

    fn push(&mut self, bytes: Bytes, frames: usize) {
        self.end_hold();
        if let Some(stripe) = &self.stripe {
            stripe.queued(bytes.len(), self.usage.bytes + bytes.len());
        }
        self.queue(bytes, frames);
    }

    fn queue(&mut self, bytes: Bytes, frames: usize) {
        self.usage.bytes += bytes.len();
        self.usage.frames += frames;
        self.chunks.push_back(Chunk { bytes, frames });
    }

    fn push_pong(&mut self, pong: Bytes) {
        self.pongs.queued_bytes += pong.len();
        self.push(pong, 1);
    }

    /// Removes bytes from the usage and from the stripe.
    fn unqueue(&mut self, bytes: usize) {
        self.usage.bytes -= bytes;
        if !self.is_held
            && let Some(stripe) = &self.stripe
        {
            stripe.unqueued(bytes);
        }
    }

    fn clear(&mut self) {
        self.unqueue(self.usage.bytes);
        self.chunks = VecDeque::new();
        self.usage = OutboxUsage::default();
        self.is_first_begun = false;
        self.is_held = false;
        self.pongs = Pongs::default();
    }
}
