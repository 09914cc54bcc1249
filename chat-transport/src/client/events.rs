//! The events of a client, as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use chat_core::client::Event;
use futures_util::Stream;
use tokio::sync::mpsc;

/// The events of a client, in order.
///
/// The queue is bounded ([`event_queue`](super::ClientConfig::event_queue)), and nothing is
/// dropped: when it is full, the client reads no further from the server until there is room
/// again. A server closes the connection of a client that does not read for long; the client then
/// connects again, and gets what it missed.
///
/// Calls may be made where events are read: while one waits for its answer, up to 1,024 more
/// events are kept. Beyond that the answer is not read, either, and the call waits for its
/// timeout: an application that gets more than that within the time of a call reads its events in
/// a task of their own.
///
/// An application that does not want events may drop this: they are then thrown away.
#[derive(Debug)]
pub struct Events(pub(super) mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` when the client is closed and all was read. The last one is
    /// [`State::Closed`](super::State::Closed).
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(cx)
    }
}
