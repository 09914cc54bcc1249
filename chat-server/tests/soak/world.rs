//! Two servers and a Redis.

use chat_broker::testing::RedisServer;

use crate::support::{Chat, FAST, command};

pub(crate) struct World {
    pub(crate) redis: RedisServer,
    pub(crate) servers: [Chat; 2],
}

impl World {
    pub(crate) async fn start() -> Self {
        let redis = RedisServer::start();
        let servers = [server(&redis), server(&redis)];
        for server in &servers {
            server.until_ready().await;
        }
        Self { redis, servers }
    }

    /// Where clients connect: each server, beginning with another one for each client.
    pub(crate) fn urls(&self, client: usize) -> Vec<String> {
        let mut urls: Vec<_> = self.servers.iter().map(|server| server.ws("/ws")).collect();
        let first = client % urls.len();
        urls.rotate_left(first);
        urls
    }
}

/// What would be there for longer than the test, is there for seconds.
fn server(redis: &RedisServer) -> Chat {
    let mut command = command();
    command.envs([
        ("PORT", "0"),
        ("CHAT_HISTORY", "20"),
        ("CHAT_HISTORY_TTL", "2s"),
        ("CHAT_PRESENCE_GRACE", "1s"),
        ("CHAT_OUTBOX_BYTES", "131072"),
        ("CHAT_MAX_FRAME_BYTES", "65536"),
    ]);
    Chat::start(command.env("REDIS_URL", redis.url()).args(FAST))
}
