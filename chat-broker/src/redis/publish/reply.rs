//! Reads the replies of Redis to publications.

use chat_core::{Epoch, Position};
use redis::{RedisResult, Value};

use super::queue::Job;
use crate::publish::Published;
use crate::redis::error::is_unknown_script;

/// Whether a publication found no script while a later one of its topic was executed: another node
/// loaded the script in between. Sent again, it would follow the later one.
pub(crate) fn is_overtaken(jobs: &[Job], replies: &[Value], n: usize) -> bool {
    let (Some(job), Some(reply)) = (jobs.get(n), replies.get(n)) else { return false };
    is_unknown_script(reply)
        && jobs
            .iter()
            .zip(replies)
            .skip(n + 1)
            .any(|(later, reply)| !is_unknown_script(reply) && later.address == job.address)
}

/// Reads what the script or `PUBLISH` returned.
pub(crate) fn published(reply: Value) -> RedisResult<Published> {
    match reply {
        Value::Int(nodes) => Ok(Published::new(None, count(nodes))),
        Value::Array(fields) => {
            let (offset, epoch, nodes, repeated): (u64, Vec<u8>, i64, bool) =
                redis::from_redis_value(Value::Array(fields))?;
            let epoch = Epoch::parse(&epoch)
                .ok_or((redis::ErrorKind::UnexpectedReturnType, "malformed epoch in redis"))?;
            let position = Some(Position { epoch, offset });
            Ok(Published { position, nodes: count(nodes), repeated })
        }
        reply => {
            let reply = reply.extract_error()?;
            let detail = format!("{reply:?}");
            Err((redis::ErrorKind::UnexpectedReturnType, "not a reply to a publication", detail)
                .into())
        }
    }
}

fn count(nodes: i64) -> u32 {
    u32::try_from(nodes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use chat_core::{Retention, RoomId, Topic};
    use tokio::sync::Semaphore;
    use tokio::time::Instant;

    use super::*;
    use crate::error::BrokerError;
    use crate::publish::{PublishOptions, Receipt};
    use crate::redis::error::broker_error;
    use crate::redis::names::Names;
    use crate::redis::wire::MessageId;

    async fn job(room: &str) -> Job {
        let topic = Topic::Room(RoomId::new(room).unwrap());
        Job {
            address: Names::new("chat", 0).address(&topic),
            payload: Bytes::new(),
            options: PublishOptions::default().retention(Retention::default()),
            id: MessageId::random(),
            sent: false,
            deadline: Instant::now(),
            receipt: Receipt::pending().0,
            _bytes: Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap(),
        }
    }

    fn reply(bytes: &str) -> Value {
        redis::parse_redis_value(bytes.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn overtaken_publications_are_not_resent() {
        let jobs = [job("a").await, job("b").await, job("a").await, job("b").await];
        let lacking = || reply("-NOSCRIPT No matching script\r\n");
        let overtaken = |replies: &[Value]| -> Vec<bool> {
            (0..jobs.len()).map(|n| is_overtaken(&jobs, replies, n)).collect()
        };
        let all_lack = [lacking(), lacking(), lacking(), lacking()];
        assert_eq!(overtaken(&all_lack), [false; 4]);
        let second_of_a_went_through = [lacking(), lacking(), reply(":1\r\n"), lacking()];
        assert_eq!(overtaken(&second_of_a_went_through), [true, false, false, false]);
    }

    #[test]
    fn replies_are_read() {
        let sequenced = published(reply("*4\r\n:7\r\n$8\r\nabcdEF12\r\n:2\r\n:0\r\n")).unwrap();
        let position = Position { epoch: Epoch::parse(b"abcdEF12").unwrap(), offset: 7 };
        assert_eq!(sequenced, Published { position: Some(position), nodes: 2, repeated: false });
        let again = published(reply("*4\r\n:7\r\n$8\r\nabcdEF12\r\n:0\r\n:1\r\n")).unwrap();
        assert_eq!(again, Published { position: Some(position), nodes: 0, repeated: true });
        let ephemeral = published(reply(":3\r\n")).unwrap();
        assert_eq!(ephemeral, Published { position: None, nodes: 3, repeated: false });
        for odd in ["$2\r\nhi\r\n", "*1\r\n:1\r\n", "*4\r\n:7\r\n$2\r\nhi\r\n:2\r\n:0\r\n"] {
            assert!(matches!(
                broker_error(published(reply(odd)).unwrap_err()),
                BrokerError::Refused(_)
            ));
        }
    }
}
