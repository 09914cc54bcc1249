//! Redis restarts with older data, or with what another node made of it.

use std::collections::HashSet;
use std::fs;

use chat_broker::testing::RedisServer;
use chat_broker::{Broker, BrokerEvent, Status};
use chat_core::{HistoryRange, Position, Step};

use crate::support::{Node, eventually, latest, room, texts};

/// Whether nodes publish again after an outage.
async fn wait_until_back(node: &Node) {
    eventually("publishing again", async || node.publish(&room("x"), "").await.is_ok()).await;
}

#[tokio::test]
async fn epoch_survives_restart_of_persistent_redis() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let node = Node::start(&server).await;
    let (heard, told) = (room("heard"), room("told"));
    node.subscribe(&heard).await.unwrap();
    let first = [
        node.publish(&heard, "0").await.unwrap().position.unwrap(),
        node.publish(&told, "0").await.unwrap().position.unwrap(),
    ];
    for round in 1..=4 {
        if round % 2 == 0 {
            server.kill();
        } else {
            server.stop();
        }
        server.restart();
        wait_until_back(&node).await;
        for (topic, first) in [(&heard, first[0]), (&told, first[1])] {
            let next = node.publish(topic, &round.to_string()).await.unwrap().position.unwrap();
            assert_eq!(next, Position { offset: round + 1, ..first }, "{topic}");
        }
    }
    let history = node.history(&told, HistoryRange::Latest, 9).await;
    assert_eq!(texts(&history), ["0", "1", "2", "3", "4"]);
}

/// The node was subscribed to one room, published to another, and knows only the place of a
/// third; all stand lower in the copy.
#[tokio::test]
async fn older_snapshot_begins_new_epochs() {
    let mut server = RedisServer::start();
    let node = Node::start(&server).await;
    let topics = [room("heard"), room("told"), room("read")];
    for topic in &topics {
        node.publish(topic, "in the copy").await.unwrap();
    }
    assert_eq!(server.command(&["SAVE"]).await, "OK");
    node.broker.subscribe(&[topics[0].clone(), topics[2].clone()]).await.unwrap();
    let stranger = Node::start(&server).await;
    let mut before = Vec::new();
    for (publisher, topic) in [(&stranger, 0), (&node, 1), (&stranger, 2)] {
        let published = publisher.publish(&topics[topic], "not in it").await.unwrap();
        before.push(published.position.unwrap());
    }
    node.position(&topics[2]).await.unwrap();
    stranger.broker.close().await;
    server.restart();
    wait_until_back(&node).await;
    for (topic, before) in topics.iter().zip(before) {
        let after = node.publish(topic, "after").await.unwrap().position.unwrap();
        assert_eq!(before.step_to(after), Step::Gap, "{topic}: {after:?} after {before:?}");
        assert_eq!(
            texts(&node.history(topic, HistoryRange::Latest, 9).await),
            ["after"],
            "{topic}"
        );
    }
}

/// While a node is disconnected, another without its knowledge assigns offsets a second time.
async fn offsets_are_used_again(before: u32, again: u32, kept: u32, is_new_epoch: bool) {
    let mut server = RedisServer::start();
    let topic = room("r");
    let node = Node::start(&server).await;
    node.deliver(&topic, "in the copy", latest(kept)).await.unwrap();
    assert_eq!(server.command(&["SAVE"]).await, "OK");
    let mut seen = Position::default();
    for _ in 0..before {
        seen = node.deliver(&topic, "lost", latest(kept)).await.unwrap().position.unwrap();
    }
    server.kill();
    // A process of its own would return at the same time: this one cannot yet.
    let mut other = RedisServer::start();
    other.stop();
    fs::copy(server.directory().join("dump.rdb"), other.directory().join("dump.rdb")).unwrap();
    other.restart();
    let stranger = Node::start(&other).await;
    for _ in 0..again {
        let position = stranger.deliver(&topic, "again", latest(kept)).await.unwrap().position;
        assert_eq!(position.unwrap().epoch, seen.epoch);
    }
    assert_eq!(other.command(&["SAVE"]).await, "OK");
    fs::copy(other.directory().join("dump.rdb"), server.directory().join("dump.rdb")).unwrap();
    server.restart();
    wait_until_back(&node).await;
    let after = node.deliver(&topic, "after", latest(kept)).await.unwrap().position.unwrap();
    assert_eq!(after.epoch != seen.epoch, is_new_epoch, "{after:?} after {seen:?}");
}

#[tokio::test]
async fn reused_offsets_begin_a_new_epoch() {
    offsets_are_used_again(3, 3, 100, true).await;
    offsets_are_used_again(3, 9, 100, true).await;
    offsets_are_used_again(3, 2, 100, true).await;
}

/// A member at the position that was seen receives a gap anyway.
#[tokio::test]
async fn reused_offsets_before_the_history_keep_the_epoch() {
    offsets_are_used_again(3, 9, 2, false).await;
}

/// The log has expired, and not the id of the latest.
#[tokio::test]
async fn reused_offset_is_noticed_without_a_log() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let before = node.deliver(&room("r"), "", latest(9)).await.unwrap().position.unwrap();
    for (id, is_same) in [(None, true), (Some("12345678"), false)] {
        server.command(&["DEL", "chat:{r.r}"]).await;
        if let Some(id) = id {
            server.command(&["SETRANGE", "chat:{r.r}:position", "16", id]).await;
        }
        let killed = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert_ne!(killed, "0");
        wait_until_back(&node).await;
        let position = node.position(&room("r")).await.unwrap();
        assert_eq!(position == before, is_same, "{position:?}");
    }
}

#[tokio::test]
async fn flushed_redis_begins_new_epochs() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    let before = node.publish(&topic, "1").await.unwrap().position.unwrap();
    server.command(&["FLUSHALL"]).await;
    let after = node.publish(&topic, "2").await.unwrap().position.unwrap();
    assert_eq!(before.step_to(after), Step::Gap);
    for expected in [before, after] {
        match node.next().await {
            BrokerEvent::Publication { position, .. } => assert_eq!(position, Some(expected)),
            other => panic!("{other:?}"),
        }
    }
}

/// Redis has lost the latest and takes no writes yet, as after a failover without replicas:
/// the epoch cannot be ended now, and must not be continued later.
#[tokio::test]
async fn epoch_that_cannot_be_ended_is_not_continued() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    node.publish(&topic, "1").await.unwrap();
    let before = node.publish(&topic, "lost").await.unwrap().position.unwrap();
    server.command(&["RPOP", "chat:{r.r}"]).await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    assert_ne!(server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await, "0");
    node.publish(&room("x"), "").await.expect_err("nothing can be kept");
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    wait_until_back(&node).await;
    let after = node.publish(&topic, "2").await.unwrap().position.unwrap();
    assert_eq!(before.step_to(after), Step::Gap, "{after:?} after {before:?}");
}

/// Redis ends again and again before it has made another snapshot.
#[tokio::test]
async fn ended_epoch_never_returns() {
    let mut server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let (heard, told) = (room("heard"), room("told"));
    node.subscribe(&heard).await.unwrap();
    let mut epochs = HashSet::new();
    for topic in [&heard, &told] {
        node.publish(topic, "in the copy").await.unwrap();
    }
    assert_eq!(server.command(&["SAVE"]).await, "OK");
    for _ in 0..4 {
        for topic in [&heard, &told] {
            let position = node.publish(topic, "not in it").await.unwrap().position.unwrap();
            assert!(epochs.insert(position.epoch), "{topic}: {position:?} in an old epoch");
        }
        node.arrived().await;
        server.restart();
        node.wait_for(Status::Unavailable).await;
        node.wait_for(Status::Ready).await;
    }
}
