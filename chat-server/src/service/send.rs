//! Messages to rooms and users.

use std::time::Instant;

use bytes::Bytes;
use chat_broker::{BrokerError, PublishOptions, Published, Receipt, unix_millis};
use chat_core::{
    Content, Direct, ErrorCode, Event, Rejection, RequestRef, RoomId, Sender, Topic, UserId,
    envelope,
};
use serde::Serialize;

use crate::state::State;

/// A message, ready to be published.
pub(crate) struct Outgoing {
    topic: Topic,
    payload: Bytes,
    options: PublishOptions,
}

impl Outgoing {
    /// A message to a room, with the current time, which is stored by the room's history rule.
    pub(crate) fn to_room(
        state: &State,
        room: RoomId,
        user: Sender<'_>,
        content: &Content<'_>,
    ) -> Result<Self, Rejection> {
        check_size(state, content)?;
        let (payload, options) = state.config.hub.history.prepare(&room, user, content);
        Ok(Self { topic: Topic::Room(room), payload, options })
    }

    /// A message to a user, with the current time: `frame`, which has `content`. A connection of the
    /// recipient that drops it reports that to the sender of `request`.
    pub(crate) fn to_user(
        state: &State,
        to: UserId,
        user: Sender<'_>,
        content: &Content<'_>,
        frame: &str,
        request: Option<RequestRef<'_>>,
    ) -> Result<Self, Rejection> {
        check_size(state, content)?;
        let direct = Direct::new(user, frame, unix_millis()).request(request);
        let payload = envelope::encode(&Event::Direct(direct));
        Ok(Self { topic: Topic::User(to), payload, options: PublishOptions::default() })
    }

    /// The same message, whose idempotency key counts as one of `publisher`, not of its sender: a
    /// backend sends as many users.
    pub(crate) fn keyed_by(mut self, publisher: &UserId, key: &str) -> Self {
        if self.options.is_persistent() {
            self.options = self.options.key(format!("{publisher}\n{key}"));
        }
        self
    }

    pub(crate) fn topic(&self) -> &Topic {
        &self.topic
    }
}

/// Whether the sizes of a message are within the limits.
pub(crate) fn check_size(state: &State, content: &Content<'_>) -> Result<(), Rejection> {
    let limit = state.config.max_message_bytes;
    let data = content.data.map_or(0, |data| data.get().len());
    if content.message.len() > limit || data > limit {
        let message =
            format!("A message has at most {limit} bytes of text and {limit} bytes of data.");
        return Err(Rejection::new(ErrorCode::MessageTooLong, message));
    }
    Ok(())
}

/// The frame of a direct message, as a client of the `direct` dialect sends and receives it.
pub(crate) fn direct_frame(to: &UserId, content: &Content<'_>) -> String {
    #[derive(Serialize)]
    struct DirectFrame<'a> {
        to: &'a UserId,
        #[serde(flatten)]
        content: &'a Content<'a>,
    }
    // Cannot fail: there is no map, and `data` is JSON.
    serde_json::to_string(&DirectFrame { to, content }).unwrap_or_default()
}

/// Hands a message to the broker. The receipt has the outcome. No client is a user whose id is a
/// backend's, and servers exchange requests under such an id: a message to it is not published.
pub(crate) async fn publish(state: &State, message: Outgoing) -> Result<Receipt, BrokerError> {
    let Outgoing { topic, payload, options } = message;
    if matches!(&topic, Topic::User(user) if user.is_backend()) {
        return Ok(Receipt::ready(Ok(Published::new(None, 0))));
    }
    state.metrics.published();
    state.hub.broker().publish(&topic, payload, options).await
}

/// Publishes a message, and waits for the outcome.
pub(crate) async fn publish_and_wait(
    state: &State,
    message: Outgoing,
) -> Result<Published, BrokerError> {
    let started = Instant::now();
    let outcome = match publish(state, message).await {
        Ok(receipt) => {
            let outcome = receipt.await;
            state.metrics.answered(started.elapsed());
            outcome
        }
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        state.metrics.not_published();
    }
    outcome
}
