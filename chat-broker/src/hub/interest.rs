//! Subscribes this server to the topics that have members, and makes their rooms read what they
//! need.
//!
//! One loop owns the states, so a subscribe and an unsubscribe of one topic never race: a topic is
//! in at most one of these calls at a time, and [`advance`](Interest::advance) decides again when
//! that call is over. The same holds for reads. While [`CALLS`] calls are under way, topics are
//! gathered for the next one: many first joins make few calls.
//!
//! | state | has members | no members |
//! |---|---|---|
//! | none, or `Failed` | subscribe; `Busy` | – |
//! | `Busy` | when the call is over | when the call is over |
//! | `Subscribed` | the room reads, then goes live | a room: `Lingering`; a user's topic: unsubscribe, `Busy` |
//! | `Lingering` | `Subscribed` | at the timer: unsubscribe, `Busy` |
//!
//! [`outcomes`] has what follows on each call.

mod outcomes;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use chat_core::{Deliver, RoomId, Topic};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::Shared;
use super::call::{self, KINDS, Kind, Outcome, Reads};
use super::config::RETRY_DELAY;
use super::dirty_topics::DirtyQueue;
use super::log_budget::{LogBudget, MINUTE};
use super::room::RoomState;
use crate::error::BrokerError;

/// Maximum calls to the broker at a time.
const CALLS: usize = 4;
/// How long after an interruption rosters are read: a broker that lost its data has the users of
/// other servers only once those have sent them again. A roster read earlier would lack them,
/// and members would receive leaves of users who never left.
const ROSTER_DELAY: Duration = Duration::from_secs(5);
/// How often the positions of all rooms are compared with the broker's, without any event.
const RECONCILE: Duration = Duration::from_secs(30);
/// The longest timer: a configured duration may be more than an `Instant` can hold.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Log lines for subscribed and unsubscribed rooms per minute. A client can trigger as many as its
/// join rate allows.
const ROOM_LINES: u32 = 100;
/// Log lines for failed calls per minute. While the broker is unavailable, each join can trigger
/// one.
const FAILURE_LINES: u32 = 10;
/// How long the line of lost rooms waits for their number.
const UNTIL_LOST_LOGGED: Duration = Duration::from_secs(1);
/// How often the members of a large room get the number of occupants.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the loop until the driver is to stop.
pub(super) async fn run<M: Deliver + Clone>(shared: &Shared<M>) {
    let mut interest = Interest::new(shared);
    interest.set_timer(RECONCILE, Timer::Reconcile);
    loop {
        interest.start_calls();
        let due = interest.timers.front().map(|(due, _)| *due);
        tokio::select! {
            () = shared.stopping.notified() => return interest.unsubscribe_all().await,
            () = shared.dirty_topics.changed() => interest.take_dirty(),
            Some(outcome) = interest.calls.next() => interest.finish_call(outcome),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                interest.fire_timers();
            }
        }
    }
}

struct Interest<'a, M> {
    shared: &'a Shared<M>,
    /// Topics that are subscribed, or are in a call. A topic without an entry is not subscribed.
    states: HashMap<Topic, State>,
    /// Topics with a read under way or queued.
    reading: HashSet<Topic>,
    /// Rooms whose check is queued, and not under way.
    checks_queued: HashSet<Topic>,
    /// Topics with a retry timer, by kind of call: one timer each. With one for each failure, a
    /// room made 1,731 calls in an outage of 300 s.
    retrying: [HashSet<Topic>; 4],
    /// Rooms with a timer to send the number of occupants.
    counts_due: HashSet<Topic>,
    /// Rooms that are subscribed, and not logged yet.
    unlogged: HashSet<Topic>,
    room_lines: LogBudget,
    failure_lines: LogBudget,
    /// The outages of the broker, by kind of call: from the first call that it does not answer until one
    /// succeeds. A broker may answer one kind and not the other, on another connection.
    outages: [Option<Outage>; 4],
    /// A timer is set for the number of suppressed lines.
    summary_is_due: bool,
    /// Rooms whose sequences the broker has lost, until the line with their number.
    lost: Option<LostRooms>,
    /// When the latest of these lines was logged.
    lost_logged_at: Option<Instant>,
    interruptions: u64,
    /// Topics for the next calls, by kind of call.
    queued: [VecDeque<Topic>; 4],
    calls: FuturesUnordered<BoxFuture<'a, Outcome>>,
    /// Sorted by due time.
    timers: VecDeque<(Instant, Timer)>,
}

/// Rooms whose sequences the broker has lost.
#[derive(Debug)]
struct LostRooms {
    rooms: u64,
    /// The first of them.
    example: Topic,
}

/// A time in which the broker does not answer.
#[derive(Debug)]
struct Outage {
    since: Instant,
    logged_at: Instant,
    /// Calls that failed.
    failures: u64,
    /// Whether its lines are at the default level: a broker that answers every other call has any number
    /// of outages.
    is_logged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a call to subscribe or unsubscribe, or queued for one.
    Busy,
    Subscribed,
    /// Subscribed and without members, until then.
    Lingering(Instant),
    /// The subscribe failed, and is made again at the retry timer.
    Failed,
}

#[derive(Debug)]
enum Timer {
    Linger(Topic),
    Retry(Kind, Topic),
    Count(Topic),
    RefreshRosters(u64),
    Reconcile,
    LogSummary,
    LogLost,
}

impl<'a, M: Deliver + Clone> Interest<'a, M> {
    fn new(shared: &'a Shared<M>) -> Self {
        Self {
            shared,
            states: HashMap::new(),
            reading: HashSet::new(),
            checks_queued: HashSet::new(),
            retrying: Default::default(),
            counts_due: HashSet::new(),
            unlogged: HashSet::new(),
            room_lines: LogBudget::new(ROOM_LINES),
            failure_lines: LogBudget::new(FAILURE_LINES),
            outages: Default::default(),
            summary_is_due: false,
            lost: None,
            lost_logged_at: None,
            interruptions: 0,
            queued: Default::default(),
            calls: FuturesUnordered::new(),
            timers: VecDeque::new(),
        }
    }

    fn take_dirty(&mut self) {
        let DirtyQueue { membership_changed, needs_read, needs_check, count_changed, interrupted } =
            self.shared.dirty_topics.take();
        for topic in membership_changed {
            self.advance(topic);
        }
        for topic in needs_read {
            self.request_read(topic);
        }
        for topic in needs_check {
            self.request_check(topic);
        }
        for topic in count_changed {
            self.send_count_soon(topic);
        }
        if interrupted {
            // Only the timer of the latest interruption counts: the delay restarts with each.
            self.interruptions += 1;
            self.set_timer(ROSTER_DELAY, Timer::RefreshRosters(self.interruptions));
        }
    }

    /// Ends the subscriptions. Calls that are under way are dropped, so each of their topics may be
    /// subscribed.
    async fn unsubscribe_all(self) {
        let Self { shared, states, calls, .. } = self;
        drop(calls);
        let is_subscribed = |(topic, state)| (state != State::Failed).then_some(topic);
        let topics: Vec<_> = states.into_iter().filter_map(is_subscribed).collect();
        for topics in topics.chunks(Kind::Unsubscribe.max_topics()) {
            if let Err(error) = shared.broker.unsubscribe(topics).await {
                debug!(%error, topics = topics.len(), "unsubscribe failed");
            }
        }
    }

    fn queue_call(&mut self, kind: Kind, topics: impl IntoIterator<Item = Topic>) {
        self.queued[kind as usize].extend(topics);
    }

    /// Starts what the topic needs, by the table in the module's docs.
    fn advance(&mut self, topic: Topic) {
        let wanted = self.shared.registry.contains(&topic);
        let state = match (self.states.get(&topic), wanted) {
            (None | Some(State::Failed), true) => {
                self.queue_call(Kind::Subscribe, [topic.clone()]);
                State::Busy
            }
            (Some(State::Subscribed), false) if topic.as_room().is_none() => {
                // No lingering: the receipt of a direct message counts the servers that are
                // subscribed to the user's topic, and one without the user must not be counted.
                self.queue_call(Kind::Unsubscribe, [topic.clone()]);
                State::Busy
            }
            (Some(State::Subscribed), false) => {
                let linger = self.shared.config.linger;
                State::Lingering(self.set_timer(linger, Timer::Linger(topic.clone())))
            }
            (Some(State::Subscribed | State::Lingering(_)), true) => {
                self.start_room(topic.clone());
                State::Subscribed
            }
            _ => return,
        };
        self.states.insert(topic, state);
    }

    /// The topic is subscribed: a room reads before it goes live. In this order a message is in the
    /// read, or it arrives by the subscription, or both; in the other it could be in neither. A
    /// user's topic has nothing to read, nor has a room without history on a broker without
    /// presence.
    fn start_room(&mut self, topic: Topic) {
        let is_live = self.shared.update(&topic, |room, members| {
            let reads_nothing = room.sequence.reads_nothing();
            if reads_nothing {
                room.go_live(&topic, None, members);
            }
            reads_nothing
        });
        if is_live == Some(true) {
            self.log_subscribed(&topic);
        } else {
            self.request_read(topic);
        }
    }

    /// Queues a read of the room, if it needs one and none is queued, under way or to be retried.
    fn request_read(&mut self, topic: Topic) {
        let wants = |room: &mut RoomState<M>, _: &_| room.sequence.wants_reads();
        let is_subscribed =
            matches!(self.states.get(&topic), Some(State::Subscribed | State::Lingering(_)));
        if is_subscribed
            && !self.retrying[Kind::Read as usize].contains(&topic)
            && self.shared.update(&topic, wants) == Some(true)
            && self.reading.insert(topic.clone())
        {
            self.queue_call(Kind::Read, [topic]);
        }
    }

    /// Queues a check of the room. A check that is under way does not count: the broker may have
    /// answered it before the loss that asks for this one.
    fn request_check(&mut self, topic: Topic) {
        if self.checks_queued.insert(topic.clone()) {
            self.queue_call(Kind::Check, [topic]);
        }
    }

    fn set_timer(&mut self, after: Duration, timer: Timer) -> Instant {
        let due = Instant::now() + after.min(LONGEST);
        let at = self.timers.partition_point(|(other, _)| *other <= due);
        self.timers.insert(at, (due, timer));
        due
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while self.timers.front().is_some_and(|(due, _)| *due <= now) {
            match self.timers.pop_front() {
                Some((_, Timer::Linger(topic))) => self.stop_lingering(topic),
                Some((_, Timer::Retry(kind, topic))) => self.retry(kind, topic),
                Some((_, Timer::Count(topic))) => self.send_count(&topic),
                Some((_, Timer::RefreshRosters(nth))) if nth == self.interruptions => {
                    self.refresh_rosters()
                }
                Some((_, Timer::RefreshRosters(_))) => {}
                Some((_, Timer::Reconcile)) => self.reconcile(),
                Some((_, Timer::LogSummary)) => self.log_summary(),
                Some((_, Timer::LogLost)) => self.log_lost(),
                None => {}
            }
        }
    }

    fn stop_lingering(&mut self, topic: Topic) {
        // A member may have joined and left since: then a later timer belongs to the topic.
        let over =
            |state: &State| matches!(state, State::Lingering(until) if *until <= Instant::now());
        if self.states.get(&topic).is_some_and(over) && !self.shared.registry.contains(&topic) {
            self.states.insert(topic.clone(), State::Busy);
            self.queue_call(Kind::Unsubscribe, [topic]);
        }
    }

    fn retry_soon(&mut self, kind: Kind, topic: Topic) {
        if self.retrying[kind as usize].insert(topic.clone()) {
            self.set_timer(RETRY_DELAY, Timer::Retry(kind, topic));
        }
    }

    fn retry(&mut self, kind: Kind, topic: Topic) {
        self.retrying[kind as usize].remove(&topic);
        match kind {
            Kind::Subscribe if self.states.get(&topic) == Some(&State::Failed) => {
                self.states.remove(&topic);
                self.advance(topic);
            }
            Kind::Read => self.request_read(topic),
            Kind::Check if self.shared.registry.contains(&topic) => self.request_check(topic),
            Kind::Subscribe | Kind::Unsubscribe | Kind::Check => {}
        }
    }

    fn send_count_soon(&mut self, topic: Topic) {
        if self.counts_due.insert(topic.clone()) {
            self.set_timer(COUNT_INTERVAL, Timer::Count(topic));
        }
    }

    fn send_count(&mut self, topic: &Topic) {
        self.counts_due.remove(topic);
        self.shared.update(topic, |room, _| room.send_count());
    }

    /// Reads all rosters after an interruption; members get the difference as joins and leaves.
    fn refresh_rosters(&mut self) {
        for topic in self.shared.registry.topics() {
            self.shared.update(&topic, |room, _| room.sequence.refresh_roster());
            self.request_read(topic);
        }
    }

    /// Finds losses that no event reports, such as a broker that was emptied.
    fn reconcile(&mut self) {
        self.set_timer(RECONCILE, Timer::Reconcile);
        let history = &self.shared.config.history;
        for topic in self.shared.registry.topics() {
            if topic.as_room().is_some_and(|room| history.of(room).is_some()) {
                self.request_check(topic);
            }
        }
    }

    fn start_calls(&mut self) {
        for kind in KINDS {
            while self.calls.len() < CALLS && !self.queued[kind as usize].is_empty() {
                let queued = &mut self.queued[kind as usize];
                let topics: Vec<_> = queued.drain(..queued.len().min(kind.max_topics())).collect();
                let call = self.call(kind, topics);
                self.calls.push(call);
            }
        }
    }

    fn call(&mut self, kind: Kind, topics: Vec<Topic>) -> BoxFuture<'a, Outcome> {
        let (broker, limit) = (&*self.shared.broker, self.shared.config.presence_limit);
        match kind {
            Kind::Subscribe => Box::pin(async move {
                let outcome = broker.subscribe(&topics).await;
                Outcome::Subscribed(topics, outcome)
            }),
            Kind::Unsubscribe => Box::pin(async move {
                let outcome = broker.unsubscribe(&topics).await;
                Outcome::Unsubscribed(topics, outcome)
            }),
            Kind::Check => {
                for topic in &topics {
                    self.checks_queued.remove(topic);
                }
                Box::pin(async move {
                    let outcome = call::positions(broker, &topics).await;
                    Outcome::Checked(topics, outcome)
                })
            }
            Kind::Read => {
                let mut reads = Reads::default();
                for topic in &topics {
                    self.shared.registry.update(topic, |room| {
                        room.state.sequence.begin_reads(topic, &mut reads);
                    });
                }
                Box::pin(async move {
                    let outcome = call::read(broker, reads, limit).await;
                    Outcome::Read(topics, outcome)
                })
            }
        }
    }
}

// The wording of both lines, which end with the room, is a contract: authors of clients search for them. Once
// the first is logged, the room's members receive all that is published to it. Programs read the field `room`,
// which precedes the text, so that the lines end as they always did.

/// What happens to a room, and its name. A name that could be read as fields of the line is quoted.
struct Text<'a>(&'static str, &'a RoomId);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(what, room) = self;
        match room.as_str().contains('=') {
            true => write!(f, "{what}: {:?}", room.as_str()),
            false => write!(f, "{what}: {}", room.escaped()),
        }
    }
}

impl<M: Deliver + Clone> Interest<'_, M> {
    fn log_subscribed(&mut self, topic: &Topic) {
        if self.unlogged.remove(topic)
            && let Some(room) = topic.as_room()
        {
            let text = Text("subscribing on the pub sub to room", room);
            if self.may_log(|all| &mut all.room_lines) {
                info!(room = room.as_str(), message = %text);
            } else {
                debug!(room = room.as_str(), message = %text);
            }
        }
    }

    fn log_unsubscribed(&mut self, topic: &Topic) {
        if let Some(room) = topic.as_room() {
            let text = Text("unsubscribing from the pub sub from room", room);
            if self.may_log(|all| &mut all.room_lines) {
                info!(room = room.as_str(), message = %text);
            } else {
                debug!(room = room.as_str(), message = %text);
            }
        }
    }

    fn log_failure(&mut self, kind: Kind, error: &BrokerError, topics: usize) {
        if matches!(error, BrokerError::Unavailable(_)) {
            return self.log_outage(kind, error, topics);
        }
        let what = kind.failed();
        if self.may_log(|all| &mut all.failure_lines) {
            warn!(%error, topics, "{what}");
        } else {
            debug!(%error, topics, "{what}");
        }
    }

    /// An outage is logged at once, and then once a minute: calls are made again each second.
    fn log_outage(&mut self, kind: Kind, error: &BrokerError, topics: usize) {
        let (now, what) = (Instant::now(), kind.failed());
        let Some(outage) = &mut self.outages[kind as usize] else {
            let is_logged = self.may_log(|all| &mut all.failure_lines);
            self.outages[kind as usize] =
                Some(Outage { since: now, logged_at: now, failures: 1, is_logged });
            if is_logged {
                warn!(%error, topics, "{what}");
            } else {
                debug!(%error, topics, "{what}");
            }
            return;
        };
        outage.failures += 1;
        if now < outage.logged_at + MINUTE {
            return debug!(%error, topics, "{what}");
        }
        (outage.logged_at, outage.is_logged) = (now, true);
        let (outage, failures) = (now - outage.since, outage.failures);
        warn!(%error, topics, ?outage, failures, "{what}");
    }

    /// A call of this kind has succeeded.
    fn end_outage(&mut self, kind: Kind) {
        let Some(ended) = self.outages[kind as usize].take() else { return };
        let Outage { since, failures, is_logged, .. } = ended;
        let (outage, what) = (since.elapsed(), kind.succeeds());
        if is_logged {
            info!(?outage, failures, "{what}");
        } else {
            debug!(?outage, failures, "{what}");
        }
    }

    /// Whether a line is logged individually. If not, a summary with the number of such lines
    /// follows within a minute.
    fn may_log(&mut self, budget: impl FnOnce(&mut Self) -> &mut LogBudget) -> bool {
        let may_log = budget(self).take(Instant::now());
        if !may_log && !self.summary_is_due {
            self.summary_is_due = true;
            self.set_timer(MINUTE, Timer::LogSummary);
        }
        may_log
    }

    /// The broker has lost the sequence of a room. The line waits a moment for other rooms: mostly all
    /// are lost at once.
    fn note_lost(&mut self, topic: &Topic) {
        if let Some(lost) = &mut self.lost {
            lost.rooms += 1;
            return;
        }
        self.lost = Some(LostRooms { rooms: 1, example: topic.clone() });
        let next = self.lost_logged_at.map(|at| at + MINUTE);
        let wait = next.map_or(Duration::ZERO, |next| next - Instant::now().min(next));
        self.set_timer(wait.max(UNTIL_LOST_LOGGED), Timer::LogLost);
    }

    fn log_lost(&mut self) {
        let Some(LostRooms { rooms, example }) = self.lost.take() else { return };
        self.lost_logged_at = Some(Instant::now());
        let room = example.as_room().map(RoomId::as_str);
        warn!(rooms, room, "the broker lost the messages of rooms, which begin new epochs");
    }

    fn log_summary(&mut self) {
        self.summary_is_due = false;
        if let Some(lines) = self.room_lines.take_suppressed() {
            info!(lines, "suppressed log lines of subscribed and unsubscribed rooms");
        }
        if let Some(lines) = self.failure_lines.take_suppressed() {
            warn!(lines, "suppressed log lines of failed broker calls");
        }
    }
}
