//! The schemas of frames, for the OpenAPI document.

use serde_json::Value;
use utoipa::ToSchema;

/// A message in a room, as members receive it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of `chat_core::wire::Message`")]
pub(super) struct Message {
    /// `message`.
    #[schema(rename = "type")]
    r#type: String,
    room: String,
    /// The place in the room's sequence.
    #[schema(nullable = false)]
    offset: Option<u64>,
    /// The epoch of the sequence, in its first message.
    #[schema(nullable = false)]
    epoch: Option<String>,
    user: User,
    message: String,
    data: Option<Value>,
    #[schema(nullable = false)]
    key: Option<String>,
    /// When the server took it, in milliseconds since 1970.
    at: u64,
}

/// A user.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of `chat_core::wire::User`")]
pub(super) struct User {
    id: String,
    name: String,
    /// The colour of the name, `#RRGGBB`.
    color: String,
}
