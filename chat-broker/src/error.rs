//! Errors of calls to a broker.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use chat_core::Topic;

/// Why a call to a broker failed.
///
/// The text of an error includes that of its cause, which is also its [`source`](Error::source).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The backend did not answer in time, or the connection to it broke. A publication
    /// that failed so may have been delivered.
    #[error("the broker is unavailable: {0}")]
    Unavailable(#[source] Cause),
    /// The backend refused the call: a wrong password, no memory, a read-only replica.
    #[error("the broker refused: {0}")]
    Refused(#[source] Cause),
    /// The backend holds other data under the keys of one topic. Calls for that topic fail until an
    /// operator has deleted the keys; calls for other topics do not.
    #[error("the broker's data of {topic} is damaged: {cause}")]
    Damaged {
        /// The topic whose data is damaged.
        topic: Topic,
        /// What the backend holds, and where.
        #[source]
        cause: Cause,
    },
    /// A setting is not valid, such as a malformed address.
    #[error("invalid broker settings: {0}")]
    Config(#[source] Cause),
    /// The broker does not have this optional part; see [`Broker`](crate::Broker).
    #[error("the broker has no {0}")]
    Unsupported(&'static str),
    /// The room has as many members as a join allows
    /// ([`max_members`](crate::JoinOptions::max_members)), or as many users
    /// ([`max_users`](crate::JoinOptions::max_users)).
    #[error("the room is full: its maximum is {max}")]
    RoomFull {
        /// The maximum of the join.
        max: u32,
    },
    /// The broker was closed.
    #[error("the broker is closed")]
    Closed,
}

impl BrokerError {
    /// [`BrokerError::Unavailable`] because of `cause`.
    ///
    /// ```
    /// use std::{error::Error, io};
    /// use chat_broker::BrokerError;
    ///
    /// let error = BrokerError::unavailable(io::Error::other("no route"));
    /// assert_eq!(error.to_string(), "the broker is unavailable: no route");
    /// assert!(error.source().is_some_and(|source| source.is::<io::Error>()));
    /// ```
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Cause::new(cause))
    }

    /// [`BrokerError::Refused`] because of `cause`.
    pub fn refused(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(Cause::new(cause))
    }

    /// [`BrokerError::Damaged`] because of `cause`.
    pub fn damaged(topic: Topic, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Damaged { topic, cause: Cause::new(cause) }
    }

    /// The topic whose data is [damaged](Self::Damaged).
    #[must_use]
    pub fn topic(&self) -> Option<&Topic> {
        if let Self::Damaged { topic, .. } = self { Some(topic) } else { None }
    }

    /// As [`refused`](Self::refused), for lack of memory.
    #[cfg(feature = "redis")]
    pub(crate) fn full(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(Cause { is_full: true, ..Cause::new(cause) })
    }

    /// Whether the backend [refused](Self::Refused) for lack of memory.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Refused(Cause { is_full: true, .. }))
    }

    /// [`BrokerError::Config`] because of `cause`.
    pub fn config(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Config(Cause::new(cause))
    }
}

/// The error of a backend. It dereferences to that error and does not implement [`Error`] itself,
/// so the [`source`](Error::source) of a [`BrokerError`] can be downcast to the backend's own type.
#[derive(Debug, Clone)]
pub struct Cause {
    error: Arc<dyn Error + Send + Sync>,
    /// Whether it is a lack of memory.
    is_full: bool,
}

impl Cause {
    fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: Arc::from(cause.into()), is_full: false }
    }
}

impl Deref for Cause {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.error
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
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
