//! The simulated Redis is good enough for every promise of the trait.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::conformance;
use chat_broker::{Broker, RedisBroker, RedisConfig};

use crate::network::Network;
use crate::redis::Redis;
use crate::rng::Rng;

#[tokio::test(start_paused = true)]
async fn simulated_redis_passes_the_conformance_suite() {
    let redis = Redis::start();
    let network = Network::new(&redis, Rng::new(1));
    network.set_delay(Duration::from_millis(1));
    let config = RedisConfig::new("redis://simulated").dial(network.dial());
    let config = config.lease(Duration::from_secs(1));
    conformance::run(async || {
        let (broker, events) = RedisBroker::connect(config.clone()).await.unwrap();
        (Arc::new(broker) as Arc<dyn Broker>, events)
    })
    .await;
}
