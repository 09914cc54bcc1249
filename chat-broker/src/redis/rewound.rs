//! Counters that went back.
//!
//! Redis may return from a restart or a failover with an older copy of its data. A counter
//! in it would give out offsets a second time, and whoever has seen the first would take
//! what is new for a repetition. So, before a new connection is used, the counters are
//! compared with what this node has seen of them, and one that stands lower is deleted:
//! its topic begins a new epoch.

use chat_core::Position;
use redis::{Pipeline, RedisResult, Value};

use super::link::Link;
use super::names::Address;

/// Deletes a counter, unless another node has seen to it since it was read. The key is the
/// hash of the topic, the arguments are the epoch and the offset that were seen.
const SCRIPT: &str = "\
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
if stored[1] == ARGV[1] and tonumber(stored[2]) < tonumber(ARGV[2]) then
  return redis.call('DEL', KEYS[1])
end";

/// Topics in one pipeline.
const MAX_TOPICS: usize = 256;

/// Deletes the counters that stand lower than they were seen.
pub(super) async fn delete(link: &mut Link, seen: &[(Address, Position)]) -> RedisResult<()> {
    for seen in seen.chunks(MAX_TOPICS) {
        let mut read = Pipeline::with_capacity(seen.len());
        read.ignore_errors();
        for (address, _) in seen {
            read.cmd("HMGET").arg(address.meta()).arg("epoch").arg("offset");
        }
        let stored = link.send(&read).await?;
        let mut repair = Pipeline::new();
        repair.ignore_errors();
        for ((address, position), stored) in seen.iter().zip(stored) {
            if is_rewound(*position, stored) {
                repair.cmd("EVAL").arg(SCRIPT).arg(1).arg(address.meta());
                repair.arg(position.epoch.as_str()).arg(position.offset);
            }
        }
        if !repair.is_empty() {
            tracing::warn!(topics = repair.len(), "redis forgot messages: new epochs begin");
            link.send(&repair).await?;
        }
    }
    Ok(())
}

fn is_rewound(seen: Position, stored: Value) -> bool {
    let stored: Result<(Vec<u8>, u64), _> = redis::from_redis_value(stored);
    // What is missing or unreadable gives out no offset twice.
    stored.is_ok_and(|(epoch, offset)| {
        epoch == seen.epoch.as_str().as_bytes() && offset < seen.offset
    })
}
