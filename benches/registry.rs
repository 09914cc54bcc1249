//! Joins, leaves and snapshots: one room of 10,000, and 1,000 rooms of 10.

use std::sync::Arc;

use chat_core::{ConnectionId, Registry, RoomId, Topic};
use criterion::{Criterion, criterion_group, criterion_main};

fn filled(rooms: u64, members: u64) -> (Registry<Arc<()>>, Vec<Topic>) {
    let registry = Registry::new();
    let topics: Vec<_> =
        (0..rooms).map(|n| Topic::Room(RoomId::new(format!("room-{n}")).unwrap())).collect();
    for id in 0..rooms * members {
        registry.join(&topics[(id % rooms) as usize], ConnectionId::new(id), Arc::new(()));
    }
    (registry, topics)
}

fn registry(c: &mut Criterion) {
    for (rooms, members) in [(1, 10_000), (1_000, 10)] {
        let (registry, topics) = filled(rooms, members);
        let name = format!("{rooms} x {members}");
        let mut turn = 0;
        let mut next = || {
            turn += 1;
            (&topics[turn % topics.len()], ConnectionId::new(1 << 40 | turn as u64))
        };
        c.bench_function(&format!("join and leave, {name}"), |b| {
            b.iter(|| {
                let (topic, id) = next();
                registry.join(topic, id, Arc::new(()));
                registry.leave(topic, id)
            });
        });
        c.bench_function(&format!("snapshot, {name}"), |b| {
            b.iter(|| registry.members(next().0).len());
        });
        c.bench_function(&format!("join beside a snapshot, {name}"), |b| {
            b.iter(|| {
                let (topic, id) = next();
                let snapshot = registry.members(topic);
                registry.join(topic, id, Arc::new(()));
                registry.leave(topic, id);
                snapshot.len()
            });
        });
    }
}

criterion_group!(benches, registry);
criterion_main!(benches);
