//! The far end of publishing: one task for each connection, which sends what waits in one
//! pipeline.

use std::sync::Arc;

use redis::{Pipeline, RedisResult, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::answer::{is_overtaken, published, refuses_all, wants_reconnect};
use super::health::Side;
use super::link::{Backoff, Link, PING_INTERVAL, broker_error};
use super::mark::Mark;
use super::peer::Peer;
use super::queue::{Job, Queue};
use super::subscriber::Subscriber;
use super::{Shared, lineage, script, wire};
use crate::broker::{Delivery, Published};
use crate::error::BrokerError;

/// Owns one connection to publish on.
pub(super) struct LaneTask {
    shared: Arc<Shared>,
    /// Knows how far the topics have come.
    subscriber: Arc<Subscriber>,
    queue: Queue,
    side: Side,
    /// Of the latest connection.
    peer: Option<Peer>,
    /// Redis refuses publications, and the log has said so.
    refused: bool,
}

impl LaneTask {
    pub(super) fn new(shared: &Arc<Shared>, subscriber: &Arc<Subscriber>, queue: Queue) -> Self {
        Self {
            shared: Arc::clone(shared),
            subscriber: Arc::clone(subscriber),
            queue,
            side: shared.health.side(),
            peer: None,
            refused: false,
        }
    }

    /// Sends until the broker is closing and nothing is left.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut cause = BrokerError::unavailable("redis was not reached yet");
        loop {
            let started = Instant::now();
            let connect =
                connect(Arc::clone(&self.shared), Arc::clone(&self.subscriber), self.peer.clone());
            let Some(connected) = self.meanwhile(connect, &cause).await else { return };
            let error = match connected {
                Ok((link, peer)) => {
                    self.peer = Some(peer);
                    match self.serve(link).await {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            backoff.connected_for(started.elapsed());
            self.side.set_down(&error);
            cause = broker_error(error);
            if self.meanwhile(sleep(backoff.next()), &cause).await.is_none() {
                return;
            }
        }
    }

    /// Awaits `work` while nothing can be sent. `None` when the broker is closing and
    /// nothing is left to send.
    async fn meanwhile<T>(
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
        self.side.set_up();
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                error = link.lost() => return Err(error),
                more = self.queue.wait() => {
                    if !more {
                        return Ok(());
                    }
                    self.send_batch(&mut link).await?;
                }
                _ = ping.tick() => link.ping().await?,
            }
        }
    }

    async fn send_batch(&mut self, link: &mut Link) -> RedisResult<()> {
        self.queue.expire(&BrokerError::unavailable("redis came back too late"));
        let jobs = self.queue.take_batch();
        if jobs.is_empty() {
            return Ok(());
        }
        match link.send(&self.pipeline(&jobs)).await {
            Ok(replies) => self.settle(link, jobs, replies).await,
            Err(error) => {
                self.send_again(jobs, &broker_error(error.clone()));
                Err(error)
            }
        }
    }

    /// After a connection that broke Redis may have all of `jobs`, or none. What is kept
    /// is sent again: Redis finds it by its id. The rest must not arrive twice.
    fn send_again(&mut self, jobs: Vec<Job>, cause: &BrokerError) {
        let mut again = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            match job.delivery {
                Delivery::Kept { .. } => {
                    job.resend = true;
                    again.push(job);
                }
                Delivery::Ephemeral => job.settle(Err(cause.clone())),
            }
        }
        self.queue.put_back(again);
    }

    fn pipeline(&self, jobs: &[Job]) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(jobs.len());
        pipeline.ignore_errors();
        for job in jobs {
            match &job.delivery {
                Delivery::Kept { .. } => self.shared.add_kept(&mut pipeline, job),
                Delivery::Ephemeral => {
                    let message = wire::ephemeral(&job.payload);
                    pipeline.cmd("PUBLISH").arg(job.address.channel()).arg(message);
                }
            }
        }
        pipeline
    }

    /// Passes the answers on. After a `SCRIPT FLUSH`, stores the scripts again and puts
    /// back what Redis did not execute for the lack of one.
    async fn settle(
        &mut self,
        link: &mut Link,
        jobs: Vec<Job>,
        replies: Vec<Value>,
    ) -> RedisResult<()> {
        let overtaken: Vec<bool> =
            (0..jobs.len()).map(|n| is_overtaken(&jobs, &replies, n)).collect();
        let (mut unexecuted, mut seen) = (Vec::new(), Vec::new());
        let mut broken = None;
        for ((job, reply), overtaken) in jobs.into_iter().zip(replies).zip(overtaken) {
            if script::is_unknown(&reply) && !overtaken {
                unexecuted.push(job);
                continue;
            }
            let outcome = published(reply);
            self.tell_refusal(&outcome);
            match &outcome {
                Ok(Published { position: Some(position), repeated: false, .. }) => {
                    let mark = Mark { position: *position, id: Some(job.id) };
                    seen.push((job.address.clone(), mark));
                }
                Err(error) if wants_reconnect(error) => broken = Some(error.clone()),
                _ => {}
            }
            job.settle(outcome.map_err(broker_error));
        }
        self.subscriber.published(seen);
        if !unexecuted.is_empty() {
            self.queue.put_back(unexecuted);
            link.load(&self.shared.scripts).await?;
        }
        broken.map_or(Ok(()), Err)
    }

    /// One line in the log when Redis begins to refuse publications (out of memory, no
    /// permission), and one when it takes them again.
    fn tell_refusal(&mut self, outcome: &RedisResult<Published>) {
        match outcome {
            Err(error) if !self.refused && refuses_all(error) => {
                self.refused = true;
                tracing::warn!(%error, "redis refuses publications");
            }
            Ok(_) if self.refused => {
                self.refused = false;
                tracing::info!("redis takes publications again");
            }
            _ => {}
        }
    }
}

/// A connection on which what was sent on the one before may be sent again.
async fn connect(
    shared: Arc<Shared>,
    subscriber: Arc<Subscriber>,
    earlier: Option<Peer>,
) -> RedisResult<(Link, Peer)> {
    let mut link = Link::open(&shared.client, |_| {}).await?;
    let peer = Peer::of(&mut link).await?;
    if let Some(earlier) = earlier {
        peer.end(&earlier, &mut link).await?;
    }
    link.load(&shared.scripts).await?;
    lineage::check(&mut link, &shared.scripts, &subscriber.seen()).await?;
    Ok((link, peer))
}
