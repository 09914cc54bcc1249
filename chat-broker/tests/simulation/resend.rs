//! What was sent and not answered is sent again, and published once.

use std::time::Duration;

use chat_broker::{Broker, BrokerEvent, PublishOptions, RedisConfig, Status};
use chat_core::HistoryRange;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::simulation::network::{Direction, Network};
use crate::simulation::redis::Redis;
use crate::simulation::rng::Rng;
use crate::support::{Node, assert_unavailable, bytes, eventually, keyed, latest, room, texts};

const DEADLINE: Duration = Duration::from_secs(15);

async fn node(redis: &Redis) -> (Node, Network) {
    node_with(redis, DEADLINE).await
}

/// A node that is connected, and its network.
async fn node_with(redis: &Redis, deadline: Duration) -> (Node, Network) {
    let network = Network::new(redis, Rng::new(7));
    network.set_delay(Duration::from_millis(1));
    let config = RedisConfig::new("redis://simulated").dial(network.dial()).deadline(deadline);
    let node = Node::with(config).await;
    // Between two probes, one a second: what is published next is sent at once.
    sleep(Duration::from_millis(1500)).await;
    (node, network)
}

/// Redis is frozen for so long that the nodes give their connections up, with much still on the way
/// in them.
#[tokio::test(start_paused = true)]
async fn frozen_redis_loses_and_doubles_nothing() {
    let redis = Redis::start();
    let ((a, _), (b, _)) = (node(&redis).await, node(&redis).await);
    let padding = "x".repeat(8000);
    let publish = async |node: &Node, who: &str| {
        let mut offsets = Vec::new();
        for round in 0..30 {
            // More than the connection holds.
            let texts: Vec<_> =
                (0..20).map(|n| format!("{who} {:03} {padding}", round * 20 + n)).collect();
            let topic = room("r");
            let sent = texts.iter().map(|text| node.deliver(&topic, text, latest(10_000)));
            for published in join_all(sent).await {
                let published = published.expect("all are taken");
                assert!(!published.repeated, "it has no key");
                offsets.push(published.position.unwrap().offset);
            }
            sleep(Duration::from_millis(300)).await;
        }
        offsets
    };
    let freeze = async {
        for _ in 0..2 {
            sleep(Duration::from_secs(1)).await;
            redis.pause();
            sleep(Duration::from_millis(3500)).await;
            assert_eq!(a.broker.status(), Status::Unavailable);
            redis.resume();
        }
    };
    let (of_a, of_b, ()) = tokio::join!(publish(&a, "a"), publish(&b, "b"), freeze);
    let mut stored = Vec::new();
    while let history = a.history(&room("r"), HistoryRange::After(stored.len() as u64), 1000).await
        && !history.entries.is_empty()
    {
        stored.extend(texts(&history));
    }
    assert_eq!(stored.len(), of_a.len() + of_b.len(), "each once");
    for (who, offsets) in [("a", of_a), ("b", of_b)] {
        for (n, offset) in offsets.into_iter().enumerate() {
            assert!(stored[offset as usize - 1].starts_with(&format!("{who} {n:03} ")));
        }
    }
}

/// What was sent on a connection that was given up is still on its way, and would reach Redis after
/// it was sent again.
#[tokio::test(start_paused = true)]
async fn late_connection_doubles_nothing() {
    let redis = Redis::start();
    let (node, network) = node(&redis).await;
    network.hold_present();
    let published = node.publish(&room("r"), "once").await.unwrap();
    assert_eq!(published.position.unwrap().offset, 1);
    network.heal();
    sleep(Duration::from_secs(1)).await;
    node.publish(&room("r"), "then").await.unwrap();
    let history = node.history(&room("r"), HistoryRange::Latest, 9).await;
    assert_eq!(texts(&history), ["once", "then"]);
}

/// At most once: what is not kept is not sent again.
#[tokio::test(start_paused = true)]
async fn ephemeral_publication_fails_and_is_never_doubled() {
    let redis = Redis::start();
    let ((mut listener, _), (node, network)) = (node(&redis).await, node(&redis).await);
    let topic = room("r");
    listener.subscribe(&topic).await.unwrap();
    let payloads: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    let mut failed = 0;
    for (round, payloads) in payloads.chunks(20).enumerate() {
        let sent =
            payloads.iter().map(|text| node.deliver(&topic, text, PublishOptions::default()));
        let break_it = async {
            sleep(Duration::from_micros(round as u64 * 100)).await;
            if round % 3 == 0 {
                network.reset();
            }
        };
        let (outcomes, ()) = tokio::join!(join_all(sent), break_it);
        failed += outcomes.iter().filter(|outcome| outcome.is_err()).count();
    }
    assert!(failed > 0, "no answer was lost");
    let mut last = -1;
    for event in listener.arrived().await {
        let BrokerEvent::Publication { payload, .. } = event else { continue };
        let number: i64 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
        assert!(number > last, "{number} after {last}");
        last = number;
    }
    assert_eq!(last, 1999);
}

/// A repeated publication under a key that was the first one's own is no repetition.
#[tokio::test(start_paused = true)]
async fn resent_first_publication_keeps_its_key() {
    let redis = Redis::start();
    let (node, _) = node(&redis).await;
    redis.pause();
    let publish = async |n: u32| node.deliver(&room("r"), "", keyed(&n.to_string())).await.unwrap();
    let ((), first, second) = tokio::join!(resume_when_away(&redis, &node), publish(1), publish(2));
    assert!(!first.repeated && !second.repeated);
    assert_eq!(second.position.unwrap().offset, 2);
    assert!(publish(1).await.repeated);
}

/// The room keeps one message: of two that were not answered only the second can be found.
#[tokio::test(start_paused = true)]
async fn overtaken_publication_is_not_resent() {
    let redis = Redis::start();
    let (node, _) = node(&redis).await;
    let topic = room("r");
    redis.pause();
    let publish = async |text: &str| node.deliver(&topic, text, latest(1)).await;
    let ((), first, second) =
        tokio::join!(resume_when_away(&redis, &node), publish("first"), publish("second"));
    assert_unavailable("the outcome is unknown", first);
    assert_eq!(second.unwrap().position.unwrap().offset, 2);
    let history = node.history(&topic, HistoryRange::Latest, 9).await;
    assert_eq!((texts(&history), history.position.offset), (vec!["second".to_owned()], 2));
}

async fn resume_when_away(redis: &Redis, node: &Node) {
    node.wait_for(Status::Unavailable).await;
    redis.resume();
}

/// The room keeps few bytes: a message that was not answered is trimmed before it is looked for,
/// and would be published a second time. With a key its outcome is known.
#[tokio::test(start_paused = true)]
async fn publication_that_may_be_trimmed_is_not_resent() {
    let redis = Redis::start();
    let ((node, network), (other, _)) = (node(&redis).await, node(&redis).await);
    let topic = room("r");
    network.hold(Direction::FromRedis);
    let (unknown, known, ()) = tokio::join!(
        node.deliver(&topic, "no key", bytes(1000)),
        node.deliver(&topic, "key", bytes(1000).key("k")),
        async {
            eventually("both", async || other.position(&topic).await.unwrap().offset == 2).await;
            other.deliver(&topic, &"x".repeat(2000), bytes(1000)).await.unwrap();
            node.wait_for(Status::Unavailable).await;
            network.heal();
        },
    );
    assert_unavailable("the outcome is unknown", unknown);
    let known = known.unwrap();
    assert_eq!((known.position.unwrap().offset, known.repeated), (2, false));
    assert_eq!(node.position(&topic).await.unwrap().offset, 3, "nothing was sent again");
}

/// The room is large and the network slow: to look for what was lost would take longer than the
/// deadline.
#[tokio::test(start_paused = true)]
async fn slow_search_ends_in_time() {
    let redis = Redis::start();
    let fill =
        "redis.call('RPUSH', KEYS[1], 'abcdEF12' .. struct.pack('>I8I4I8I8I8', 0, 1000000, 0, 0, 0))
        for n = 1, 70000 do redis.call('RPUSH', KEYS[1], '12345678') end";
    assert_eq!(redis.command(&["EVAL", fill, "1", "chat:{r.r}"]), "");
    let deadline = Duration::from_secs(5);
    let (node, network) = node_with(&redis, deadline).await;
    network.hold_present();
    network.set_delay(Duration::from_millis(250));
    let started = Instant::now();
    assert_unavailable("publish", node.deliver(&room("r"), "", latest(1_000_000)).await);
    let took = started.elapsed();
    assert!(took > deadline && took < deadline + Duration::from_secs(3), "{took:?}");
}
