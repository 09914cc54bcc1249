//! The messages of a room as a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use chat_broker::{BrokerError, Follow, Followed};
use chat_core::{Event, Position, RoomId, envelope, wire};
use futures_util::stream::{Stream, StreamExt};

/// The messages of a room, from a position on: a [`Stream`] of [`RoomItem`], which ends when the
/// broker is closed. Made by [`RoomHandle::follow`](crate::RoomHandle::follow). Dropping it
/// unsubscribes, if nothing else on this server needs the room.
///
/// It is the [`Follow`] of the room's topic, whose promises hold: in a room with a history each
/// message arrives once and in order, or there is a [gap](RoomItem::Gap); while the broker is
/// unavailable the stream waits; and a slow consumer holds up nothing else. Typing events are left
/// out. [`Hub::follow`](chat_broker::Hub::follow) returns payloads as they were published, for a room
/// in which the application publishes some of its own.
///
/// ```
/// use chat_core::{Position, RoomId};
/// use chat_server::{RoomItem, Server};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder().start();
/// let orders = server.room(&RoomId::new("orders")?);
/// orders.send("Order 1 is paid.").await?;
///
/// let mut follow = orders.follow(Some(Position::default()));
/// let Some(RoomItem::Message { message, position, .. }) = follow.recv().await else { panic!() };
/// assert_eq!((&*message.text, message.offset), ("Order 1 is paid.", Some(1)));
/// assert_eq!(follow.position(), position);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RoomFollow {
    room: RoomId,
    follow: Follow,
}

/// An item of a [`RoomFollow`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RoomItem {
    /// A message, as clients receive it.
    #[non_exhaustive]
    Message {
        /// The message.
        message: wire::Message<'static>,
        /// The position of the message, which a consumer saves to continue after it; `None` in a room
        /// without history.
        position: Option<Position>,
    },
    /// Messages are missing: the history did not reach back to them, the backend lost its data, or a
    /// publication is no message that this version reads, for which clients receive a gap, too.
    #[non_exhaustive]
    Gap {
        /// The position up to which there was no hole; `None` in a room without history.
        from: Option<Position>,
        /// The position after which the stream continues, which a consumer saves. If it is of the
        /// same epoch as `from`, the difference of the offsets is the number of missing messages.
        /// `None` in a room without history.
        to: Option<Position>,
    },
}

impl RoomItem {
    /// The position to save: a [follow](crate::RoomHandle::follow) since it continues after this item.
    /// `None` in a room without history.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Message { position, .. } => *position,
            Self::Gap { to, .. } => *to,
        }
    }

    /// `None` for what is no part of the room's history, such as a typing event.
    fn new(room: &RoomId, followed: Followed) -> Option<Self> {
        match followed {
            Followed::Publication { payload, position, .. } => match envelope::decode(&payload) {
                Ok(Event::Message(message)) => {
                    let message = wire::Message::new(room, &message, position).into_owned();
                    Some(Self::Message { message, position })
                }
                _ => position.map(|to| {
                    let from = Position { offset: to.offset.saturating_sub(1), ..to };
                    Self::Gap { from: Some(from), to: Some(to) }
                }),
            },
            Followed::Gap { from, to, .. } => Some(Self::Gap { from, to }),
            _ => None,
        }
    }
}

impl RoomFollow {
    pub(super) fn new(room: RoomId, follow: Follow) -> Self {
        Self { room, follow }
    }

    /// Waits for the next item; `None` after the broker was closed.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped has taken no item.
    pub async fn recv(&mut self) -> Option<RoomItem> {
        self.next().await
    }

    /// Waits until the room is subscribed, however long the broker is unavailable: what is published
    /// from then on arrives. Returns the [position](Self::position).
    ///
    /// # Errors
    /// [`BrokerError::Closed`] if the broker was closed.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn subscribed(&self) -> Result<Option<Position>, BrokerError> {
        self.follow.subscribed().await
    }

    /// The position after the last item that [`recv`](Self::recv) returned, or at which the follow
    /// began. `None` in a room without history, and before the room is
    /// [subscribed](Self::subscribed) if no position was given.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.follow.position()
    }

    /// Why the latest call to the broker for this room failed, while it is retried each second; see
    /// [`Follow::error`].
    #[must_use]
    pub fn error(&self) -> Option<BrokerError> {
        self.follow.error()
    }
}

impl Stream for RoomFollow {
    type Item = RoomItem;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RoomItem>> {
        loop {
            let Some(followed) = ready!(self.follow.poll_next_unpin(cx)) else {
                return Poll::Ready(None);
            };
            if let Some(item) = RoomItem::new(&self.room, followed) {
                return Poll::Ready(Some(item));
            }
        }
    }
}
