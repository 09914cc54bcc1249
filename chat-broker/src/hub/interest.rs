//! Which topics this server is subscribed to: those that have members, and for a while
//! those that had.
//!
//! One loop owns the table, so a subscribe and an unsubscribe of one topic never race: a
//! topic is part of at most one call to the broker at a time, and is looked at again when
//! that call is over. Topics are gathered into one call while others are under way.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_core::{Deliver, Position, Topic};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::call::{Call, KINDS};
use super::room::Phase;
use super::{Counters, Shared};
use crate::error::BrokerError;

/// Topics in one call to the broker.
const CALL_TOPICS: usize = 512;
/// Calls to the broker at a time.
const CALLS: usize = 4;
/// How soon a failed subscription is tried again, for those who are still there.
const RETRY: Duration = Duration::from_secs(1);
/// How long a publication may take through the broker before a room whose sequence is
/// known to have come further counts as having missed it.
const GRACE: Duration = Duration::from_millis(500);

/// Topics whose first member came or last member left, and topics that may have missed
/// something. Bounded by the number of topics.
#[derive(Debug, Default)]
pub(super) struct Edges {
    queue: Mutex<EdgeQueue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct EdgeQueue {
    moved: HashSet<Topic>,
    suspect: HashSet<Topic>,
}

impl Edges {
    /// A first member came to the topic, or the last one left.
    pub(super) fn push(&self, topic: Topic) {
        self.queue().moved.insert(topic);
        self.wake.notify_one();
    }

    /// Publications to these topics may have been missed.
    pub(super) fn check(&self, topics: Vec<Topic>) {
        // Only a room has a sequence in which a loss shows.
        self.queue().suspect.extend(topics.into_iter().filter(|topic| topic.as_room().is_some()));
        self.wake.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, EdgeQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works for ever.
pub(super) async fn run<M: Deliver + Clone>(shared: &Shared<M>) {
    let mut interest = Interest::new(shared);
    loop {
        interest.start_calls();
        let due = interest.timers.front().map(|(due, _)| *due);
        tokio::select! {
            () = shared.edges.wake.notified() => interest.take_edges(),
            Some(outcome) = interest.calls.next() => interest.settle(outcome),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                interest.fire_timers();
            }
        }
    }
}

struct Interest<'a, M> {
    shared: &'a Shared<M>,
    /// Topics that are not idle.
    states: HashMap<Topic, State>,
    /// Work for the next calls, by kind.
    waiting: [VecDeque<Topic>; 4],
    calls: FuturesUnordered<BoxFuture<'a, Outcome>>,
    /// In the order in which they were set; each comes due within two seconds.
    timers: VecDeque<(Instant, Timer)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Part of a call, or about to be.
    Busy,
    /// The same, and the last member has left since, or the first come.
    Moved,
    Subscribed,
    /// Subscribed, without members, until then.
    Lingering(Instant),
    /// The broker was away before the room could go live. Tried again at the timer.
    Failed {
        /// Where it failed: at the subscription, or after it.
        subscribed: bool,
    },
}

#[derive(Debug)]
enum Timer {
    Linger(Topic),
    Retry(Topic),
    Check(Check),
    Recheck(Topic),
}

/// A room that may have missed something.
#[derive(Debug)]
struct Check {
    topic: Topic,
    /// Where the broker's sequence stood …
    position: Position,
    /// … when the room had seen this, …
    then: Position,
    /// … and as many takings from the events queue had been worked through.
    rounds: u64,
}

struct Outcome {
    call: Call,
    topics: Vec<Topic>,
    /// The topics are subscribed, whatever became of the rest.
    subscribed: bool,
    /// Of each topic, for all calls but [`Call::Unsubscribe`].
    positions: Result<Vec<Position>, BrokerError>,
}

impl<'a, M: Deliver + Clone> Interest<'a, M> {
    fn new(shared: &'a Shared<M>) -> Self {
        Self {
            shared,
            states: HashMap::new(),
            waiting: Default::default(),
            calls: FuturesUnordered::new(),
            timers: VecDeque::new(),
        }
    }

    fn take_edges(&mut self) {
        let EdgeQueue { moved, suspect } = std::mem::take(&mut *self.shared.edges.queue());
        for topic in moved {
            self.look_at(topic);
        }
        self.waiting[Call::Check as usize].extend(suspect);
    }

    /// Does what the topic's members, or their absence, ask for.
    fn look_at(&mut self, topic: Topic) {
        let wanted = self.shared.registry.contains(&topic);
        let (state, call) = match (self.states.get(&topic), wanted) {
            (None | Some(State::Failed { subscribed: false }), true) => {
                (State::Busy, Some(Call::Subscribe))
            }
            (Some(State::Failed { subscribed: true }), true) => (State::Busy, Some(Call::Welcome)),
            (Some(State::Subscribed), false) if topic.as_room().is_none() => {
                // Whoever writes to a user is told how many servers hold that user.
                (State::Busy, Some(Call::Unsubscribe))
            }
            (Some(State::Subscribed | State::Lingering(_)), true)
                if self.somebody_waits(&topic) =>
            {
                (State::Busy, Some(Call::Welcome))
            }
            (Some(State::Lingering(_)), true) => (State::Subscribed, None),
            (Some(State::Busy), _) => (State::Moved, None),
            (Some(State::Subscribed), false) => {
                let until = self.set_timer(self.shared.config.linger, Timer::Linger(topic.clone()));
                (State::Lingering(until), None)
            }
            _ => return,
        };
        if let Some(call) = call {
            self.waiting[call as usize].push_back(topic.clone());
        }
        self.states.insert(topic, state);
    }

    /// Whether the last member has left, or the first come, since the topic's call began.
    fn has_moved(&self, topic: &Topic) -> bool {
        self.states.get(topic) == Some(&State::Moved)
            || self.shared.edges.queue().moved.contains(topic)
    }

    fn somebody_waits(&self, topic: &Topic) -> bool {
        let waits = |room: &mut chat_core::Room<_, super::RoomState<M>>| {
            matches!(room.state.phase, Phase::Waiting(_))
        };
        self.shared.registry.update(topic, waits).unwrap_or(false)
    }

    fn set_timer(&mut self, after: Duration, timer: Timer) -> Instant {
        let due = Instant::now() + after;
        let at = self.timers.partition_point(|(other, _)| *other <= due);
        self.timers.insert(at, (due, timer));
        due
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while self.timers.front().is_some_and(|(due, _)| *due <= now) {
            match self.timers.pop_front() {
                Some((_, Timer::Linger(topic))) => self.stop_lingering(topic),
                Some((_, Timer::Retry(topic))) => self.retry(topic),
                Some((_, Timer::Check(check))) => self.check(check),
                Some((_, Timer::Recheck(topic))) => {
                    self.waiting[Call::Check as usize].push_back(topic);
                }
                None => {}
            }
        }
    }

    fn stop_lingering(&mut self, topic: Topic) {
        // Somebody may have come and gone since, and the time begun anew.
        let over =
            |state: &State| matches!(state, State::Lingering(until) if *until <= Instant::now());
        if self.states.get(&topic).is_some_and(over) && !self.shared.registry.contains(&topic) {
            self.states.insert(topic.clone(), State::Busy);
            self.waiting[Call::Unsubscribe as usize].push_back(topic);
        }
    }

    fn retry(&mut self, topic: Topic) {
        let Some(State::Failed { subscribed }) = self.states.get(&topic).copied() else { return };
        if self.shared.registry.contains(&topic) {
            self.look_at(topic);
        } else if subscribed {
            self.states.insert(topic.clone(), State::Busy);
            self.waiting[Call::Unsubscribe as usize].push_back(topic);
        } else {
            self.states.remove(&topic);
        }
    }

    fn check(&mut self, check: Check) {
        let counters = &self.shared.counters;
        // What was in the queue when the position was read must have reached its room.
        let rounds = counters.rounds.load(Ordering::Relaxed);
        if counters.ingesting.load(Ordering::Relaxed) && rounds < check.rounds + 2 {
            self.set_timer(GRACE, Timer::Check(check));
            return;
        }
        let Check { topic, position, then, .. } = check;
        self.shared.registry.update(&topic, |room| {
            if room.state.check(position, then) {
                Counters::add(&self.shared.counters.gaps, 1);
                self.shared.fan_out.enqueue(&topic, &mut room.state);
            }
        });
    }

    fn set_check(&mut self, topic: Topic, position: Position) {
        let seen = self.shared.registry.update(&topic, |room| room.state.seen()).flatten();
        let Some(then) = seen else { return };
        let rounds = self.shared.counters.rounds.load(Ordering::Relaxed);
        self.set_timer(GRACE, Timer::Check(Check { topic, position, then, rounds }));
    }

    fn start_calls(&mut self) {
        for call in KINDS {
            while self.calls.len() < CALLS && !self.waiting[call as usize].is_empty() {
                let waiting = &mut self.waiting[call as usize];
                let topics: Vec<_> = waiting.drain(..waiting.len().min(CALL_TOPICS)).collect();
                let broker = &*self.shared.broker;
                self.calls.push(Box::pin(async move {
                    let (subscribed, positions) = call.run(broker, &topics).await;
                    Outcome { call, topics, subscribed, positions }
                }));
            }
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let Outcome { call, topics, subscribed, positions } = outcome;
        match (call, positions) {
            (Call::Check, Ok(positions)) => {
                for (topic, position) in topics.into_iter().zip(positions) {
                    self.set_check(topic, position);
                }
            }
            (Call::Check, Err(_)) => {
                for topic in topics {
                    self.set_timer(RETRY, Timer::Recheck(topic));
                }
            }
            (Call::Unsubscribe, outcome) => {
                if let Err(error) = outcome {
                    warn!(%error, "could not unsubscribe in time");
                }
                for topic in topics {
                    log_unsubscribed(&topic);
                    self.states.remove(&topic);
                    self.look_at(topic);
                }
            }
            (Call::Subscribe | Call::Welcome, Ok(positions)) => {
                for (topic, position) in topics.into_iter().zip(positions) {
                    if call == Call::Subscribe {
                        log_subscribed(&topic);
                    }
                    // Whoever came after the last one left meanwhile did not hear what
                    // followed the position, which was read too early for them.
                    if !self.has_moved(&topic) {
                        self.shared.welcome(&topic, position);
                    }
                    self.states.insert(topic.clone(), State::Subscribed);
                    self.look_at(topic);
                }
            }
            (Call::Subscribe | Call::Welcome, Err(error)) => {
                warn!(%error, topics = topics.len(), "could not subscribe");
                for topic in topics {
                    if call == Call::Subscribe && subscribed {
                        log_subscribed(&topic);
                    }
                    self.shared.turn_away(&topic, &error);
                    self.states.insert(topic.clone(), State::Failed { subscribed });
                    self.set_timer(RETRY, Timer::Retry(topic));
                }
            }
        }
    }
}

impl<M: Deliver + Clone> Shared<M> {
    /// The topic is subscribed and its position known.
    fn welcome(&self, topic: &Topic, position: Position) {
        self.registry.update(topic, |room| {
            let members = room.members().clone();
            room.state.go_live(position, &members);
            self.fan_out.enqueue(topic, &mut room.state);
        });
    }

    /// The topic could not be subscribed: those who wait for it are told and leave.
    fn turn_away(&self, topic: &Topic, error: &BrokerError) {
        let waiters = self.registry.update(topic, |room| match &mut room.state.phase {
            Phase::Waiting(waiters) => std::mem::take(waiters),
            Phase::Live { .. } => Vec::new(),
        });
        for waiter in waiters.unwrap_or_default() {
            if !waiter.stays {
                self.leave(topic, waiter.id);
            }
            let _ = waiter.done.send(Err(error.clone()));
        }
    }
}

// The wording of both lines is a contract: clients' authors look for them.

fn log_subscribed(topic: &Topic) {
    if let Some(room) = topic.as_room() {
        info!("subscribing on the pub sub to room: {room}");
    }
}

fn log_unsubscribed(topic: &Topic) {
    if let Some(room) = topic.as_room() {
        info!("unsubscribing from the pub sub from room: {room}");
    }
}
