//! Whether Redis takes what is to be kept.
//!
//! A Redis that answers may refuse to write: it cannot save, lacks replicas, or has taken the right
//! to write from us. So each connection that publishes does so once a second, to a topic of its own
//! without subscribers: what refuses a message refuses the probe. A Redis that is full refuses what is
//! to be kept and nothing else, and counts as [working](super::capacity).

use redis::{Pipeline, RedisError, RedisResult, Value};

use super::Shared;
use super::answer::is_refusal;
use super::capacity::Memory;
use super::link::{Link, code};
use super::names::{Address, Names};
use super::script::is_unknown;
use super::wire::MessageId;

/// How long Redis keeps what was published, in seconds; twice that at most.
const TTL: u64 = 10;

/// What one connection publishes to see whether it can.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    address: Address,
}

/// What Redis said.
pub(super) enum Writes {
    /// It takes them, but for those that need memory if it is full.
    Taken,
    Refused(RedisError),
}

impl Probe {
    pub(super) fn new(names: &Names) -> Self {
        Self { address: names.probe() }
    }

    /// Publishes. It is an error if Redis does not answer, or if another server should be
    /// looked for at its address.
    pub(super) async fn publish(&self, link: &mut Link, shared: &Shared) -> RedisResult<Writes> {
        let Err(error) = self.try_to_publish(link, shared).await else {
            shared.capacity.taken();
            return Ok(Writes::Taken);
        };
        match code(&error).as_deref() {
            Some("OOM") => {
                shared.capacity.refused(&error);
                Ok(Writes::Taken)
            }
            // Somebody has put something else there: that concerns this topic alone.
            Some("WRONGTYPE") => Ok(Writes::Taken),
            _ if is_refusal(&error) => Ok(Writes::Refused(error)),
            _ => Err(error),
        }
    }

    /// Twice, if Redis does not know the script: nothing was written then.
    async fn try_to_publish(&self, link: &mut Link, shared: &Shared) -> RedisResult<()> {
        let mut reply = self.send(link, shared).await?;
        if is_unknown(&reply) {
            link.load(&shared.scripts).await?;
            reply = self.send(link, shared).await?;
        }
        reply.extract_error().map(drop)
    }

    async fn send(&self, link: &mut Link, shared: &Shared) -> RedisResult<Value> {
        let mut commands = Pipeline::with_capacity(2);
        commands.ignore_errors();
        let keys = [self.address.meta(), &self.address.log()];
        let call = shared.scripts.publish.call(&mut commands, &keys);
        call.arg(self.address.channel()).arg("12345678").arg(MessageId::random().as_bytes());
        call.arg(1).arg("0/0").arg(TTL * 1000).arg(TTL).arg("");
        if shared.capacity.is_due() {
            commands.cmd("INFO").arg("memory");
        }
        let mut replies = link.send(&commands).await?.into_iter();
        let outcome = replies.next().unwrap_or(Value::Nil);
        // Without the right to `INFO` it stays unknown.
        if let Some(info) =
            replies.next().and_then(|info| redis::from_redis_value::<String>(info).ok())
        {
            shared.capacity.set(Memory::parse(&info));
        }
        Ok(outcome)
    }
}
