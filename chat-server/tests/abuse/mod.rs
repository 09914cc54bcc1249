//! Bad input on the real server: each has its documented answer, and nobody else notices.

mod floods;
mod frames;
mod log;
mod names;
mod requests;
mod silence;
mod texts;
mod unread;
mod vanishing;
mod wire;

use crate::support::{Chat, FAST, command};
use chat_broker::testing::RedisServer;

/// What a table of bad input may leave behind, in KiB: what the allocator keeps, and no more.
const LEFT_BEHIND: u64 = 4 * 1024;

/// A server that is alone, and that no client of these tests keeps busy.
fn unlimited() -> Chat {
    Chat::start(command().env("PORT", "0").args(FAST).args(["--max-control-frames", "1000000"]))
}

/// Two of these.
async fn unlimited_pair(redis: &RedisServer) -> (Chat, Chat) {
    let start = || {
        let mut command = command();
        command.env("PORT", "0").env("REDIS_URL", redis.url()).args(FAST);
        Chat::start(&mut command)
    };
    let pair = (start(), start());
    pair.0.until_ready().await;
    pair.1.until_ready().await;
    pair
}
