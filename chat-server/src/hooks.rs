//! Hooks: the application decides on joins and messages of clients before they take effect.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use chat_broker::unix_millis;
use chat_core::{Content, RoomId, User, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::auth::Action;

/// Decides on joins and messages of clients before they take effect: allows them, changes messages, or
/// denies with a reason that the client receives (`rejected`). Set by
/// [`ServerBuilder::hooks`](crate::ServerBuilder::hooks).
///
/// Each method may be asynchronous, such as a call of a moderation service. The server asks about up to
/// [`max_in_flight`](crate::ServerConfig::max_in_flight) messages of a connection side by side, and publishes them in
/// the order in which the client sent them, over all rooms and direct messages: a slow decision delays
/// its sender alone. Before a join it reads no further frame of the client. A method must not block the
/// thread.
///
/// # What is not decided
/// After [`hook_timeout`](crate::ServerConfig::hook_timeout), and after [`HookError::Unavailable`], the
/// request is rejected with `hook_unavailable`, which clients send again; after a panic with
/// `internal`. The connection stays open.
///
/// # Which requests
/// Those of clients, after the checks of their permission, rates and sizes. A message of the application
/// ([`RoomHandle::send`](crate::RoomHandle::send)) is not asked about, and neither is a client that
/// joins a room again that it is in. Rates are charged for the message that the client sent, once; the
/// limits on sizes also apply to what a hook made of it.
///
/// # What happens in between
/// A message whose sender has left the room, or was banned from it, while it was asked about is
/// rejected (`not_in_room`, `forbidden`). When a connection ends, its questions are cancelled, and
/// their messages are not published.
///
/// # Repeated messages
/// A client that got no answer sends the message again with its key, and the server asks again. A
/// message that was published before is not published again, and the client receives the first answer,
/// also if the second decision is to deny: the server finds it among the latest 256 messages of the
/// room's history.
///
/// # Several hooks
/// A hook of several calls one after the other, with `?`.
///
/// ```
/// use async_trait::async_trait;
/// use chat_core::RoomId;
/// use chat_server::{Draft, HookError, Hooks, Server};
///
/// /// Denies a word, and masks another.
/// #[derive(Debug)]
/// struct Words;
///
/// #[async_trait]
/// impl Hooks for Words {
///     async fn before_send(&self, _room: &RoomId, draft: &mut Draft) -> Result<(), HookError> {
///         if draft.text().contains("casino") {
///             return Err(HookError::denied("No advertising here."));
///         }
///         if draft.text().contains("darn") {
///             draft.set_text(draft.text().replace("darn", "d***"));
///         }
///         Ok(())
///     }
/// }
///
/// let server = Server::builder().hooks(Words);
/// ```
#[async_trait]
pub trait Hooks: fmt::Debug + Send + Sync + 'static {
    /// Whether to ask about an action: a join or a send in a room
    /// ([`Action::InRoom`] with `Join` or `Send`), or [`Action::Direct`]. What it is false for costs
    /// next to nothing. Called for each join and message, also more than once, so it must be quick; a
    /// panic ends the connection. Default: true.
    fn applies_to(&self, action: Action<'_>) -> bool {
        let _ = action;
        true
    }

    /// Decides whether a client joins a room: by a frame, or by the room in its URL. Not asked if a
    /// backend makes the client join. Default: it does.
    ///
    /// # Errors
    /// [`HookError`] rejects the join.
    ///
    /// # Cancel safety
    /// The server drops the call after the timeout, and when the connection ends.
    async fn before_join(&self, join: &JoinAttempt<'_>) -> Result<(), HookError> {
        let _ = join;
        Ok(())
    }

    /// Decides on a message to a room, and may change it. Default: it is published as it is.
    ///
    /// # Errors
    /// [`HookError`] rejects the message.
    ///
    /// # Cancel safety
    /// As for [`before_join`](Self::before_join).
    async fn before_send(&self, room: &RoomId, draft: &mut Draft) -> Result<(), HookError> {
        let _ = (room, draft);
        Ok(())
    }

    /// Decides on a direct message to the user `to`, and may change it. Default: it is published as it
    /// is.
    ///
    /// # Errors
    /// [`HookError`] rejects the message.
    ///
    /// # Cancel safety
    /// As for [`before_join`](Self::before_join).
    async fn before_direct(&self, to: &UserId, draft: &mut Draft) -> Result<(), HookError> {
        let _ = (to, draft);
        Ok(())
    }
}

/// Why a hook rejects a join or a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// The application does not allow it. The client receives the text, with the code `rejected`, and
    /// does not send the message again.
    #[error("{0}")]
    Denied(String),
    /// The application cannot decide now. The client receives the code `hook_unavailable`, and sends
    /// the message again. The text is logged, once a minute at most.
    #[error("the hook cannot decide now: {0}")]
    Unavailable(String),
}

impl HookError {
    /// [`HookError::Denied`] with this text for the client.
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::Denied(reason.into())
    }

    /// [`HookError::Unavailable`] with this text for the log.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable(reason.into())
    }
}

/// A client that asks to join a room.
///
/// ```
/// use chat_core::{RoomId, User, UserId};
/// use chat_server::JoinAttempt;
///
/// let (room, ann) = (RoomId::new("lobby")?, User::new(UserId::new("ann")?, None));
/// assert_eq!(JoinAttempt::new(&room, &ann).address, None);
/// # Ok::<(), chat_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct JoinAttempt<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// The user of the client.
    pub user: &'a User,
    /// The IP address of the client; `None` where the listener does not provide it.
    pub address: Option<IpAddr>,
}

impl<'a> JoinAttempt<'a> {
    /// A join from an unknown address.
    #[must_use]
    pub fn new(room: &'a RoomId, user: &'a User) -> Self {
        Self { room, user, address: None }
    }
}

/// A message that a client has sent, before it is published. A hook may change its text and its data.
///
/// A test of a hook makes one:
///
/// ```
/// use chat_core::{User, UserId};
/// use chat_server::Draft;
///
/// let mut draft = Draft::new(User::new(UserId::new("ann")?, None), "hi");
/// draft.set_data([1, 2])?;
/// assert_eq!((draft.text(), draft.data().map(|data| data.get())), ("hi", Some("[1,2]")));
/// draft.remove_data();
/// assert!(draft.data().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Draft {
    user: Arc<User>,
    text: String,
    data: Option<Box<RawValue>>,
    key: Option<String>,
    received_at: u64,
    is_changed: bool,
}

impl Draft {
    /// A message without data and key, received now.
    #[must_use]
    pub fn new(user: User, text: impl Into<String>) -> Self {
        let content = Content::from(Cow::Owned(text.into()));
        Self::of(Arc::new(user), content)
    }

    pub(crate) fn of(user: Arc<User>, content: Content<'_>) -> Self {
        Self {
            user,
            text: content.message.into_owned(),
            data: content.data.map(ToOwned::to_owned),
            key: content.key.map(Into::into),
            received_at: unix_millis(),
            is_changed: false,
        }
    }

    /// The sender.
    #[must_use]
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The data, as JSON.
    #[must_use]
    pub fn data(&self) -> Option<&RawValue> {
        self.data.as_deref()
    }

    /// The idempotency key, which the client chose. A message that the client sends again has the key
    /// of the first time.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// When the server received the message, in milliseconds since 1970. Published messages have the
    /// time of their publication.
    #[must_use]
    pub fn received_at(&self) -> u64 {
        self.received_at
    }

    /// Replaces the text.
    pub fn set_text(&mut self, text: impl Into<String>) {
        self.text = text.into();
        self.is_changed = true;
    }

    /// Replaces the data by any value, as JSON.
    ///
    /// # Errors
    /// [`HookError::Unavailable`] if the value has no JSON, such as a map whose keys are no texts.
    pub fn set_data(&mut self, data: impl Serialize) -> Result<(), HookError> {
        let data = to_raw_value(&data).map_err(|error| {
            HookError::unavailable(format!("the data cannot be written as JSON: {error}"))
        })?;
        self.data = Some(data);
        self.is_changed = true;
        Ok(())
    }

    /// Removes the data.
    pub fn remove_data(&mut self) {
        self.is_changed |= self.data.take().is_some();
    }

    /// Whether a hook has changed it.
    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed
    }

    pub(crate) fn content(&self) -> Content<'_> {
        let mut content = Content::from(&*self.text);
        content.data = self.data.as_deref();
        content.key = self.key.as_deref().map(Into::into);
        content
    }
}
