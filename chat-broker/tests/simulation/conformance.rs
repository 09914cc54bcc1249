//! The simulated Redis is good enough for every promise of the trait.

use std::time::Duration;

use chat_broker::testing::conformance::Case;
use chat_broker::{BrokerEvents, RedisBroker, RedisConfig};

use crate::simulation::network::Network;
use crate::simulation::redis::Redis;
use crate::simulation::rng::Rng;

#[tokio::test(start_paused = true)]
async fn simulated_redis_passes_the_conformance_suite() {
    for case in Case::all() {
        eprintln!("{case:?}");
        case.run(&bus()).await;
    }
}

fn bus() -> impl AsyncFn() -> (RedisBroker, BrokerEvents) {
    let redis = Redis::start();
    let network = Network::new(&redis, Rng::new(1));
    network.set_delay(Duration::from_millis(1));
    let config = RedisConfig::new("redis://simulated").dial(network.dial());
    let config = config.lease(Duration::from_secs(1));
    async move || RedisBroker::connect(config.clone()).await.unwrap()
}
