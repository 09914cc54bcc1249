//! What becomes of topics when a call to the broker is over.

use chat_core::{Deliver, Position, Topic};

use super::{Interest, State};
use crate::error::BrokerError;
use crate::hub::Shared;
use crate::hub::call::{Kind, Outcome, ReadResult};
use crate::hub::room::Phase;

impl<M: Deliver + Clone> Interest<'_, M> {
    pub(super) fn finish_call(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Subscribed(topics, Ok(())) => self.subscribed(topics),
            Outcome::Subscribed(topics, Err(error)) => self.not_subscribed(topics, &error),
            Outcome::Read(topics, Ok(result)) => self.finish_reads(topics, result),
            Outcome::Read(
                topics,
                Err(error @ (BrokerError::Refused(_) | BrokerError::Damaged { .. })),
            ) if topics.len() > 1 => self.read_apart(topics, &error),
            Outcome::Read(topics, Err(error)) => self.fail_reads(topics, &error),
            Outcome::Unsubscribed(topics, outcome) => self.unsubscribed(topics, outcome),
            Outcome::Checked(topics, Ok(positions)) => self.checked(topics, positions),
            Outcome::Checked(topics, Err(error @ BrokerError::Damaged { .. })) => {
                self.check_others(topics, &error);
            }
            Outcome::Checked(topics, Err(_)) => self.recheck_soon(topics),
        }
    }

    fn subscribed(&mut self, topics: Vec<Topic>) {
        for topic in topics {
            if topic.as_room().is_some() {
                self.unlogged.insert(topic.clone());
            }
            self.states.insert(topic.clone(), State::Subscribed);
            self.advance(topic);
        }
    }

    fn not_subscribed(&mut self, topics: Vec<Topic>, error: &BrokerError) {
        self.log_failure("could not subscribe", error, topics.len());
        for topic in topics {
            self.shared.reject_joins(&topic, error);
            self.states.insert(topic.clone(), State::Failed);
            self.retry_soon(Kind::Subscribe, topic);
        }
    }

    fn finish_reads(&mut self, topics: Vec<Topic>, result: ReadResult) {
        let ReadResult { mut histories, mut occupancies } = result;
        for topic in topics {
            let (history, occupancy) = (histories.remove(&topic), occupancies.remove(&topic));
            let taken = self.shared.update(&topic, |room, members| {
                (
                    room.finish_reads(&topic, history, occupancy, members),
                    room.sequence.count_changed(),
                )
            });
            let (taken, count_changed) = taken.unwrap_or_default();
            self.shared.count(taken);
            if count_changed {
                self.send_count_soon(topic.clone());
            }
            self.log_subscribed(&topic);
            self.reading.remove(&topic);
            // Another may be wanted: of the next page, or of a room that began meanwhile.
            self.request_read(topic);
        }
    }

    /// One of them cannot be read, and the others should not have to wait for it.
    fn read_apart(&mut self, mut topics: Vec<Topic>, error: &BrokerError) {
        for topic in &topics {
            self.shared.update(topic, |room, _| room.sequence.fail_reads());
        }
        match take_damaged(&mut topics, error) {
            Some(damaged) => {
                self.fail_reads(vec![damaged], error);
                self.call_in_halves(Kind::Read, topics);
            }
            None => {
                for topic in topics {
                    let call = self.call(Kind::Read, vec![topic]);
                    self.calls.push(call);
                }
            }
        }
    }

    /// The damaged one is looked at again when all are.
    fn check_others(&mut self, mut topics: Vec<Topic>, error: &BrokerError) {
        if take_damaged(&mut topics, error).is_some() {
            self.call_in_halves(Kind::Check, topics);
        } else {
            // The broker names a topic of another call: it cannot be left out of the next one.
            self.recheck_soon(topics);
        }
    }

    fn recheck_soon(&mut self, topics: Vec<Topic>) {
        for topic in topics {
            self.retry_soon(Kind::Check, topic);
        }
    }

    /// Makes a call again that one topic made fail: in halves, since there may be more of these, and
    /// each would have all others asked for again.
    fn call_in_halves(&mut self, kind: Kind, mut topics: Vec<Topic>) {
        let half = topics.split_off(topics.len() / 2);
        for topics in [topics, half] {
            if !topics.is_empty() {
                let call = self.call(kind, topics);
                self.calls.push(call);
            }
        }
    }

    fn fail_reads(&mut self, topics: Vec<Topic>, error: &BrokerError) {
        self.log_failure("could not read", error, topics.len());
        for topic in topics {
            self.shared.update(&topic, |room, _| room.sequence.fail_reads());
            self.shared.reject_joins(&topic, error);
            self.log_subscribed(&topic);
            self.reading.remove(&topic);
            self.retry_soon(Kind::Read, topic);
        }
    }

    fn unsubscribed(&mut self, topics: Vec<Topic>, outcome: Result<(), BrokerError>) {
        if let Err(error) = outcome {
            self.log_failure("could not unsubscribe in time", &error, topics.len());
        }
        for topic in topics {
            self.log_subscribed(&topic);
            self.log_unsubscribed(&topic);
            self.states.remove(&topic);
            self.advance(topic);
        }
    }

    /// Rooms that are behind read what they missed.
    fn checked(&mut self, topics: Vec<Topic>, positions: Vec<Position>) {
        for (topic, position) in topics.into_iter().zip(positions) {
            self.shared.update(&topic, |room, _| room.sequence.check(position));
            self.request_read(topic);
        }
    }
}

/// The topic that made a call for all of these fail.
fn take_damaged(topics: &mut Vec<Topic>, error: &BrokerError) -> Option<Topic> {
    let damaged = topics.iter().position(|topic| error.topic() == Some(topic))?;
    Some(topics.swap_remove(damaged))
}

impl<M: Deliver + Clone> Shared<M> {
    /// The topic could not be subscribed or read: joins that wait for it fail. Their memberships leave,
    /// not the hub by their connections' ids: by now an id may be that of a later join.
    fn reject_joins(&self, topic: &Topic, error: &BrokerError) {
        let waiters = self.registry.update(topic, |room| match &mut room.state.phase {
            Phase::Waiting(waiters) => std::mem::take(waiters),
            Phase::Live { .. } => Vec::new(),
        });
        for waiter in waiters.unwrap_or_default() {
            waiter(Err(error.clone()));
        }
    }
}
