//! What the hub asks of the broker for topics, many at a time.

use std::collections::HashMap;

use chat_core::{History, Occupancy, Position, Topic};
use futures_util::future::{OptionFuture, join};

use crate::broker::{Broker, HistoryRead};
use crate::error::BrokerError;

/// In the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Subscribe,
    /// The histories and occupants of rooms that want them.
    Read,
    Unsubscribe,
    /// Whether rooms stand where the broker does.
    Check,
}

pub(super) const KINDS: [Kind; 4] = [Kind::Subscribe, Kind::Read, Kind::Unsubscribe, Kind::Check];

impl Kind {
    /// Topics in one call. A read may bring a quarter of a MiB for each.
    pub(super) fn max_topics(self) -> usize {
        match self {
            Self::Subscribe | Self::Unsubscribe | Self::Check => 512,
            Self::Read => 32,
        }
    }
}

/// A call that is over.
pub(super) enum Outcome {
    Subscribed(Vec<Topic>, Result<(), BrokerError>),
    Read(Vec<Topic>, Result<ReadResult, BrokerError>),
    Unsubscribed(Vec<Topic>, Result<(), BrokerError>),
    Checked(Vec<Topic>, Result<Vec<Position>, BrokerError>),
}

/// What rooms want to read.
#[derive(Default)]
pub(super) struct Reads {
    pub(super) histories: Vec<HistoryRead>,
    /// Topics whose occupants are wanted.
    pub(super) occupancies: Vec<Topic>,
}

/// What was read, by topic.
pub(super) struct ReadResult {
    pub(super) histories: HashMap<Topic, History>,
    pub(super) occupancies: HashMap<Topic, Occupancy>,
}

pub(super) async fn read(
    broker: &dyn Broker,
    reads: Reads,
    limit: usize,
) -> Result<ReadResult, BrokerError> {
    let Reads { histories, occupancies } = reads;
    let history = (!histories.is_empty()).then(|| broker.history(&histories));
    let occupancy = (!occupancies.is_empty()).then(|| broker.occupancy(&occupancies, limit));
    let (history, occupancy) =
        join(OptionFuture::from(history), OptionFuture::from(occupancy)).await;
    let (history, occupancy) = (history.transpose()?, occupancy.transpose()?);
    let topics = histories.into_iter().map(|read| read.topic);
    Ok(ReadResult {
        histories: topics.zip(history.unwrap_or_default()).collect(),
        occupancies: occupancies.into_iter().zip(occupancy.unwrap_or_default()).collect(),
    })
}
