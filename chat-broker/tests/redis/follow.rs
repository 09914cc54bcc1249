//! A follower over a Redis that restarts.

use std::sync::Arc;

use chat_broker::testing::RedisServer;
use chat_broker::{Followed, Follower, RedisBroker};
use chat_core::Position;
use tokio::time::timeout;

use crate::support::{Node, TIMEOUT, latest, room};

/// Publications of before, during and after the outage: each arrives once, and the receipts say which
/// were made. One whose outcome is unknown has a key, and is repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_receives_each_publication_once_through_a_restart() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let topic = room("orders");
    let (broker, events) = RedisBroker::connect(Node::config(&server)).await.unwrap();
    let follower = Follower::new(Arc::new(broker), events);
    let mut follow = follower.follow(&topic, None);
    follow.subscribed().await.unwrap();

    let publisher = Node::start(&server).await;
    const COUNT: u64 = 600;
    let publish = async |n: u64| {
        let options = latest(10_000).key(n.to_string());
        while publisher.deliver(&topic, &n.to_string(), options.clone()).await.is_err() {}
    };
    let publishing = async {
        for n in 1..=COUNT {
            publish(n).await;
        }
    };
    let restarting = async {
        let mut here = Position::default();
        for n in 1..=COUNT {
            if n == COUNT / 3 {
                server.stop();
                server.restart();
            }
            let item = timeout(TIMEOUT, follow.recv()).await.expect("an item").unwrap();
            let Followed::Publication { payload, position, .. } = item else {
                panic!("after {here}: {item:?}")
            };
            here = position.unwrap();
            assert_eq!((here.offset, payload), (n, n.to_string().into()));
        }
    };
    tokio::join!(publishing, restarting);

    // A server without the data.
    server.command(&["FLUSHALL"]).await;
    publish(COUNT + 1).await;
    let item = timeout(2 * TIMEOUT, follow.recv()).await.expect("an item").unwrap();
    let Followed::Gap { from: Some(from), to: Some(to), .. } = item else { panic!("{item:?}") };
    assert!(from.offset == COUNT && to.offset == 0 && to.epoch != from.epoch, "{item:?}");
    let item = timeout(TIMEOUT, follow.recv()).await.expect("an item").unwrap();
    assert_eq!(item.position().unwrap().offset, 1);
}
