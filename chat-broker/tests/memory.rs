//! The in-memory broker keeps the promises of the trait.

use std::sync::Arc;

use chat_broker::testing::{FaultyBroker, conformance};
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

#[tokio::test]
async fn epochs() {
    let bus = MemoryBus::new();
    let connect = async || {
        let (broker, events) = bus.connect();
        (Arc::new(broker) as Arc<dyn Broker>, events)
    };
    let lose = async |topic: &_| bus.lose(topic);
    conformance::a_lost_sequence_begins_a_new_epoch(connect, lose).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_behind_faults_that_do_not_happen() {
    let bus = MemoryBus::new();
    conformance::run(async || {
        let (broker, events) = bus.connect();
        let (broker, events) = FaultyBroker::new(Arc::new(broker), events);
        (broker as Arc<dyn Broker>, events)
    })
    .await;
}
