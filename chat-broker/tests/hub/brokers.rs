//! Brokers that misbehave when told to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chat_broker::{Broker, BrokerError, BrokerEvents, Delivery, MemoryBroker, Receipt, Status};
use chat_core::{Position, Topic};
use tokio::sync::Notify;

/// A memory broker that counts calls, and fails or hangs when told to.
#[derive(Debug)]
pub(crate) struct Spy {
    pub(crate) inner: Arc<MemoryBroker>,
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    pub(crate) fail_next: AtomicUsize,
    pub(crate) hang_next: AtomicUsize,
    /// Positions that cannot be read.
    pub(crate) lost_next: AtomicUsize,
    /// Positions that are read at once and handed over when the gate opens.
    pub(crate) stale_next: AtomicUsize,
    pub(crate) gate: Arc<Notify>,
}

impl Spy {
    pub(crate) fn new() -> (Self, BrokerEvents) {
        let (inner, events) = MemoryBroker::connect();
        let spy = Self {
            inner: Arc::new(inner),
            calls: Arc::default(),
            fail_next: AtomicUsize::new(0),
            hang_next: AtomicUsize::new(0),
            lost_next: AtomicUsize::new(0),
            stale_next: AtomicUsize::new(0),
            gate: Arc::default(),
        };
        (spy, events)
    }

    fn take(counter: &AtomicUsize) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }
}

#[async_trait]
impl Broker for Spy {
    async fn publish(
        &self,
        topic: &Topic,
        payload: Bytes,
        delivery: Delivery,
    ) -> Result<Receipt, BrokerError> {
        self.inner.publish(topic, payload, delivery).await
    }
    async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        self.calls.lock().unwrap().push(format!("subscribe {}", topics.len()));
        if Self::take(&self.fail_next) {
            return Err(BrokerError::unavailable("told to fail"));
        }
        if Self::take(&self.hang_next) {
            self.gate.notified().await;
        }
        self.inner.subscribe(topics).await
    }
    async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
        self.calls.lock().unwrap().push(format!("unsubscribe {}", topics.len()));
        self.inner.unsubscribe(topics).await
    }
    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
        if Self::take(&self.lost_next) {
            return Err(BrokerError::unavailable("told to fail"));
        }
        let positions = self.inner.positions(topics).await;
        if Self::take(&self.stale_next) {
            self.gate.notified().await;
        }
        positions
    }
    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        self.inner.secret().await
    }
    fn status(&self) -> Status {
        self.inner.status()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

/// A broker that says where rooms stand, and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    pub(crate) position: Mutex<Position>,
}

#[async_trait]
impl Broker for Scripted {
    async fn publish(&self, _: &Topic, _: Bytes, _: Delivery) -> Result<Receipt, BrokerError> {
        Err(BrokerError::Closed)
    }
    async fn subscribe(&self, _: &[Topic]) -> Result<(), BrokerError> {
        Ok(())
    }
    async fn unsubscribe(&self, _: &[Topic]) -> Result<(), BrokerError> {
        Ok(())
    }
    async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
        Ok(vec![*self.position.lock().unwrap(); topics.len()])
    }
    async fn secret(&self) -> Result<[u8; 32], BrokerError> {
        Err(BrokerError::Closed)
    }
    fn status(&self) -> Status {
        Status::Ready
    }
    async fn close(&self) {}
}
