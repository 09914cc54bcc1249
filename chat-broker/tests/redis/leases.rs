//! Nodes die, are paused, and come back; so does Redis.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use chat_broker::testing::{RedisProxy, RedisServer};
use chat_broker::{Broker, BrokerEvent, RedisConfig, SharedTable};
use chat_core::Topic;
use tokio::time::sleep;

use crate::support::{Node, PATIENCE, eventually, keys, latest, room};

const LEASE: Duration = Duration::from_secs(1);

fn config(server: &RedisServer) -> RedisConfig {
    Node::config(server).lease(LEASE).grace(Duration::from_millis(500))
}

async fn nodes(server: &RedisServer) -> usize {
    server.command(&["ZCARD", "chat:nodes"]).await.parse().unwrap()
}

/// All changes in `topic` that come within `time`.
async fn changes_within(node: &mut Node, time: Duration) -> Vec<String> {
    sleep(time).await;
    let events = node.arrived().await;
    let mut changes = Vec::new();
    for event in events {
        if let BrokerEvent::Presence { change, occupant, .. } = event {
            let sign = if change == chat_core::PresenceChange::Joined { '+' } else { '-' };
            changes.push(format!("{sign}{}", occupant.user));
        }
    }
    changes
}

#[tokio::test]
async fn the_users_of_a_dead_node_leave_once() {
    let server = RedisServer::start();
    let mut watcher = Node::with(config(&server)).await;
    let (other, dying) = (Node::with(config(&server)).await, Node::with(config(&server)).await);
    let topics: Vec<Topic> = (0..30).map(|n| room(&n.to_string())).collect();
    let topic = &topics[0];
    watcher.subscribe(topic).await.unwrap();
    other.enter(topic, "stays");
    dying.enter(topic, "stays");
    for n in 0..700 {
        dying.enter(topic, &n.to_string());
    }
    for topic in &topics {
        dying.enter(topic, "everywhere");
    }
    eventually("all", async || watcher.occupancy(topic, 0).await.count == 702).await;
    // Both others may judge by then.
    sleep(LEASE * 2).await;
    watcher.arrived().await;
    let died = Instant::now();
    drop(dying.broker);
    let mut left = HashSet::new();
    while left.len() < 701 {
        let (change, ..) = watcher.change().await;
        assert!(change.starts_with('-') && left.insert(change.clone()), "{change}");
    }
    assert!(died.elapsed() < LEASE + Duration::from_secs(5), "{:?}", died.elapsed());
    assert_eq!(watcher.occupants(topic).await, ["stays"]);
    eventually("every trace", async || nodes(&server).await == 2).await;
    for topic in &topics[1..] {
        assert_eq!(watcher.occupants(topic).await, [""; 0]);
    }
    assert_eq!(changes_within(&mut watcher, LEASE).await, [""; 0]);
    other.leave(topic, "stays");
    watcher.wait_for_occupants(topic, &[]).await;
    eventually("nothing", async || keys(&server).await == ["chat:nodes"]).await;
}

/// A node is cut off for longer than its lease; it does not know, and comes back.
#[tokio::test]
async fn a_node_that_was_paused_enters_its_users_anew() {
    let server = RedisServer::start();
    let mut watcher = Node::with(config(&server)).await;
    let proxy = RedisProxy::start(&server).await;
    let paused = Node::with(config(&server).url(proxy.url())).await;
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    paused.enter(&topic, "anna");
    paused.enter(&topic, "ben");
    paused.enter(&topic, "carl");
    watcher.wait_for_occupants(&topic, &["anna", "ben", "carl"]).await;
    sleep(LEASE * 2).await;
    watcher.arrived().await;

    proxy.hold();
    watcher.wait_for_occupants(&topic, &[]).await;
    let mut left = changes_within(&mut watcher, Duration::ZERO).await;
    left.sort();
    assert_eq!(left, ["-anna", "-ben", "-carl"]);
    paused.leave(&topic, "ben");
    paused.enter(&topic, "dora");
    proxy.release();
    watcher.wait_for_occupants(&topic, &["anna", "carl", "dora"]).await;
    let mut came = changes_within(&mut watcher, LEASE).await;
    came.sort();
    assert_eq!(came, ["+anna", "+carl", "+dora"]);
    for name in ["anna", "carl", "dora"] {
        paused.leave(&topic, name);
    }
    watcher.wait_for_occupants(&topic, &[]).await;
    eventually("nothing", async || keys(&server).await == ["chat:nodes"]).await;
}

#[tokio::test]
async fn everybody_is_entered_anew_in_a_redis_that_was_emptied() {
    let mut server = RedisServer::start();
    let (a, b) = (Node::with(config(&server)).await, Node::with(config(&server)).await);
    let topic = room("r");
    a.enter(&topic, "anna");
    b.enter(&topic, "anna");
    b.enter(&topic, "ben");
    for round in 0..3 {
        a.wait_for_occupants(&topic, &["anna", "ben"]).await;
        match round {
            0 => server.restart(),
            _ => drop(server.command(&["FLUSHALL"]).await),
        }
        eventually("both nodes", async || nodes(&server).await == 2).await;
    }
    a.wait_for_occupants(&topic, &["anna", "ben"]).await;
    b.leave(&topic, "anna");
    b.leave(&topic, "ben");
    a.wait_for_occupants(&topic, &["anna"]).await;
}

/// Redis is another process with the data of before: nobody leaves, nobody comes, and what
/// changed meanwhile is told.
#[tokio::test]
async fn a_restart_of_a_redis_that_remembers_announces_nobody() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (mut watcher, node) =
        (Node::with(config(&server)).await, Node::with(config(&server)).await);
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    node.enter(&topic, "anna");
    node.enter(&topic, "ben");
    for _ in 0..2 {
        watcher.change().await;
    }
    server.kill();
    node.leave(&topic, "ben");
    node.enter(&topic, "carl");
    // Every lease has run out by then.
    sleep(LEASE * 2).await;
    server.restart();
    assert_eq!(watcher.next().await, BrokerEvent::Interrupted);
    watcher.wait_for_occupants(&topic, &["anna", "carl"]).await;
    eventually("the old nodes are gone", async || nodes(&server).await == 2).await;
    let mut changes = changes_within(&mut watcher, LEASE).await;
    changes.sort();
    // What was told before the watcher was back is in the list that it reads then.
    for change in &changes {
        assert!(["+carl", "-ben"].contains(&change.as_str()), "{changes:?}");
    }
    assert_eq!(watcher.occupants(&topic).await, ["anna", "carl"]);
}

/// After Redis was frozen every lease has run out; everybody has time to renew.
#[tokio::test]
async fn nobody_is_reaped_after_an_outage() {
    let server = RedisServer::start();
    // Long enough for all to connect again.
    let config = || config(&server).lease(Duration::from_secs(4));
    let mut watcher = Node::with(config()).await;
    let others = [Node::with(config()).await, Node::with(config()).await];
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    others[0].enter(&topic, "anna");
    others[1].enter(&topic, "ben");
    watcher.wait_for_occupants(&topic, &["anna", "ben"]).await;
    sleep(Duration::from_secs(5)).await;
    let names = async || server.command(&["ZRANGE", "chat:nodes", "0", "-1"]).await;
    let sorted = |names: String| names.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let before = sorted(names().await);
    server.pause();
    sleep(Duration::from_secs(6)).await;
    server.resume();
    assert_eq!(watcher.occupants(&topic).await, ["anna", "ben"]);
    let changes = changes_within(&mut watcher, Duration::from_secs(6)).await;
    assert!(changes.iter().all(|change| change.starts_with('+')), "{changes:?}");
    assert_eq!(watcher.occupants(&topic).await, ["anna", "ben"]);
    assert_eq!(sorted(names().await), before, "none of them was taken for dead");
}

#[tokio::test]
async fn closing_hands_users_over() {
    let server = RedisServer::start();
    let mut watcher = Node::with(config(&server)).await;
    let closing = config(&server).grace(Duration::from_secs(2)).deadline(PATIENCE);
    let closing = Node::with(closing).await;
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    for name in ["anna", "ben", "carl"] {
        closing.enter(&topic, name);
    }
    watcher.wait_for_occupants(&topic, &["anna", "ben", "carl"]).await;
    sleep(LEASE * 2).await;
    watcher.arrived().await;
    closing.leave(&topic, "carl");
    let closed = Instant::now();
    closing.broker.close().await;
    assert!(closed.elapsed() < PATIENCE / 3, "it waited for something: {:?}", closed.elapsed());
    watcher.enter(&topic, "anna");
    assert_eq!(watcher.change().await.0, "-carl");
    assert_eq!(watcher.change().await.0, "-ben");
    assert!(closed.elapsed() > Duration::from_secs(2), "{:?}", closed.elapsed());
    assert!(closed.elapsed() < Duration::from_secs(4), "{:?}", closed.elapsed());
    assert_eq!(watcher.occupants(&topic).await, ["anna"]);
    assert_eq!(changes_within(&mut watcher, LEASE).await, [""; 0]);
    assert_eq!(nodes(&server).await, 1);
}

/// Connections are killed again and again while users come and go: in the end Redis knows
/// what the nodes know, and each change was told once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_lose_no_change() {
    let server = RedisServer::start();
    let config = || Node::config(&server).deadline(PATIENCE).publish_connections(2);
    let (a, b) = (Node::with(config()).await, Node::with(config()).await);
    let topic = room("r");
    let visit = async |node: &Node, who: &str| {
        for n in 0..400 {
            let name = format!("{who}{}", n % 7);
            if n % 3 == 0 {
                node.leave(&topic, &name)
            } else {
                node.enter(&topic, &name)
            }
            // None is trimmed before its publisher, back from a lost connection, looks for it.
            node.deliver(&topic, "", latest(1000)).await.unwrap();
        }
        for n in 0..7 {
            node.leave(&topic, &format!("{who}{n}"));
        }
        node.enter(&topic, &format!("{who} stays"));
        node.enter(&topic, "both");
    };
    let kill = async {
        for _ in 0..6 {
            eventually("connections to kill", async || {
                server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await != "0"
            })
            .await;
            sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::join!(visit(&a, "a"), visit(&b, "b"), kill);
    a.wait_for_occupants(&topic, &["a stays", "b stays", "both"]).await;
    for (node, who) in [(&a, "a stays"), (&b, "b stays")] {
        node.leave(&topic, who);
        node.leave(&topic, "both");
    }
    a.wait_for_occupants(&topic, &[]).await;
    for key in server.command(&["KEYS", "chat:*:on:*"]).await.lines() {
        assert!(key.is_empty(), "{key} is left");
    }
}

/// Whoever is alive stays so, the dead leave, and a new node begins.
#[tokio::test]
async fn leases_need_no_memory() {
    let server = RedisServer::start();
    let (node, dying) = (Node::with(config(&server)).await, Node::with(config(&server)).await);
    let topic = room("r");
    node.enter(&topic, "anna");
    dying.enter(&topic, "ben");
    node.broker.secret().await.unwrap();
    node.wait_for_occupants(&topic, &["anna", "ben"]).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    sleep(LEASE * 2).await;
    drop(dying.broker);
    node.wait_for_occupants(&topic, &["anna"]).await;
    let new = Node::with(config(&server)).await;
    new.broker.secret().await.expect("it is there already");
}
