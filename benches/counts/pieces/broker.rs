//! Publishing, and the way from the broker to the members.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chat_broker::{Broker, Delivery, Hub, HubConfig, MemoryBroker, MemoryBus};
use chat_core::{Batch, CloseReason, ConnectionId, Deliver, Delivery as Delivered, Dialect};
use tokio::runtime::Builder;
use tokio::task::yield_now;

use super::{Piece, at_once, payload, room};
use crate::callgrind::turns;

pub(super) const PIECES: &[Piece] = &[
    ("publish in memory, ephemeral", || publish(|| Delivery::Ephemeral)),
    ("publish in memory, kept", || publish(Delivery::kept)),
    ("a publication to 1,000 members", fan_out),
];

/// To one node, which has taken what came before.
fn publish(delivery: fn() -> Delivery) {
    let (broker, mut events) = MemoryBroker::connect();
    let topic = room();
    at_once(broker.subscribe(std::slice::from_ref(&topic))).expect("subscribed");
    let mut taken = Vec::new();
    let prepare = || {
        events.try_recv(&mut taken);
        taken.clear();
        payload()
    };
    turns(prepare, |payload| {
        let receipt = at_once(broker.publish(&topic, payload, delivery()));
        black_box(at_once(receipt.expect("a place")).expect("an answer"));
    });
}

/// A member that counts its frames.
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

/// Events of the broker, the room, its queue, and the members: all in one thread.
fn fan_out() {
    const MEMBERS: u64 = 1_000;
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let bus = MemoryBus::new();
    let (broker, events) = bus.connect();
    let (publisher, _events) = bus.connect();
    let topic = room();
    let frames = Arc::new(AtomicU64::new(0));
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    let _places = runtime.block_on(async {
        tokio::spawn(driver.run());
        let mut places = Vec::new();
        for id in 0..MEMBERS {
            let member = Counting(Arc::clone(&frames));
            let joining = hub.join(&topic, ConnectionId(id), member, None, |_| {});
            places.push(joining.await.expect("joined"));
        }
        places
    });
    let publish = || {
        let receipt = at_once(publisher.publish(&topic, payload(), Delivery::kept()));
        at_once(receipt.expect("a place")).expect("an answer");
        frames.load(Ordering::Relaxed) + MEMBERS
    };
    turns(publish, |wanted| {
        runtime.block_on(async {
            while frames.load(Ordering::Relaxed) < wanted {
                yield_now().await;
            }
        });
    });
}
