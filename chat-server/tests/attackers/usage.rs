//! What an attack takes of Redis' memory, of the kernel's, and of CPUs.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;

use crate::support::process::Process;
use crate::support::sockets::Sockets;

/// The latest reading of each, or the most so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    at: Instant,
    pub(crate) redis_bytes: u64,
    redis_cpu: Duration,
    server_cpu: Duration,
    pub(crate) rss_kib: u64,
    pub(crate) sockets: Sockets,
}

impl Usage {
    pub(crate) async fn read(redis: &RedisServer, server: Process, port: u16) -> Self {
        let (memory, cpu) = (redis.command(&["INFO", "memory"]), redis.command(&["INFO", "cpu"]));
        let (memory, cpu) = tokio::join!(memory, cpu);
        let seconds = |name| Duration::from_secs_f64(field(&cpu, name));
        Self {
            at: Instant::now(),
            redis_bytes: field(&memory, "used_memory:") as u64,
            redis_cpu: seconds("used_cpu_sys:") + seconds("used_cpu_user:"),
            server_cpu: server.cpu(),
            rss_kib: server.rss_kib(),
            sockets: Sockets::of_server(port),
        }
    }

    /// The more of each.
    pub(crate) fn max(self, other: Self) -> Self {
        let (a, b) = (self.sockets, other.sockets);
        Self {
            redis_bytes: self.redis_bytes.max(other.redis_bytes),
            rss_kib: self.rss_kib.max(other.rss_kib),
            sockets: Sockets { count: a.count.max(b.count), unsent: a.unsent.max(b.unsent) },
            ..other
        }
    }

    /// Percent of one CPU that the server and Redis have used since.
    pub(crate) fn cpu_since(&self, before: &Self) -> (f64, f64) {
        let time = (self.at - before.at).as_secs_f64();
        let percent = |now: Duration, then: Duration| (now - then).as_secs_f64() / time * 100.0;
        (percent(self.server_cpu, before.server_cpu), percent(self.redis_cpu, before.redis_cpu))
    }
}

fn field(info: &str, name: &str) -> f64 {
    let value = info.lines().find_map(|line| line.strip_prefix(name));
    value.expect(name).trim().parse().expect(name)
}
