//! Publishing: a queue for each connection that publishes.
//!
//! A publication waits in its `queue.rs`; the task in `worker.rs` sends all that waits as one
//! pipeline, with joins before and leaves after it. `batch.rs` groups them into commands; `reply.rs`
//! reads the answers; `recover.rs` finds out what became of publications whose answers were lost with
//! a connection.

pub(super) mod batch;
pub(super) mod queue;
mod recover;
mod reply;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chat_core::{Occupant, Topic, UserId};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::presence::Presence;
use super::presence::changes::Key;
use super::presence::outbox::PresenceOutbox;
use super::shared::Shared;
use super::subscribe::Subscriber;
use super::wire::MessageId;
use crate::error::BrokerError;
use crate::presence::{Departure, EnterReceipt};
use crate::publish::{PublishOptions, Receipt};
use queue::{Job, Queue};
use worker::PublishWorker;

/// Maximum payload that waits for one connection, in bytes.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// The sending end of the queues.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    presence: Arc<Presence>,
    workers: Vec<WorkerHandle>,
}

#[derive(Debug)]
struct WorkerHandle {
    jobs: mpsc::Sender<Job>,
    bytes: Arc<Semaphore>,
    /// How many publications were accepted.
    accepted: AtomicU64,
    outbox: Arc<PresenceOutbox>,
}

impl Publisher {
    /// Starts a task in `tasks` for each connection; they end when `closing` turns true and
    /// their queues are empty.
    pub(super) fn start(
        shared: &Arc<Shared>,
        subscriber: &Arc<Subscriber>,
        presence: &Arc<Presence>,
        closing: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let workers = presence.outboxes().iter().map(|outbox| {
            let (jobs, receiver) = mpsc::channel(shared.config.publish_queue);
            let queue = Queue::new(receiver, closing.clone());
            let task = PublishWorker::new(shared, subscriber, presence, queue, Arc::clone(outbox));
            tasks.spawn(task.run());
            let bytes = Arc::new(Semaphore::new(MAX_QUEUED_BYTES));
            WorkerHandle { jobs, bytes, accepted: AtomicU64::new(0), outbox: Arc::clone(outbox) }
        });
        let workers = workers.collect();
        Self { shared: Arc::clone(shared), presence: Arc::clone(presence), workers }
    }

    /// See [`Broker::publish`](crate::Broker::publish).
    pub(super) async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Receipt, BrokerError> {
        let deadline = Instant::now() + self.shared.config.deadline;
        let worker = self.worker(topic);
        let address = self.shared.names.address(topic);
        let bytes = u32::try_from(payload.len().min(MAX_QUEUED_BYTES)).unwrap_or(u32::MAX);
        let permit = async {
            let bytes = Arc::clone(&worker.bytes).acquire_many_owned(bytes).await;
            let slot = worker.jobs.reserve().await;
            bytes.ok().zip(slot.ok()).ok_or(BrokerError::Closed)
        };
        let (_bytes, slot) = timeout_at(deadline, permit)
            .await
            .map_err(|_| BrokerError::unavailable("the queue of publications stayed full"))??;
        let (receipt, pending) = Receipt::pending();
        let id = MessageId::random();
        worker.accepted.fetch_add(1, Ordering::SeqCst);
        slot.send(Job { address, payload, options, id, sent: false, deadline, receipt, _bytes });
        Ok(pending)
    }

    /// How many publications wait: for room in the queue, to be sent, or to be answered.
    pub(super) fn queued(&self) -> usize {
        // Each publication holds a reference to the semaphore of its worker; the worker holds one
        // more.
        self.workers.iter().map(|worker| Arc::strong_count(&worker.bytes) - 1).sum()
    }

    /// See [`PresenceTracker::enter`](crate::PresenceTracker::enter).
    pub(super) fn enter(&self, topic: &Topic, Occupant { user, info, .. }: Occupant) {
        let worker = self.worker(topic);
        worker.outbox.join(self.key(topic, user), info, worker.accepted());
    }

    /// See [`PresenceTracker::enter_limited`](crate::PresenceTracker::enter_limited).
    pub(super) fn enter_limited(
        &self,
        topic: &Topic,
        Occupant { user, info, .. }: Occupant,
        max: u32,
    ) -> EnterReceipt {
        let worker = self.worker(topic);
        worker.outbox.join_limited(self.key(topic, user), info, worker.accepted(), max)
    }

    /// See [`PresenceTracker::leave`](crate::PresenceTracker::leave).
    pub(super) fn leave(&self, topic: &Topic, user: &UserId) -> Departure {
        let worker = self.worker(topic);
        worker.outbox.leave(&self.key(topic, user.clone()), worker.accepted())
    }

    fn key(&self, topic: &Topic, user: UserId) -> Key {
        Key { address: self.shared.names.address(topic), user }
    }

    fn worker(&self, topic: &Topic) -> &WorkerHandle {
        &self.workers[self.presence.worker_index(topic)]
    }
}

impl WorkerHandle {
    fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}
