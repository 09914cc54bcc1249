//! What was sent and not answered is sent again, and published once, over real connections. Single
//! cases are in `tests/simulation/resend.rs`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{Broker, Receipt, RedisConfig, Status};
use chat_core::{HistoryRange, Position};
use tokio::time::sleep;

use crate::support::{Node, TIMEOUT, eventually, latest, room};

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
        let history = node.history(&room("r"), HistoryRange::After(after), 1000).await;
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
    idle(Node::config(server).deadline(TIMEOUT).publish_connections(connections)).await
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
