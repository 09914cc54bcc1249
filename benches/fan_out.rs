//! A publication through the broker in memory and the hub to the members of a room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use chat_broker::{Broker, Delivery, Hub, HubConfig, MemoryBus};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, Delivery as Delivered, Dialect, Event, Message,
    RoomId, Sender, Topic, envelope,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[derive(Clone)]
struct Counting(Arc<AtomicU64>);

impl Deliver for Counting {
    fn deliver(&self, batch: &Batch) -> Delivered {
        let frames = batch.frames(Dialect::Native).map_or(0, |frames| frames.count());
        self.0.fetch_add(u64::from(frames), Ordering::Relaxed);
        Delivered::Queued
    }
    fn close(&self, _: CloseReason) {}
}

fn payload() -> Bytes {
    let user = Sender { id: "n5p2-17", name: "Ann", color: "#FF6B6B" };
    let text = "x".repeat(128);
    envelope::encode(&Event::Message(Message { user, text: &text, data: None, key: None, at: 1 }))
}

fn fan_out(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut group = c.benchmark_group("fan-out of one publication");
    for members in [1, 5, 1_000, 10_000] {
        let bus = MemoryBus::new();
        let (broker, events) = bus.connect();
        let (publisher, _events) = bus.connect();
        let room = Topic::Room(RoomId::new("room1").unwrap());
        let counter = Arc::new(AtomicU64::new(0));
        let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
        let _places = runtime.block_on(async {
            tokio::spawn(driver.run());
            let mut places = Vec::new();
            for id in 0..members {
                let member = Counting(Arc::clone(&counter));
                let joining = hub.join(&room, ConnectionId(id), member, None, |_| {});
                places.push(joining.await.unwrap());
            }
            places
        });
        group.throughput(Throughput::Elements(members));
        group.bench_function(BenchmarkId::from_parameter(members), |b| {
            b.to_async(&runtime).iter(async || {
                let before = counter.load(Ordering::Relaxed);
                let receipt = publisher.publish(&room, payload(), Delivery::kept()).await.unwrap();
                receipt.await.unwrap();
                while counter.load(Ordering::Relaxed) < before + members {
                    tokio::task::yield_now().await;
                }
            });
        });
    }
}

criterion_group!(benches, fan_out);
criterion_main!(benches);
