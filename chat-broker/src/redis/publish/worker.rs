//! The task of each connection that publishes. It sends all that waits as one pipeline: joins, then
//! publications, then leaves; and one pipeline at a time, so each topic keeps its order, and
//! whatever was in flight when a connection breaks is in `jobs` and `changes` of one call.

use std::sync::Arc;
use std::time::Duration;

use chat_core::{Position, Retention};
use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::batch::{self, Batch};
use super::queue::{Job, Queue};
use super::recover;
use super::recover::Outcome;
use crate::error::BrokerError;
use crate::publish::Published;
use crate::redis::connection::epochs;
use crate::redis::connection::probe::{Probe, Writes};
use crate::redis::connection::reconnect::ReconnectTimer;
use crate::redis::connection::server_identity::ServerIdentity;
use crate::redis::connection::{Link, PING_INTERVAL, RESPONSE_TIMEOUT};
use crate::redis::error::{broker_error, is_unknown_script, timed_out, wants_reconnect};
use crate::redis::health::ConnectionHealth;
use crate::redis::health::damage::{PRESENCE, SEQUENCE};
use crate::redis::last_seen::{LastSeen, TopicMap};
use crate::redis::names::Address;
use crate::redis::presence::changes::Changes;
use crate::redis::presence::outbox::PresenceOutbox;
use crate::redis::presence::{self, Presence};
use crate::redis::shared::Shared;
use crate::redis::subscribe::Subscriber;

/// Owns one connection to publish on.
pub(crate) struct PublishWorker {
    shared: Arc<Shared>,
    /// Has the positions that this node has seen.
    subscriber: Arc<Subscriber>,
    presence: Arc<Presence>,
    queue: Queue,
    outbox: Arc<PresenceOutbox>,
    health: ConnectionHealth,
    probe: Probe,
    /// The identity of the server behind the latest connection.
    identity: Option<ServerIdentity>,
    reconnect: ReconnectTimer,
    /// When the latest connection was established.
    connected: Instant,
    topics: TopicMap<TopicState>,
    /// The runtime has several threads. There a woken task runs before others that are ready, so
    /// this one must yield for theirs to be in its pipeline.
    is_woken_first: bool,
}

/// What the worker remembers of a topic.
#[derive(Debug, Clone, Copy, Default)]
struct TopicState {
    /// The latest acknowledged position.
    answered: Position,
    /// When the lifetime of the log was last extended, and to which.
    extended: Option<(Instant, Duration)>,
}

impl PublishWorker {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        subscriber: &Arc<Subscriber>,
        presence: &Arc<Presence>,
        queue: Queue,
        outbox: Arc<PresenceOutbox>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            subscriber: Arc::clone(subscriber),
            presence: Arc::clone(presence),
            queue,
            outbox,
            health: shared.health.connection(),
            probe: Probe::new(&shared.names),
            identity: None,
            reconnect: ReconnectTimer::new(),
            connected: Instant::now(),
            topics: TopicMap::default(),
            is_woken_first: Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread,
        }
    }

    /// Sends until the broker is closing and nothing is left.
    pub(crate) async fn run(mut self) {
        let mut cause = BrokerError::unavailable("redis is not connected yet");
        loop {
            self.reconnect.attempt();
            let connect = connect(
                Arc::clone(&self.shared),
                Arc::clone(&self.subscriber),
                self.identity.clone(),
                self.probe.clone(),
            );
            let Some(connected) = self.expiring(connect, &cause).await else { return };
            let error = match connected {
                Ok((link, identity)) => {
                    self.reconnect.established();
                    if self.identity.is_some() {
                        self.shared.counters.reconnected();
                    }
                    self.presence.connected(identity.run_id.as_deref());
                    self.shared.health.set_run_id(identity.run_id.clone());
                    self.identity = Some(identity);
                    self.connected = Instant::now();
                    match self.serve(link).await {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.health.set_down(&error);
            cause = broker_error(error);
            let pause = sleep(self.reconnect.pause());
            if self.expiring(pause, &cause).await.is_none() {
                return;
            }
        }
    }

    /// Awaits `work`, and fails publications at their deadlines until then: nothing can be sent.
    /// `None` if the broker is closing and nothing is left to send.
    async fn expiring<T>(
        &mut self,
        work: impl Future<Output = T>,
        cause: &BrokerError,
    ) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.queue.expire_all(cause) => None,
        }
    }

    /// Publishes until the connection breaks, or the broker is closing and nothing is left.
    async fn serve(&mut self, mut link: Link) -> RedisResult<()> {
        self.recover(&mut link).await?;
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                error = link.lost() => return Err(error),
                // Before the queue: a busy connection must be probed, too.
                _ = ping.tick() => self.probe(&mut link).await?,
                more = self.queue.wait() => {
                    if self.is_woken_first {
                        // Tasks that are ready to publish run first: one pipeline for all.
                        yield_now().await;
                    }
                    self.queue.take_more();
                    let sent = self.send_batch(&mut link).await?;
                    if !more && !sent {
                        return Ok(());
                    }
                }
                () = self.outbox.changed() => {
                    self.send_batch(&mut link).await?;
                }
            }
        }
    }

    /// Checks whether Redis accepts writes; if so, refused joins and leaves are sent again.
    async fn probe(&mut self, link: &mut Link) -> RedisResult<()> {
        match self.probe.check(link, &self.shared).await? {
            Writes::Taken => {
                self.health.set_up();
                self.outbox.retry_refused();
            }
            Writes::Refused(error) => self.health.set_refused(&error),
        }
        Ok(())
    }

    /// Sends what waits: joins, publications, leaves. Returns whether there was anything.
    async fn send_batch(&mut self, link: &mut Link) -> RedisResult<bool> {
        self.queue.expire(&BrokerError::unavailable("redis was unavailable until the deadline"));
        // The outbox after the queue: a join that was accepted before one of these publications is
        // in the outbox by now. In the other order it could be accepted in between, and the
        // publication would be sent before it.
        let mut jobs = self.queue.take_batch();
        let done = self.queue.done();
        let changes = self.outbox.take(done);
        if let Some(after) = changes.fence_at {
            // More joins wait than fit into this pipeline, and some of these publications follow
            // them.
            let held = usize::try_from(done.saturating_sub(after)).unwrap_or(usize::MAX);
            self.queue.put_back(jobs.split_off(jobs.len().saturating_sub(held)));
        }
        if jobs.is_empty() && changes.is_empty() {
            return Ok(false);
        }
        let batch = Batch::new(jobs, |job, retention| self.must_extend(job, retention));
        let pipeline = self.pipeline(&batch, &changes);
        let sent = Instant::now();
        match self.shared.counters.timed(link.send(&pipeline)).await {
            Ok(replies) => {
                self.reconnect.worked();
                self.pass_on(link, batch, sent, changes, replies).await?;
            }
            Err(error) => {
                self.outbox.record(changes, []);
                self.resend(batch.jobs, &broker_error(error.clone()));
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Handles publications in flight on a connection that broke: Redis may have executed all, some
    /// or none. Persistent ones can be searched for, and are put back for
    /// [`recover`](Self::recover). Ephemeral ones cannot: sent again they might arrive twice, so
    /// they fail.
    fn resend(&mut self, jobs: Vec<Job>, cause: &BrokerError) {
        let mut again = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            if job.options.is_persistent() {
                job.sent = true;
                again.push(job);
            } else {
                job.resolve(Err(cause.clone()));
            }
        }
        self.queue.put_back(again);
    }

    /// Resolves publications that Redis has executed on an earlier connection, and puts back those
    /// that it has not. Before anything else is sent: a later publication in the log would make
    /// these overtaken.
    async fn recover(&mut self, link: &mut Link) -> RedisResult<()> {
        let jobs = self.queue.take_sent();
        let Some(first) = jobs.first() else { return Ok(()) };
        // The search counts as the wait for the answer, and is bounded by the same time.
        let limit = first.deadline + RESPONSE_TIMEOUT;
        let answered = |job: &Job| self.state(job).answered;
        let find = recover::find(link, &self.shared.scripts, &jobs, answered);
        let found = timeout_at(limit, find).await;
        let outcomes = match found.unwrap_or_else(|_| Err(timed_out())) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.queue.put_back(jobs);
                return Err(error);
            }
        };
        let (mut again, mut seen, mut resolved) = (Vec::new(), Vec::new(), Vec::new());
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Published(position) => {
                    seen.push((job.address.clone(), LastSeen { position, id: Some(job.id) }));
                    resolved.push((job, Ok(Published::new(Some(position), 0))));
                }
                // Redis has the key if the publication was executed, and answers with its position.
                Outcome::Unknown if job.has_key() => again.push(job.unsent()),
                Outcome::Missing => again.push(job.unsent()),
                Outcome::Overtaken | Outcome::Unknown => {
                    resolved.push((job, Err(BrokerError::unavailable("the answer was lost"))));
                }
            }
        }
        self.finish(resolved, seen);
        self.queue.put_back(again);
        Ok(())
    }

    fn pipeline(&self, batch: &Batch, changes: &Changes) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(batch.len() + 2);
        pipeline.ignore_errors();
        self.shared.add_joins(&mut pipeline, changes);
        let Shared { scripts, config, .. } = &*self.shared;
        batch.add_to(&mut pipeline, &scripts.publish, config.position_ttl);
        self.shared.add_leaves(&mut pipeline, changes);
        pipeline
    }

    /// Whether a publication has to extend the lifetime of its log: none of this connection has done
    /// so lately. A Redis that was replaced may have an older copy of the log.
    fn must_extend(&self, job: &Job, retention: Retention) -> bool {
        let is_recent = |(at, ttl): (Instant, Duration)| {
            at >= self.connected && ttl == retention.ttl && at.elapsed() < batch::slack(retention)
        };
        !self.state(job).extended.is_some_and(is_recent)
    }

    fn state(&self, job: &Job) -> TopicState {
        self.topics.get(job.address.channel()).copied().unwrap_or_default()
    }

    /// Passes on the replies. After a `SCRIPT FLUSH`, loads the scripts again, and puts back what
    /// Redis did not execute for the lack of one.
    async fn pass_on(
        &mut self,
        link: &mut Link,
        batch: Batch,
        sent: Instant,
        changes: Changes,
        replies: Vec<Value>,
    ) -> RedisResult<()> {
        let lacks_scripts = replies.iter().any(is_unknown_script);
        let mut replies = replies.into_iter();
        let joins = if changes.joins.is_empty() { None } else { replies.next() };
        let published = replies.by_ref().take(batch.len()).collect();
        let leaves = replies.next();
        // The node has no lease. Its users are sent again under a new one.
        if joins == Some(Value::Int(0)) {
            self.presence.check_lease.notify_one();
        }
        let joins = presence::replies(joins.as_ref(), changes.joins.len());
        let leaves = presence::replies(leaves.as_ref(), changes.leaves.len());
        for (key, reply) in changes.leaves.iter().zip(leaves.clone()) {
            if let Value::ServerError(error) = reply {
                self.shared.damage.note(&key.address, PRESENCE, error);
            }
        }
        for (join, reply) in changes.joins.iter().zip(joins.clone()) {
            if let Value::ServerError(error) = reply
                && !is_unknown_script(reply)
            {
                let error = RedisError::from(error.clone());
                let error = self.shared.damage.explain(&join.key.address, PRESENCE, error);
                self.outbox.fail_limited_joins(&join.key, &error);
            }
        }
        let joins = joins.map(presence::join_outcome);
        self.outbox.record(changes, joins.chain(leaves.map(presence::leave_outcome)));
        let resolved = self.resolve_jobs(batch, sent, published);
        if lacks_scripts {
            link.load().await?;
        }
        resolved
    }

    fn resolve_jobs(
        &mut self,
        batch: Batch,
        sent: Instant,
        replies: Vec<Value>,
    ) -> RedisResult<()> {
        let outcomes = batch.outcomes(replies);
        for (n, retention) in batch.extended() {
            if let (Some(job), Some(Some(Ok(published)))) = (batch.jobs.get(n), outcomes.get(n))
                // A call that only repeats earlier publications extends nothing, and reaches no node.
                && (!job.has_key() || published.nodes > 0)
            {
                self.topics.update(job.address.channel(), |topic| {
                    topic.extended = Some((sent, retention.ttl));
                });
            }
        }
        let (mut unexecuted, mut seen, mut resolved) = (Vec::new(), Vec::new(), Vec::new());
        let mut broken = None;
        for (job, outcome) in batch.jobs.into_iter().zip(outcomes) {
            let Some(outcome) = outcome else {
                unexecuted.push(job);
                continue;
            };
            match &outcome {
                Ok(Published { position: Some(position), repeated: false, .. }) => {
                    let last_seen = LastSeen { position: *position, id: Some(job.id) };
                    self.topics.update(job.address.channel(), |topic| topic.answered = *position);
                    seen.push((job.address.clone(), last_seen));
                }
                Err(error) if wants_reconnect(error) => broken = Some(error.clone()),
                _ => {}
            }
            let damage = &self.shared.damage;
            let outcome = outcome.map_err(|error| damage.explain(&job.address, SEQUENCE, error));
            resolved.push((job, outcome));
        }
        self.finish(resolved, seen);
        self.queue.put_back(unexecuted);
        broken.map_or(Ok(()), Err)
    }

    /// Records the positions, then resolves the receipts: a client that is acknowledged may ask for
    /// its message at once, and `known_position` must cover it.
    fn finish(
        &self,
        resolved: Vec<(Job, Result<Published, BrokerError>)>,
        seen: Vec<(Address, LastSeen)>,
    ) {
        self.subscriber.published(seen);
        for (job, outcome) in resolved {
            job.resolve(outcome);
        }
    }
}

/// Opens a connection, after which Redis executes nothing more of the one before.
async fn connect(
    shared: Arc<Shared>,
    subscriber: Arc<Subscriber>,
    earlier: Option<ServerIdentity>,
    probe: Probe,
) -> RedisResult<(Link, ServerIdentity)> {
    let mut link = Link::open(&shared, |_| {}).await?;
    let identity = ServerIdentity::of(&mut link).await?;
    identity.check()?;
    if let Some(earlier) = earlier {
        // Redis may still read publications from the old socket. Executed after the search of
        // `recover`, they would be in the log twice.
        identity.end(&earlier, &mut link).await?;
    }
    link.load().await?;
    // Before the epochs, so that each attempt to use a replica does not check all topics.
    probe.publish(&mut link, &shared).await?;
    if let Some(policy) = &identity.eviction {
        shared.eviction.seen(policy);
    }
    epochs::check(&mut link, &shared.scripts, &subscriber.seen()).await?;
    Ok((link, identity))
}
