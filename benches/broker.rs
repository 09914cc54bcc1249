//! The costs of a broker: publishing with and without history, subscribing, recovering,
//! presence; in memory, and over a private `redis-server`.
//!
//! Each measurement is of a batch of concurrent calls, as on a server with many clients; the figure
//! to compare is `elem/s`.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{
    Broker, BrokerEvents, HistoryRead, MemoryBroker, PresenceTracker, PublishOptions, RedisBroker,
    RedisConfig,
};
use chat_core::{HistoryRange, Occupant, Retention, RoomId, Topic, UserId};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const BATCH: u64 = 256;
const PAYLOAD: usize = 128;

fn room(n: u64) -> Topic {
    Topic::Room(RoomId::new(format!("room-{n}")).expect("a name"))
}

/// Discards what arrives, as fast as it arrives.
fn drain(runtime: &Runtime, mut events: BrokerEvents) {
    runtime.spawn(async move {
        let mut batch = Vec::new();
        while events.recv(&mut batch).await {
            batch.clear();
        }
    });
}

fn persistent() -> PublishOptions {
    PublishOptions::default().retention(Retention::default())
}

async fn publish(broker: &Arc<dyn Broker>, options: impl Fn(u64) -> PublishOptions) {
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    let mut receipts = Vec::with_capacity(BATCH as usize);
    for n in 0..BATCH {
        let place = broker.publish(&room(n % 16), payload.clone(), options(n)).await;
        receipts.push(place.expect("a place"));
    }
    for receipt in receipts {
        black_box(receipt.await.expect("an answer"));
    }
}

fn bench(c: &mut Criterion, name: &str, runtime: &Runtime, broker: Arc<dyn Broker>) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(BATCH));
    let mut measure = |what: &str, work: &dyn Fn()| {
        group.bench_function(what, |b| b.iter(work));
    };

    measure("publish", &|| runtime.block_on(publish(&broker, |_| PublishOptions::default())));
    measure("publish, history", &|| runtime.block_on(publish(&broker, |_| persistent())));
    let round = std::cell::Cell::new(0_u64);
    measure("publish, history, key", &|| {
        round.set(round.get() + 1);
        let key = |n| format!("user {} {n}", round.get());
        runtime.block_on(publish(&broker, |n| persistent().key(key(n))));
    });

    let topics: Vec<Topic> = (1_000..1_000 + BATCH).map(room).collect();
    measure("subscribe and unsubscribe", &|| {
        runtime.block_on(async {
            broker.subscribe(&topics).await.expect("subscribed");
            broker.unsubscribe(&topics).await.expect("unsubscribed");
        });
    });

    // Of 16 rooms with a full history, each reader has missed the last 10 messages.
    let rooms: Vec<Topic> = (0..16).map(room).collect();
    let positions = runtime.block_on(async {
        for _ in 0..16 {
            publish(&broker, |_| persistent()).await;
        }
        broker.positions(&rooms).await.expect("positions")
    });
    let readers = rooms.iter().zip(&positions).cycle().take(BATCH as usize);
    let reads: Vec<HistoryRead> = readers
        .map(|(topic, position)| {
            let range = HistoryRange::After(position.offset - 10);
            HistoryRead::new(topic.clone(), range, 256)
        })
        .collect();
    measure("recover 10 messages", &|| {
        let histories = runtime.block_on(broker.history(&reads)).expect("histories");
        assert!(histories.iter().all(|history| history.entries.len() == 10));
    });

    let topic = room(5_000);
    let users: Vec<UserId> =
        (0..BATCH).map(|n| UserId::new(format!("user-{n}")).expect("a name")).collect();
    let presence = broker.presence().expect("presence");
    measure("enter and leave", &|| {
        runtime.block_on(async {
            for user in &users {
                let info = Bytes::from_static(&[0; 60]);
                presence.enter(&topic, Occupant::new(user.clone(), info));
            }
            until_count(presence, &topic, BATCH as u32).await;
            for user in &users {
                presence.leave(&topic, user);
            }
            until_count(presence, &topic, 0).await;
        });
    });
    group.finish();
}

async fn until_count(presence: &dyn PresenceTracker, topic: &Topic, wanted: u32) {
    let topics = std::slice::from_ref(topic);
    while presence.occupancy(topics, 0).await.expect("occupants")[0].count != wanted {
        tokio::task::yield_now().await;
    }
}

fn memory(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (broker, events) = runtime.block_on(async { MemoryBroker::connect() });
    drain(&runtime, events);
    bench(c, "memory", &runtime, Arc::new(broker));
}

fn redis(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let server = RedisServer::start();
    let connect = RedisBroker::connect(RedisConfig::new(server.url()));
    let (broker, events) = runtime.block_on(connect).expect("connected");
    drain(&runtime, events);
    bench(c, "redis", &runtime, Arc::new(broker));
}

criterion_group!(benches, memory, redis);
criterion_main!(benches);
