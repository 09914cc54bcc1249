//! Why a request to the server was not carried out.

use chat_broker::BrokerError;
use chat_core::{ErrorCode, InvalidName, Rejection};

use crate::moderation::UNSUPPORTED;

/// When a client should retry a request that the broker did not accept.
const RETRY_AFTER_MS: u64 = 1000;

/// What a request is answered that changes nothing, while the broker does not answer.
pub(crate) const NO_ANSWER: &str = "The message bus does not answer. Try again later.";

/// Why a call of a [`RoomHandle`](crate::RoomHandle) or a [`UserHandle`](crate::UserHandle) failed.
///
/// A handler of axum may return it: the response has a status, the [code](Self::code) and a sentence,
/// as those of the server's own routes.
///
/// ```
/// use chat_core::ErrorCode;
///
/// # async fn example(room: chat_server::RoomHandle, text: &str) -> Result<(), chat_server::Error> {
/// match room.send(text).await {
///     Err(error) if error.code() == ErrorCode::MessageTooLong => println!("shorten it: {error}"),
///     sent => println!("sent at {:?}", sent?.position),
/// }
/// # Ok(())
/// # }
/// ```
///
/// A name that such a handler parses, and that is invalid, is a `400` with the code `bad_field`:
///
/// ```
/// # async fn example(chat: chat_server::Server, id: &str) -> Result<(), chat_server::Error> {
/// chat.room(&format!("order-{id}").parse()?).send("Your order is paid.").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call breaks a rule of the server, which the code names: it was not carried out.
    #[error("{}", .0.message)]
    Rejected(Rejection),
    /// The broker failed. After [`BrokerError::Unavailable`] it is unknown whether the call was
    /// carried out.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Error {
    /// The stable code: the one that a client receives for the same request.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Rejected(rejection) => rejection.code,
            Self::Broker(BrokerError::Unsupported(_)) => ErrorCode::Unsupported,
            Self::Broker(_) => ErrorCode::BrokerUnavailable,
        }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// The name may be that of a room or a user: the code is that of a field, not `room_name_invalid`.
impl From<InvalidName> for Error {
    fn from(why: InvalidName) -> Self {
        Rejection::new(ErrorCode::BadField, format!("The name {why}.")).into()
    }
}

/// What a client receives: not the broker's own words, which may name its address.
impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        match error {
            Error::Rejected(rejection) => rejection,
            Error::Broker(error) => unavailable(&error),
        }
    }
}

/// What a client receives for an error of the broker.
pub(crate) fn unavailable(error: &BrokerError) -> Rejection {
    tracing::debug!(%error, "broker rejected a request");
    if let BrokerError::Unsupported(_) = error {
        return Rejection::new(ErrorCode::Unsupported, UNSUPPORTED);
    }
    let message = match error {
        error if error.is_full() => {
            "The message bus has no memory left (OOM), and rejected this request. Try again later."
        }
        BrokerError::Refused(_) => "The message bus rejected this request. Try again later.",
        BrokerError::Damaged { .. } => {
            "The history of this room is damaged in the message bus. Its operator can repair it."
        }
        _ => "The message bus does not answer. It is unknown whether a change was carried out.",
    };
    Rejection::new(ErrorCode::BrokerUnavailable, message).retry_after_ms(RETRY_AFTER_MS)
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use chat_core::RoomId;

    use super::*;

    #[test]
    fn invalid_name_is_400_bad_field() {
        let parse = |name: &str| -> Result<RoomId, Error> { Ok(name.parse()?) };
        let error = parse("").unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadField);
        assert_eq!(error.to_string(), "The name is empty.");
        assert_eq!(error.into_response().status(), StatusCode::BAD_REQUEST);
    }
}
