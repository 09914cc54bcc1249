//! Redis is killed, frozen, or empty when it comes back.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;

use super::crowd::Crowd;
use super::{lasting, pause, until_told};
use crate::support::process::Process;
use crate::support::{Chat, assert_within, say};

/// With all that it has acknowledged.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// How long all may take to go on.
const RECOVERED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_loses_and_doubles_nothing() {
    for time in lasting(&[2, 30, 300]) {
        let mut redis = RedisServer::start_with(&DURABLE);
        let (first, second) = Chat::pair(&redis).await;
        let crowd = Crowd::on(&[&first, &second]).await;
        crowd.until_all_said_since(Instant::now()).await;
        redis.kill();
        let away = until_told(&[&first, &second], 503).await;
        pause(time.saturating_sub(away)).await;
        redis.restart();
        let ended = Instant::now();
        let ready = until_told(&[&first, &second], 200).await;
        crowd.until_all_said_since(ended).await;
        let connections = stat(&redis, "total_connections_received:").await;
        let verdict = crowd.finish(ended).await;
        say(&format!(
            "killed for {time:?}: 503 after {away:.1?}, 200 after {ready:.1?}; {verdict}; \
             {connections} connections to it since"
        ));
        verdict.is_whole();
        assert_within("to go on", verdict.recovery, RECOVERED);
        // Three of each server, up to four to read, and some that came too early.
        assert!(connections < 40, "a storm of {connections} connections");
        for server in [&first, &second] {
            assert_eq!(server.logged("redis is away"), 1);
            assert_eq!(server.logged("redis is back"), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_fills_no_memory_and_doubles_nothing() {
    for time in lasting(&[4, 30]) {
        let redis = RedisServer::start();
        let (first, second) = Chat::pair(&redis).await;
        let crowd = Crowd::on(&[&first, &second]).await;
        crowd.until_all_said_since(Instant::now()).await;
        let before = Process(first.pid()).rss_kib();
        redis.pause();
        let away = until_told(&[&first, &second], 503).await;
        pause(time.saturating_sub(away)).await;
        let during = Process(first.pid()).rss_kib();
        redis.resume();
        let ended = Instant::now();
        let ready = until_told(&[&first, &second], 200).await;
        crowd.until_all_said_since(ended).await;
        let verdict = crowd.finish(ended).await;
        let grown = during.saturating_sub(before);
        say(&format!(
            "frozen for {time:?}: 503 after {away:.1?}, 200 after {ready:.1?}; {verdict}; \
             {before} KiB, and {grown} more"
        ));
        verdict.is_whole();
        assert_within("to go on", verdict.recovery, RECOVERED);
        assert!(grown < 8 * 1024, "memory grew by {grown} KiB");
    }
}

/// A number in what Redis says of itself.
async fn stat(redis: &RedisServer, name: &str) -> u64 {
    let info = redis.command(&["INFO", "stats"]).await;
    info.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).expect("the number")
}
