//! Options of a publication, and the backend's answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chat_core::{Position, Retention};
use tokio::sync::oneshot;

use crate::error::BrokerError;

/// Options of a publication. The default is ephemeral: without a position, and not stored. That is
/// cheaper, and right for typing indicators, direct messages and topics without history.
///
/// ```
/// use chat_broker::{HistoryRules, PublishOptions};
/// use chat_core::RoomId;
///
/// let rules = HistoryRules::default().class("game-*", None);
/// let to = |room: &str| RoomId::new(room).map(|room| rules.of(&room));
/// let said = PublishOptions::default().retention(to("lobby")?).key("ann 1");
/// assert!(said.is_persistent());
/// let moved = PublishOptions::default().retention(to("game-7")?);
/// assert!(!moved.is_persistent());
/// # Ok::<(), chat_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PublishOptions {
    /// How much of the topic's history is kept, this message included: the publication is
    /// persistent and has a position. It applies to the whole history from here on, so all
    /// publishers of a topic should use the same. `None`, the default, is ephemeral.
    ///
    /// For rooms: the hub and its [`follow`](crate::Hub::follow) read no history of a
    /// [`Topic::User`](chat_core::Topic::User). What must reach one user after an outage is published
    /// to a room of that user.
    pub retention: Option<Retention>,
    /// The idempotency key of a persistent publication, within its topic; see
    /// [`Broker`](crate::Broker). It should contain the publisher's name. Ignored for an ephemeral
    /// publication. Default `None`.
    pub key: Option<Arc<str>>,
}

impl PublishOptions {
    /// Sets [`retention`](Self::retention).
    #[must_use]
    pub fn retention(mut self, retention: impl Into<Option<Retention>>) -> Self {
        self.retention = retention.into();
        self
    }

    /// Sets [`key`](Self::key).
    #[must_use]
    pub fn key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Whether the message has a position in its topic's sequence, and is stored in its history.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.retention.is_some()
    }
}

/// The backend's answer to a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The position in the topic's sequence; `None` for an ephemeral publication. That of a user's
    /// topic is one for [`Broker::history`](crate::Broker::history) alone: a
    /// [`Follow`](crate::Follow) of such a topic has no positions.
    pub position: Option<Position>,
    /// The number of nodes that received the publication; 0 if it is repeated.
    pub nodes: u32,
    /// The message was published before under the same key; the position is that of the first time.
    pub repeated: bool,
}

impl Published {
    /// A publication that `nodes` nodes received, with its position if it is persistent.
    #[must_use]
    pub fn new(position: Option<Position>, nodes: u32) -> Self {
        Self { position, nodes, repeated: false }
    }

    /// A publication whose key was used before, at `position`.
    #[must_use]
    pub fn repeated(position: Position) -> Self {
        Self { position: Some(position), nodes: 0, repeated: true }
    }
}

/// The pending answer to a publication.
///
/// After an error the outcome is unknown: the message may have been delivered.
///
/// ```
/// use chat_broker::{BrokerError, Published, Receipt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BrokerError> {
/// let (sender, receipt) = Receipt::pending();
/// sender.resolve(Ok(Published::new(None, 2)));
/// assert_eq!(receipt.await?.nodes, 2);
///
/// let refused = Receipt::ready(Err(BrokerError::refused("read-only")));
/// assert!(refused.await.is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Dropping it does not cancel the publication.
#[derive(Debug)]
#[must_use = "whether the backend took the message is known only from the receipt"]
pub struct Receipt(ReceiptState);

#[derive(Debug)]
enum ReceiptState {
    Ready(Option<Result<Published, BrokerError>>),
    Pending(oneshot::Receiver<Result<Published, BrokerError>>),
}

/// Resolves a [`Receipt`]; if it is dropped, with [`BrokerError::Closed`].
#[derive(Debug)]
pub struct ReceiptSender(oneshot::Sender<Result<Published, BrokerError>>);

impl Receipt {
    /// A receipt that is resolved already.
    pub fn ready(outcome: Result<Published, BrokerError>) -> Self {
        Self(ReceiptState::Ready(Some(outcome)))
    }

    /// A receipt, and the sender that resolves it.
    pub fn pending() -> (ReceiptSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (ReceiptSender(sender), Self(ReceiptState::Pending(receiver)))
    }
}

impl ReceiptSender {
    /// Resolves the receipt, if it was not dropped.
    pub fn resolve(self, outcome: Result<Published, BrokerError>) {
        let _ = self.0.send(outcome);
    }
}

impl Future for Receipt {
    type Output = Result<Published, BrokerError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            ReceiptState::Ready(outcome) => {
                Poll::Ready(outcome.take().unwrap_or(Err(BrokerError::Closed)))
            }
            ReceiptState::Pending(receiver) => {
                Pin::new(receiver).poll(cx).map(|sent| sent.unwrap_or(Err(BrokerError::Closed)))
            }
        }
    }
}
