//! What can go wrong between a server and its backend.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use chat_core::Topic;

/// Why a call to a broker failed.
///
/// The text of an error includes that of its cause, which is also its [`source`](Error::source).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum BrokerError {
    /// The backend did not answer in time, or the connection to it broke. A publication
    /// that failed so may have been delivered.
    Unavailable(Arc<dyn Error + Send + Sync>),
    /// The backend answered and refused: a wrong password, no memory, a read-only replica.
    Refused(Arc<dyn Error + Send + Sync>),
    /// The backend holds something else where the data of one topic should be: the calls for that
    /// topic fail until an operator has deleted it, and those for others do not.
    Damaged {
        /// The topic whose data is damaged.
        topic: Topic,
        /// What the backend holds, and where.
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// The settings are not valid: a malformed address, for one.
    Config(Arc<dyn Error + Send + Sync>),
    /// The broker does not have this optional part; see [`Broker`](crate::Broker).
    Unsupported(&'static str),
    /// The broker was closed.
    Closed,
}

impl BrokerError {
    /// [`BrokerError::Unavailable`] because of `cause`.
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Arc::from(cause.into()))
    }

    /// [`BrokerError::Refused`] because of `cause`.
    pub fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(Arc::from(cause.into()))
    }

    /// [`BrokerError::Damaged`] because of `cause`.
    pub fn damaged(topic: Topic, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Damaged { topic, cause: Arc::from(cause.into()) }
    }

    /// The topic whose data is [damaged](Self::Damaged).
    #[must_use]
    pub fn topic(&self) -> Option<&Topic> {
        if let Self::Damaged { topic, .. } = self { Some(topic) } else { None }
    }

    /// [`BrokerError::Config`] because of `cause`.
    pub fn config(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Config(Arc::from(cause.into()))
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(cause) => write!(f, "the broker is unavailable: {cause}"),
            Self::Refused(cause) => write!(f, "the broker refused: {cause}"),
            Self::Damaged { topic, cause } => {
                write!(f, "what the broker holds of {topic} is damaged: {cause}")
            }
            Self::Config(cause) => write!(f, "broker settings: {cause}"),
            Self::Unsupported(part) => write!(f, "the broker has no {part}"),
            Self::Closed => f.write_str("the broker is closed"),
        }
    }
}

// By hand: thiserror returns the `Arc` as the source, and a caller could not downcast that to the
// backend's own error.
impl Error for BrokerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unavailable(cause)
            | Self::Refused(cause)
            | Self::Damaged { cause, .. }
            | Self::Config(cause) => Some(&**cause),
            Self::Unsupported(_) | Self::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn source_is_the_backends_own_error() {
        let topic = Topic::Room(chat_core::RoomId::new("r").unwrap());
        let cause = || io::Error::other("no route");
        for error in [
            BrokerError::unavailable(cause()),
            BrokerError::refused(cause()),
            BrokerError::damaged(topic, cause()),
            BrokerError::config(cause()),
        ] {
            let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            assert_eq!(source.map(io::Error::to_string).as_deref(), Some("no route"), "{error}");
        }
        assert!(BrokerError::Closed.source().is_none());
    }
}
