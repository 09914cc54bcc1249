//! The calls of the hub to the broker, each for many topics.

use std::collections::HashMap;

use chat_core::{History, Occupancy, Position, Topic};
use futures_util::future::{OptionFuture, join};

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::history::HistoryRead;

/// A kind of call. When several wait, they are made in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Subscribe,
    /// Reads the histories and occupants of rooms.
    Read,
    Unsubscribe,
    /// Compares the positions of rooms with the broker's.
    Check,
}

pub(super) const KINDS: [Kind; 4] = [Kind::Subscribe, Kind::Read, Kind::Unsubscribe, Kind::Check];

impl Kind {
    /// Maximum topics in one call. A read may return 256 KiB for each.
    pub(super) fn max_topics(self) -> usize {
        match self {
            Self::Subscribe | Self::Unsubscribe | Self::Check => 512,
            Self::Read => 32,
        }
    }

    /// What the log has of a call that failed.
    pub(super) fn failed(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe failed, retrying",
            Self::Read => "read failed, retrying",
            Self::Unsubscribe => "unsubscribe failed",
            Self::Check => "check failed, retrying",
        }
    }

    /// What the log has of the first call that succeeds after an outage.
    pub(super) fn succeeds(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe works again",
            Self::Read => "read works again",
            Self::Unsubscribe => "unsubscribe works again",
            Self::Check => "check works again",
        }
    }
}

/// A call that has ended.
pub(super) enum Outcome {
    Subscribed(Vec<Topic>, Result<(), BrokerError>),
    Read(Vec<Topic>, Result<ReadResult, BrokerError>),
    Unsubscribed(Vec<Topic>, Result<(), BrokerError>),
    Checked(Vec<Topic>, Result<Vec<Position>, BrokerError>),
}

impl Outcome {
    /// The kind of the call, if it succeeded.
    pub(super) fn succeeded(&self) -> Option<Kind> {
        match self {
            Self::Subscribed(_, Ok(())) => Some(Kind::Subscribe),
            Self::Read(_, Ok(_)) => Some(Kind::Read),
            Self::Unsubscribed(_, Ok(())) => Some(Kind::Unsubscribe),
            Self::Checked(_, Ok(_)) => Some(Kind::Check),
            _ => None,
        }
    }
}

/// What one call reads.
#[derive(Default)]
pub(super) struct Reads {
    pub(super) histories: Vec<HistoryRead>,
    /// Topics whose occupants are read.
    pub(super) occupancies: Vec<Topic>,
}

/// The result of a read, by topic.
pub(super) struct ReadResult {
    pub(super) histories: HashMap<Topic, History>,
    pub(super) occupancies: HashMap<Topic, Occupancy>,
}

/// The answers of a broker, if there is one for each question.
pub(super) fn all_answered<T>(questions: usize, answers: Vec<T>) -> Result<Vec<T>, BrokerError> {
    if answers.len() == questions {
        return Ok(answers);
    }
    let cause = format!("it gave {} answers to {questions} questions", answers.len());
    Err(BrokerError::refused(cause))
}

/// Parts of histories, in the order asked.
pub(super) async fn histories(
    broker: &dyn Broker,
    reads: &[HistoryRead],
) -> Result<Vec<History>, BrokerError> {
    let histories = all_answered(reads.len(), broker.history(reads).await?)?;
    for (read, history) in reads.iter().zip(&histories) {
        read.check(history)?;
    }
    Ok(histories)
}

/// The positions of topics, in the order asked.
pub(super) async fn positions(
    broker: &dyn Broker,
    topics: &[Topic],
) -> Result<Vec<Position>, BrokerError> {
    all_answered(topics.len(), broker.positions(topics).await?)
}

async fn occupancies(
    broker: &dyn Broker,
    topics: &[Topic],
    limit: usize,
) -> Result<Vec<Occupancy>, BrokerError> {
    // No room of a broker without presence has a roster to read.
    let presence = broker.presence().ok_or(BrokerError::Unsupported("presence"))?;
    all_answered(topics.len(), presence.occupancy(topics, limit).await?)
}

pub(super) async fn read(
    broker: &dyn Broker,
    reads: Reads,
    limit: usize,
) -> Result<ReadResult, BrokerError> {
    let history = (!reads.histories.is_empty()).then(|| histories(broker, &reads.histories));
    let occupancy =
        (!reads.occupancies.is_empty()).then(|| occupancies(broker, &reads.occupancies, limit));
    let (history, occupancy) =
        join(OptionFuture::from(history), OptionFuture::from(occupancy)).await;
    let (history, occupancy) = (history.transpose()?, occupancy.transpose()?);
    let topics = reads.histories.into_iter().map(|read| read.topic);
    Ok(ReadResult {
        histories: topics.zip(history.unwrap_or_default()).collect(),
        occupancies: reads.occupancies.into_iter().zip(occupancy.unwrap_or_default()).collect(),
    })
}
