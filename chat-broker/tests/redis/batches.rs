//! Publications that are sent in one pipeline share calls of a script, and each keeps its promises.

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{Broker, BrokerError, PublishOptions, Published};
use chat_core::{HistoryRange, Position};
use futures_util::future::join_all;

use crate::support::{Node, assert_damaged, keyed, latest, persistent, room, texts};

/// Publishes all in one pipeline, and returns the outcome of each.
async fn publish_all(
    node: &Node,
    publications: &[(&str, &str, PublishOptions)],
) -> Vec<Result<Published, BrokerError>> {
    let mut receipts = Vec::new();
    for (name, text, options) in publications {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        receipts.push(node.broker.publish(&room(name), payload, options.clone()).await.unwrap());
    }
    join_all(receipts).await
}

async fn calls(server: &RedisServer, command: &str) -> usize {
    let stats = server.command(&["INFO", "commandstats"]).await;
    let begin = format!("cmdstat_{command}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&begin)?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn publications_of_a_room_are_one_message_to_other_nodes() {
    const COUNT: usize = 50;
    let server = RedisServer::start();
    let (node, mut other) = (Node::start(&server).await, Node::start(&server).await);
    other.subscribe(&room("r")).await.unwrap();
    let texts: Vec<_> = (0..COUNT).map(|n| "x".repeat(n)).collect();
    let publications: Vec<_> = texts.iter().map(|text| ("r", &**text, persistent())).collect();
    let (scripts, messages) = (calls(&server, "evalsha").await, calls(&server, "publish").await);
    let published = publish_all(&node, &publications).await;
    let (scripts, messages) =
        (calls(&server, "evalsha").await - scripts, calls(&server, "publish").await - messages);
    // Probes and leases are among them.
    assert!(scripts < 10 && messages < 10, "{scripts} scripts, {messages} messages");
    for ((n, published), text) in published.into_iter().enumerate().zip(&texts) {
        let Published { position, nodes, repeated, .. } = published.unwrap();
        assert_eq!((position.unwrap().offset, nodes, repeated), (n as u64 + 1, 1, false));
        assert_eq!(other.message().await, (text.clone(), position));
    }
}

#[tokio::test]
async fn ephemeral_and_kept_publications_keep_their_order() {
    let server = RedisServer::start();
    let (node, mut other) = (Node::start(&server).await, Node::start(&server).await);
    other.subscribe(&room("r")).await.unwrap();
    let kinds = [persistent(), persistent(), PublishOptions::default(), latest(9), keyed("k")];
    let texts: Vec<_> = (0..60).map(|n| n.to_string()).collect();
    let publications: Vec<_> = texts
        .iter()
        .enumerate()
        .flat_map(|(n, text)| {
            // Of other rooms, between.
            let options = &kinds[n * 7 % 11 % kinds.len()];
            [("r", &**text, options.clone()), ("s", &**text, kinds[n % 3].clone())]
        })
        .collect();
    let published = publish_all(&node, &publications).await;
    let mut last = 0;
    let mut expected = Vec::new();
    for (published, (name, text, _)) in published.into_iter().zip(&publications) {
        let published = published.unwrap();
        if *name == "r" && !published.repeated {
            expected.push((*text, published.position));
            let offset = published.position.map_or(last, |position| position.offset);
            assert!(published.position.is_none() || offset == last + 1, "{offset} after {last}");
            last = offset;
        }
    }
    for (text, position) in expected {
        assert_eq!(other.message().await, (text.to_owned(), position));
    }
}

#[tokio::test]
async fn retentions_of_one_pipeline_are_kept_apart() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let numbers: Vec<_> = (1..=30).map(|n| n.to_string()).collect();
    let publications: Vec<_> = numbers
        .iter()
        .flat_map(|n| [("a", &**n, latest(3)), ("b", n, latest(5)), ("c", n, latest(3))])
        .collect();
    for published in publish_all(&node, &publications).await {
        published.unwrap();
    }
    for (name, kept) in [("a", 3), ("b", 5), ("c", 3)] {
        let history = node.history(&room(name), HistoryRange::Latest, 99).await;
        assert_eq!(texts(&history), numbers[30 - kept..], "{name}");
        assert_eq!(history.position.offset, 30, "{name}");
    }
}

#[tokio::test]
async fn key_of_wrong_type_fails_its_publications_alone() {
    let server = RedisServer::start();
    let (node, mut other) = (Node::start(&server).await, Node::start(&server).await);
    other.subscribe(&room("a")).await.unwrap();
    server.command(&["SET", "chat:{r.bad}", "x"]).await;
    server.command(&["RPUSH", "chat:{r.a}:k:bad", "x"]).await;
    let publications = [
        ("a", "1", persistent()),
        ("bad", "1", persistent()),
        ("a", "failed", keyed("bad")),
        ("bad", "2", keyed("k")),
        ("a", "2", keyed("k")),
        ("b", "1", persistent()),
    ];
    let published = publish_all(&node, &publications).await;
    for (n, (name, text, _)) in publications.iter().enumerate() {
        if *name == "bad" || *text == "failed" {
            assert_damaged(&room(name), published[n].clone());
        } else {
            let position = published[n].as_ref().unwrap().position.unwrap();
            assert_eq!(position.offset.to_string(), *text, "{name}");
        }
    }
    for text in ["1", "2"] {
        assert_eq!(other.message().await.0, text);
    }
    assert_eq!(texts(&node.history(&room("a"), HistoryRange::Latest, 9).await), ["1", "2"]);
    assert_eq!(server.command(&["EXISTS", "chat:{r.bad}:k:k"]).await, "0");
}

#[tokio::test]
async fn key_is_published_once_in_a_pipeline() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    node.subscribe(&room("r")).await.unwrap();
    let publications = [
        ("r", "1", keyed("k")),
        ("r", "again", keyed("k")),
        ("r", "2", persistent()),
        ("s", "1", keyed("k")),
        ("r", "again", keyed("k")),
        ("r", "3", keyed("l")),
    ];
    let mut first: Option<Position> = None;
    for (published, (name, text, _)) in
        publish_all(&node, &publications).await.into_iter().zip(&publications)
    {
        let published = published.unwrap();
        if *text == "again" {
            assert_eq!((published.position, published.repeated), (first, true));
        } else {
            assert_eq!(published.position.unwrap().offset.to_string(), *text, "{name}");
            first = first.or(published.position);
        }
    }
    for text in ["1", "2", "3"] {
        assert_eq!(node.message().await.0, text);
    }
}

/// Of a room that begins with publications that were all published before, nothing is left.
#[tokio::test]
async fn repeated_publications_begin_no_log() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    node.deliver(&room("r"), "1", keyed("k")).await.unwrap();
    server.command(&["DEL", "chat:{r.r}"]).await;
    let publications = [("r", "again", keyed("k")), ("r", "again", keyed("k"))];
    for published in publish_all(&node, &publications).await {
        assert!(published.unwrap().repeated);
    }
    assert_eq!(server.command(&["EXISTS", "chat:{r.r}"]).await, "0");
}
