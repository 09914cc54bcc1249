//! What is there while nothing happens but the talk of those who stay.

use std::fmt;
use std::time::{Duration, Instant};

use super::world::World;
use crate::support::process::Process;
use crate::support::{Chat, value_of};

/// How long it may take until all that belongs to those who went is gone: the graces of users
/// and rooms, and the lifetimes of histories.
const SETTLED: Duration = Duration::from_secs(30);

/// What memory may differ by that is no leak: a tenth, and what an allocator keeps.
const SLACK_KIB: u64 = 8 * 1024;

/// Connections of a server to Redis that come on demand and stay.
const POOLED: usize = 4;

#[derive(Debug)]
pub(crate) struct Level {
    servers: Vec<Use>,
    /// Without the records of keys, which live for five minutes.
    keys: usize,
    channels: usize,
}

/// What a server uses.
#[derive(Debug)]
struct Use {
    rss_kib: u64,
    threads: u64,
    files: usize,
    connections: usize,
    topics: usize,
    /// Of the runtime: those of connections, rooms, and Redis.
    tasks: usize,
}

impl Level {
    /// Waits until those who stay are the only ones, and nothing goes away any more.
    pub(crate) async fn settled(world: &World, clients: usize) -> Self {
        let deadline = Instant::now() + SETTLED;
        let mut level = Self::now(world).await;
        let mut steady_since = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let next = Self::now(world).await;
            let connected: usize = next.servers.iter().map(|server| server.connections).sum();
            if connected != clients || next.marks() != level.marks() {
                steady_since = Instant::now();
            }
            level = next;
            if steady_since.elapsed() > Duration::from_secs(3) {
                return level;
            }
            assert!(Instant::now() < deadline, "it does not settle: {level}");
        }
    }

    async fn now(world: &World) -> Self {
        let mut servers = Vec::new();
        for server in &world.servers {
            servers.push(Use::of(server).await);
        }
        let keys = world.redis.command(&["KEYS", "*"]).await;
        let keys = keys.lines().filter(|key| !key.contains("}:k:")).count();
        let channels = world.redis.command(&["PUBSUB", "CHANNELS"]).await.lines().count();
        Self { servers, keys, channels }
    }

    /// What is counted and does not waver.
    fn marks(&self) -> (usize, usize, Vec<usize>) {
        let topics = self.servers.iter().map(|server| server.topics).collect();
        (self.keys, self.channels, topics)
    }

    pub(crate) fn is_no_higher_than(&self, before: &Self) {
        assert_eq!(self.marks(), before.marks(), "keys, channels, topics");
        for (now, then) in self.servers.iter().zip(&before.servers) {
            assert_eq!(now.threads, then.threads, "threads");
            assert!(now.tasks <= then.tasks + POOLED, "tasks: {self}; before: {before}");
            assert!(now.files <= then.files + POOLED, "files: {self}; before: {before}");
            let most = then.rss_kib + then.rss_kib / 10 + SLACK_KIB;
            assert!(now.rss_kib <= most, "memory: {self}; before: {before}");
        }
    }
}

impl Use {
    async fn of(server: &Chat) -> Self {
        let process = Process(server.pid());
        let (_, _, page) = server.http("GET", "/metrics").await;
        let metric = |name: &str| value_of(&page, name).expect(name);
        Self {
            rss_kib: process.rss_kib(),
            threads: process.threads(),
            files: process.files(),
            connections: metric("chat_connections"),
            topics: metric("chat_topics"),
            tasks: metric("chat_tasks"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Use { rss_kib, threads, files, connections, topics, tasks } in &self.servers {
            write!(
                f,
                "{rss_kib} KiB, {threads} threads, {files} files, {connections} connections, \
                 {topics} topics, {tasks} tasks; "
            )?;
        }
        write!(f, "Redis: {} keys, {} channels", self.keys, self.channels)
    }
}
