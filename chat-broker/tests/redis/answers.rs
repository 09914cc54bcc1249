//! Redis answers with errors, or with data that is not expected.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{
    Broker, BrokerError, BrokerEvent, PublishOptions, RedisConfig, SharedTable, Status,
};
use chat_core::Position;
use tokio::time::sleep;

use crate::support::{
    DEADLINE, Node, TIMEOUT, assert_damaged, assert_refused, assert_unavailable, eventually,
    persistent, room,
};

/// The script cache is emptied while publications are under way: all get through, in
/// their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_script_is_loaded_again() {
    const COUNT: u64 = 3000;
    let server = RedisServer::start();
    let mut node = Node::with(Node::config(&server).deadline(TIMEOUT)).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    let publish = async {
        let mut receipts = Vec::new();
        for n in 0..COUNT {
            let payload = Bytes::from(n.to_string());
            receipts.push(node.broker.publish(&topic, payload, persistent()).await.unwrap());
            tokio::task::yield_now().await;
        }
        for (n, receipt) in (1..).zip(receipts) {
            let published = receipt.await.unwrap();
            assert_eq!(published.position.unwrap().offset, n, "in the order of the calls");
        }
    };
    let flush = async {
        for _ in 0..10 {
            assert_eq!(server.command(&["SCRIPT", "FLUSH"]).await, "OK");
        }
    };
    tokio::join!(publish, flush);
    for n in 0..COUNT {
        assert_eq!(node.message().await.0, n.to_string());
    }
    server.command(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(node.publish(&topic, "").await.unwrap().position.unwrap().offset, COUNT + 1);
}

#[tokio::test]
async fn key_of_wrong_type_is_refused() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    server.command(&["SET", "chat:{r.bad}", "x"]).await;
    server.command(&["RPUSH", "chat:{r.odd}", "odd"]).await;
    server.command(&["SET", "chat:secret", "short"]).await;
    assert_damaged(&room("bad"), node.publish(&room("bad"), "").await);
    assert_damaged(&room("bad"), node.position(&room("bad")).await);
    assert_eq!(node.position(&room("odd")).await.unwrap(), Position::default());
    assert_refused("secret", node.broker.secret().await);
    node.publish(&room("good"), "").await.expect("other rooms go on");
    assert_eq!(node.broker.status(), Status::Ready);
}

/// Whether Redis has refused something for this reason.
fn has_refused(node: &Node, cause: &str) -> bool {
    node.broker.stats().refusals.iter().any(|each| each.cause == cause && each.count > 0)
}

/// A script of another program runs without end: reads fail as they do when Redis is unavailable.
#[tokio::test]
async fn busy_redis_is_unavailable() {
    let server = RedisServer::start_with(&["--lua-time-limit", "50"]);
    let node = Node::start(&server).await;
    node.position(&room("r")).await.unwrap();
    let endless = server.command(&["EVAL", "while true do end", "0"]);
    let read = async {
        eventually("an answer", async || {
            let outcome = node.position(&room("r")).await;
            if let Err(error) = &outcome {
                assert!(matches!(error, BrokerError::Unavailable(_)), "{error}");
            }
            outcome.is_err() && has_refused(&node, "BUSY")
        })
        .await;
        server.command(&["SCRIPT", "KILL"]).await;
    };
    tokio::join!(endless, read);
    eventually("an end", async || node.position(&room("r")).await.is_ok()).await;
}

/// Redis cannot save its data, and answers writes and pings with errors.
#[tokio::test]
async fn full_disk_refuses_writes_and_nothing_else() {
    let server = RedisServer::start_with(&["--save", "3600 1"]);
    let lease = Duration::from_secs(1);
    let mut node = Node::with(Node::config(&server).lease(lease)).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    std::fs::remove_dir_all(server.directory()).unwrap();
    server.command(&["BGSAVE"]).await;
    eventually("a failure", async || server.command(&["PING"]).await.starts_with("MISCONF")).await;
    let until = Instant::now() + lease * 3;
    while Instant::now() < until {
        assert_refused("kept", node.publish(&topic, "").await);
        node.deliver(&topic, "heard", PublishOptions::default()).await.expect("nothing is written");
        assert_eq!(node.message().await.0, "heard");
        sleep(Duration::from_millis(100)).await;
    }
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    node.publish(&topic, "").await.unwrap();
}

#[tokio::test]
async fn replica_is_refused_until_it_is_a_primary() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    eventually("READONLY", async || {
        let outcome = node.publish(&room("r"), "").await;
        matches!(outcome, Err(BrokerError::Refused(_))) && has_refused(&node, "READONLY")
    })
    .await;
    server.command(&["REPLICAOF", "NO", "ONE"]).await;
    eventually("a master", async || node.publish(&room("r"), "").await.is_ok()).await;
}

#[tokio::test]
async fn passwords_are_used_and_wrong_ones_refused() {
    let server = RedisServer::start_with(&["--requirepass", "se:cret@"]);
    let at = |password: &str| {
        let url = format!("redis://:{password}@127.0.0.1:{}", server.port());
        RedisConfig::new(url).deadline(DEADLINE)
    };
    let right = Node::with(at("se%3Acret%40")).await;
    right.publish(&room("r"), "").await.unwrap();
    right.broker.secret().await.unwrap();

    let wrong = Node::with(at("other")).await;
    assert_eq!(wrong.broker.status(), Status::Unavailable);
    assert_refused("publish", wrong.publish(&room("r"), "").await);
    assert_refused("positions", wrong.position(&room("r")).await);
    assert_unavailable("subscribe", wrong.subscribe(&room("r")).await);
}

#[tokio::test]
async fn unreadable_payloads_are_skipped() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    node.subscribe(&room("r")).await.unwrap();
    let garbage = ["", "hello", "\u{1}", "\u{1}1234567", "\u{2}12345678epoch ? payload", "\u{2}x"];
    for payload in garbage {
        assert_eq!(server.command(&["PUBLISH", "chat:{r.r}", payload]).await, "1");
    }
    node.publish(&room("r"), "good").await.unwrap();
    assert_eq!(node.message().await.0, "good");
    assert_eq!(node.broker.stats().unreadable, garbage.len() as u64);
    assert_eq!(node.broker.stats().unreadable, garbage.len() as u64);
    assert_eq!(node.broker.status(), Status::Ready);
}

/// Redis does not answer, and the queue has room for one.
#[tokio::test]
async fn full_queue_fails_publishers_at_the_deadline() {
    let server = RedisServer::start();
    let node = Node::with(Node::config(&server).publish_queue(1)).await;
    let topic = room("r");
    server.pause();
    let mut receipts = Vec::new();
    let refused = loop {
        match node.broker.publish(&topic, Bytes::new(), persistent()).await {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => break error,
        }
    };
    assert_unavailable::<()>("publish", Err(refused));
    assert!(receipts.len() < 10, "{} found a place", receipts.len());
    for receipt in receipts {
        assert_unavailable("the receipt", receipt.await);
    }
    server.resume();
}

#[tokio::test]
async fn slow_reader_receives_lagged() {
    let server = RedisServer::start();
    let mut node = Node::with(Node::config(&server).event_queue(4)).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    for _ in 0..10 {
        node.publish(&topic, "x").await.unwrap();
    }
    eventually("drops", async || node.broker.stats().dropped == 6).await;
    assert_eq!(node.broker.stats().dropped, 6);
    for _ in 0..4 {
        node.message().await;
    }
    assert_eq!(node.next().await, BrokerEvent::Lagged(vec![topic.clone()]));
    node.publish(&topic, "again").await.unwrap();
    assert_eq!(node.message().await.0, "again");
}
