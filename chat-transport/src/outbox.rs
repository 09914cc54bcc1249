//! What waits to be written to one peer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::{Buf, Bytes};
use chat_core::{CloseReason, DeliveryOutcome, Frames};
use parking_lot::{Mutex, MutexGuard};

use crate::codec;
use crate::config::TransportConfig;
use crate::stats::Stripe;
use crate::stream::SharedTcp;

/// Chunks smaller than this are copied together for one write.
const COPIED: usize = 16 * 1024;

/// Pongs that may wait; beyond, only the newest is kept.
const PONG_BYTES: usize = 4 * 1024;

/// An empty queue keeps room for this many chunks.
const KEPT_CHUNKS: usize = 8;

/// The sending side of a [`Session`](crate::Session), for any thread. A clone is the same
/// outbox.
///
/// It is bounded, in bytes and in frames, by
/// [`TransportConfig`](crate::TransportConfig::outbox_bytes). Frames of one caller leave in
/// the order in which they were sent.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

/// What waits in an [`Outbox`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboxUsage {
    /// Frames, the one being written included.
    pub frames: usize,
    /// Bytes.
    pub bytes: usize,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    max: OutboxUsage,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    depth: OutboxUsage,
    /// Whether part of the first chunk has been written.
    begun: bool,
    pongs: Pongs,
    goodbye: Option<Goodbye>,
    /// The session's owner is to look around.
    notified: bool,
    refused: u64,
    /// Bytes that were taken.
    taken: u64,
    /// How many of them are in the stripe: a send writes to no memory that threads share.
    reported: u64,
    /// The sums of the server that this outbox adds to.
    stripe: Option<Arc<Stripe>>,
    /// The session's task, while it waits for something to write.
    waker: Option<Waker>,
    /// Whoever waits for the outbox to drain.
    waiter: Option<Waker>,
    /// Where to write at once.
    tcp: Option<SharedTcp>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    frames: usize,
}

#[derive(Debug, Default)]
struct Pongs {
    queued_bytes: usize,
    newest: Option<Bytes>,
}

/// How the outbox was closed.
#[derive(Debug)]
enum Goodbye {
    /// By this side; the close frame is still to be queued.
    Asked(CloseReason),
    /// By this side.
    Said(CloseReason),
    /// By the peer.
    Answered,
    /// The connection is gone.
    Gone,
}

/// How an outbox stands, for its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutboxState {
    /// The socket has taken so many bytes of what was [taken](Outbox::taken_bytes).
    Open {
        written: u64,
    },
    /// [`Outbox::notify`] was called since this was asked last.
    Notified,
    Closed,
}

/// What to write next.
pub(crate) enum Next {
    Nothing,
    Chunk(Bytes),
    /// So many bytes, copied together.
    Copied(usize),
}

impl Outbox {
    /// What the clones of an outbox share.
    #[cfg(test)]
    pub(crate) const SHARED_BYTES: usize = size_of::<Shared>();

    /// An outbox that writes to `tcp` at once where it can.
    pub(crate) fn new(config: &TransportConfig, tcp: Option<SharedTcp>) -> Self {
        let max = OutboxUsage { frames: config.outbox_frames, bytes: config.outbox_bytes };
        Self(Arc::new(Shared { queue: Mutex::new(Queue { tcp, ..Queue::default() }), max }))
    }

    /// Adds what is taken from now on to `stripe`.
    pub(crate) fn count_in(&self, stripe: Arc<Stripe>) {
        self.lock().stripe = Some(stripe);
    }

    /// Sends `frames`: to the socket at once if nothing waits and the session is [on
    /// TCP](crate::Session::on_tcp), else through the queue. Never blocks.
    ///
    /// [`DeliveryOutcome::Full`] means that nothing of it was taken; it is counted.
    #[must_use = "frames are refused when the peer reads too slowly"]
    pub fn send(&self, frames: &Frames) -> DeliveryOutcome {
        let delivery = self.offer(frames.bytes(), frames.count() as usize);
        if delivery == DeliveryOutcome::Full {
            self.lock().refused += 1;
        }
        delivery
    }

    /// Sends `frames` as [`send`](Self::send) does, if they fit into the first half of the
    /// outbox: for what may be dropped, which then leaves room for what must not be. A
    /// [`DeliveryOutcome::Full`] is not counted as refused.
    #[must_use = "frames are dropped when the peer reads too slowly"]
    pub fn send_droppable(&self, frames: &Frames) -> DeliveryOutcome {
        let OutboxUsage { frames: most_frames, bytes } = self.0.max;
        let half = OutboxUsage { frames: most_frames / 2, bytes: bytes / 2 };
        self.offer_within(&half, frames.bytes(), frames.count() as usize)
    }

    /// Closes: what is queued is written, then a close frame with the code and phrase of
    /// `reason`. For [`CloseReason::SlowConsumer`] what is queued is dropped, but for the
    /// rest of what is half written.
    ///
    /// The first call counts. The session's [`recv`](crate::Session::recv) gives `None`, and
    /// its [`finish`](crate::Session::finish) does the rest.
    pub fn close(&self, reason: CloseReason) {
        let mut queue = self.lock();
        if queue.goodbye.is_none() {
            queue.goodbye = Some(Goodbye::Asked(reason));
        }
        wake(queue);
    }

    /// Has the session's [`recv`](crate::Session::recv) give
    /// [`Incoming::Notified`](crate::Incoming::Notified), once however often this is called
    /// before: for whoever holds the outbox and has news for the one who owns the session.
    pub fn notify(&self) {
        let mut queue = self.lock();
        queue.notified = true;
        wake(queue);
    }

    /// Whether the session's owner was [notified](Self::notify), and has not seen it yet.
    #[must_use]
    pub fn is_notified(&self) -> bool {
        self.lock().notified
    }

    /// Whether nothing can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().goodbye.is_some()
    }

    /// What waits to be written.
    #[must_use]
    pub fn usage(&self) -> OutboxUsage {
        self.lock().depth
    }

    /// Waits until the session is closed (`false`) or its owner is [notified](Self::notify)
    /// (`true`), which then has been seen: for an owner that waits for something else than the
    /// peer's messages. One task may wait at a time, here or in [`drained_to`](Self::drained_to).
    ///
    /// # Cancel safety
    /// Safe: a notification that was not returned stays.
    pub async fn interrupted(&self) -> bool {
        poll_fn(|cx| {
            let mut queue = self.lock();
            if queue.goodbye.is_some() {
                return Poll::Ready(false);
            }
            if std::mem::take(&mut queue.notified) {
                return Poll::Ready(true);
            }
            queue.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits until at most `bytes` wait to be written, or the session is closed, or its owner is
    /// [notified](Self::notify): for whoever has more to send than fits. One task may wait at a
    /// time.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn drained_to(&self, bytes: usize) {
        poll_fn(|cx| {
            let mut queue = self.lock();
            if queue.depth.bytes <= bytes || queue.goodbye.is_some() || queue.notified {
                return Poll::Ready(());
            }
            queue.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// How many times [`send`](Self::send) found no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Takes `bytes`, which hold `frames` whole frames, unless there is no room.
    pub(crate) fn offer(&self, bytes: &Bytes, frames: usize) -> DeliveryOutcome {
        self.offer_within(&self.0.max, bytes, frames)
    }

    /// Takes them unless more than `max` would wait then.
    #[inline]
    fn offer_within(&self, max: &OutboxUsage, bytes: &Bytes, frames: usize) -> DeliveryOutcome {
        let mut queue = self.lock();
        if queue.goodbye.is_some() {
            return DeliveryOutcome::Closed;
        }
        if !queue.chunks.is_empty() {
            if !queue.has_room(bytes.len(), frames, max) {
                return DeliveryOutcome::Full;
            }
            queue.taken += bytes.len() as u64;
            queue.push(bytes.clone(), frames);
            return DeliveryOutcome::Queued;
        }
        queue.taken += bytes.len() as u64;
        let written = queue.write_now(bytes);
        if written < bytes.len() {
            queue.push(bytes.slice(written..), frames);
            queue.begun = written > 0;
            wake(queue);
        }
        DeliveryOutcome::Queued
    }

    /// Queues a ping, whatever the limits: the heartbeat sends one at a time.
    pub(crate) fn ping(&self) {
        let mut queue = self.lock();
        if queue.goodbye.is_none() {
            queue.push(codec::ping(), 1);
        }
    }

    /// Queues the answer to a ping. When many wait already, only the newest is kept, as
    /// RFC 6455 section 5.5.3 allows.
    pub(crate) fn pong(&self, payload: Bytes) {
        let mut queue = self.lock();
        if queue.goodbye.is_some() {
            return;
        }
        let pong = codec::pong(payload);
        if queue.pongs.queued_bytes + pong.len() > PONG_BYTES {
            queue.pongs.newest = Some(pong);
        } else {
            queue.push_pong(pong);
        }
    }

    /// Closes with the answer to the peer's close frame.
    pub(crate) fn answer(&self, close_frame: Bytes) {
        let mut queue = self.lock();
        if queue.goodbye.is_none() {
            queue.goodbye = Some(Goodbye::Answered);
            queue.push(close_frame, 1);
        }
    }

    /// Drops everything: there is nobody to write to.
    pub(crate) fn abandon(&self) {
        let mut queue = self.lock();
        if queue.goodbye.is_none() {
            queue.goodbye = Some(Goodbye::Gone);
        }
        queue.waker = None;
        queue.report();
        queue.clear();
        wake_waiter(queue);
    }

    /// [`abandon`](Self::abandon), and drops the handle on the socket, which is reset unless it is
    /// closed.
    pub(crate) fn release(&self) {
        if let Some(tcp) = self.lock().tcp.take() {
            tcp.reset_unless_closed();
        }
        self.abandon();
    }

    /// How it stands. A notification is told once.
    pub(crate) fn take_state(&self) -> OutboxState {
        let mut queue = self.lock();
        if queue.goodbye.is_some() {
            OutboxState::Closed
        } else if std::mem::take(&mut queue.notified) {
            OutboxState::Notified
        } else {
            OutboxState::Open { written: queue.taken.saturating_sub(queue.depth.bytes as u64) }
        }
    }

    /// With which reason this side closed it, if it did.
    pub(crate) fn closed_with(&self) -> Option<CloseReason> {
        match self.lock().goodbye {
            Some(Goodbye::Asked(reason) | Goodbye::Said(reason)) => Some(reason),
            Some(Goodbye::Answered | Goodbye::Gone) | None => None,
        }
    }

    /// What to write next; `scratch` takes what is copied together. The task of `waker` is
    /// woken when something comes after nothing, and when the outbox is closed.
    pub(crate) fn next(&self, waker: &Waker, scratch: &mut [u8]) -> Next {
        let mut queue = self.lock();
        if !queue.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            queue.waker = Some(waker.clone());
        }
        queue.report();
        queue.say_goodbye();
        let copy = queue.chunks.len() > 1;
        match queue.chunks.front() {
            None => Next::Nothing,
            Some(first) if copy && first.bytes.len() < COPIED => {
                Next::Copied(queue.copy_to(scratch))
            }
            Some(first) => Next::Chunk(first.bytes.clone()),
        }
    }

    /// How many bytes were taken since the beginning.
    pub(crate) fn taken_bytes(&self) -> u64 {
        self.lock().taken
    }

    /// The first `count` bytes have been written.
    pub(crate) fn written(&self, count: usize) {
        let mut queue = self.lock();
        queue.advance(count);
        wake_waiter(queue);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock()
    }
}

/// Wakes the session's task, without the lock.
fn wake(mut queue: MutexGuard<'_, Queue>) {
    let waker = queue.waker.take();
    wake_waiter(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Wakes whoever waits for the outbox to drain, without the lock.
fn wake_waiter(mut queue: MutexGuard<'_, Queue>) {
    let waiter = queue.waiter.take();
    drop(queue);
    if let Some(waiter) = waiter {
        waiter.wake();
    }
}

impl Queue {
    fn has_room(&self, bytes: usize, frames: usize, max: &OutboxUsage) -> bool {
        self.depth.bytes + bytes <= max.bytes && self.depth.frames + frames <= max.frames
    }

    /// How much the socket took. An error is left to the session's task, which meets it too.
    fn write_now(&self, bytes: &[u8]) -> usize {
        self.tcp.as_ref().and_then(|tcp| tcp.write_now(bytes).ok()).unwrap_or(0)
    }

    /// Adds what was taken since the last call to the stripe.
    fn report(&mut self) {
        if self.taken > self.reported
            && let Some(stripe) = &self.stripe
        {
            stripe.sent(self.taken - std::mem::replace(&mut self.reported, self.taken));
        }
    }

    fn push(&mut self, bytes: Bytes, frames: usize) {
        self.depth.bytes += bytes.len();
        self.depth.frames += frames;
        if let Some(stripe) = &self.stripe {
            stripe.queued(bytes.len(), self.depth.bytes);
        }
        self.chunks.push_back(Chunk { bytes, frames });
    }

    fn push_pong(&mut self, pong: Bytes) {
        self.pongs.queued_bytes += pong.len();
        self.push(pong, 1);
    }

    /// Queues the close frame that was asked for.
    fn say_goodbye(&mut self) {
        let Some(Goodbye::Asked(reason)) = self.goodbye else { return };
        if reason == CloseReason::SlowConsumer {
            self.drop_unbegun();
        }
        self.push(codec::close(reason), 1);
        self.goodbye = Some(Goodbye::Said(reason));
    }

    fn drop_unbegun(&mut self) {
        let begun = if self.begun { self.chunks.pop_front() } else { None };
        self.clear();
        if let Some(chunk) = begun {
            self.push(chunk.bytes, chunk.frames);
            self.begun = true;
        }
    }

    /// Removes bytes from the depth and from the stripe.
    fn unqueue(&mut self, bytes: usize) {
        self.depth.bytes -= bytes;
        if let Some(stripe) = &self.stripe {
            stripe.unqueued(bytes);
        }
    }

    fn clear(&mut self) {
        self.unqueue(self.depth.bytes);
        self.chunks = VecDeque::new();
        self.depth = OutboxUsage::default();
        self.begun = false;
        self.pongs = Pongs::default();
    }

    fn copy_to(&self, scratch: &mut [u8]) -> usize {
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

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.chunks.front_mut() {
            if count < first.bytes.len() {
                first.bytes.advance(count);
                self.unqueue(count);
                self.begun |= count > 0;
                return;
            }
            let (bytes, frames) = (first.bytes.len(), first.frames);
            count -= bytes;
            self.unqueue(bytes);
            self.depth.frames -= frames;
            self.begun = false;
            self.chunks.pop_front();
        }
        self.emptied();
    }

    fn emptied(&mut self) {
        if self.chunks.capacity() > KEPT_CHUNKS {
            self.chunks = VecDeque::new();
        }
        self.pongs.queued_bytes = 0;
        if let Some(pong) = self.pongs.newest.take()
            && self.goodbye.is_none()
        {
            self.push_pong(pong);
        }
    }
}
