//! A maximum of users in a room, on several nodes.

use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::RedisServer;
use chat_broker::{
    Broker, BrokerError, Hub, HubConfig, JoinOptions, Membership, PresenceTracker, RedisBroker,
};
use chat_core::{Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Occupant, Topic};
use futures_util::future::join_all;

use crate::support::{Node, assert_damaged, eventually, keys, room, user};

#[derive(Clone)]
struct Member;

impl Deliver for Member {
    fn deliver(&self, _: &Batch) -> DeliveryOutcome {
        DeliveryOutcome::Queued
    }

    fn close(&self, _: CloseReason) {}
}

struct Server {
    hub: Hub<Member>,
}

impl Server {
    async fn start(redis: &RedisServer) -> Self {
        let config = Node::config(redis).publish_connections(2);
        let (broker, events) = RedisBroker::connect(config).await.unwrap();
        let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
        tokio::spawn(driver.run());
        Self { hub }
    }

    fn join(
        &self,
        topic: &Topic,
        id: u64,
    ) -> impl Future<Output = Result<Membership<Member>, BrokerError>> + use<> {
        let occupant = Occupant::new(user(&id.to_string()), "".into());
        let options = JoinOptions::default().occupant(occupant).max_users(8);
        self.hub.join_with(topic, ConnectionId::new(id), Member, options, ())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_joins_at_three_servers_get_eight_places() {
    let redis = RedisServer::start();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start(&redis).await);
    }
    let topic = room("lobby");
    let joins = (0..50).map(|id| tokio::spawn(servers[id % 3].join(&topic, id as u64)));
    let joined = join_all(joins).await.into_iter().map(Result::unwrap);
    let (members, refused): (Vec<_>, Vec<_>) = joined.partition(Result::is_ok);
    assert_eq!(members.len(), 8);
    for refused in refused {
        assert!(matches!(refused, Err(BrokerError::RoomFull { max: 8 })), "{:?}", refused.err());
    }
    let occupancy = async || {
        let presence = servers[0].hub.broker().presence().unwrap();
        presence.occupancy(std::slice::from_ref(&topic), 50).await.unwrap()[0].clone()
    };
    assert_eq!(occupancy().await.occupants.len(), 8);
    let here = members.iter().flatten().map(|one| one.topic() == &topic).count();
    assert_eq!(here, servers.iter().map(|one| one.hub.members(&topic).len()).sum::<usize>());

    // Each of the refused that tries again finds a place once another has left.
    drop(members);
    eventually("the places are free", async || occupancy().await.count == 0).await;
    let _again = servers[1].join(&topic, 100).await.unwrap();
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
