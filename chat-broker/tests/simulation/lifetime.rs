//! How long logs and positions live.

use std::time::Duration;

use chat_broker::{PublishOptions, RedisConfig};
use chat_core::{HistoryRange, Position, Retention};
use tokio::time::sleep;

use crate::simulation::network::Network;
use crate::simulation::redis::Redis;
use crate::simulation::rng::Rng;
use crate::support::{Node, room, texts};

const MINUTE: Duration = Duration::from_secs(60);

/// A node whose positions live for two minutes: the work of a day takes too long to simulate.
async fn node(redis: &Redis) -> Node {
    let network = Network::new(redis, Rng::new(7));
    let config = RedisConfig::new("redis://simulated").dial(network.dial());
    Node::with(config.position_ttl(2 * MINUTE)).await
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
    for ttl in [MINUTE, 2 * MINUTE, 10 * MINUTE] {
        let left =
            || Duration::from_millis(redis.command(&["PTTL", "chat:{r.r}"]).parse().unwrap());
        for _ in 0..40 {
            publish(&node, "x", ttl).await;
            assert!(left() >= ttl && left() <= ttl * 17 / 16, "{:?} of {ttl:?}", left());
            sleep(ttl / 48).await;
        }
        sleep(left()).await;
        let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
        assert_eq!(texts(&history), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn room_whose_log_has_expired_continues_in_its_epoch() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let mut last = publish(&node, "0", MINUTE).await;
    for n in 1..=3 {
        sleep(2 * MINUTE - Duration::from_secs(5)).await;
        let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
        assert_eq!((history.position, texts(&history)), (last, Vec::new()));
        let next = publish(&node, &n.to_string(), MINUTE).await;
        assert_eq!(next, Position { offset: last.offset + 1, ..last });
        let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
        assert_eq!(texts(&history), [n.to_string()]);
        last = next;
    }
    sleep(3 * MINUTE).await;
    assert_eq!(node.position(&room("r")).await.unwrap(), Position::default());
    assert_ne!(publish(&node, "later", MINUTE).await.epoch, last.epoch);
}

/// The log lives as long as a position has to, and is the position.
#[tokio::test(start_paused = true)]
async fn room_whose_log_is_its_position_begins_a_new_epoch_without_it() {
    let redis = Redis::start();
    let node = node(&redis).await;
    let first = publish(&node, "1", 2 * MINUTE).await;
    sleep(2 * MINUTE).await;
    let second = publish(&node, "2", 2 * MINUTE).await;
    assert_eq!(second, Position { offset: 2, ..first });
    sleep(3 * MINUTE).await;
    let third = publish(&node, "3", 2 * MINUTE).await;
    assert!(third.offset == 1 && third.epoch != first.epoch, "{third:?}");
}

/// As during an upgrade to other settings: the position of a server whose logs expire first must not
/// come after publications of a server whose logs do not.
#[tokio::test(start_paused = true)]
async fn other_ttl_takes_no_offset_twice() {
    let redis = Redis::start();
    let (long, short) = (node(&redis).await, node(&redis).await);
    publish(&long, "1", 30 * MINUTE).await;
    publish(&short, "2", MINUTE).await;
    let third = publish(&long, "3", 30 * MINUTE).await;
    sleep(MINUTE + MINUTE / 10).await;
    let fourth = publish(&short, "4", MINUTE).await;
    assert_eq!(fourth, Position { offset: 4, ..third });
    sleep(MINUTE + MINUTE / 10).await;
    let fifth = publish(&long, "5", 30 * MINUTE).await;
    assert_eq!(fifth, Position { offset: 5, ..third });
}

/// A call that only repeats does not extend the lifetime, so the next publication has to.
#[tokio::test(start_paused = true)]
async fn publication_after_a_repetition_is_kept_for_its_ttl() {
    let redis = Redis::start();
    let node = node(&redis).await;
    // A log that expires before its position is extended by each call.
    let ttl = 2 * MINUTE;
    let retention = Retention::default().ttl(ttl);
    let keyed = PublishOptions::default().retention(retention).key("k");
    node.deliver(&room("r"), "1", keyed.clone()).await.unwrap();
    sleep(ttl - Duration::from_secs(1)).await;
    assert!(node.deliver(&room("r"), "1", keyed).await.unwrap().repeated);
    sleep(Duration::from_secs(2)).await;
    publish(&node, "2", ttl).await;
    sleep(ttl - Duration::from_secs(1)).await;
    let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
    assert_eq!(texts(&history), ["1", "2"]);
}
