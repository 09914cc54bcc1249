//! What the hub asks of the broker for topics, many at a time.

use chat_core::{Position, Topic};

use crate::broker::Broker;
use crate::error::BrokerError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Subscribe,
    /// The topic is subscribed already, and somebody came.
    Welcome,
    Unsubscribe,
    /// The topic may have missed something.
    Check,
}

/// In the order in which they are made.
pub(super) const KINDS: [Call; 4] =
    [Call::Subscribe, Call::Welcome, Call::Unsubscribe, Call::Check];

impl Call {
    /// Whether the topics are subscribed afterwards, and where they stand.
    pub(super) async fn run(
        self,
        broker: &dyn Broker,
        topics: &[Topic],
    ) -> (bool, Result<Vec<Position>, BrokerError>) {
        match self {
            Self::Unsubscribe => (false, broker.unsubscribe(topics).await.map(|()| Vec::new())),
            Self::Subscribe => match broker.subscribe(topics).await {
                Ok(()) => (true, positions(broker, topics).await),
                Err(error) => (false, Err(error)),
            },
            Self::Welcome | Self::Check => (true, positions(broker, topics).await),
        }
    }
}

/// The position of each topic; a user's topic has no sequence.
async fn positions(broker: &dyn Broker, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
    let rooms: Vec<Topic> =
        topics.iter().filter(|topic| topic.as_room().is_some()).cloned().collect();
    let mut positions = broker.positions(&rooms).await?.into_iter();
    let position_of = |topic: &Topic| topic.as_room().and_then(|_| positions.next());
    Ok(topics.iter().map(position_of).map(Option::unwrap_or_default).collect())
}
