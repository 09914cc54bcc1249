//! Errors of the application's requests.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::wire::Rejected;
use crate::{CloseReason, ErrorCode};

/// Why a request failed.
///
/// For a message, every error except [`OutcomeUnknown`](Self::OutcomeUnknown) means that it was not
/// published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Not an address that the client can connect to.
    #[error("cannot connect to {url:?}: {problem}")]
    #[non_exhaustive]
    Url {
        /// The address.
        url: String,
        /// What is wrong with it, for people.
        problem: &'static str,
    },
    /// The list of addresses is empty.
    #[error("a client needs the address of at least one server")]
    NoUrl,
    /// A header that the handshake cannot have.
    #[error("the header {name:?} cannot be sent: {problem}")]
    #[non_exhaustive]
    Header {
        /// The name of the header.
        name: String,
        /// What is wrong with it, for people.
        problem: &'static str,
    },
    /// TLS cannot be used, for example because of the root certificates; the text says why.
    #[error("TLS cannot be used: {0}")]
    Tls(String),
    /// There is no connection at present.
    #[error("there is no connection")]
    Offline,
    /// The connection was lost before the answer arrived.
    #[error("the connection was lost before the answer")]
    Disconnected,
    /// The server did not answer in time, or a message had no connection for as long.
    #[error("no answer in time")]
    Timeout,
    /// The client is not in the room, or left it before the message was sent.
    #[error("not in the room")]
    NotInRoom,
    /// Too many messages wait to be sent, or too many requests wait for an answer.
    #[error("too many messages or requests are waiting")]
    QueueFull,
    /// Not the name of a room: that has 1 to 128 bytes of UTF-8, no control characters and no
    /// bidirectional controls, and something that can be seen.
    #[error(
        "the name of a room has 1 to 128 bytes, a visible character, and no control characters"
    )]
    RoomName,
    /// Not the id of a user, by the same rules.
    #[error("the id of a user has 1 to 128 bytes, a visible character, and no control characters")]
    UserId,
    /// Not the name of a user, by the same rules; bidirectional controls alone are removed.
    #[error(
        "the name of a user has 1 to 128 bytes, a visible character, and no control characters"
    )]
    UserName,
    /// The text of the message, or its `data`, is longer than the server allows
    /// ([`Limits::message_bytes`](crate::wire::Limits::message_bytes)).
    #[error("a message has at most {limit} bytes, and so has its data")]
    MessageTooLong {
        /// The longest text, and the longest `data`, in bytes.
        limit: usize,
    },
    /// The frame is larger than the server allows
    /// ([`Limits::frame_bytes`](crate::wire::Limits::frame_bytes)), or was the largest unanswered one
    /// when the server closed the connection with 1009.
    #[error("a frame of {bytes} bytes is larger than the server allows")]
    TooLarge {
        /// The size of the frame, in bytes.
        bytes: usize,
    },
    /// The server rejected the request.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The next token is of another user: the message was queued by the user of the earlier one, and
    /// was not sent.
    #[error("the message was queued by the user of an earlier token")]
    OtherUser,
    /// The message was sent to a server that did not confirm it in time. Sent again with
    /// the same key, within five minutes of the first attempt, it is not delivered twice.
    #[error("it is unknown whether the message was published")]
    OutcomeUnknown {
        /// The message's key.
        key: String,
    },
    /// The client is closed.
    #[error("the client is closed: {loss}")]
    Closed {
        /// Why, as in [`State::Closed`](super::State::Closed).
        loss: Disconnect,
    },
}

impl ClientError {
    /// [`Url`](Self::Url), for a transport that checks addresses.
    #[must_use]
    pub fn url(url: impl Into<String>, problem: &'static str) -> Self {
        Self::Url { url: url.into(), problem }
    }

    /// [`Header`](Self::Header), for a transport that checks headers.
    #[must_use]
    pub fn header(name: impl Into<String>, problem: &'static str) -> Self {
        Self::Header { name: name.into(), problem }
    }
}

/// The contents of the server's `error` frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct Rejection {
    /// For programs: one of [`ErrorCode`], or of a later server.
    pub code: String,
    /// For people: a sentence.
    pub message: String,
    /// How long to wait before trying again; `None`: the server does not say.
    pub retry_after: Option<Duration>,
    /// Of [`ErrorCode::Banned`]: the end of the ban in milliseconds since 1970; `None` if it lasts
    /// until an unban.
    pub until: Option<u64>,
    /// Of [`ErrorCode::Banned`]: the message of the moderator.
    pub reason: Option<String>,
}

impl From<Rejected<'_>> for Rejection {
    fn from(frame: Rejected<'_>) -> Self {
        Self {
            retry_after: frame.retry_after_ms.map(Duration::from_millis),
            until: frame.until,
            reason: frame.reason.map(Cow::into_owned),
            code: frame.code.into_owned(),
            message: frame.message.into_owned(),
        }
    }
}

/// The pause before something is tried again, if the server does not give one.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Rejection {
    pub(super) fn is(&self, code: ErrorCode) -> bool {
        self.code == code.as_str()
    }

    /// Whether it is certain that the request was not carried out, though it may be tried again.
    pub(super) fn is_certain(&self) -> bool {
        self.is(ErrorCode::RateLimited) || self.is(ErrorCode::HookUnavailable)
    }

    /// How long to wait before the same is tried again, if that may help: as a span that
    /// jitter is added to.
    pub(super) fn retry(&self) -> Option<Duration> {
        let passes = [
            ErrorCode::BrokerUnavailable,
            ErrorCode::RateLimited,
            ErrorCode::HookUnavailable,
            ErrorCode::Internal,
        ];
        let passes = passes.into_iter().any(|code| self.is(code));
        self.retry_after.or(passes.then_some(RETRY_AFTER))
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnect {
    /// The WebSocket close code, if there was one.
    pub code: Option<u16>,
    /// The reason, for people: that of the server's `goodbye`, if it was final.
    pub reason: String,
    /// The message of the moderator, or of the application that disconnected the user.
    pub message: Option<String>,
    /// The end of the ban in milliseconds since 1970; `None` if it lasts until an unban.
    pub until: Option<u64>,
}

impl Disconnect {
    /// The end of a connection without a close frame.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self::with_code(None, reason)
    }

    /// The end of a connection whose close frame had this code, if it had one.
    #[must_use]
    pub fn with_code(code: impl Into<Option<u16>>, reason: impl Into<String>) -> Self {
        Self { code: code.into(), reason: reason.into(), message: None, until: None }
    }

    pub(super) fn is(&self, reason: CloseReason) -> bool {
        self.code == Some(reason.code())
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} ({code})", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}
