//! What can go wrong between a server and its backend.

use std::error::Error;
use std::sync::Arc;

use chat_core::Topic;

/// Why a broker did not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The backend did not answer in time, or the connection to it broke. A publication
    /// that failed so may have been delivered.
    #[error("the broker is unavailable: {0}")]
    Unavailable(Arc<dyn Error + Send + Sync>),
    /// The backend answered and refused: a wrong password, no memory, a read-only replica.
    #[error("the broker refused: {0}")]
    Refused(Arc<dyn Error + Send + Sync>),
    /// The backend holds something else where the data of one topic should be: the calls for that
    /// topic fail until an operator has deleted it, and those for others do not.
    #[error("what the broker holds of {topic} is damaged: {cause}")]
    Damaged {
        /// Of which topic.
        topic: Topic,
        /// What is there, and where.
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// The settings make no sense: a malformed address, for one.
    #[error("broker settings: {0}")]
    Config(Arc<dyn Error + Send + Sync>),
    /// The broker was closed.
    #[error("the broker is closed")]
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
