//! Nodes die, are cut off, and return; so does Redis. With the default lease, to the second.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use chat_broker::{Broker, BrokerEvent, RedisConfig};
use chat_core::{PresenceChange, Topic};
use tokio::time::{Instant, sleep};

use crate::simulation::network::Network;
use crate::simulation::redis::Redis;
use crate::simulation::rng::Rng;
use crate::support::{Node, eventually, room};

/// The default.
const LEASE: Duration = Duration::from_secs(10);

/// The default.
const GRACE: Duration = Duration::from_secs(5);

/// From its start a node needs as long until it may judge others.
const UNTIL_NODES_JUDGE: Duration = Duration::from_secs(15);

/// A node, and its network.
async fn node(redis: &Redis) -> (Node, Network) {
    let network = Network::new(redis, Rng::new(7));
    network.set_delay(Duration::from_millis(1));
    let node = Node::with(RedisConfig::new("redis://simulated").dial(network.dial())).await;
    (node, network)
}

fn leases(redis: &Redis) -> BTreeSet<String> {
    let names = redis.command(&["ZRANGE", "chat:nodes", "0", "-1"]);
    names.lines().filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// All keys but those that connections write to see whether they can.
fn keys(redis: &Redis) -> Vec<String> {
    let keys = redis.command(&["KEYS", "*"]);
    keys.lines().filter(|key| !key.starts_with("chat:{p.")).map(str::to_owned).collect()
}

/// The changes of presence that arrive within `time`, in their order.
async fn changes_within(node: &mut Node, time: Duration) -> Vec<String> {
    sleep(time).await;
    let events = node.arrived().await.into_iter();
    let change = |event| match event {
        BrokerEvent::Presence { change, occupant, .. } => {
            let sign = if change == PresenceChange::Joined { '+' } else { '-' };
            Some(format!("{sign}{}", occupant.user))
        }
        _ => None,
    };
    events.filter_map(change).collect()
}

async fn sorted_changes_within(node: &mut Node, time: Duration) -> Vec<String> {
    let mut changes = changes_within(node, time).await;
    changes.sort();
    changes
}

#[tokio::test(start_paused = true)]
async fn users_of_dead_node_leave_once_and_within_15_s() {
    let redis = Redis::start();
    let (mut watcher, _) = node(&redis).await;
    let ((other, _), (dying, network)) = (node(&redis).await, node(&redis).await);
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
    sleep(UNTIL_NODES_JUDGE).await;
    watcher.arrived().await;

    network.reset();
    network.refuse();
    let died = Instant::now();
    drop(dying.broker);
    let mut left = HashSet::new();
    while left.len() < 701 {
        let (change, ..) = watcher.change().await;
        assert!(change.starts_with('-') && left.insert(change.clone()), "{change}");
    }
    let took = died.elapsed();
    assert!(took > LEASE / 2 && took < LEASE + Duration::from_secs(5), "{took:?}");
    assert_eq!(watcher.occupants(topic).await, ["stays"]);
    sleep(LEASE).await;
    assert_eq!(leases(&redis).len(), 2, "the name of the expired node is removed");
    for topic in &topics[1..] {
        assert_eq!(watcher.occupants(topic).await, [""; 0]);
    }
    assert_eq!(changes_within(&mut watcher, LEASE).await, [""; 0]);
    other.leave(topic, "stays");
    assert_eq!(changes_within(&mut watcher, Duration::from_secs(1)).await, ["-stays"]);
    assert_eq!(keys(&redis), ["chat:nodes"]);
}

/// All that nodes say of a room is lost just after they compared it, as one of them dies.
#[tokio::test(start_paused = true)]
async fn lists_agree_within_two_rounds_of_a_loss() {
    /// In the first round each node writes what it holds again, in the second one of them removes
    /// the users whom no node holds. And two ticks.
    const TWO_ROUNDS: Duration = Duration::from_secs(2 * 25 + 2);

    let redis = Redis::start();
    let topic = room("r");
    let mut nodes = Vec::new();
    for name in ["anna", "ben", "carl"] {
        let (node, network) = node(&redis).await;
        node.enter(&topic, name);
        nodes.push((node, network));
    }
    sleep(UNTIL_NODES_JUDGE).await;
    for n in 0..13 {
        // The loss falls into another part of the round each time.
        sleep(Duration::from_secs(50 + n)).await;
        let (dying, network) = node(&redis).await;
        dying.enter(&topic, "dora");
        eventually("dora", async || nodes[0].0.occupancy(&topic, 0).await.count == 4).await;
        for key in keys(&redis).iter().filter(|key| key.contains(":on:")) {
            redis.command(&["DEL", key]);
        }
        network.reset();
        network.refuse();
        drop(dying.broker);
        sleep(TWO_ROUNDS).await;
        // Read from Redis itself: `occupancy.lua` leaves out users whom no node holds.
        assert_eq!(redis.command(&["HGET", "chat:{r.r}:members", "dora"]), "", "loss {n}");
    }
    for (node, _) in &nodes {
        assert_eq!(node.occupants(&topic).await, ["anna", "ben", "carl"]);
    }
}

/// A node is cut off for longer than its lease; it does not know, and returns.
#[tokio::test(start_paused = true)]
async fn node_that_was_cut_off_enters_its_users_again() {
    let redis = Redis::start();
    let ((mut watcher, _), (cut_off, network)) = (node(&redis).await, node(&redis).await);
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    for name in ["anna", "ben", "carl"] {
        cut_off.enter(&topic, name);
    }
    sleep(UNTIL_NODES_JUDGE).await;
    assert_eq!(watcher.occupants(&topic).await, ["anna", "ben", "carl"]);
    watcher.arrived().await;

    network.partition();
    let left = sorted_changes_within(&mut watcher, Duration::from_secs(15)).await;
    assert_eq!(left, ["-anna", "-ben", "-carl"]);
    cut_off.leave(&topic, "ben");
    cut_off.enter(&topic, "dora");
    network.heal();
    let joined = sorted_changes_within(&mut watcher, Duration::from_secs(5)).await;
    assert_eq!(joined, ["+anna", "+carl", "+dora"]);
    assert_eq!(watcher.occupants(&topic).await, ["anna", "carl", "dora"]);
    for name in ["anna", "carl", "dora"] {
        cut_off.leave(&topic, name);
    }
    sleep(LEASE + GRACE).await;
    assert_eq!(watcher.occupants(&topic).await, [""; 0]);
    assert_eq!(keys(&redis), ["chat:nodes"]);
    assert_eq!(leases(&redis).len(), 2, "the previous name is removed");
}

#[tokio::test(start_paused = true)]
async fn nodes_enter_all_users_again_after_redis_was_emptied() {
    let redis = Redis::start();
    let ((a, _), (b, _)) = (node(&redis).await, node(&redis).await);
    let topic = room("r");
    a.enter(&topic, "anna");
    b.enter(&topic, "anna");
    b.enter(&topic, "ben");
    for round in 0..3 {
        a.wait_for_occupants(&topic, &["anna", "ben"]).await;
        match round {
            0 => redis.restart(Some(Redis::nothing())),
            _ => drop(redis.command(&["FLUSHALL"])),
        }
        assert_eq!(redis.command(&["EXISTS", "chat:nodes"]), "0");
        sleep(LEASE / 2).await;
        assert_eq!(leases(&redis).len(), 2);
        assert_eq!(a.occupants(&topic).await, ["anna", "ben"]);
    }
    b.leave(&topic, "anna");
    b.leave(&topic, "ben");
    a.wait_for_occupants(&topic, &["anna"]).await;
}

/// Redis is another process with the data of before: no user leaves, none joins, and what changed
/// while it was disconnected is announced.
#[tokio::test(start_paused = true)]
async fn restart_of_redis_with_its_data_announces_no_user() {
    let redis = Redis::start();
    let ((mut watcher, _), (node, _)) = (node(&redis).await, node(&redis).await);
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    node.enter(&topic, "anna");
    node.enter(&topic, "ben");
    assert_eq!(changes_within(&mut watcher, Duration::from_secs(1)).await, ["+anna", "+ben"]);
    redis.kill();
    node.leave(&topic, "ben");
    node.enter(&topic, "carl");
    // Every lease has run out.
    sleep(LEASE * 2).await;
    redis.restart(None);
    assert_eq!(watcher.next().await, BrokerEvent::Interrupted);
    // What was announced before the watcher was back is in the list that it reads then.
    for change in changes_within(&mut watcher, LEASE * 2).await {
        assert!(["+carl", "-ben"].contains(&change.as_str()), "{change}");
    }
    assert_eq!(watcher.occupants(&topic).await, ["anna", "carl"]);
    assert_eq!(leases(&redis).len(), 2, "the old names are removed");
}

/// After Redis was frozen every lease has run out; all nodes have time to renew.
#[tokio::test(start_paused = true)]
async fn no_node_is_reaped_after_redis_was_frozen() {
    let redis = Redis::start();
    let (mut watcher, _) = node(&redis).await;
    let others = [node(&redis).await, node(&redis).await];
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    others[0].0.enter(&topic, "anna");
    others[1].0.enter(&topic, "ben");
    sleep(UNTIL_NODES_JUDGE).await;
    assert_eq!(watcher.occupants(&topic).await, ["anna", "ben"]);
    watcher.arrived().await;
    let before = leases(&redis);
    redis.pause();
    sleep(LEASE + LEASE / 2).await;
    redis.resume();
    let changes = changes_within(&mut watcher, LEASE * 2).await;
    assert_eq!(changes, [""; 0]);
    assert_eq!(watcher.occupants(&topic).await, ["anna", "ben"]);
    assert_eq!(leases(&redis), before, "none of them was taken for dead");
}

#[tokio::test(start_paused = true)]
async fn closing_hands_users_over() {
    let redis = Redis::start();
    let ((mut watcher, _), (closing, _)) = (node(&redis).await, node(&redis).await);
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    for name in ["anna", "ben", "carl"] {
        closing.enter(&topic, name);
    }
    sleep(UNTIL_NODES_JUDGE).await;
    watcher.arrived().await;
    closing.leave(&topic, "carl");
    let closed = Instant::now();
    closing.broker.close().await;
    assert!(closed.elapsed() < Duration::from_millis(100), "{:?}", closed.elapsed());
    watcher.enter(&topic, "anna");
    assert_eq!(watcher.change().await.0, "-carl");
    assert_eq!(watcher.change().await.0, "-ben");
    let took = closed.elapsed();
    assert!(took > GRACE && took < GRACE * 2, "{took:?}");
    assert_eq!(watcher.occupants(&topic).await, ["anna"]);
    assert_eq!(changes_within(&mut watcher, LEASE).await, [""; 0]);
    assert_eq!(leases(&redis).len(), 1);
}

/// The lease of a node that has closed is 0.5 once it has expired. The node enters nobody under that
/// name, and does not renew it.
#[tokio::test(start_paused = true)]
async fn expired_lease_of_a_closed_node_is_no_lease() {
    let redis = Redis::start();
    let (node, _) = node(&redis).await;
    let topic = room("r");
    eventually("a lease", async || leases(&redis).len() == 1).await;
    let name = leases(&redis).pop_first().unwrap();
    redis.command(&["ZADD", "chat:nodes", "0.5", &name]);
    node.enter(&topic, "anna");
    sleep(Duration::from_millis(20)).await;
    assert_eq!(redis.command(&["EXISTS", &format!("chat:{{r.r}}:on:{name}")]), "0");
    sleep(LEASE).await;
    assert_eq!(node.occupants(&topic).await, ["anna"]);
    assert_eq!(leases(&redis).into_iter().filter(|one| *one != name).count(), 1);
}

/// A node that has another name in Redis has not crashed: neither if its former lease was lost, nor if
/// another node has seen its end already.
#[tokio::test(start_paused = true)]
async fn lease_of_a_former_name_ends_as_that_of_a_closed_node() {
    for loss in [&["ZREM", "chat:nodes"][..], &["ZADD", "chat:nodes", "0"]] {
        let redis = Redis::start();
        let (node, _) = node(&redis).await;
        let topic = room("r");
        node.enter(&topic, "anna");
        eventually("anna", async || node.occupants(&topic).await == ["anna"]).await;
        let former = leases(&redis).pop_first().unwrap();
        redis.command(&[loss, &[&*former]].concat());
        eventually("another name", async || leases(&redis).len() == 2).await;
        let ends = redis.command(&["ZSCORE", "chat:nodes", &former]);
        assert!(ends.ends_with(".5"), "{loss:?}: {ends}");
    }
}

/// A lease that ends too late is cut, and still says that its node has closed.
#[tokio::test(start_paused = true)]
async fn cut_lease_keeps_its_half_millisecond() {
    let redis = Redis::start();
    let (_node, _) = node(&redis).await;
    redis.command(&["ZADD", "chat:nodes", "100000000000000.5", "closed"]);
    sleep(Duration::from_secs(3)).await;
    let ends = redis.command(&["ZSCORE", "chat:nodes", "closed"]);
    let is_cut = ends.parse::<f64>().is_ok_and(|ends| ends < 100_000_000_000_000.0);
    assert!(is_cut && ends.ends_with(".5"), "{ends}");
}

/// Nothing is published for long: that alone is no reason to open another.
#[tokio::test(start_paused = true)]
async fn connection_on_which_nothing_happens_is_kept() {
    let redis = Redis::start();
    let (mut node, _) = node(&redis).await;
    node.subscribe(&room("r")).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(node.arrived().await, []);
    assert_eq!((node.broker.stats().reconnects, node.broker.stats().unreadable), (0, 0));
}
