//! Messages to rooms and users.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::HeaderMap;
use chat_broker::Published;
use chat_core::{Color, Epoch, RoomId, User, UserId, UserName};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Caller;
use super::audit::Subject;
use super::body::{Body, Object, bad_field, missing};
use super::keys::ActiveKey;
use super::names::{RoomPath, UserPath, room_id};
use crate::handle::{OutgoingMessage, RoomHandle, UserHandle};
use crate::refusal::{ErrorBody, Refusal};
use crate::state::State;

/// The most rooms of a broadcast.
const MAX_ROOMS: usize = 1000;

/// Messages of a broadcast that wait for the broker at a time.
const IN_FLIGHT: usize = 64;

/// A message.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct MessageRequest {
    /// The text. It may be empty if there is `data`.
    #[cfg_attr(test, schema(required, value_type = String, example = "Paid."))]
    message: Option<String>,
    /// Any JSON value, which clients receive as it is.
    #[cfg_attr(test, schema(value_type = Option<serde_json::Value>))]
    data: Option<Box<RawValue>>,
    /// The sender that clients see. Default: the key, as `{"id":"@shop","name":"shop"}`.
    #[cfg_attr(test, schema(value_type = Option<SenderRequest>))]
    user: Option<Object<SenderRequest>>,
    /// The idempotency key, of at most 128 bytes: a message that is sent again with it within five
    /// minutes is published once. The header `Idempotency-Key` is the same.
    #[cfg_attr(test, schema(example = "order-7-paid"))]
    key: Option<String>,
}

/// The sender of a message.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct SenderRequest {
    /// The id of the user. One that begins with `@` is a backend's: a key may only name its own.
    #[cfg_attr(test, schema(required, value_type = String, example = "42"))]
    id: Option<String>,
    /// The name of the user. Default: made from the id.
    name: Option<String>,
    /// The colour of the name, such as `#FF6B6B`. Default: made from the id.
    #[cfg_attr(test, schema(pattern = "^#[0-9A-Fa-f]{6}$"))]
    color: Option<String>,
}

/// A message to several rooms.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct BroadcastRequest {
    /// The rooms, at most 1,000.
    #[cfg_attr(test, schema(required, value_type = Vec<String>, max_items = 1000))]
    rooms: Option<Vec<String>>,
    /// As of a message to one room.
    #[cfg_attr(test, schema(required, value_type = String))]
    message: Option<String>,
    /// As of a message to one room.
    #[cfg_attr(test, schema(value_type = Option<serde_json::Value>))]
    data: Option<Box<RawValue>>,
    /// As of a message to one room.
    #[cfg_attr(test, schema(value_type = Option<SenderRequest>))]
    user: Option<Object<SenderRequest>>,
    /// As of a message to one room.
    key: Option<String>,
}

/// The position of a published message.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Sent {
    /// The epoch of the room's sequence; absent in a room without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(value_type = Option<String>, nullable = false))]
    epoch: Option<Epoch>,
    /// The place of the message in the room's sequence; absent in a room without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    offset: Option<u64>,
    /// Whether the message was published before under the same key: this is its place of then.
    repeated: bool,
}

/// What became of the message in each room, in the order of the request.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct BroadcastAnswer {
    results: Vec<BroadcastResult>,
}

/// What became of the message in one room.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct BroadcastResult {
    room: String,
    #[serde(flatten)]
    outcome: BroadcastOutcome,
    /// The seconds after which to send to this room again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    retry_after: Option<u64>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(untagged)]
enum BroadcastOutcome {
    Sent(Sent),
    Refused(ErrorBody),
}

/// The delivery of a direct message.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Delivered {
    /// The number of servers that delivered the message; 0: the user is not connected.
    delivered: u32,
}

/// Sends a message to a room.
///
/// All members on all servers receive it.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/rooms/{room}/messages", tag = "messages",
    params(("room" = String, Path, description = "The name of the room"), ("Idempotency-Key" = Option<String>, Header, description = "The same as `key`")),
    request_body = MessageRequest,
    responses((status = 200, description = "The message is published.", body = Sent)),
))]
pub(super) async fn send(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    RoomPath(room): RoomPath,
    headers: HeaderMap,
    Body(request): Body<MessageRequest>,
) -> Result<Json<Sent>, Refusal> {
    let (message, sender) = request.message(&caller.key, &headers)?;
    caller.audit.note(sender.as_subject());
    Ok(Json(RoomHandle::new(state, room).send(message).await?.into()))
}

/// Sends a direct message to a user.
///
/// All connections of the user receive it. It is not stored.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/users/{user}/messages", tag = "messages",
    params(("user" = String, Path, description = "The id of the user"), ("Idempotency-Key" = Option<String>, Header, description = "The same as `key`")),
    request_body = MessageRequest,
    responses((status = 200, description = "The message is handed on.", body = Delivered)),
))]
pub(super) async fn direct(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    UserPath(user): UserPath,
    headers: HeaderMap,
    Body(request): Body<MessageRequest>,
) -> Result<Json<Delivered>, Refusal> {
    let (message, sender) = request.message(&caller.key, &headers)?;
    caller.audit.note(sender.as_subject());
    let published = UserHandle::new(state, user).send(message).await?;
    Ok(Json(Delivered { delivered: published.nodes }))
}

/// Sends a message to several rooms.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/broadcast", tag = "messages",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same as `key`")),
    request_body = BroadcastRequest,
    responses((status = 200, description = "The outcome in each room.", body = BroadcastAnswer)),
))]
pub(super) async fn broadcast(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    headers: HeaderMap,
    Body(request): Body<BroadcastRequest>,
) -> Result<Json<BroadcastAnswer>, Refusal> {
    let BroadcastRequest { rooms, message, data, user, key: idempotency_key } = request;
    let rooms = rooms.ok_or_else(|| missing("rooms"))?;
    if rooms.len() > MAX_ROOMS {
        return Err(bad_field(format!("\"rooms\" has at most {MAX_ROOMS} entries.")));
    }
    let request = MessageRequest { message, data, user, key: idempotency_key };
    let key = &caller.key;
    let (message, sender) = request.message(key, &headers)?;
    caller.audit.note(Subject { rooms: Some(rooms.len()), ..sender.as_subject() });
    let sending = rooms.into_iter().map(|room| {
        let (state, message) = (Arc::clone(&state), message.clone());
        async move {
            let sent = async {
                let room = room_id(&room)?;
                key.check_room(&room)?;
                send_to(state, room, message).await
            };
            let sent = sent.await;
            let retry_after = sent.as_ref().err().and_then(Refusal::retry_after_seconds);
            let outcome = match sent {
                Ok(sent) => BroadcastOutcome::Sent(sent),
                Err(refusal) => BroadcastOutcome::Refused(refusal.into_body()),
            };
            BroadcastResult { room, outcome, retry_after }
        }
    });
    let results = stream::iter(sending).buffered(IN_FLIGHT).collect().await;
    Ok(Json(BroadcastAnswer { results }))
}

/// Who sends a message.
enum Sender {
    Key,
    /// Another than the key, which has named it.
    User(UserId),
}

impl Sender {
    fn as_subject(&self) -> Subject {
        let as_user = match self {
            Self::Key => None,
            Self::User(user) => Some(user.clone()),
        };
        Subject { is_own_message: as_user.is_none(), as_user, ..Subject::default() }
    }
}

async fn send_to(
    state: Arc<State>,
    room: RoomId,
    message: OutgoingMessage,
) -> Result<Sent, Refusal> {
    Ok(RoomHandle::new(state, room).send(message).await?.into())
}

impl MessageRequest {
    fn message(
        self,
        by: &ActiveKey,
        headers: &HeaderMap,
    ) -> Result<(OutgoingMessage, Sender), Refusal> {
        let text = self.message.ok_or_else(|| missing("message"))?;
        let user = match self.user {
            Some(Object(user)) => user.user(by)?,
            None => by.sender().clone(),
        };
        let is_own = user.id == by.sender().id;
        let sender = if is_own { Sender::Key } else { Sender::User(user.id.clone()) };
        let mut message = OutgoingMessage::new(text).user(user);
        if let Some(data) = self.data {
            message = message.data(data);
        }
        if let Some(key) = idempotency_key(self.key, headers)? {
            // By the API key and not by the sender: a message of one key must not count as repeated because of
            // another key's.
            message = message.key(key).publisher(by.sender().id.clone());
        }
        Ok((message, sender))
    }
}

/// The idempotency key of the body, or that of the header.
fn idempotency_key(
    of_body: Option<String>,
    headers: &HeaderMap,
) -> Result<Option<String>, Refusal> {
    let Some(of_header) = headers.get("idempotency-key") else { return Ok(of_body) };
    let of_header = std::str::from_utf8(of_header.as_bytes())
        .map_err(|_| bad_field("The header Idempotency-Key is not UTF-8."))?;
    if of_body.as_ref().is_some_and(|key| key != of_header) {
        return Err(bad_field("\"key\" and the header Idempotency-Key differ. Send one of them."));
    }
    Ok(Some(of_header.to_owned()))
}

impl SenderRequest {
    fn user(self, by: &ActiveKey) -> Result<User, Refusal> {
        let id = self.id.ok_or_else(|| missing("user.id"))?;
        let id = UserId::new(id).map_err(|why| Refusal::name("user.id", why))?;
        let own = &by.sender().id;
        if id.as_str().starts_with('@') && id != *own {
            let message =
                format!("A user id that begins with @ is a backend's: this key's is {own}.");
            return Err(bad_field(message));
        }
        let name = self.name.map(UserName::new).transpose();
        let name = name.map_err(|why| Refusal::name("user.name", why))?;
        let mut user = User::new(id, name);
        if let Some(color) = self.color {
            let color = color.parse::<Color>();
            user.color = color.map_err(|why| bad_field(format!("\"user.color\" {why}.")))?;
        }
        Ok(user)
    }
}

impl From<Published> for Sent {
    fn from(published: Published) -> Self {
        let position = published.position;
        Self {
            epoch: position.map(|position| position.epoch),
            offset: position.map(|position| position.offset),
            repeated: published.repeated,
        }
    }
}
