//! The sending side of a session: a bounded [`queue`], and the tasks to wake when it changes.

mod queue;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use chat_core::{CloseReason, DeliveryOutcome, Frames};
use parking_lot::{Mutex, MutexGuard};

use crate::close::{InvalidClose, LocalClose};
use crate::config::TransportConfig;
use crate::stats::Stripe;
use crate::stream::SharedTcp;

pub(crate) use queue::Next;
pub use queue::OutboxUsage;
use queue::{Offered, Queue};

/// The sending side of a [`Session`](crate::Session), for any thread. A clone is the same
/// outbox.
///
/// It is bounded, in bytes and in frames, by
/// [`TransportConfig`](crate::TransportConfig::outbox_bytes). Frames of one caller are written in
/// the order in which they were sent.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    max: OutboxUsage,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// [`Outbox::notify`] was called, and the session's owner has not seen it.
    notified: bool,
    /// Sends that found no room.
    refused: u64,
    /// The session's task, while it waits for something to write.
    waker: Option<Waker>,
    /// The task in [`Outbox::drained_to`] or [`Outbox::interrupted`].
    waiter: Option<Waker>,
}

/// The state of an outbox, for its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutboxState {
    Open {
        /// [Accepted](Outbox::accepted_bytes) bytes that the socket has taken.
        written: u64,
    },
    /// [`Outbox::notify`] was called since the state was last read.
    Notified,
    Closed,
}

/// For any thread.
impl Outbox {
    /// Sends `frames`, text or binary: to the socket at once if nothing waits and the session is [on
    /// TCP](crate::Session::on_tcp), else through the queue. Never blocks.
    ///
    /// [`DeliveryOutcome::Full`] means that nothing of it was accepted; it is counted.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use chat_core::{DeliveryOutcome, Frames};
    /// use chat_transport::{Session, TransportConfig};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # let _guard = runtime.enter();
    /// let config = TransportConfig::default().outbox_frames(1);
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let session = Session::new(server, Default::default(), Arc::new(config));
    /// let outbox = session.outbox();
    /// assert_eq!(outbox.send(&Frames::text("hi")), DeliveryOutcome::Queued);
    /// assert_eq!(outbox.send(&Frames::text("ho")), DeliveryOutcome::Full);
    /// assert_eq!(outbox.refused(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use = "frames are refused when the peer reads too slowly"]
    pub fn send(&self, frames: &Frames) -> DeliveryOutcome {
        self.count_refused(self.offer(frames.bytes(), frames.count() as usize))
    }

    /// Sends `frames` as [`send`](Self::send) does, if they fit into the first half of the
    /// outbox: for frames that may be dropped, which leave room for those that must not be. A
    /// [`DeliveryOutcome::Full`] is not counted as refused.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use chat_core::{DeliveryOutcome, Frames};
    /// use chat_transport::{Session, TransportConfig};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # let _guard = runtime.enter();
    /// let config = TransportConfig::default().outbox_frames(2);
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let session = Session::new(server, Default::default(), Arc::new(config));
    /// let (outbox, typing) = (session.outbox(), Frames::text("ann is typing"));
    /// assert_eq!(outbox.send_droppable(&typing), DeliveryOutcome::Queued);
    /// assert_eq!(outbox.send_droppable(&typing), DeliveryOutcome::Full);
    /// assert_eq!(outbox.send(&Frames::text("a message")), DeliveryOutcome::Queued);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use = "frames are dropped when the peer reads too slowly"]
    pub fn send_droppable(&self, frames: &Frames) -> DeliveryOutcome {
        let OutboxUsage { frames: max_frames, bytes } = self.0.max;
        let half = OutboxUsage { frames: max_frames / 2, bytes: bytes / 2 };
        self.offer_within(&half, frames.bytes(), frames.count() as usize)
    }

    /// Sends `frames` as [`send`](Self::send) does, but leaves the write to the next frame, or to a
    /// [`flush`](Self::flush), which must follow: what is sent in between is one write with it. Held
    /// frames are within the limits of the outbox; the send that writes them is accepted even if it
    /// exceeds these. They count in [`usage`](Self::usage), and not in
    /// [`OutboxStats`](crate::OutboxStats).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use chat_core::{DeliveryOutcome, Frames};
    /// use chat_transport::Session;
    /// use tokio::io::AsyncReadExt;
    ///
    /// let (mut client, server) = tokio::io::duplex(1024);
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// for text in ["a", "b"] {
    ///     assert_eq!(session.outbox().hold(&Frames::text(text)), DeliveryOutcome::Queued);
    /// }
    /// session.outbox().flush();
    /// let mut both = [0; 6];
    /// session.drive(client.read_exact(&mut both)).await?;
    /// assert_eq!(&both, b"\x81\x01a\x81\x01b");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "frames are refused when the peer reads too slowly"]
    pub fn hold(&self, frames: &Frames) -> DeliveryOutcome {
        let (bytes, count) = (frames.bytes(), frames.count() as usize);
        self.count_refused(change(self.lock(), |queue| queue.hold(bytes, count, &self.0.max)))
    }

    /// Writes what is [held](Self::hold).
    pub fn flush(&self) {
        change(self.lock(), Queue::flush);
    }

    /// Closes: what is queued is written, then a close frame with the code and phrase of
    /// `reason`. For [`CloseReason::SlowConsumer`] what is queued is dropped, except for the
    /// rest of a frame that is partly written.
    ///
    /// The first call counts. The session's [`recv`](crate::Session::recv) returns `None`, and
    /// its [`finish`](crate::Session::finish) does the closing handshake.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use chat_core::{CloseReason, DeliveryOutcome, Frames};
    /// use chat_transport::Session;
    ///
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// let outbox = session.outbox().clone();
    /// outbox.close(CloseReason::GoingAway);
    /// assert_eq!(outbox.send(&Frames::text("hi")), DeliveryOutcome::Closed);
    /// assert_eq!(session.recv().await, None);
    /// # }
    /// ```
    pub fn close(&self, reason: CloseReason) {
        self.request_close(LocalClose::Reason(reason));
    }

    /// [`close`](Self::close) with a code and a phrase of the application's own: what is queued is
    /// written, then the close frame. Codes from 4000 to 4999 are private to the application, and
    /// those of [`CloseReason`] have a meaning already; 3000 to 3999 are registered with IANA. The
    /// session ends with [`End::Custom`](crate::End::Custom).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use chat_transport::{End, InvalidClose, Session};
    /// use tokio::io::AsyncWriteExt;
    ///
    /// let (mut client, server) = tokio::io::duplex(1024);
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// assert_eq!(session.outbox().close_with(1005, ""), Err(InvalidClose::Code(1005)));
    /// session.outbox().close_with(4100, "room full")?;
    ///
    /// client.write_all(b"\x88\x80\0\0\0\0").await?; // the close frame of the client
    /// assert!(matches!(session.finish().await, End::Custom { code: 4100, .. }));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidClose`] if the code is none of 1000 to 1003, 1007 to 1014 and 3000 to 4999, or the
    /// phrase has more than 123 bytes. Then the outbox stays open.
    pub fn close_with(&self, code: u16, phrase: &str) -> Result<(), InvalidClose> {
        LocalClose::custom(code, phrase).map(|close| self.request_close(close))
    }

    fn request_close(&self, close: LocalClose) {
        let mut state = self.lock();
        state.queue.request_close(close);
        wake(state);
    }

    /// Makes the session's [`recv`](crate::Session::recv) return
    /// [`Incoming::Notified`](crate::Incoming::Notified), once for all calls before it: a holder of
    /// the outbox asks the owner of the session to look at state that they share.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use chat_transport::{Incoming, Session};
    ///
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// session.outbox().notify();
    /// session.outbox().notify();
    /// assert_eq!(session.recv().await, Some(Incoming::Notified));
    /// assert!(!session.outbox().is_notified());
    /// # }
    /// ```
    pub fn notify(&self) {
        let mut state = self.lock();
        state.notified = true;
        wake(state);
    }

    /// Whether the session's owner was [notified](Self::notify), and has not seen it yet.
    #[must_use]
    pub fn is_notified(&self) -> bool {
        self.lock().notified
    }

    /// Whether nothing can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().queue.is_closed()
    }

    /// What waits to be written.
    #[must_use]
    pub fn usage(&self) -> OutboxUsage {
        self.lock().queue.usage()
    }

    /// Frames that were accepted since the beginning. Pings, pongs and close frames do not count.
    ///
    /// ```
    /// use chat_core::Frames;
    /// use chat_transport::Session;
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # let _guard = runtime.enter();
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let session = Session::new(server, Default::default(), Default::default());
    /// let outbox = session.outbox();
    /// let _ = outbox.send(&Frames::text("hi"));
    /// assert_eq!((outbox.accepted_frames(), outbox.accepted_bytes()), (1, 4));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn accepted_frames(&self) -> u64 {
        self.lock().queue.accepted_frames()
    }

    /// The bytes of the [accepted frames](Self::accepted_frames), headers included.
    #[must_use]
    pub fn accepted_bytes(&self) -> u64 {
        self.lock().queue.accepted_bytes()
    }

    /// How many times [`send`](Self::send) found no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// Waits until the session is closed (`false`) or its owner is [notified](Self::notify)
    /// (`true`), which counts as seen: for an owner that waits for something other than the
    /// peer's messages. One task may wait at a time, here or in [`drained_to`](Self::drained_to).
    ///
    /// # Cancel safety
    /// Safe: a notification that was not returned stays.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use chat_core::CloseReason;
    /// use chat_transport::Session;
    ///
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let session = Session::new(server, Default::default(), Default::default());
    /// let outbox = session.outbox();
    /// outbox.notify();
    /// assert!(outbox.interrupted().await);
    /// outbox.close(CloseReason::Kicked);
    /// assert!(!outbox.interrupted().await);
    /// # }
    /// ```
    pub async fn interrupted(&self) -> bool {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.queue.is_closed() {
                return Poll::Ready(false);
            }
            if std::mem::take(&mut state.notified) {
                return Poll::Ready(true);
            }
            state.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits until at most `bytes` wait to be written, or the session is closed, or its owner is
    /// [notified](Self::notify): for a sender with more frames than fit. One task may wait at a
    /// time.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use chat_core::Frames;
    /// use chat_transport::Session;
    ///
    /// let (_client, server) = tokio::io::duplex(1024);
    /// let mut session = Session::new(server, Default::default(), Default::default());
    /// let outbox = session.outbox().clone();
    /// let _ = outbox.send(&Frames::text("hi"));
    /// // The session writes while its task waits.
    /// session.drive(outbox.drained_to(0)).await;
    /// assert_eq!(outbox.usage().bytes, 0);
    /// # }
    /// ```
    pub async fn drained_to(&self, bytes: usize) {
        poll_fn(|cx| {
            let mut state = self.lock();
            let is_drained = state.queue.usage().bytes <= bytes;
            if is_drained || state.queue.is_closed() || state.notified {
                return Poll::Ready(());
            }
            state.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// For the session.
impl Outbox {
    /// What the clones of an outbox share, in bytes.
    #[cfg(test)]
    pub(crate) const SHARED_BYTES: usize = size_of::<Shared>();

    /// An outbox that writes to `tcp` directly where it can.
    pub(crate) fn new(config: &TransportConfig, tcp: Option<SharedTcp>) -> Self {
        let max = OutboxUsage { frames: config.outbox_frames, bytes: config.outbox_bytes };
        let queue = Queue::new(tcp);
        let state = State { queue, notified: false, refused: 0, waker: None, waiter: None };
        Self(Arc::new(Shared { state: Mutex::new(state), max }))
    }

    /// Adds what is accepted from now on to `stripe`.
    pub(crate) fn count_in(&self, stripe: Arc<Stripe>) {
        self.lock().queue.count_in(stripe);
    }

    /// Accepts `bytes`, which hold `frames` whole frames, unless there is no room.
    pub(crate) fn offer(&self, bytes: &Bytes, frames: usize) -> DeliveryOutcome {
        self.offer_within(&self.0.max, bytes, frames)
    }

    /// Accepts them unless more than `max` would wait then.
    #[inline]
    fn offer_within(&self, max: &OutboxUsage, bytes: &Bytes, frames: usize) -> DeliveryOutcome {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            return offer_behind(state, bytes, frames, max);
        }
        match state.queue.offer(bytes, frames) {
            Offered::Written => {}
            Offered::Waiting => wake(state),
            Offered::Closed => return DeliveryOutcome::Closed,
        }
        DeliveryOutcome::Queued
    }

    fn count_refused(&self, outcome: DeliveryOutcome) -> DeliveryOutcome {
        if outcome == DeliveryOutcome::Full {
            self.lock().refused += 1;
        }
        outcome
    }

    pub(crate) fn ping(&self) {
        self.lock().queue.ping();
    }

    pub(crate) fn pong(&self, payload: Bytes) {
        self.lock().queue.pong(payload);
    }

    /// Closes with the answer to the peer's close frame.
    pub(crate) fn close_by_peer(&self, close_frame: Bytes) {
        self.lock().queue.close_by_peer(close_frame);
    }

    /// Drops everything: the connection was lost.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.waker = None;
        state.queue.abandon();
        wake_waiter(state);
    }

    /// [`abandon`](Self::abandon), and drops the handle on the socket, which is reset unless it is
    /// closed.
    pub(crate) fn release(&self) {
        self.lock().queue.release_socket();
        self.abandon();
    }

    /// The state. A notification is returned once.
    pub(crate) fn take_state(&self) -> OutboxState {
        let mut state = self.lock();
        if state.queue.is_closed() {
            OutboxState::Closed
        } else if std::mem::take(&mut state.notified) {
            OutboxState::Notified
        } else {
            OutboxState::Open { written: state.queue.written_bytes() }
        }
    }

    /// How this side closed the outbox, if it did.
    pub(crate) fn closed_with(&self) -> Option<LocalClose> {
        self.lock().queue.closed_with()
    }

    /// What to write next; `scratch` takes what is copied together. The task of `waker` is woken
    /// when a send finds the queue empty, and when the outbox is closed.
    pub(crate) fn next(&self, waker: &Waker, scratch: &mut [u8]) -> Next {
        let mut state = self.lock();
        // Before the queue is read, under the same lock: a frame that is sent right afterwards
        // wakes the task.
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        state.queue.next(scratch)
    }

    /// The first `count` bytes are written.
    pub(crate) fn written(&self, count: usize) {
        let mut state = self.lock();
        state.queue.advance(count);
        wake_waiter(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

/// Not inlined: most sends find nothing that waits.
#[inline(never)]
fn offer_behind(
    state: MutexGuard<'_, State>,
    bytes: &Bytes,
    frames: usize,
    max: &OutboxUsage,
) -> DeliveryOutcome {
    change(state, |queue| queue.offer_behind(bytes, frames, max))
}

/// Changes a queue, and wakes the session's task if it has something to write only since, or the
/// task that waits for the queue to drain.
fn change<T>(mut state: MutexGuard<'_, State>, change: impl FnOnce(&mut Queue) -> T) -> T {
    let (had_work, waited) = (state.queue.has_work(), state.queue.usage().bytes);
    let changed = change(&mut state.queue);
    // The session's task waits for the socket, and not to be woken, while it has something to write.
    if !had_work && state.queue.has_work() {
        wake(state);
    } else if state.queue.usage().bytes < waited {
        wake_waiter(state);
    }
    changed
}

/// Wakes the session's task and the waiter, without the lock: a waker may run code that takes it.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    wake_waiter(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Wakes the task that waits for the outbox to drain, without the lock.
fn wake_waiter(mut state: MutexGuard<'_, State>) {
    let waiter = state.waiter.take();
    drop(state);
    if let Some(waiter) = waiter {
        waiter.wake();
    }
}
