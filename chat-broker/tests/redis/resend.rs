//! What was sent and not answered is sent again, and published once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::testing::{ConnectionKind, RedisProxy, RedisServer, Way};
use chat_broker::{Broker, BrokerEvent, PublishOptions, Receipt, RedisConfig, Status};
use chat_core::{Position, Range};
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::support::{
    Node, PATIENCE, assert_unavailable, bytes, eventually, keyed, latest, room, texts,
};

/// Receipts that one publisher leaves open.
const UNDER_WAY: usize = 64;

/// Publishes numbered messages until `stop`, the larger part of each `padding`; every one
/// must be taken. Returns where each stands.
async fn publish_until(stop: &AtomicBool, node: &Node, who: char, padding: usize) -> Vec<Position> {
    let (mut positions, mut receipts) = (Vec::new(), VecDeque::<Receipt>::new());
    let mut number = 0;
    let padding = "x".repeat(padding);
    while !stop.load(Ordering::Relaxed) || !receipts.is_empty() {
        if !stop.load(Ordering::Relaxed) {
            let payload = Bytes::from(format!("{who} {number} {padding}"));
            let topic = room("r");
            let place = node.broker.publish(&topic, payload, latest(1_000_000)).await;
            receipts.push_back(place.unwrap());
            number += 1;
            // Not so many that they hide one another from those who search.
            sleep(Duration::from_millis(1)).await;
        }
        if receipts.len() >= UNDER_WAY || stop.load(Ordering::Relaxed) {
            let published = receipts.pop_front().unwrap().await.expect("all are taken");
            assert!(!published.repeated, "it has no key");
            positions.push(published.position.unwrap());
        }
    }
    positions
}

/// All that was published stands in the history once, where its publisher was told.
async fn assert_all_stand_once(node: &Node, told: &[(char, Vec<Position>)]) {
    let (mut after, mut next) = (0, std::collections::HashMap::new());
    loop {
        let history = node.history(&room("r"), Range::After(after), 1000).await;
        let Some(last) = history.entries.last() else { break };
        assert_eq!(history.entries[0].offset, after + 1);
        after = last.offset;
        for entry in &history.entries {
            let text = std::str::from_utf8(&entry.payload).unwrap();
            let (who, rest) = text.split_at(1);
            let number: usize = rest.split(' ').nth(1).unwrap().parse().unwrap();
            let who = who.chars().next().unwrap();
            let expected = next.entry(who).or_insert(0);
            assert_eq!(number, *expected, "{who}: each once and in order");
            *expected += 1;
            let (_, positions) = told.iter().find(|(name, _)| *name == who).unwrap();
            assert_eq!(positions[number], Position { offset: entry.offset, ..history.position });
        }
    }
    for (who, positions) in told {
        assert_eq!(next.get(who), Some(&positions.len()), "{who}");
    }
}

async fn node(server: &RedisServer, connections: usize) -> Node {
    idle(Node::config(server).deadline(PATIENCE).publish_connections(connections)).await
}

/// A node whose connections are through with their beginning: what is published next is sent
/// at once.
async fn idle(config: RedisConfig) -> Node {
    let node = Node::with(config).await;
    for n in 0..16 {
        node.publish(&room(&format!("before {n}")), "").await.unwrap();
    }
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_lose_and_double_nothing() {
    let server = RedisServer::start();
    let (a, b) = (node(&server, 1).await, node(&server, 2).await);
    let stop = AtomicBool::new(false);
    let kill = async {
        for _ in 0..8 {
            eventually("connections to kill", async || {
                server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await != "0"
            })
            .await;
            // Two connections at most wait for a second at most.
            eventually("both nodes", async || {
                a.broker.status() == Status::Ready && b.broker.status() == Status::Ready
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (of_a, of_b, of_c, ()) = tokio::join!(
        publish_until(&stop, &a, 'a', 100),
        publish_until(&stop, &b, 'b', 100),
        publish_until(&stop, &b, 'c', 100),
        kill
    );
    assert_all_stand_once(&a, &[('a', of_a), ('b', of_b), ('c', of_c)]).await;
}

/// Redis is frozen for so long that the nodes give their connections up, with much still on
/// the way in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_loses_and_doubles_nothing() {
    let server = RedisServer::start();
    let (a, b) = (node(&server, 1).await, node(&server, 1).await);
    let stop = AtomicBool::new(false);
    let freeze = async {
        for _ in 0..2 {
            server.pause();
            a.wait_for(Status::Away).await;
            // Until some attempts to connect have failed.
            sleep(Duration::from_secs(1)).await;
            server.resume();
            a.wait_for(Status::Ready).await;
            b.wait_for(Status::Ready).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (of_a, of_b, ()) = tokio::join!(
        publish_until(&stop, &a, 'a', 8000),
        publish_until(&stop, &b, 'b', 8000),
        freeze
    );
    assert!(of_a.len() > UNDER_WAY, "publishing went on");
    assert_all_stand_once(&a, &[('a', of_a), ('b', of_b)]).await;
}

/// What was sent on a connection that was given up is still on its way, and would reach
/// Redis after it was sent again.
#[tokio::test]
async fn a_late_connection_doubles_nothing() {
    let server = RedisServer::start();
    let proxy = RedisProxy::start(&server).await;
    let node = idle(Node::config(&server).url(proxy.url()).deadline(PATIENCE)).await;
    proxy.hold_present();
    let published = node.publish(&room("r"), "once").await.unwrap();
    assert_eq!(published.position.unwrap().offset, 1);
    proxy.release();
    eventually("the end of what was held", async || {
        // Three of the node, and the one that asks.
        server.command(&["CLIENT", "LIST"]).await.lines().count() == 4
    })
    .await;
    node.publish(&room("r"), "then").await.unwrap();
    let history = node.history(&room("r"), Range::Latest, 9).await;
    assert_eq!(texts(&history), ["once", "then"]);
}

/// At most once: what is not kept is not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_kept_fails_and_is_never_doubled() {
    let server = RedisServer::start();
    let (mut listener, node) = (node(&server, 1).await, node(&server, 1).await);
    let topic = room("r");
    listener.subscribe(&topic).await.unwrap();
    let stop = AtomicBool::new(false);
    let publish = async {
        let (mut failed, mut receipts) = (0, VecDeque::<Receipt>::new());
        for n in 0.. {
            let payload = Bytes::from(format!("{n}"));
            let place = node.broker.publish(&topic, payload, PublishOptions::default()).await;
            receipts.push_back(place.unwrap());
            yield_now().await;
            if receipts.len() >= UNDER_WAY {
                failed += usize::from(receipts.pop_front().unwrap().await.is_err());
            }
            if failed > 0 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        for receipt in receipts {
            let _ = receipt.await;
        }
        node.publish(&topic, "end").await.unwrap();
    };
    let kill = async {
        while !stop.load(Ordering::Relaxed) {
            server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    let listen = async {
        let mut last = -1;
        loop {
            let BrokerEvent::Publication { payload, .. } = listener.next().await else { continue };
            if payload == "end" {
                return;
            }
            let number: i64 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
            assert!(number > last, "{number} after {last}");
            last = number;
        }
    };
    tokio::join!(publish, kill, listen);
}

/// A repeated publication under a key that was the first one's own is no repetition.
#[tokio::test]
async fn the_first_with_a_key_is_the_first_when_sent_again() {
    let server = RedisServer::start();
    let node = node(&server, 1).await;
    let delivery = |n: u32| keyed(&n.to_string());
    server.pause();
    let publish = async |n: u32| node.deliver(&room("r"), "", delivery(n)).await.unwrap();
    let ((), first, second) = tokio::join!(
        async {
            node.wait_for(Status::Away).await;
            server.resume();
        },
        publish(1),
        publish(2),
    );
    assert!(!first.repeated && !second.repeated);
    assert_eq!(second.position.unwrap().offset, 2);
    assert!(publish(1).await.repeated);
}

/// The room keeps one message: of two that were not answered only the second can be found.
#[tokio::test]
async fn what_a_later_one_has_overtaken_is_not_sent_again() {
    let server = RedisServer::start();
    let node = node(&server, 1).await;
    let topic = room("r");
    server.pause();
    let publish = async |text: &str| node.deliver(&topic, text, latest(1)).await;
    let ((), first, second) = tokio::join!(
        async {
            node.wait_for(Status::Away).await;
            server.resume();
        },
        publish("first"),
        publish("second"),
    );
    assert_unavailable("the outcome is unknown", first);
    assert_eq!(second.unwrap().position.unwrap().offset, 2);
    node.wait_for(Status::Ready).await;
    let history = node.history(&topic, Range::Latest, 9).await;
    assert_eq!((texts(&history), history.position.offset), (vec!["second".to_owned()], 2));
}

/// The room keeps few bytes: a message that was not answered is trimmed before it is looked for, and
/// would be published a second time. With a key its outcome is known.
#[tokio::test]
async fn message_that_may_have_been_trimmed_for_its_bytes_is_not_sent_again() {
    let server = RedisServer::start();
    let proxy = RedisProxy::start(&server).await;
    let node = idle(Node::config(&server).url(proxy.url()).deadline(PATIENCE)).await;
    let other = Node::start(&server).await;
    let topic = room("r");
    proxy.block(ConnectionKind::Commands, Way::FromRedis);
    let (unknown, known, ()) = tokio::join!(
        node.deliver(&topic, "no key", bytes(1000)),
        node.deliver(&topic, "key", bytes(1000).key("k")),
        async {
            eventually("both", async || other.position(&topic).await.unwrap().offset == 2).await;
            other.deliver(&topic, &"x".repeat(2000), bytes(1000)).await.unwrap();
            node.wait_for(Status::Away).await;
            proxy.release();
        },
    );
    assert_unavailable("the outcome is unknown", unknown);
    let known = known.unwrap();
    assert_eq!((known.position.unwrap().offset, known.repeated), (2, false));
    assert_eq!(node.position(&topic).await.unwrap().offset, 3, "nothing was sent again");
}

/// The room is large and the network slow: to look for what was lost would take longer than
/// the deadline.
#[tokio::test]
async fn a_slow_search_ends_in_time() {
    let server = RedisServer::start();
    let fill = "for n = 1, 70000 do redis.call('XADD', KEYS[1], n .. '-0', 'd', '', 'i', '') end
        redis.call('HSET', KEYS[2], 'epoch', 'abcdEF12', 'offset', 70000, 'id', '12345678')";
    let filled = server.command(&["EVAL", fill, "2", "chat:{r.r}:log", "chat:{r.r}:meta"]).await;
    assert_eq!(filled, "");
    let proxy = RedisProxy::start(&server).await;
    let deadline = Duration::from_secs(5);
    let node = idle(Node::config(&server).url(proxy.url()).deadline(deadline)).await;
    proxy.hold_present();
    proxy.delay(Duration::from_millis(400));
    let started = Instant::now();
    assert_unavailable("publish", node.deliver(&room("r"), "", latest(1_000_000)).await);
    let took = started.elapsed();
    assert!(took > deadline && took < deadline + Duration::from_secs(3), "{took:?}");
}
