//! A publication through the broker in memory and the hub to the members of a room.

mod crowd;

use bytes::Bytes;
use chat_core::{Event, Message, Sender, envelope};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use crowd::Crowd;

fn payload() -> Bytes {
    let user = Sender::new("n5p2-17", "Ann", "#FF6B6B");
    let text = "x".repeat(128);
    envelope::encode(&Event::Message(Message::new(user, &text, 1)))
}

fn fan_out(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut group = c.benchmark_group("fan-out of one publication");
    for members in [1, 5, 1_000, 10_000] {
        let crowd = runtime.block_on(Crowd::gather(members));
        group.throughput(Throughput::Elements(members));
        group.bench_function(BenchmarkId::from_parameter(members), |b| {
            b.to_async(&runtime).iter(async || {
                let wanted = crowd.publish(payload()).await;
                crowd.until_delivered(wanted).await;
            });
        });
    }
}

criterion_group!(benches, fan_out);
criterion_main!(benches);
