//! Finds sequences that do not continue those that this node has seen, and ends their epochs.
//!
//! Redis may return from a restart or a failover with an older copy of its data, and would
//! assign offsets a second time: a client that has seen the first message of an offset would drop
//! the second as a repeat. So, before a new connection is used, the latest publication that this node
//! has seen of each topic is compared with what is stored. The sequence is another one if
//! * its offset is lower, or
//! * the entry at the offset that was seen has another id, or is missing though older
//!   ones are there, or
//! * the topic had left this epoch for another (a Redis that restarts twice returns twice
//!   with the same copy);
//!
//! then the log and the position are deleted, and the topic begins a new epoch.
//!
//! If the entry was trimmed or has expired since, that cannot be found out, and the epoch stays:
//! offsets that were assigned twice are then before all that can be read, so a client that is there
//! receives a gap anyway.

use redis::{Pipeline, RedisResult, Value};

use super::Link;
use crate::redis::error::code;
use crate::redis::last_seen::LastSeen;
use crate::redis::names::Address;
use crate::redis::scripts::Scripts;
use crate::redis::wire::MessageId;

/// Topics in one pipeline.
const MAX_TOPICS: usize = 256;

/// Ends the epochs of topics that have not continued as they were seen.
pub(crate) async fn check(
    link: &mut Link,
    scripts: &Scripts,
    seen: &[(Address, LastSeen)],
) -> RedisResult<()> {
    let mut ended = 0;
    for seen in seen.chunks(MAX_TOPICS) {
        let mut read = Pipeline::with_capacity(seen.len());
        read.ignore_errors();
        for (address, _) in seen {
            scripts.position.call(&mut read, &[address.log(), &address.position()]);
        }
        let stored = link.send(&read).await?;
        let mut compare = Pipeline::new();
        compare.ignore_errors();
        for ((address, last_seen), stored) in seen.iter().zip(stored) {
            if is_doubtful(*last_seen, answered(stored)?) {
                let LastSeen { position, id } = last_seen;
                let keys = [address.log(), &address.position()];
                let id = id.as_ref().map_or(&b""[..], MessageId::as_bytes);
                let call = scripts.end_epoch.call(&mut compare, &keys);
                call.arg(position.epoch.as_str()).arg(position.offset).arg(id);
            }
        }
        if !compare.is_empty() {
            for outcome in link.send(&compare).await? {
                ended += usize::from(answered(outcome)? == Value::Int(1));
            }
        }
    }
    if ended > 0 {
        tracing::warn!(topics = ended, "redis lost messages, starting new epochs");
    }
    Ok(())
}

/// A refusal (for want of replicas, say) leaves an epoch that must end: the connection may
/// not be used. Only a key of another type gives out no offset at all.
fn answered(reply: Value) -> RedisResult<Value> {
    match reply.extract_error() {
        Err(error) if code(&error).as_deref() == Some("WRONGTYPE") => Ok(Value::Nil),
        reply => reply,
    }
}

/// Whether a closer look is needed: mostly a topic is where it was seen. What is
/// missing or unreadable gives out no offset twice.
fn is_doubtful(seen: LastSeen, stored: Value) -> bool {
    let stored = redis::from_redis_value::<Vec<u8>>(stored).ok();
    stored.and_then(|stored| LastSeen::parse(&stored)).is_some_and(|stored| {
        let is_there =
            stored.position == seen.position && (seen.id.is_none() || seen.id == stored.id);
        stored.position.epoch == seen.position.epoch && !is_there
    })
}
