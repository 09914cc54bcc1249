//! Servers that move to another Redis, while clients talk.

use std::time::Instant;

use chat_broker::testing::RedisServer;

use super::pause;
use super::world::World;
use crate::support::crowd::Crowd;
use crate::support::verdict::Verdict;
use crate::support::{Chat, alone, eventually, say};

/// As docs/redis-move.md says: the new Redis copies the former one, takes its place in one step,
/// and the servers restart one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_to_another_redis_loses_nothing() {
    let _alone = alone().await;
    let mut world = World::start(2, &[]).await;
    let crowd = Crowd::join(|n| world.urls(n), 40, 8).await;
    pause(1).await;
    let new = RedisServer::start();
    new.command(&["REPLICAOF", "127.0.0.1", &world.redis.port().to_string()]).await;
    until_info("master_link_status:up", &new).await;
    // Until the replica's first acknowledgement, up to a second later, the former Redis refuses.
    until_info("state=online", &world.redis).await;
    let (ip, port) = replica_of(&world.redis).await;
    let began = Instant::now();
    let failover = ["FAILOVER", "TO", &ip, &port, "TIMEOUT", "5000"];
    assert_eq!(world.redis.command(&failover).await, "OK");
    until_info("role:master", &new).await;
    until_info("role:slave", &world.redis).await;
    let former = std::mem::replace(&mut world.redis, new);
    for server in 0..2 {
        world.restart_server(server).await;
    }
    let moved = began.elapsed();
    pause(1).await;
    let verdict = Verdict::of(&crowd.finish().await);
    say(&format!("{verdict}; all servers had moved after {:.1} s", moved.as_secs_f64()));
    assert!(verdict.acknowledged > 100, "hardly anything was said");
    assert_eq!((verdict.lost, verdict.doubled, verdict.reordered, verdict.gaps), (0, 0, 0, 0));
    drop(former);
}

/// Without the step of docs/redis-move.md, clients of a room are apart, which no server can see by
/// itself: the metrics of all servers show it.
#[tokio::test]
async fn servers_on_two_redis_are_told_apart_by_their_metrics() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let run_ids = async |redis: &RedisServer| {
        let [one, other] = Chat::several(redis, &[]).await;
        [redis_of(&one).await, redis_of(&other).await]
    };
    let [one, other] = run_ids(&first).await;
    assert_eq!(one, other);
    let info = first.command(&["INFO", "server"]).await;
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap();
    assert_eq!(one, format!("chat_redis_info{{run_id=\"{run_id}\"}} 1"));
    assert_ne!(run_ids(&second).await[0], one);
}

async fn redis_of(server: &Chat) -> String {
    let (_, _, page) = server.http("GET", "/metrics").await;
    page.lines().find(|line| line.starts_with("chat_redis_info{")).expect("the metric").to_owned()
}

/// The address by which a Redis knows its one replica.
async fn replica_of(redis: &RedisServer) -> (String, String) {
    let info = redis.command(&["INFO", "replication"]).await;
    let replica = info.lines().find_map(|line| line.strip_prefix("slave0:")).unwrap();
    let field = |name| replica.split(',').find_map(|field| field.strip_prefix(name)).unwrap();
    (field("ip=").to_owned(), field("port=").to_owned())
}

/// Waits until Redis says so of its replication.
async fn until_info(line: &str, redis: &RedisServer) {
    let is_so = async || redis.command(&["INFO", "replication"]).await.contains(line);
    eventually(line, is_so).await;
}
