//! Outages of Redis.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chat_broker::testing::{RedisServer, TcpProxy};
use chat_broker::{Broker, BrokerEvent, PublishOptions, SharedTable, Status};
use chat_core::{Position, Step};
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::support::{
    DEADLINE, Node, TIMEOUT, assert_unavailable, assert_within, eventually, persistent, room,
};

#[tokio::test]
async fn node_starts_without_redis_and_connects_later() {
    let mut server = RedisServer::start();
    server.stop();
    let mut node = Node::start(&server).await;
    assert_eq!(node.broker.status(), Status::Unavailable);
    assert_unavailable("subscribe", node.subscribe(&room("r")).await);
    server.restart();
    node.wait_for(Status::Ready).await;
    node.subscribe(&room("r")).await.unwrap();
    node.publish(&room("r"), "hello").await.unwrap();
    assert_eq!(node.message().await.0, "hello", "nothing was interrupted");
}

#[tokio::test]
async fn outage_is_reported_once() {
    let mut server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let (kept, dropped, failed) = (room("kept"), room("dropped"), room("failed"));
    node.broker.subscribe(&[kept.clone(), dropped.clone()]).await.unwrap();
    server.kill();
    node.wait_for(Status::Unavailable).await;
    let began = Instant::now();

    let in_time = |what: &str, started: Instant| {
        assert_within(what, started.elapsed(), DEADLINE * 2);
    };
    for delivery in [persistent(), PublishOptions::default()] {
        let started = Instant::now();
        let outcome = node.deliver(&kept, "lost", delivery).await;
        assert_unavailable("publish", outcome);
        in_time("publish", started);
    }
    let started = Instant::now();
    assert_unavailable("subscribe", node.subscribe(&failed).await);
    in_time("subscribe", started);
    let started = Instant::now();
    assert_unavailable("positions", node.position(&kept).await);
    assert_unavailable("secret", node.broker.secret().await);
    in_time("positions and secret", started);
    node.broker.unsubscribe(std::slice::from_ref(&dropped)).await.expect("nothing to confirm");

    // Longer than redis-rs tries on its own after a first failure.
    tokio::time::sleep_until((began + Duration::from_secs(3)).into()).await;
    server.restart();
    assert_eq!(node.next().await, BrokerEvent::Interrupted);
    node.wait_for(Status::Ready).await;
    assert_eq!(node.publish(&kept, "back").await.unwrap().nodes, 1);
    assert_eq!(node.message().await.0, "back");
    for topic in [&dropped, &failed] {
        assert_eq!(node.publish(topic, "").await.unwrap().nodes, 0, "{topic} left nothing");
    }
    node.subscribe(&failed).await.unwrap();
    node.publish(&failed, "now it works").await.unwrap();
    assert_eq!(node.message().await.0, "now it works");
}

#[tokio::test]
async fn calls_that_outlast_an_outage_succeed() {
    let mut server = RedisServer::start();
    let mut node = Node::with(Node::config(&server).deadline(TIMEOUT)).await;
    let (before, during) = (room("before"), room("during"));
    node.subscribe(&before).await.unwrap();
    server.kill();
    node.wait_for(Status::Unavailable).await;
    let restart = async {
        yield_now().await;
        server.restart();
    };
    let (subscribed, published, ()) =
        tokio::join!(node.subscribe(&during), node.publish(&before, "waited"), restart);
    subscribed.unwrap();
    assert_eq!(published.unwrap().position.unwrap().offset, 1, "sent once");
    node.publish(&during, "then").await.unwrap();
    let mut texts = Vec::new();
    while texts.last().is_none_or(|text| text != "then") {
        match node.next().await {
            BrokerEvent::Publication { payload, .. } => {
                texts.push(String::from_utf8(payload.to_vec()).unwrap());
            }
            other => assert_eq!(other, BrokerEvent::Interrupted),
        }
    }
    assert!(texts.len() <= 2, "nothing arrives twice: {texts:?}");
}

/// Connections are killed again and again under load: whatever is missed is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_return_and_report_holes() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let publisher = Node::start(&server).await;
    let topic = room("busy");
    node.subscribe(&topic).await.unwrap();
    let stop = AtomicBool::new(false);
    let publish = async {
        while !stop.load(Ordering::Relaxed) {
            // An error is as it should be: the connection was killed under it.
            let _ = publisher.publish(&topic, "tick").await;
        }
    };
    let kill = async {
        for round in 0..10 {
            let kind = if round % 2 == 0 { "pubsub" } else { "normal" };
            eventually("connections to kill", async || {
                server.command(&["CLIENT", "KILL", "TYPE", kind]).await != "0"
            })
            .await;
        }
        eventually("a publication that arrives", async || {
            publisher.publish(&topic, "").await.is_ok_and(|published| published.nodes == 1)
        })
        .await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(publish, kill);
    assert_eq!(publisher.publish(&topic, "end").await.unwrap().nodes, 1);

    let (mut at, mut reports, mut ended) = (Position::default(), 0, false);
    // A report is in the hole that it reports, or after its end.
    let (mut report_since, mut unreported) = (false, false);
    while !ended || unreported {
        match node.next().await {
            BrokerEvent::Publication { position, payload, .. } => {
                let next = position.unwrap();
                match at.step_to(next) {
                    Step::Next => {}
                    Step::Gap => unreported = !report_since,
                    Step::Repeat => panic!("{next:?} after {at:?}"),
                }
                (at, report_since, ended) = (next, false, payload == "end");
            }
            BrokerEvent::Interrupted => {
                reports += 1;
                (report_since, unreported) = (true, false);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(reports > 0, "the subscriber was cut off");
}

/// Each connection delivers something, and is ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_subscriber_makes_no_tight_loop() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    let began = Instant::now();
    // For as long as it takes: a busy machine makes fewer in two seconds.
    while began.elapsed() < Duration::from_secs(2) || node.broker.stats().reconnects < 5 {
        assert!(began.elapsed() < 3 * TIMEOUT, "{:?}", node.broker.stats());
        if node.publish(&topic, "x").await.unwrap().nodes == 1 {
            server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        }
        sleep(Duration::from_millis(2)).await;
    }
    let (reconnects, elapsed) = (node.broker.stats().reconnects, began.elapsed());
    println!("{reconnects} connections in {elapsed:.1?}");
    assert!(reconnects as f64 <= 10.0 * elapsed.as_secs_f64(), "{reconnects} in {elapsed:?}");
    eventually("a subscription", async || {
        node.publish(&topic, "").await.is_ok_and(|published| published.nodes == 1)
    })
    .await;
    assert!(node.arrived().await.contains(&BrokerEvent::Interrupted));
}

/// A read is repeated on another connection.
#[tokio::test]
async fn read_outlasts_its_connection() {
    const UNDER_WAY: Duration = Duration::from_millis(200);
    let server = RedisServer::start();
    let proxy = TcpProxy::before(&server);
    let node = Node::with(Node::config(&server).url(proxy.redis_url()).deadline(TIMEOUT)).await;
    let topic = room("r");
    let published = node.publish(&topic, "x").await.unwrap();
    node.position(&topic).await.expect("a first connection of the pool");
    proxy.delay(UNDER_WAY);
    let kill = async {
        // The pool has asked whether the connection lives, and the read is under way on it.
        sleep(UNDER_WAY * 3 / 2).await;
        assert_ne!(server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await, "0");
    };
    let (position, ()) = tokio::join!(node.position(&topic), kill);
    assert_eq!(position.ok(), published.position);
}

#[tokio::test]
async fn frozen_redis_is_noticed() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    node.subscribe(&room("r")).await.unwrap();
    let frozen = Instant::now();
    server.pause();
    node.wait_for(Status::Unavailable).await;
    assert_within("to notice", frozen.elapsed(), Duration::from_secs(4));
    assert_unavailable("publish", node.publish(&room("r"), "lost").await);
    tokio::time::sleep_until((frozen + Duration::from_secs(5)).into()).await;
    server.resume();
    assert_eq!(node.next().await, BrokerEvent::Interrupted);
    node.wait_for(Status::Ready).await;
    node.publish(&room("r"), "back").await.unwrap();
    assert_eq!(node.message().await.0, "back");
}

/// The connection answers every PING, and nothing that is published arrives on it.
#[tokio::test]
async fn connection_that_delivers_nothing_is_replaced() {
    let server = RedisServer::start();
    let proxy = TcpProxy::before(&server);
    let mut node = Node::with(Node::config(&server).url(proxy.redis_url())).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    node.publish(&topic, "1").await.unwrap();
    assert_eq!(node.message().await.0, "1");
    let deaf = Instant::now();
    proxy.swallow_messages();
    assert_eq!(node.publish(&topic, "swallowed").await.unwrap().nodes, 1);
    assert_eq!(node.next().await, BrokerEvent::Interrupted);
    let found = deaf.elapsed();
    println!("found after {found:.1?}");
    assert_within("to find it", found, Duration::from_secs(10));
    assert_eq!(node.publish(&topic, "2").await.unwrap().nodes, 1, "the old connection is closed");
    assert_eq!(node.message().await.0, "2");
}

#[tokio::test]
async fn lost_position_begins_a_new_epoch() {
    let mut server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    let mut epochs = Vec::new();
    for round in 0..3 {
        node.publish(&topic, "1").await.unwrap();
        let second = node.publish(&topic, "2").await.unwrap().position.unwrap();
        assert_eq!(second.offset, 2, "round {round}");
        assert_eq!(node.position(&topic).await.unwrap(), second);
        assert!(!epochs.contains(&second.epoch), "a new epoch");
        epochs.push(second.epoch);
        if round == 0 {
            server.command(&["FLUSHALL"]).await;
            assert_eq!(node.position(&topic).await.unwrap(), Position::default());
        } else {
            server.restart();
            eventually("publishing again", async || node.publish(&room("x"), "").await.is_ok())
                .await;
        }
    }
}

/// The server dies and returns with a snapshot in which the room has come less far.
#[tokio::test]
async fn no_offset_is_given_out_twice_after_a_restart_with_older_data() {
    let mut server = RedisServer::start();
    let mut reader = Node::start(&server).await;
    let (heard, read) = (room("heard"), room("read"));
    for topic in [&heard, &read] {
        reader.publish(topic, "in the snapshot").await.unwrap();
    }
    assert_eq!(server.command(&["SAVE"]).await, "OK");
    for topic in [&heard, &read] {
        reader.publish(topic, "not in it").await.unwrap();
    }
    // One position is known from a message, the other from a question.
    reader.broker.subscribe(&[heard.clone(), read.clone()]).await.unwrap();
    let before_read = reader.position(&read).await.unwrap();
    let before_heard = reader.publish(&heard, "nor this").await.unwrap().position.unwrap();
    reader.message().await;
    server.restart();
    assert_eq!(reader.next().await, BrokerEvent::Interrupted);

    let stranger = Node::start(&server).await;
    for (topic, before) in [(&heard, before_heard), (&read, before_read)] {
        let after = stranger.publish(topic, "after").await.unwrap().position.unwrap();
        assert_eq!(before.step_to(after), Step::Gap, "{topic}: {after:?} after {before:?}");
        assert_eq!(reader.message().await, ("after".to_owned(), Some(after)));
    }
}

#[tokio::test]
async fn publication_waits_until_restored_positions_are_deleted() {
    let mut server = RedisServer::start();
    let mut node = Node::with(Node::config(&server).deadline(TIMEOUT)).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    node.publish(&topic, "in the snapshot").await.unwrap();
    assert_eq!(server.command(&["SAVE"]).await, "OK");
    let before = node.publish(&topic, "not in it").await.unwrap().position.unwrap();
    for _ in 0..2 {
        node.message().await;
    }
    server.kill();
    node.wait_for(Status::Unavailable).await;
    let restart = async {
        yield_now().await;
        server.restart();
    };
    let (published, ()) = tokio::join!(node.publish(&topic, "waited"), restart);
    let after = published.unwrap().position.unwrap();
    assert_ne!(after.epoch, before.epoch);
}

#[tokio::test]
async fn ten_thousand_rooms_are_subscribed_again() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let rooms: Vec<_> = (0..10_000).map(|n| room(&format!("r{n}"))).collect();
    node.broker.subscribe(&rooms).await.unwrap();
    let began = Instant::now();
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    assert_eq!(node.next().await, BrokerEvent::Interrupted);
    println!("ten thousand rooms took {:?}", began.elapsed());
    for topic in rooms.iter().step_by(500) {
        assert_eq!(node.publish(topic, "x").await.unwrap().nodes, 1, "{topic}");
        assert_eq!(node.message().await.0, "x");
    }
}
