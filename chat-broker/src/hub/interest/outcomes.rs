//! What follows on a call to the broker, for each topic that was in it.
//!
//! A call that fails because of one damaged topic must not fail the others: they are asked for
//! again without it, in halves, since there may be more damaged ones. Asked for one by one, a call
//! of 512 topics would become 512; asked for together again, each damaged topic would cost another
//! call for all.

use chat_core::{Deliver, Position, Topic};

use super::{Interest, State};
use crate::error::BrokerError;
use crate::hub::Shared;
use crate::hub::call::{Kind, Outcome, ReadResult};
use crate::hub::room::Phase;

impl<M: Deliver + Clone> Interest<'_, M> {
    pub(super) fn finish_call(&mut self, outcome: Outcome) {
        if let Some(kind) = outcome.succeeded() {
            self.end_outage(kind);
        }
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
        self.log_failure(Kind::Subscribe, error, topics.len());
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
            if taken.is_lost {
                self.note_lost(&topic);
            }
            self.shared.count(taken);
            if count_changed {
                self.send_count_soon(topic.clone());
            }
            self.log_subscribed(&topic);
            self.reading.remove(&topic);
            // Another read may be needed: of the next page, or by a room that began while this one
            // was under way, to which the result does not belong.
            self.request_read(topic);
        }
    }

    /// One of the topics cannot be read: reads the others without it.
    fn read_apart(&mut self, mut topics: Vec<Topic>, error: &BrokerError) {
        for topic in &topics {
            self.shared.update(topic, |room, _| room.sequence.fail_reads());
        }
        match take_damaged(&mut topics, error) {
            Some(damaged) => {
                self.fail_reads(vec![damaged], error);
                self.call_in_halves(Kind::Read, topics);
            }
            // The broker does not name the topic: each is read alone, 32 calls at most.
            None => {
                for topic in topics {
                    let call = self.call(Kind::Read, vec![topic]);
                    self.calls.push(call);
                }
            }
        }
    }

    /// Checks the topics beside the damaged one, which the next reconciliation checks.
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

    /// Makes a call again that one topic made fail, in halves.
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
        self.log_failure(Kind::Read, error, topics.len());
        for topic in topics {
            self.shared.update(&topic, |room, _| room.sequence.fail_reads());
            self.shared.reject_joins(&topic, error);
            self.log_subscribed(&topic);
            self.reading.remove(&topic);
            self.retry_soon(Kind::Read, topic);
        }
    }

    fn unsubscribed(&mut self, topics: Vec<Topic>, outcome: Result<(), BrokerError>) {
        // No retry: the broker does not subscribe to them again after a reconnect, and what still
        // arrives finds no room.
        if let Err(error) = outcome {
            self.log_failure(Kind::Unsubscribe, &error, topics.len());
        }
        for topic in topics {
            self.log_subscribed(&topic);
            self.log_unsubscribed(&topic);
            self.states.remove(&topic);
            self.advance(topic);
        }
    }

    /// Makes rooms read that are behind the broker.
    fn checked(&mut self, topics: Vec<Topic>, positions: Vec<Position>) {
        for (topic, position) in topics.into_iter().zip(positions) {
            self.shared.update(&topic, |room, _| room.sequence.check(position));
            self.request_read(topic);
        }
    }
}

/// Removes the topic that made the call fail.
fn take_damaged(topics: &mut Vec<Topic>, error: &BrokerError) -> Option<Topic> {
    let damaged = topics.iter().position(|topic| error.topic() == Some(topic))?;
    Some(topics.swap_remove(damaged))
}

impl<M: Deliver + Clone> Shared<M> {
    /// Fails the joins that wait for the topic, which could not be subscribed or read. Each join
    /// then removes its own member. The hub does not, by the id of the connection: a later join of
    /// the same connection may have that id by now, and would be removed with a topic that works.
    fn reject_joins(&self, topic: &Topic, error: &BrokerError) {
        let waiters = self.registry.update(topic, |room| {
            // Followers stay, and wait for the retry.
            room.state.followers().iter().for_each(|follower| follower.fail(error));
            match &mut room.state.phase {
                Phase::Waiting(waiters) => std::mem::take(waiters),
                Phase::Live { .. } => Vec::new(),
            }
        });
        for waiter in waiters.unwrap_or_default() {
            waiter(Err(error.clone()));
        }
    }
}
