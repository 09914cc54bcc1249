//! Servers, what lies between them and the clients, and Redis.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use chat_broker::testing::{RedisServer, TcpProxy};
use tokio::task;

use crate::support::{Chat, command_of};

/// How long the users of a dead server stay in rooms, here.
const LEASE: Duration = Duration::from_secs(3);

pub(crate) struct World {
    pub(crate) redis: RedisServer,
    servers: Vec<Option<Chat>>,
    proxies: Vec<TcpProxy>,
    /// What servers run that are started from now on.
    pub(crate) program: OsString,
}

impl World {
    pub(crate) async fn start(servers: usize, redis: &[&str]) -> Self {
        Self::start_of(env!("CARGO_BIN_EXE_chat-server").into(), servers, redis).await
    }

    /// With servers of another build.
    pub(crate) async fn start_of(program: OsString, servers: usize, redis: &[&str]) -> Self {
        let redis = RedisServer::start_with(redis);
        let servers: Vec<_> = (0..servers).map(|_| Some(server(&program, &redis))).collect();
        let mut proxies = Vec::new();
        for server in servers.iter().flatten() {
            server.until_ready().await;
            proxies.push(TcpProxy::start(server.port()));
        }
        Self { redis, servers, proxies, program }
    }

    pub(crate) fn lease(&self) -> Duration {
        LEASE
    }

    /// Where clients connect: each server, beginning with another one for each client.
    pub(crate) fn urls(&self, client: usize) -> Vec<String> {
        let mut urls: Vec<_> = self.proxies.iter().map(url).collect();
        let first = client % urls.len();
        urls.rotate_left(first);
        urls
    }

    /// Cuts about this part of all connections of clients.
    pub(crate) fn cut_clients(&self, part: f64) {
        self.proxies.iter().for_each(|proxy| proxy.cut(part));
    }

    /// Kills a server with SIGKILL.
    pub(crate) fn kill_server(&mut self, index: usize) {
        self.servers[index] = None;
    }

    pub(crate) async fn replace_server(&mut self, index: usize) {
        let server = server(&self.program, &self.redis);
        server.until_ready().await;
        self.proxies[index].redirect(server.port());
        self.servers[index] = Some(server);
    }

    /// Ends a server with SIGTERM; another one takes its place.
    pub(crate) async fn restart_server(&mut self, index: usize) {
        let mut former = self.servers[index].take().expect("a server");
        former.signal("TERM");
        assert!(task::block_in_place(|| former.exit()).success());
        self.replace_server(index).await;
    }

    /// As the servers measured it.
    pub(crate) async fn longest_repair(&self) -> String {
        let mut longest = 0.0_f64;
        for server in self.servers.iter().flatten() {
            let (_, _, page) = server.http("GET", "/metrics").await;
            let line = page.lines().find(|line| line.starts_with("chat_longest_repair_seconds "));
            let value = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
            longest = longest.max(value.expect("the metric"));
        }
        format!("{:.0} ms at most", longest * 1000.0)
    }
}

fn server(program: &OsStr, redis: &RedisServer) -> Chat {
    let lease = format!("{}s", LEASE.as_secs());
    let args = ["--port", "0", "--presence-lease", &lease, "--redis-url", &redis.url()];
    Chat::start(command_of(program, 2).args(args))
}

fn url(proxy: &TcpProxy) -> String {
    format!("ws://127.0.0.1:{}/ws", proxy.port())
}
