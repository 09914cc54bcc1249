//! The near end of publishing: queues, one for each connection.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use chat_core::Topic;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::lane::LaneTask;
use super::queue::{Job, Queue};
use super::subscriber::Subscriber;
use super::wire::MessageId;
use crate::broker::{Delivery, Receipt};
use crate::error::BrokerError;

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
            let queue = Queue::new(receiver, closing.clone());
            tasks.spawn(LaneTask::new(shared, subscriber, queue).run());
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
        let id = MessageId::random();
        let resend = false;
        place.send(Job { address, payload, delivery, id, resend, deadline, receipt, _room });
        Ok(pending)
    }

    /// Always the same for a topic, which keeps its order.
    fn lane(&self, topic: &Topic) -> &Lane {
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        &self.lanes[hasher.finish() as usize % self.lanes.len()]
    }
}
