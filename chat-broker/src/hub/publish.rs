//! Publishes messages of the application, by the history rule of the room.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use chat_core::{Content, Event, Message, RoomId, Sender, Topic, envelope};

use super::{HistoryRules, Hub};
use crate::error::BrokerError;
use crate::publish::{PublishOptions, Receipt};

impl<M> Hub<M> {
    /// Publishes a message of `user` to `room`, with the current time, and stores it by the room's
    /// [history rule](crate::HubConfig::history). Returns once it is queued, as
    /// [`Broker::publish`](crate::Broker::publish) does. All members on all servers receive it.
    ///
    /// A [key](Content::key) makes it safe to publish a message again after an error: within five
    /// minutes, the same user's message with the same key in the same room is published once.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use chat_broker::{Hub, HubConfig, MemoryBroker};
    /// # use chat_core::{RoomId, User, UserId};
    /// # async fn say<M: chat_core::Deliver + Clone + 'static>(hub: Hub<M>)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let bot = User::new(UserId::new("build-bot")?, None);
    /// let room = RoomId::new("team")?;
    /// let receipt = hub.publish(&room, bot.as_sender(), "the build is broken").await?;
    /// println!("offset {:?}", receipt.await?.position.map(|position| position.offset));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What [`Broker::publish`](crate::Broker::publish) reports.
    ///
    /// # Cancel safety
    /// As for [`Broker::publish`](crate::Broker::publish).
    pub async fn publish<'a>(
        &self,
        room: &RoomId,
        user: Sender<'_>,
        content: impl Into<Content<'a>>,
    ) -> Result<Receipt, BrokerError> {
        let rules = &self.shared.config.history;
        let (payload, options) = rules.prepare(room, user, &content.into());
        self.broker().publish(&Topic::Room(room.clone()), payload, options).await
    }

    /// Publishes bytes of a protocol of your own to `room`, and stores them by the room's
    /// [history rule](crate::HubConfig::history). Returns once they are queued, as
    /// [`Broker::publish`](crate::Broker::publish) does. With a [key](PublishOptions::key), call that
    /// with [`Hub::retention`].
    ///
    /// ```
    /// # use chat_broker::{BrokerError, Hub};
    /// # use chat_core::RoomId;
    /// # async fn play<M: chat_core::Deliver + Clone + 'static>(hub: Hub<M>, table: RoomId)
    /// # -> Result<(), BrokerError> {
    /// let published = hub.publish_payload(&table, &b"e2e4"[..]).await?.await?;
    /// println!("servers with players of the table: {}", published.nodes);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What [`Broker::publish`](crate::Broker::publish) reports.
    ///
    /// # Cancel safety
    /// As for [`Broker::publish`](crate::Broker::publish).
    pub async fn publish_payload(
        &self,
        room: &RoomId,
        payload: impl Into<Bytes>,
    ) -> Result<Receipt, BrokerError> {
        let options = PublishOptions::default().retention(self.retention(room));
        self.broker().publish(&Topic::Room(room.clone()), payload.into(), options).await
    }
}

impl HistoryRules {
    /// The payload and options for [`Broker::publish`] of a message of `user` to `room` at the
    /// current time, for a publisher without a [`Hub`].
    ///
    /// ```
    /// # use chat_broker::{Broker, BrokerError, HistoryRules};
    /// # use chat_core::{Content, RoomId, Sender, Topic};
    /// # async fn example(broker: &dyn Broker, room: RoomId, bot: Sender<'_>) -> Result<(), BrokerError> {
    /// let (payload, options) = HistoryRules::default().prepare(&room, bot, &Content::from("hi"));
    /// broker.publish(&Topic::Room(room), payload, options).await?.await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Broker::publish`]: crate::Broker::publish
    #[must_use]
    pub fn prepare(
        &self,
        room: &RoomId,
        user: Sender<'_>,
        content: &Content<'_>,
    ) -> (Bytes, PublishOptions) {
        let key = content.key.as_deref();
        let mut options = PublishOptions::default().retention(self.of(room));
        if let Some(key) = key.filter(|_| options.is_persistent()) {
            // The user is part of the key, so users cannot use each other's keys. An id has no
            // control character, so no id and key equal another id and key.
            options = options.key(format!("{}\n{key}", user.id));
        }
        let (text, data) = (&*content.message, content.data);
        let message = Message::new(user, text, unix_millis()).data(data).key(key);
        (envelope::encode(&Event::Message(message)), options)
    }
}

/// The current time in milliseconds since 1970, as in [`Message::at`].
#[must_use]
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
