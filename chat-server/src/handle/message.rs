//! A message of the application.

use chat_core::{Content, ErrorCode, Rejection, User, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::service::rules::check_content;

/// A message of the application to a room or a user. A text is one, too.
///
/// The server sets the time of a message, and stores a message to a room by the room's
/// [history rule](chat_broker::HubConfig::history).
///
/// ```
/// use chat_server::OutgoingMessage;
/// use serde_json::json;
///
/// let paid = OutgoingMessage::new("Your order is paid.")
///     .data(json!({"order": 42, "state": "paid"}))
///     .key("paid-42");
/// # let _: OutgoingMessage = "hello".into();
/// # drop(paid);
/// ```
#[derive(Debug, Clone)]
#[must_use = "a message is sent by RoomHandle::send or UserHandle::send"]
pub struct OutgoingMessage {
    text: String,
    user: Option<User>,
    /// An error if the value has no JSON.
    data: Option<Result<Box<RawValue>, Rejection>>,
    key: Option<String>,
    /// Whose key it is; `None`: the sender's.
    publisher: Option<UserId>,
}

impl OutgoingMessage {
    /// A message of the server itself, which clients see as the user `@server` with the name "Server".
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), user: None, data: None, key: None, publisher: None }
    }

    /// Sets the user that clients see as the sender. No token and no query can name a user whose id
    /// begins with `@`: such an id marks a message that is not of a client.
    ///
    /// ```
    /// use chat_core::{User, UserId, UserName};
    /// use chat_server::OutgoingMessage;
    ///
    /// let shop = User::new(UserId::new("@shop")?, Some(UserName::new("The shop")?));
    /// let message = OutgoingMessage::new("We open at nine.").user(shop);
    /// # drop(message);
    /// # Ok::<(), chat_core::InvalidName>(())
    /// ```
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Attaches any value as JSON. If it has no JSON, such as a map whose keys are no texts, the
    /// message is not sent, with [`ErrorCode::BadField`].
    pub fn data(mut self, data: impl Serialize) -> Self {
        self.data = Some(to_raw_value(&data).map_err(|error| {
            let message = format!("The data of the message cannot be written as JSON: {error}.");
            Rejection::new(ErrorCode::BadField, message)
        }));
        self
    }

    /// Sets the idempotency key, of at most 128 bytes. A message to a room with the key of an earlier
    /// one of the same user in the last five minutes is published once: sending it again after an
    /// error does no harm. In a room without history, and in a message to a user, it has no effect.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets whose the idempotency key is, if not the sender's.
    pub(crate) fn publisher(mut self, publisher: UserId) -> Self {
        self.publisher = Some(publisher);
        self
    }

    /// The publisher, and its key.
    pub(super) fn publisher_and_key(&self) -> Option<(&UserId, &str)> {
        Some((self.publisher.as_ref()?, self.key.as_deref()?))
    }

    /// The sender, if it is not the server itself.
    pub(super) fn sender(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// The content, by the rules for frames of clients.
    pub(super) fn content(&self, max_nesting: usize) -> Result<Content<'_>, Rejection> {
        let mut content = Content::from(&*self.text);
        if let Some(data) = &self.data {
            content = content.data(data.as_ref().map_err(Rejection::clone)?);
        }
        if let Some(key) = &self.key {
            content = content.key(&**key);
        }
        check_content(&content, max_nesting)?;
        Ok(content)
    }
}

impl From<&str> for OutgoingMessage {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for OutgoingMessage {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}
