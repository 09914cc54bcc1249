//! The in-memory broker keeps the promises of the trait.

use std::sync::Arc;

use chat_broker::testing::{FaultyBroker, conformance};
use chat_broker::{BrokerEvents, MemoryBroker, MemoryBus};

async fn bus() -> impl AsyncFn() -> (MemoryBroker, BrokerEvents) {
    let bus = MemoryBus::new();
    async move || bus.connect()
}

chat_broker::conformance_tests!(bus);

#[tokio::test]
async fn lost_sequence_starts_a_new_epoch() {
    let bus = MemoryBus::new();
    let connect = async || bus.connect();
    let lose = async |topic: &_| bus.lose(topic);
    conformance::lost_sequence_starts_a_new_epoch(&connect, lose).await;
}

mod behind_faults_that_do_not_happen {
    use super::*;

    async fn bus() -> impl AsyncFn() -> (Arc<FaultyBroker>, BrokerEvents) {
        let bus = MemoryBus::new();
        async move || {
            let (broker, events) = bus.connect();
            FaultyBroker::new(Arc::new(broker), events)
        }
    }

    chat_broker::conformance_tests!(bus);
}
