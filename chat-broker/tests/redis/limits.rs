//! A maximum of users in a room, on several nodes.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::RedisServer;
use chat_broker::{
    Broker, BrokerError, Hub, HubConfig, JoinOptions, Membership, PresenceTracker, RedisBroker,
    Status,
};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Occupant, Topic, User,
};
use futures_util::future::{join as both, join_all};
use tokio::time::timeout;

use crate::support::roster_copy::{RosterCopy, is_copied};
use crate::support::{
    Node, assert_damaged, assert_unavailable, eventually, keys, persistent, room, user,
};

#[derive(Clone)]
struct Member;

impl Deliver for Member {
    fn deliver(&self, _: &Batch) -> DeliveryOutcome {
        DeliveryOutcome::Queued
    }

    fn close(&self, _: CloseReason) {}
}

/// A server.
async fn start<M: Deliver + Clone + 'static>(redis: &RedisServer) -> Hub<M> {
    let config = Node::config(redis).publish_connections(2);
    let (broker, events) = RedisBroker::connect(config).await.unwrap();
    let config = HubConfig::default().join_timeout(Duration::from_millis(100)).presence_limit(1000);
    let (hub, driver) = Hub::new(Arc::new(broker), events, config);
    tokio::spawn(driver.run());
    hub
}

fn join(
    hub: &Hub<Member>,
    topic: &Topic,
    id: u64,
) -> impl Future<Output = Result<Membership<Member>, BrokerError>> + use<> {
    let occupant = Occupant::new(user(&id.to_string()), "".into());
    let options = JoinOptions::default().occupant(occupant).max_users(8);
    hub.join_with(topic, ConnectionId::new(id), Member, options, ())
}

/// How many users are in a room.
async fn count<M>(hub: &Hub<M>, topic: &Topic) -> Option<u32> {
    let presence = hub.broker().presence().unwrap();
    let occupancies = presence.occupancy(std::slice::from_ref(topic), 0).await;
    occupancies.ok().map(|occupancies| occupancies[0].count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_joins_at_three_servers_get_eight_places() {
    let redis = RedisServer::start();
    let servers = join_all((0..3).map(|_| start(&redis))).await;
    let topic = room("lobby");
    let joins = (0..50).map(|id| tokio::spawn(join(&servers[id % 3], &topic, id as u64)));
    let joined = join_all(joins).await.into_iter().map(Result::unwrap);
    let (members, refused): (Vec<_>, Vec<_>) = joined.partition(Result::is_ok);
    assert_eq!(members.len(), 8);
    for refused in refused {
        assert!(matches!(refused, Err(BrokerError::RoomFull { max: 8 })), "{:?}", refused.err());
    }
    assert_eq!(count(&servers[0], &topic).await, Some(8));
    assert_eq!(servers.iter().map(|hub| hub.members(&topic).len()).sum::<usize>(), 8);

    drop(members);
    eventually("the places are free", async || count(&servers[0], &topic).await == Some(0)).await;
    let _later = join(&servers[1], &topic, 100).await.unwrap();
}

/// Each takes its snapshot when Redis has admitted its user, while others join.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_limited_joins_all_have_the_roster_of_the_room() {
    const MEMBERS: u64 = 400;
    let redis = RedisServer::start();
    let (hub, topic) = (start::<RosterCopy>(&redis).await, room("lobby"));
    let joins = (0..MEMBERS).map(|id| {
        let occupant = Occupant::of(&User::new(user(&id.to_string()), None));
        let options = JoinOptions::default().occupant(occupant).max_users(MEMBERS as u32);
        let (hub, topic, copy) = (hub.clone(), topic.clone(), RosterCopy::default());
        tokio::spawn(async move {
            let (id, joiner) = (ConnectionId::new(id), copy.joiner());
            let joined = hub.join_with(&topic, id, copy.clone(), options, joiner).await;
            (joined.unwrap(), copy)
        })
    });
    let joined: Vec<_> = join_all(joins).await.into_iter().map(Result::unwrap).collect();
    eventually("copies of the roster", async || {
        joined.iter().all(|(membership, copy)| is_copied(membership, copy))
    })
    .await;
    for (_, copy) in &joined {
        assert!(copy.faults().is_empty(), "{:?} of {:?}", copy.faults(), copy.log());
    }
}

#[tokio::test]
async fn join_that_fails_in_an_outage_takes_no_place() {
    let mut redis = RedisServer::start();
    let hub = start(&redis).await;
    let topic = room("lobby");
    let _first = join(&hub, &topic, 0).await.unwrap();
    redis.kill();
    eventually("the outage", async || hub.broker().status() == Status::Unavailable).await;
    for id in 1..=8 {
        assert_unavailable("join", join(&hub, &topic, id).await);
    }
    redis.restart();
    eventually("the first user", async || count(&hub, &topic).await == Some(1)).await;
    let later = join_all((11..=17).map(|id| join(&hub, &topic, id))).await;
    assert!(later.iter().all(Result::is_ok), "{later:?}");
    let full = join(&hub, &topic, 18).await;
    assert!(matches!(full, Err(BrokerError::RoomFull { max: 8 })), "{full:?}");
}

#[tokio::test]
async fn place_at_a_crashed_node_is_free_after_its_lease() {
    let redis = RedisServer::start();
    let config = || Node::config(&redis).lease(Duration::from_secs(1));
    let (crashing, node) = (Node::with(config()).await, Node::with(config()).await);
    let topic = room("r");
    let enter = |node: &Node, name| {
        node.broker.enter_limited(&topic, Occupant::new(user(name), "".into()), 1)
    };
    enter(&crashing, "ann").await.unwrap();
    assert!(matches!(enter(&node, "bob").await, Err(BrokerError::RoomFull { max: 1 })));
    drop(crashing);
    eventually("the place is free", async || enter(&node, "bob").await.is_ok()).await;
}

#[tokio::test]
async fn refused_user_leaves_no_key() {
    let redis = RedisServer::start();
    let (a, b) = (Node::start(&redis).await, Node::start(&redis).await);
    let topic = room("r");
    a.enter(&topic, "ann");
    a.wait_for_occupants(&topic, &["ann"]).await;
    let before = keys(&redis).await;
    let bob = || Occupant::new(user("bob"), "".into());
    for max in [0, 1] {
        let refused = b.broker.enter_limited(&topic, bob(), max).await;
        assert!(matches!(refused, Err(BrokerError::RoomFull { .. })), "{refused:?}");
        b.leave(&topic, "bob");
    }
    assert_eq!(keys(&redis).await, before);
    let empty = b.broker.enter_limited(&room("empty"), bob(), 0).await;
    assert!(matches!(empty, Err(BrokerError::RoomFull { max: 0 })), "{empty:?}");
    assert_eq!(keys(&redis).await, before);
}

#[tokio::test]
async fn leave_frees_its_slot_for_the_next_join() {
    let redis = RedisServer::start();
    let node = Node::start(&redis).await;
    let topic = room("r");
    let enter = |name| node.broker.enter_limited(&topic, Occupant::new(user(name), "".into()), 1);
    enter("ann").await.unwrap();
    let _departure = node.broker.leave(&topic, &user("ann"));
    enter("bob").await.unwrap();
}

/// The leave is not sent before the messages that precede it.
#[tokio::test]
async fn leave_behind_publications_frees_its_slot_for_the_next_join() {
    let redis = RedisServer::start();
    let node = Node::with(Node::config(&redis).publish_connections(1)).await;
    let topic = room("r");
    let enter = |name| node.broker.enter_limited(&topic, Occupant::new(user(name), "".into()), 1);
    enter("ann").await.unwrap();
    let mut receipts = Vec::new();
    for _ in 0..2000 {
        receipts.push(node.broker.publish(&topic, "x".into(), persistent()).await.unwrap());
    }
    let _departure = node.broker.leave(&topic, &user("ann"));
    enter("bob").await.unwrap();
}

/// Redis may lose a field, for example by an operator's command.
#[tokio::test]
async fn users_of_a_room_without_version_count() {
    let redis = RedisServer::start();
    let node = Node::start(&redis).await;
    let topic = room("r");
    let enter = |name| node.broker.enter_limited(&topic, Occupant::new(user(name), "".into()), 2);
    enter("ann").await.unwrap();
    enter("bob").await.unwrap();
    redis.command(&["HDEL", "chat:{r.r}:members", ""]).await;
    let full = enter("cid").await;
    assert!(matches!(full, Err(BrokerError::RoomFull { max: 2 })), "{full:?}");
    node.leave(&topic, "bob");
    let count =
        async || node.broker.occupancy(std::slice::from_ref(&topic), 9).await.unwrap()[0].count;
    eventually("one user is left", async || count().await == 1).await;
}

#[tokio::test]
async fn damaged_room_answers_with_an_error() {
    let redis = RedisServer::start();
    let node = Node::start(&redis).await;
    let topic = room("r");
    redis.command(&["SET", "chat:{r.r}:members", "x"]).await;
    let ann = Occupant::new(user("ann"), "".into());
    assert_damaged(&topic, node.broker.enter_limited(&topic, ann, 8).await);
}

#[tokio::test]
async fn closed_node_admits_nobody() {
    let redis = RedisServer::start();
    let node = Node::start(&redis).await;
    node.broker.close().await;
    let ann = Occupant::new(user("ann"), "".into());
    let refused = node.broker.enter_limited(&room("r"), ann, 8).await;
    assert!(matches!(refused, Err(BrokerError::Closed)), "{refused:?}");
}

#[tokio::test]
async fn answers_that_wait_for_redis_end_with_the_node() {
    let mut redis = RedisServer::start();
    let node = Node::with(Node::config(&redis).deadline(Duration::from_millis(100))).await;
    let topic = room("r");
    let enter = |name| node.broker.enter_limited(&topic, Occupant::new(user(name), "".into()), 8);
    enter("ann").await.unwrap();
    redis.kill();
    let (entered, left) = (enter("bob"), node.broker.leave(&topic, &user("ann")));
    node.broker.close().await;
    let (entered, left) = timeout(Duration::from_secs(10), both(entered, left)).await.unwrap();
    assert!(matches!(entered, Err(BrokerError::Closed)), "{entered:?}");
    assert_eq!(left, None);
}
