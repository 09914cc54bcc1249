//! Publications that wait for their connection.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::error::BrokerError;
use crate::publish::{PublishOptions, Published, ReceiptSender};
use crate::redis::names::Address;
use crate::redis::wire::MessageId;

/// Maximum publications in one pipeline, and so of one topic in a call of `publish.lua`, which has a
/// byte for their number.
const MAX_BATCH: usize = 255;

/// Maximum payload in one pipeline, in bytes, unless a single publication is larger: a slow network
/// carries as much within the response timeout.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// A publication that is queued or in flight.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) address: Address,
    pub(crate) payload: Bytes,
    pub(crate) options: PublishOptions,
    pub(crate) id: MessageId,
    /// The publication was sent on a connection that broke: Redis may have it.
    pub(crate) sent: bool,
    /// When it fails if it was not sent.
    pub(crate) deadline: Instant,
    pub(crate) receipt: ReceiptSender,
    /// The payload's share of the bytes that may wait.
    pub(crate) _bytes: OwnedSemaphorePermit,
}

impl Job {
    pub(crate) fn has_key(&self) -> bool {
        self.options.is_persistent() && self.options.key.is_some()
    }

    /// Marks the publication as not sent: it is on no connection, and not in Redis.
    pub(crate) fn unsent(self) -> Self {
        Self { sent: false, ..self }
    }

    pub(crate) fn resolve(self, outcome: Result<Published, BrokerError>) {
        self.receipt.resolve(outcome);
    }
}

/// The publications that wait for one connection, oldest first.
#[derive(Debug)]
pub(crate) struct Queue {
    jobs: mpsc::Receiver<Job>,
    closing: watch::Receiver<bool>,
    /// Taken from `jobs`, not sent yet; at most [`MAX_BATCH`].
    pending: Vec<Job>,
    /// How many were ever taken from `jobs`.
    taken: u64,
}

impl Queue {
    pub(crate) fn new(jobs: mpsc::Receiver<Job>, closing: watch::Receiver<bool>) -> Self {
        Self { jobs, closing, pending: Vec::new(), taken: 0 }
    }

    /// Waits until there is something to send. Returns `false` when the broker is closing
    /// and nothing is left.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn wait(&mut self) -> bool {
        while self.pending.is_empty() {
            tokio::select! {
                taken = self.jobs.recv_many(&mut self.pending, MAX_BATCH) => {
                    self.taken += taken as u64;
                    return taken > 0;
                }
                _ = self.closing.wait_for(|closing| *closing), if !self.jobs.is_closed() => {
                    self.jobs.close();
                }
            }
        }
        true
    }

    /// Takes publications that were queued since [`wait`](Self::wait) returned.
    pub(crate) fn take_more(&mut self) {
        while self.pending.len() < MAX_BATCH {
            let Ok(job) = self.jobs.try_recv() else { return };
            self.pending.push(job);
            self.taken += 1;
        }
    }

    /// Takes the publications of the next pipeline: at least one, if any waits.
    pub(crate) fn take_batch(&mut self) -> Vec<Job> {
        let mut bytes = 0;
        let fits = |job: &&Job| {
            bytes += job.payload.len();
            bytes <= MAX_BATCH_BYTES
        };
        let count = self.pending.iter().take_while(fits).count().max(1).min(self.pending.len());
        self.pending.drain(..count).collect()
    }

    /// How many publications were taken out of the queue and not put back.
    pub(crate) fn done(&self) -> u64 {
        self.taken - self.pending.len() as u64
    }

    /// Takes the publications that were sent before: they are at the front.
    pub(crate) fn take_sent(&mut self) -> Vec<Job> {
        let count = self.pending.iter().take_while(|job| job.sent).count();
        self.pending.drain(..count).collect()
    }

    /// Puts publications back at the front, to be sent (again).
    pub(crate) fn put_back(&mut self, jobs: Vec<Job>) {
        self.pending.splice(..0, jobs);
    }

    /// Fails the publications whose deadline has passed.
    pub(crate) fn expire(&mut self, cause: &BrokerError) {
        let now = Instant::now();
        let late = self.pending.iter().take_while(|job| job.deadline <= now).count();
        for job in self.pending.drain(..late) {
            job.resolve(Err(cause.clone()));
        }
    }

    /// Fails each publication at its deadline, while nothing can be sent. Returns when the broker
    /// is closing and nothing is left.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn expire_all(&mut self, cause: &BrokerError) {
        while self.wait().await {
            // Each waits equally long, so the first is the next to expire.
            if let Some(first) = self.pending.first() {
                sleep_until(first.deadline).await;
            }
            self.expire(cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use chat_core::{Retention, RoomId, Topic};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::publish::Receipt;
    use crate::redis::names::Names;

    impl Job {
        /// A publication in a room.
        pub(crate) fn sample(
            room: &str,
            payload: impl Into<Bytes>,
            options: PublishOptions,
        ) -> (Self, Receipt) {
            let (receipt, pending) = Receipt::pending();
            let topic = Topic::Room(RoomId::new(room).unwrap());
            let job = Self {
                address: Names::new("chat", 0).address(&topic),
                payload: payload.into(),
                options,
                id: MessageId::random(),
                sent: false,
                deadline: Instant::now(),
                receipt,
                _bytes: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
            };
            (job, pending)
        }
    }

    struct Setup {
        jobs: mpsc::Sender<Job>,
        closing: watch::Sender<bool>,
        queue: Queue,
    }

    fn setup() -> Setup {
        let (jobs, receiver) = mpsc::channel(1000);
        let (closing, closed) = watch::channel(false);
        Setup { jobs, closing, queue: Queue::new(receiver, closed) }
    }

    async fn job(bytes: usize, deadline: Instant) -> (Job, Receipt) {
        let options = PublishOptions::default().retention(Retention::default());
        let (job, receipt) = Job::sample("r", vec![0; bytes], options);
        (Job { deadline, ..job }, receipt)
    }

    #[tokio::test]
    async fn batches_are_bounded_and_keep_their_order() {
        let Setup { jobs, mut queue, .. } = setup();
        for bytes in [MAX_BATCH_BYTES - 1, 1, 2, MAX_BATCH_BYTES + 1].into_iter().chain(0..300) {
            let (job, _) = job(bytes, Instant::now()).await;
            jobs.send(job).await.unwrap();
        }
        let mut sizes = Vec::new();
        let mut put_back = false;
        while sizes.len() < 304 {
            assert!(queue.wait().await);
            let batch = queue.take_batch();
            let bytes: usize = batch.iter().map(|job| job.payload.len()).sum();
            assert!(batch.len() == 1 || bytes <= MAX_BATCH_BYTES, "{} of {bytes}", batch.len());
            assert!((1..=MAX_BATCH).contains(&batch.len()));
            if std::mem::replace(&mut put_back, true) {
                sizes.extend(batch.iter().map(|job| job.payload.len()));
            } else {
                queue.put_back(batch);
            }
        }
        let expected = [MAX_BATCH_BYTES - 1, 1, 2, MAX_BATCH_BYTES + 1].into_iter().chain(0..300);
        assert!(sizes.into_iter().eq(expected));
        assert!(queue.take_batch().is_empty());
    }

    #[tokio::test]
    async fn concurrent_publications_share_a_batch() {
        let Setup { jobs, closing: _open, mut queue } = setup();
        jobs.send(job(0, Instant::now()).await.0).await.unwrap();
        assert!(queue.wait().await);
        for _ in 0..MAX_BATCH {
            jobs.send(job(0, Instant::now()).await.0).await.unwrap();
        }
        queue.take_more();
        assert_eq!(queue.take_batch().len(), MAX_BATCH, "full, and one is left for the next");
        assert_eq!(queue.done(), MAX_BATCH as u64);
        assert!(queue.wait().await);
        assert_eq!(queue.take_batch().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_publications_fail_and_others_stay() {
        let Setup { jobs, closing, mut queue } = setup();
        let late = BrokerError::unavailable("late");
        let now = Instant::now();
        let (first, first_receipt) = job(0, now + Duration::from_secs(1)).await;
        let (second, mut second_receipt) = job(0, now + Duration::from_secs(2)).await;
        jobs.send(first).await.unwrap();
        jobs.send(second).await.unwrap();
        tokio::select! {
            () = queue.expire_all(&late) => panic!("one still waits"),
            outcome = first_receipt => assert!(matches!(outcome, Err(BrokerError::Unavailable(_)))),
        }
        assert_eq!(now.elapsed().as_secs(), 1);
        tokio::select! {
            biased;
            _ = &mut second_receipt => panic!("its deadline has not passed"),
            () = std::future::ready(()) => {}
        }
        closing.send_replace(true);
        queue.expire_all(&late).await;
        assert_eq!(now.elapsed().as_secs(), 2);
        assert!(matches!(second_receipt.await, Err(BrokerError::Unavailable(_))));
        assert!(!queue.wait().await, "closed and empty");
    }
}
