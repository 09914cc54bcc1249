//! Presence and leases over real connections and a full Redis. What is a matter of time alone is in
//! `tests/simulation/leases.rs`.

use std::time::Duration;

use chat_broker::testing::RedisServer;
use chat_broker::{RedisConfig, SharedTable};
use tokio::time::sleep;

use crate::support::{Node, TIMEOUT, eventually, latest, room, until_renewed};

const LEASE: Duration = Duration::from_secs(1);

/// As many as there are in the time of two leases.
const RENEWALS: usize = 8;

fn config(server: &RedisServer) -> RedisConfig {
    Node::config(server).lease(LEASE).grace(Duration::from_millis(500))
}

/// Connections are killed again and again while users join and leave: in the end Redis
/// holds what the nodes hold, and each change was announced once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_lose_no_change() {
    let server = RedisServer::start();
    let config = || Node::config(&server).deadline(TIMEOUT).publish_connections(2);
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

/// Nodes that renew stay, expired ones leave, and a new node starts.
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
    // A node judges others when it has renewed its own lease for as long as one lasts.
    until_renewed(&server, RENEWALS).await;
    drop(dying.broker);
    node.wait_for_occupants(&topic, &["anna"]).await;
    let new = Node::with(config(&server)).await;
    new.broker.secret().await.expect("it is there already");
}
