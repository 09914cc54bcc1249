//! The suite of the trait, each test with a Redis of its own, as a user with the rights that
//! docs/redis.md gives: Redis refuses it nothing.

use std::thread;
use std::time::Duration;

use chat_broker::testing::{RedisServer, conformance};
use chat_broker::{BrokerEvents, RedisBroker, RedisConfig};
use chat_core::Topic;
use tokio::runtime::Runtime;

use super::rights;

/// Short: the suite waits until the users of a dead node have left.
const LEASE: Duration = Duration::from_secs(1);

mod documented_rights {
    use super::*;

    async fn bus() -> impl AsyncFn() -> (RedisBroker, BrokerEvents) {
        super::bus(0, |config| config).await
    }

    chat_broker::conformance_tests!(bus);
}

mod many_connections_to_a_numbered_database {
    use super::*;

    async fn bus() -> impl AsyncFn() -> (RedisBroker, BrokerEvents) {
        super::bus(5, |config| config.publish_connections(4).publish_queue(16)).await
    }

    chat_broker::conformance_tests!(bus);
}

async fn bus(
    database: u8,
    settings: impl FnOnce(RedisConfig) -> RedisConfig,
) -> impl AsyncFn() -> (RedisBroker, BrokerEvents) {
    let server = RedisServer::start();
    let rights = rights::documented(database);
    let config = rights::config_of(&server, "chat", &rights, database).await;
    let config = settings(config.lease(LEASE));
    let server = NothingRefused(server);
    async move || {
        let _ = &server;
        RedisBroker::connect(config.clone()).await.unwrap()
    }
}

/// Asserts at the end of a test that Redis has refused nothing to any node.
struct NothingRefused(RedisServer);

impl Drop for NothingRefused {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        // The runtime of the test may be the one that drops this, and cannot be blocked on.
        let log = thread::scope(|scope| {
            let ask = || Runtime::new().unwrap().block_on(self.0.command(&["ACL", "LOG"]));
            scope.spawn(ask).join().unwrap()
        });
        assert_eq!(log.trim(), "");
    }
}

#[tokio::test]
async fn lost_sequence_starts_a_new_epoch() {
    let server = RedisServer::start();
    let config = RedisConfig::new(server.url());
    let lose = async |topic: &Topic| {
        // The suite's names have letters, digits and one space.
        let room = topic.as_room().unwrap().as_str().replace(' ', "%20");
        assert_eq!(server.command(&["DEL", &format!("chat:{{r.{room}}}")]).await, "1");
    };
    let connect = async || RedisBroker::connect(config.clone()).await.unwrap();
    conformance::lost_sequence_starts_a_new_epoch(&connect, lose).await;
}
