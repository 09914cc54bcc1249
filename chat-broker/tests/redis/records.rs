//! The table that all nodes share, when Redis is not what it was.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_broker::testing::{RedisServer, TcpProxy};
use chat_broker::{Broker, BrokerError, BrokerEvent, Record, Records, SharedTable, Status};

use crate::support::{Node, TIMEOUT, assert_refused, eventually, lasting};

const HOUR: Duration = Duration::from_secs(3600);

const PARTS: [&str; 4] = ["meta", "values", "versions", "ends"];

async fn set(node: &Node, key: &str) -> Result<(), BrokerError> {
    node.broker.set(key, Bytes::from("x"), lasting(HOUR)).await
}

async fn read(node: &Node, after: u64) -> Records {
    node.broker.changes_since(after).await.unwrap()
}

fn keys(records: &Records) -> Vec<&str> {
    records.records.iter().map(|record| record.key.as_str()).collect()
}

/// The subscriber's connection delivers nothing, and then breaks.
#[tokio::test]
async fn reader_after_an_outage_is_notified() {
    let server = RedisServer::start();
    let proxy = TcpProxy::before(&server);
    set(&Node::start(&server).await, "before").await.unwrap();
    let mut deaf = Node::with(Node::config(&server).url(proxy.redis_url())).await;
    let mut other = Node::start(&server).await;
    let before = read(&deaf, 0).await;
    proxy.swallow_messages();
    set(&other, "ban").await.unwrap();
    assert_eq!(other.next().await, BrokerEvent::RecordsChanged);
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    assert_eq!(deaf.next().await, BrokerEvent::Interrupted);
    assert_eq!(keys(&read(&deaf, before.version).await), ["ban"]);
    assert_eq!(other.next().await, BrokerEvent::Interrupted);

    set(&other, "another").await.unwrap();
    for node in [&mut deaf, &mut other] {
        assert_eq!(node.next().await, BrokerEvent::RecordsChanged, "subscribed again");
    }
}

/// No connection was interrupted, for there was none when the table was read.
#[tokio::test]
async fn reader_before_the_connection_is_notified() {
    let server = RedisServer::start();
    let proxy = TcpProxy::before(&server);
    server.command(&["ACL", "SETUSER", "default", "-subscribe"]).await;
    let mut early = Node::with(Node::config(&server).url(proxy.redis_url())).await;
    assert_eq!(early.broker.status(), Status::Unavailable);
    let before = read(&early, 0).await;
    let other = Node::start(&server).await;
    set(&other, "ban").await.unwrap();
    server.command(&["ACL", "SETUSER", "default", "+subscribe"]).await;
    assert_eq!(early.next().await, BrokerEvent::RecordsChanged);
    assert_eq!(keys(&read(&early, before.version).await), ["ban"]);
}

#[tokio::test]
async fn table_of_many_pages_is_read_in_order() {
    const COUNT: usize = 1300;
    let server = RedisServer::start();
    let node = Node::with(Node::config(&server).deadline(TIMEOUT)).await;
    for n in 0..COUNT {
        set(&node, &n.to_string()).await.unwrap();
    }
    // The floor lies above most of the pages.
    node.broker.set("short", Bytes::new(), lasting(Duration::from_millis(1))).await.unwrap();
    eventually("its end", async || {
        set(&node, "last").await.unwrap();
        !keys(&read(&node, 0).await).contains(&"short")
    })
    .await;
    node.broker.remove("last").await.unwrap();
    let all = read(&node, 0).await;
    let expected: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
    assert!(all.complete);
    assert_eq!(keys(&all), expected);
    for n in 0..COUNT {
        node.broker.remove(&n.to_string()).await.unwrap();
    }
    let changes = read(&node, all.version).await;
    assert!(!changes.complete);
    assert_eq!(keys(&changes), expected);
    assert!(changes.records.iter().all(|record| record.value.is_none()));
    assert_eq!(keys(&read(&node, 0).await), [""; 0]);
}

/// So many that Redis makes them itself.
#[tokio::test]
async fn full_table_refuses_records_until_one_is_removed_or_expires() {
    let server = RedisServer::start();
    let node = Node::with(Node::config(&server).deadline(TIMEOUT)).await;
    let fill = "for n = 1, tonumber(ARGV[1]) do redis.call('HSET', KEYS[2], n, 'x') \
        redis.call('ZADD', KEYS[3], n, n) redis.call('ZADD', KEYS[4], 9e15, n) end";
    let names = PARTS.map(|part| format!("chat:{{records}}:{part}"));
    let most = Records::MAX.to_string();
    let [meta, values, versions, ends] = &names;
    // The first one begins the table.
    set(&node, "6").await.unwrap();
    server.command(&["EVAL", fill, "4", meta, values, versions, ends, &most]).await;
    assert_refused("one more", set(&node, "one more").await);
    set(&node, "6").await.expect("it replaces one");
    node.broker.set("7", Bytes::new(), lasting(Duration::from_millis(1))).await.unwrap();
    eventually("the end of one", async || set(&node, "one more").await.is_ok()).await;
    assert_refused("another", set(&node, "another").await);
    node.broker.remove("8").await.unwrap();
    set(&node, "another").await.unwrap();

    let began = Instant::now();
    let all = read(&node, 0).await;
    println!("a full table was read in {:?}", began.elapsed());
    assert_eq!(all.records.len(), Records::MAX);
    assert_eq!(keys(&all)[Records::MAX - 3..], ["6", "one more", "another"]);
    let cannot_be_told = all.version;
    for n in 9..12 {
        node.broker.remove(&n.to_string()).await.unwrap();
    }
    let with_mark = (Records::MAX + 1).to_string();
    assert_eq!(server.command(&["ZCARD", versions]).await, with_mark);
    assert!(read(&node, cannot_be_told).await.complete, "that one was not remembered");
}

#[tokio::test]
async fn key_of_wrong_type_is_refused_without_partial_writes() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    set(&node, "a").await.unwrap();
    // The next call that sets a record drops it.
    let over = node.broker.set("over", Bytes::new(), lasting(Duration::from_millis(1)));
    over.await.unwrap();
    eventually("its end", async || keys(&read(&node, 0).await) == ["a"]).await;
    for part in PARTS {
        let name = format!("chat:{{records}}:{part}");
        server.command(&["RENAME", &name, "aside"]).await;
        server.command(&["SET", &name, "x"]).await;
        assert_refused(part, set(&node, "b").await);
        assert_refused(part, node.broker.remove("a").await);
        let is_refused = node.broker.changes_since(0).await.is_err_and(is_refused);
        assert!(is_refused, "{part} is read");
        server.command(&["DEL", &name]).await;
        server.command(&["RENAME", "aside", &name]).await;
        assert_eq!(keys(&read(&node, 0).await), ["a"], "as it was before {part}");
        for part in ["versions", "ends"] {
            // With the mark of the table.
            assert_eq!(server.command(&["ZCARD", &format!("chat:{{records}}:{part}")]).await, "3");
        }
    }
    server.command(&["HSET", "chat:{records}:meta", "version", "x", "floor", "x"]).await;
    assert!(read(&node, 1).await.complete, "a reader too far behind reads all");
    set(&node, "b").await.unwrap();
    assert_eq!(keys(&read(&node, 0).await), ["a", "b"]);
    assert_eq!(node.broker.status(), Status::Ready);
}

fn is_refused(error: BrokerError) -> bool {
    matches!(error, BrokerError::Refused(_))
}

/// What is set there are bans: the worst time to refuse them is when Redis is being filled.
#[tokio::test]
async fn records_are_set_when_redis_is_full() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    set(&node, "a").await.unwrap();
    set(&node, "b").await.unwrap();
    node.broker.remove("a").await.unwrap();
    assert_eq!(keys(&read(&node, 0).await), ["b"]);
}

/// Without `INFO` a node does not know which Redis it is, and everything else works.
#[tokio::test]
async fn records_are_read_without_the_right_to_info() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    for n in 0..600 {
        set(&node, &n.to_string()).await.unwrap();
    }
    let before = read(&node, 0).await.version;
    server.command(&["ACL", "SETUSER", "default", "-info"]).await;
    assert_eq!(read(&node, 0).await.records.len(), 600);
    assert!(!read(&node, before).await.complete);
    set(&node, "a").await.unwrap();
    let after = read(&node, 0).await.version;
    set(&node, "b").await.unwrap();
    let changes = read(&node, after).await;
    assert!(!changes.complete);
    assert_eq!(keys(&changes), ["b"]);
}

#[tokio::test]
async fn prefixes_and_databases_have_tables_of_their_own() {
    let server = RedisServer::start();
    let mut nodes = Vec::new();
    for (prefix, database) in [("chat", 0), ("other", 0), ("chat", 1)] {
        let url = format!("{}/{database}", server.url());
        nodes.push(Node::with(Node::config(&server).url(url).prefix(prefix)).await);
    }
    for (n, node) in nodes.iter_mut().enumerate() {
        set(node, &n.to_string()).await.unwrap();
        assert!(node.arrived().await.contains(&BrokerEvent::RecordsChanged));
    }
    for (n, node) in nodes.iter_mut().enumerate() {
        let Records { records, .. } = read(node, 0).await;
        assert!(matches!(&records[..], [Record { key, .. }] if *key == n.to_string()));
        assert_eq!(node.arrived().await, [], "notified of its own only");
    }
}
