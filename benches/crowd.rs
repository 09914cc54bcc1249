//! A room in memory whose members only count their frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chat_broker::{
    Broker, BrokerEvents, Hub, HubConfig, JoinOptions, Membership, MemoryBroker, MemoryBus,
    PublishOptions,
};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Dialect, Retention, RoomId, Topic,
};
use tokio::task::yield_now;

/// All on one node; a user on another node sends to them.
pub(crate) struct Crowd {
    room: Topic,
    frames: Arc<AtomicU64>,
    places: Vec<Membership<Counting>>,
    speaker: MemoryBroker,
    _events: BrokerEvents,
}

impl Crowd {
    pub(crate) async fn gather(members: u64) -> Self {
        let bus = MemoryBus::new();
        let (broker, events) = bus.connect();
        let (speaker, speakers_events) = bus.connect();
        let room = Topic::Room(RoomId::new("room1").expect("a name"));
        let frames = Arc::new(AtomicU64::new(0));
        let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
        tokio::spawn(driver.run());
        let mut places = Vec::new();
        for id in 0..members {
            let member = Counting(Arc::clone(&frames));
            let joining = hub.join(&room, ConnectionId::new(id), member, JoinOptions::default());
            places.push(joining.await.expect("joined"));
        }
        Self { room, frames, places, speaker, _events: speakers_events }
    }

    /// Publishes; returns the number of frames when all members have theirs.
    pub(crate) async fn publish(&self, payload: Bytes) -> u64 {
        let wanted = self.frames.load(Ordering::Relaxed) + self.places.len() as u64;
        let options = PublishOptions::default().retention(Retention::default());
        let receipt = self.speaker.publish(&self.room, payload, options).await;
        receipt.expect("a place").await.expect("an answer");
        wanted
    }

    pub(crate) async fn until_delivered(&self, wanted: u64) {
        while self.frames.load(Ordering::Relaxed) < wanted {
            yield_now().await;
        }
    }
}

#[derive(Clone)]
struct Counting(Arc<AtomicU64>);

impl Deliver for Counting {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        let frames = batch.frames(Dialect::Native).map_or(0, |frames| frames.count());
        self.0.fetch_add(u64::from(frames), Ordering::Relaxed);
        DeliveryOutcome::Queued
    }

    fn close(&self, _: CloseReason) {}
}
