//! The in-memory broker keeps the promises of the trait.

use std::sync::Arc;

use chat_broker::testing::conformance;
use chat_broker::{Broker, MemoryBus};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let bus = MemoryBus::new();
    conformance::run(async || {
        let (broker, events) = bus.connect();
        (Arc::new(broker) as Arc<dyn Broker>, events)
    })
    .await;
}
