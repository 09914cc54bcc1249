//! The events of a client, as a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use chat_core::client::{Event, Message};
use futures_util::Stream;
use tokio::sync::mpsc;

/// The events of a client, in order.
///
/// The queue is bounded ([`event_queue`](super::ClientConfig::event_queue)), and nothing is
/// dropped: when it is full, the client does not read from the server until there is room again. A
/// server closes the connection of a client that does not read for long; the client then connects
/// again, and fetches the missed messages.
///
/// The task that reads the events may make calls: while a call waits for its answer, up to 1,024
/// more events are kept. Beyond that the answer is not read either, and the call times out: an
/// application that receives more events during a call reads them in a task of their own.
///
/// An application that does not need events may drop this: the client then discards them.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), chat_transport::client::ClientError> {
/// use chat_transport::client::{Client, Event};
///
/// let (client, mut events) = Client::connect(["ws://chat.example/ws"], Default::default())?;
/// client.join("general", 0).await?;
/// while let Some(event) = events.recv().await {
///     if let Event::Message(message) = event {
///         println!("{}", message.text);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Events(pub(super) mpsc::Receiver<Event>);

impl Events {
    /// The next event; `None` when the client is closed and all events were read. The last one is
    /// [`State::Closed`](super::State::Closed).
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn recv(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    /// The next message, for an application that needs no other events: those before it are
    /// discarded, [`Event::Gap`] among them. `None` as of [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// Other events may be discarded when it is dropped, and no message is.
    ///
    /// ```no_run
    /// # async fn example(mut events: chat_transport::client::Events) {
    /// while let Some(message) = events.message().await {
    ///     println!("{}: {}", message.user.name, message.text);
    /// }
    /// # }
    /// ```
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            if let Event::Message(message) = self.recv().await? {
                return Some(message);
            }
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(cx)
    }
}
