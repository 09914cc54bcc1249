//! Errors of requests, with stable codes.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::json;

/// The stable name of an error. Programs act on it; the sentence beside it is for people.
///
/// ```
/// use chat_core::ErrorCode;
///
/// assert_eq!("rate_limited".parse(), Ok(ErrorCode::RateLimited));
/// assert_eq!(ErrorCode::RateLimited.as_str(), "rate_limited");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The frame is not one JSON object.
    BadJson,
    /// The frame's `type` is not one that the connection's dialect has.
    UnknownType,
    /// A field that the type needs is not there.
    MissingField,
    /// A field is not of its type, or out of its range.
    BadField,
    /// The name of a room is invalid; see [`InvalidName`](crate::InvalidName).
    RoomNameInvalid,
    /// The client is not in the room.
    NotInRoom,
    /// The connection is in as many rooms as are allowed.
    TooManyRooms,
    /// There are as many bans as are allowed.
    TooManyBans,
    /// The text is longer than allowed.
    MessageTooLong,
    /// The client exceeded a rate limit.
    RateLimited,
    /// The client could not be authenticated.
    Unauthorized,
    /// The client may not do that.
    Forbidden,
    /// The user is banned from the room.
    Banned,
    /// The broker did not answer: the outcome is unknown.
    BrokerUnavailable,
    /// A hook of the application rejected the request; the sentence is the application's.
    Rejected,
    /// A hook of the application did not decide: the request was not carried out.
    HookUnavailable,
    /// The room keeps no history.
    HistoryDisabled,
    /// The server's broker lacks what the request needs: there are no kicks and bans without a table
    /// that all servers share.
    Unsupported,
    /// Something failed on the server.
    Internal,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: &'static [Self] = &[
        Self::BadJson,
        Self::UnknownType,
        Self::MissingField,
        Self::BadField,
        Self::RoomNameInvalid,
        Self::NotInRoom,
        Self::TooManyRooms,
        Self::TooManyBans,
        Self::MessageTooLong,
        Self::RateLimited,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Banned,
        Self::BrokerUnavailable,
        Self::Rejected,
        Self::HookUnavailable,
        Self::HistoryDisabled,
        Self::Unsupported,
        Self::Internal,
    ];

    /// The code as it is written in frames.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::UnknownType => "unknown_type",
            Self::MissingField => "missing_field",
            Self::BadField => "bad_field",
            Self::RoomNameInvalid => "room_name_invalid",
            Self::NotInRoom => "not_in_room",
            Self::TooManyRooms => "too_many_rooms",
            Self::TooManyBans => "too_many_bans",
            Self::MessageTooLong => "message_too_long",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Banned => "banned",
            Self::BrokerUnavailable => "broker_unavailable",
            Self::Rejected => "rejected",
            Self::HookUnavailable => "hook_unavailable",
            Self::HistoryDisabled => "history_disabled",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }
}

/// A text that is no code of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an error code of this version")]
pub struct UnknownCode;

impl FromStr for ErrorCode {
    type Err = UnknownCode;

    fn from_str(code: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|known| known.as_str() == code).ok_or(UnknownCode)
    }
}

/// A code of a later version is an error: [`wire::Rejected`](crate::wire::Rejected) keeps it as a
/// text.
impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::from_text(deserializer)
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Why a request was not carried out: the contents of the `error` frame.
///
/// ```
/// use chat_core::{ErrorCode, Rejection};
///
/// let slow_down = Rejection::new(ErrorCode::RateLimited, "Too many joins.").retry_after_ms(500);
/// assert_eq!(slow_down.to_string(), "rate_limited: Too many joins.");
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
#[non_exhaustive]
pub struct Rejection {
    /// For programs.
    pub code: ErrorCode,
    /// For people: a sentence.
    pub message: Cow<'static, str>,
    /// The `id` of the refused frame, where it could be read.
    pub id: Option<Box<RawValue>>,
    /// When to try again, in milliseconds from now.
    pub retry_after_ms: Option<u64>,
    /// The end of the ban in milliseconds since 1970; `None` if it lasts until an unban.
    pub until: Option<u64>,
    /// The reason of a ban, in the words of the moderator.
    pub reason: Option<Arc<str>>,
}

impl Rejection {
    /// A rejection without an id.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self { code, message, id: None, retry_after_ms: None, until: None, reason: None }
    }

    pub(crate) fn unknown_type(kind: &str) -> Self {
        let shown: String = kind.chars().take(32).collect();
        Self::new(ErrorCode::UnknownType, format!("There is no frame of type {shown:?} here."))
    }

    /// Sets [`retry_after_ms`](Self::retry_after_ms).
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The same, as the answer to the request with this `id`.
    #[must_use]
    pub fn to_request(mut self, id: Option<&RawValue>) -> Self {
        self.id = id.map(ToOwned::to_owned);
        self
    }
}
