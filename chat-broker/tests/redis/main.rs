//! The Redis broker keeps the promises of the trait, and more when Redis does not.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by a panic and says what it measured, in its helpers too"
)]

mod answers;
mod crowded;
mod damage;
mod ends;
mod full;
mod healing;
mod history;
mod keys;
mod leases;
mod lineage;
mod lost_records;
mod outages;
mod presence;
mod records;
mod refusals;
mod resend;
mod rights;
mod sharing;
mod stats;
mod support;
mod tls;
mod unmarked;

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::{RedisServer, conformance};
use chat_broker::{Broker, RedisBroker, RedisConfig};
use chat_core::Topic;

/// Short: the suite waits until the users of a dead node have left.
const LEASE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_with_the_documented_rights() {
    conformance(0, |config| config).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_with_many_connections_to_a_numbered_database() {
    conformance(5, |config| config.publish_connections(4).publish_queue(16)).await;
}

/// As a user with the rights that docs/redis.md gives: Redis refuses it nothing.
async fn conformance(database: u8, settings: impl FnOnce(RedisConfig) -> RedisConfig) {
    let server = RedisServer::start();
    let rights = rights::documented(database);
    let config = rights::config_of(&server, "chat", &rights, database).await;
    let config = settings(config.lease(LEASE));
    let watcher = RedisBroker::connect(config.clone()).await.unwrap().0;
    conformance::run(async || connect(config.clone()).await).await;
    assert_eq!(watcher.stats().refusals, []);
    let log = server.command(&["ACL", "LOG"]).await;
    assert_eq!(log.trim(), "", "what was refused, to whichever node");
}

#[tokio::test]
async fn epochs() {
    let server = RedisServer::start();
    let config = RedisConfig::new(server.url());
    let lose = async |topic: &Topic| {
        // The suite's names have letters, digits and one space.
        let room = topic.as_room().unwrap().as_str().replace(' ', "%20");
        let lost = server
            .command(&[
                "DEL",
                &format!("chat:{{r.{room}}}:meta"),
                &format!("chat:{{r.{room}}}:log"),
            ])
            .await;
        assert_eq!(lost, "2");
    };
    let connect = async || connect(config.clone()).await;
    conformance::a_lost_sequence_begins_a_new_epoch(connect, lose).await;
}

async fn connect(config: RedisConfig) -> (Arc<dyn Broker>, chat_broker::BrokerEvents) {
    let (broker, events) = RedisBroker::connect(config).await.unwrap();
    (Arc::new(broker), events)
}
