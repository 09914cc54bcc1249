//! The close frame that this side sends.

use bytes::Bytes;
use chat_core::CloseReason;

use crate::codec;
use crate::error::End;

/// Longest phrase of a close frame, in bytes: the payload of a control frame, less the code (RFC 6455
/// section 5.5).
const MAX_PHRASE: usize = 123;

/// Why a code and a phrase are no close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidClose {
    /// RFC 6455 section 7.4 and IANA's registry do not let an endpoint send this code.
    #[error("close code {0} must not be sent: use 1000 to 1003, 1007 to 1014, or 3000 to 4999")]
    Code(u16),
    /// The phrase is too long; its length in bytes.
    #[error("a close phrase of {0} bytes is too long: the maximum is {MAX_PHRASE}")]
    Phrase(usize),
}

/// How this side closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LocalClose {
    Reason(CloseReason),
    /// Boxed: an outbox is part of each session, and most close by a reason.
    Custom(Box<CustomClose>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CustomClose {
    code: u16,
    phrase: Box<str>,
}

impl LocalClose {
    pub(crate) fn custom(code: u16, phrase: &str) -> Result<Self, InvalidClose> {
        if !codec::may_be_sent(code) {
            return Err(InvalidClose::Code(code));
        }
        if phrase.len() > MAX_PHRASE {
            return Err(InvalidClose::Phrase(phrase.len()));
        }
        Ok(Self::Custom(Box::new(CustomClose { code, phrase: phrase.into() })))
    }

    pub(crate) fn frame(&self) -> Bytes {
        match self {
            Self::Reason(reason) => codec::close(reason.code(), reason.as_str()),
            Self::Custom(close) => codec::close(close.code, &close.phrase),
        }
    }

    pub(crate) fn into_end(self) -> End {
        match self {
            Self::Reason(reason) => End::Local(reason),
            Self::Custom(close) => End::Custom { code: close.code, phrase: close.phrase },
        }
    }
}
