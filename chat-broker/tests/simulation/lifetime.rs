//! How long logs and positions live.

use std::time::Duration;

use chat_broker::{PublishOptions, RedisConfig};
use chat_core::{HistoryRange, Position, Retention};
use tokio::time::sleep;

use crate::simulation::network::Network;
use crate::simulation::redis::Redis;
use crate::simulation::rng::Rng;
use crate::support::{Node, room, texts};

const HOUR: Duration = Duration::from_secs(3600);

async fn node(redis: &Redis) -> Node {
    let network = Network::new(redis, Rng::new(7));
    Node::with(RedisConfig::new("redis://simulated").dial(network.dial())).await
}

async fn publish(node: &Node, text: &str, ttl: Duration) -> Position {
    let options = PublishOptions::default().retention(Retention::default().ttl(ttl));
    node.deliver(&room("r"), text, options).await.unwrap().position.unwrap()
}

/// Most publications do not extend the lifetime, and each is kept for as long as the retention says.
#[tokio::test(start_paused = true)]
async fn publication_is_kept_for_its_ttl_and_a_sixteenth_more_at_most() {
    let redis = Redis::start();
    let node = node(&redis).await;
    for ttl in [HOUR, 24 * HOUR, 72 * HOUR] {
        let left =
            || Duration::from_millis(redis.command(&["PTTL", "chat:{r.r}"]).parse().unwrap());
        for _ in 0..100 {
            publish(&node, "x", ttl).await;
            assert!(left() >= ttl && left() <= ttl * 17 / 16, "{:?} of {ttl:?}", left());
            sleep(ttl / 64 + Duration::from_secs(1)).await;
        }
        sleep(left()).await;
        let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
        assert_eq!(texts(&history), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn room_whose_log_has_expired_goes_on_in_its_epoch() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let mut last = publish(&node, "0", HOUR).await;
    for n in 1..=3 {
        sleep(23 * HOUR).await;
        let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
        assert_eq!((history.position, texts(&history)), (last, Vec::new()));
        let next = publish(&node, &n.to_string(), HOUR).await;
        assert_eq!(next, Position { offset: last.offset + 1, ..last });
        let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
        assert_eq!(texts(&history), [n.to_string()]);
        last = next;
    }
    sleep(25 * HOUR).await;
    assert_eq!(node.position(&room("r")).await.unwrap(), Position::default());
    assert_ne!(publish(&node, "later", HOUR).await.epoch, last.epoch);
}

/// A log of a day is the position, and a day after the last message nobody needs it.
#[tokio::test(start_paused = true)]
async fn room_that_was_silent_for_a_day_begins_a_new_epoch() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let first = publish(&node, "1", 24 * HOUR).await;
    sleep(24 * HOUR).await;
    let second = publish(&node, "2", 24 * HOUR).await;
    assert_eq!(second, Position { offset: 2, ..first });
    sleep(26 * HOUR).await;
    let third = publish(&node, "3", 24 * HOUR).await;
    assert!(third.offset == 1 && third.epoch != first.epoch, "{third:?}");
}
