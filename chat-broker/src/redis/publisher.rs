//! Publishing: one task for each connection, which sends what waits in one pipeline.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use chat_core::{Epoch, Position, Topic};
use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::health::Side;
use super::link::{Backoff, Link, PING_INTERVAL, broker_error};
use super::queue::{Job, Queue};
use super::subscriber::Subscriber;
use super::{Shared, rewound, wire};
use crate::broker::{Delivery, Published, Receipt};
use crate::error::BrokerError;
use crate::random;

const SCRIPT: &str = include_str!("publish.lua");

/// Payload that waits for one connection at most, in bytes.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The near end of the queues.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
}

impl Publisher {
    /// Starts a task in `tasks` for each connection; they end when `closing` turns true and
    /// their queues are empty.
    pub(super) fn start(
        shared: &Arc<Shared>,
        subscriber: &Arc<Subscriber>,
        closing: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let lanes = (0..shared.config.publish_connections).map(|_| {
            let (jobs, receiver) = mpsc::channel(shared.config.publish_queue);
            let task = LaneTask {
                shared: Arc::clone(shared),
                subscriber: Arc::clone(subscriber),
                queue: Queue::new(receiver, closing.clone()),
                side: shared.health.side(),
                script: String::new(),
                refused: false,
            };
            tasks.spawn(task.run());
            Lane { jobs, room: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)) }
        });
        Self { shared: Arc::clone(shared), lanes: lanes.collect() }
    }

    /// See [`Broker::publish`](crate::Broker::publish).
    pub(super) async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        delivery: Delivery,
    ) -> Result<Receipt, BrokerError> {
        let deadline = Instant::now() + self.shared.config.deadline;
        let lane = self.lane(topic);
        let address = self.shared.names.address(topic);
        let bytes = u32::try_from(payload.len().min(MAX_QUEUED_BYTES)).unwrap_or(u32::MAX);
        let place = async {
            let room = Arc::clone(&lane.room).acquire_many_owned(bytes).await;
            let place = lane.jobs.reserve().await;
            room.ok().zip(place.ok()).ok_or(BrokerError::Closed)
        };
        let (_room, place) = timeout_at(deadline, place)
            .await
            .map_err(|_| BrokerError::unavailable("the queue of publications stayed full"))??;
        let (receipt, pending) = Receipt::pending();
        place.send(Job { address, payload, delivery, deadline, receipt, _room });
        Ok(pending)
    }

    /// Always the same for a topic, which keeps its order.
    fn lane(&self, topic: &Topic) -> &Lane {
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        &self.lanes[hasher.finish() as usize % self.lanes.len()]
    }
}

/// Owns one connection to publish on.
struct LaneTask {
    shared: Arc<Shared>,
    /// Knows how far the topics have come.
    subscriber: Arc<Subscriber>,
    queue: Queue,
    side: Side,
    /// What Redis calls the script.
    script: String,
    /// Redis refuses publications, and the log has said so.
    refused: bool,
}

impl LaneTask {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut cause = BrokerError::unavailable("redis was not reached yet");
        loop {
            let shared = Arc::clone(&self.shared);
            let open = async move { Link::open(&shared.client, |_| {}).await };
            let Some(opened) = self.meanwhile(open, &cause).await else { return };
            let started = Instant::now();
            let error = match opened {
                Ok(link) => match self.serve(link).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
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
        self.script = link.load_script(SCRIPT).await?;
        rewound::delete(&mut link, &self.subscriber.seen()).await?;
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
                // Redis may have them all, or none.
                let outcome = broker_error(error.clone());
                for job in jobs {
                    job.settle(Err(outcome.clone()));
                }
                Err(error)
            }
        }
    }

    fn pipeline(&self, jobs: &[Job]) -> Pipeline {
        let ttl = self.shared.config.position_ttl.as_secs();
        let mut pipeline = Pipeline::with_capacity(jobs.len());
        pipeline.ignore_errors();
        for job in jobs {
            match job.delivery {
                Delivery::Kept { .. } => {
                    let epoch = Epoch::from_random(random::bits());
                    pipeline.cmd("EVALSHA").arg(&self.script).arg(1).arg(job.address.meta());
                    pipeline.arg(job.address.channel()).arg(epoch.as_str());
                    pipeline.arg(ttl).arg(&job.payload[..]);
                }
                Delivery::Ephemeral => {
                    let message = wire::ephemeral(&job.payload);
                    pipeline.cmd("PUBLISH").arg(job.address.channel()).arg(message);
                }
            }
        }
        pipeline
    }

    /// Passes the answers on. After a `SCRIPT FLUSH`, stores the script again and puts back
    /// what Redis did not execute for the lack of it.
    async fn settle(
        &mut self,
        link: &mut Link,
        jobs: Vec<Job>,
        replies: Vec<Value>,
    ) -> RedisResult<()> {
        let overtaken: Vec<bool> =
            (0..jobs.len()).map(|n| is_overtaken(&jobs, &replies, n)).collect();
        let mut unexecuted = Vec::new();
        let mut broken = None;
        for ((job, reply), overtaken) in jobs.into_iter().zip(replies).zip(overtaken) {
            if lacks_script(&reply) && !overtaken {
                unexecuted.push(job);
                continue;
            }
            let outcome = published(reply);
            self.tell_refusal(&outcome);
            if let Err(error) = &outcome
                && wants_reconnect(error)
            {
                broken = Some(error.clone());
            }
            job.settle(outcome.map_err(broker_error));
        }
        if !unexecuted.is_empty() {
            self.queue.put_back(unexecuted);
            self.script = link.load_script(SCRIPT).await?;
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

/// Whether a publication found no script while a later one to its topic went through: to
/// send it again would turn the order round.
fn is_overtaken(jobs: &[Job], replies: &[Value], n: usize) -> bool {
    let (Some(job), Some(reply)) = (jobs.get(n), replies.get(n)) else { return false };
    lacks_script(reply)
        && jobs
            .iter()
            .zip(replies)
            .skip(n + 1)
            .any(|(later, reply)| !lacks_script(reply) && later.address == job.address)
}

fn lacks_script(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

/// Answers that concern the server, and not a topic whose key is not what it should be.
fn refuses_all(error: &RedisError) -> bool {
    matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS" | "NOPERM" | "READONLY"))
}

/// Answers after which another server may be found at the same address, or this one with
/// other rights.
fn wants_reconnect(error: &RedisError) -> bool {
    matches!(error.code(), Some("LOADING" | "MASTERDOWN" | "NOAUTH" | "READONLY"))
}

/// Reads what the script or `PUBLISH` returned.
fn published(reply: Value) -> RedisResult<Published> {
    match reply {
        Value::Int(nodes) => Ok(Published { position: None, nodes: count(nodes), repeated: false }),
        Value::Array(fields) => {
            let (offset, epoch, nodes): (u64, Vec<u8>, i64) =
                redis::from_redis_value(Value::Array(fields))?;
            let epoch = Epoch::parse(&epoch)
                .ok_or((redis::ErrorKind::UnexpectedReturnType, "malformed epoch in redis"))?;
            Ok(Published {
                position: Some(Position { epoch, offset }),
                nodes: count(nodes),
                repeated: false,
            })
        }
        reply => {
            let reply = reply.extract_error()?;
            let detail = format!("{reply:?}");
            Err((redis::ErrorKind::UnexpectedReturnType, "not a reply to a publication", detail)
                .into())
        }
    }
}

fn count(nodes: i64) -> u32 {
    u32::try_from(nodes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use chat_core::RoomId;

    use super::*;
    use crate::redis::names::Names;

    async fn job(room: &str) -> Job {
        let topic = Topic::Room(RoomId::new(room).unwrap());
        Job {
            address: Names::new("chat", 0).address(&topic),
            payload: Bytes::new(),
            delivery: Delivery::kept(),
            deadline: Instant::now(),
            receipt: Receipt::pending().0,
            _room: Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap(),
        }
    }

    fn reply(bytes: &str) -> Value {
        redis::parse_redis_value(bytes.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn what_later_ones_have_overtaken_is_not_sent_again() {
        let jobs = [job("a").await, job("b").await, job("a").await, job("b").await];
        let lacking = || reply("-NOSCRIPT No matching script\r\n");
        let overtaken = |replies: &[Value]| -> Vec<bool> {
            (0..jobs.len()).map(|n| is_overtaken(&jobs, replies, n)).collect()
        };
        let all_lack = [lacking(), lacking(), lacking(), lacking()];
        assert_eq!(overtaken(&all_lack), [false; 4]);
        let second_of_a_went_through = [lacking(), lacking(), reply(":1\r\n"), lacking()];
        assert_eq!(overtaken(&second_of_a_went_through), [true, false, false, false]);
    }

    #[test]
    fn answers() {
        let sequenced = published(reply("*3\r\n:7\r\n$8\r\nabcdEF12\r\n:2\r\n")).unwrap();
        let position = Position { epoch: Epoch::parse(b"abcdEF12").unwrap(), offset: 7 };
        assert_eq!(sequenced, Published { position: Some(position), nodes: 2, repeated: false });
        let ephemeral = published(reply(":3\r\n")).unwrap();
        assert_eq!(ephemeral, Published { position: None, nodes: 3, repeated: false });
        for odd in ["$2\r\nhi\r\n", "*1\r\n:1\r\n", "*3\r\n:7\r\n$2\r\nhi\r\n:2\r\n"] {
            assert!(matches!(
                broker_error(published(reply(odd)).unwrap_err()),
                BrokerError::Refused(_)
            ));
        }
        let errors = [
            ("OOM", true),
            ("READONLY", true),
            ("NOAUTH", true),
            ("WRONGTYPE", true),
            ("MOVED", true),
            ("LOADING", false),
            ("BUSY", false),
            ("MASTERDOWN", false),
        ];
        for (code, is_refused) in errors {
            let error = published(reply(&format!("-{code} why\r\n"))).unwrap_err();
            let outcome = broker_error(error);
            assert_eq!(matches!(outcome, BrokerError::Refused(_)), is_refused, "{outcome:?}");
        }
    }
}
