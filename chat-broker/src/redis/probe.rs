//! Whether Redis takes what is to be kept.
//!
//! A Redis that answers may refuse to write: it is full, cannot save, lacks replicas, or may
//! not be written to by us. So each connection that publishes does so once a second, in a
//! topic of its own that nobody hears: whatever refuses a message refuses that, too.

use redis::{Pipeline, RedisError, RedisResult, Value};

use super::answer::is_refusal;
use super::link::{Link, code};
use super::names::{Address, Names};
use super::script::{Scripts, is_unknown};
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
    Taken,
    Refused(RedisError),
}

impl Probe {
    pub(super) fn new(names: &Names) -> Self {
        Self { address: names.probe() }
    }

    /// Publishes. It is an error if Redis does not answer, or if another server should be
    /// looked for at its address.
    pub(super) async fn publish(&self, link: &mut Link, scripts: &Scripts) -> RedisResult<Writes> {
        match self.try_to_publish(link, scripts).await {
            Ok(()) => Ok(Writes::Taken),
            // Somebody has put something else there: that concerns this topic alone.
            Err(error) if code(&error).as_deref() == Some("WRONGTYPE") => Ok(Writes::Taken),
            Err(error) if is_refusal(&error) => Ok(Writes::Refused(error)),
            Err(error) => Err(error),
        }
    }

    /// Twice, if Redis does not know the script: nothing was written then.
    async fn try_to_publish(&self, link: &mut Link, scripts: &Scripts) -> RedisResult<()> {
        let mut reply = self.send(link, scripts).await?;
        if is_unknown(&reply) {
            link.load(scripts).await?;
            reply = self.send(link, scripts).await?;
        }
        reply.extract_error().map(drop)
    }

    async fn send(&self, link: &mut Link, scripts: &Scripts) -> RedisResult<Value> {
        let mut commands = Pipeline::with_capacity(1);
        commands.ignore_errors();
        let call = scripts.publish.call(&mut commands, &[self.address.meta(), &self.address.log()]);
        call.arg(self.address.channel()).arg("12345678").arg(MessageId::random().as_bytes());
        call.arg(1).arg(TTL * 1000).arg(TTL).arg("");
        Ok(link.send(&commands).await?.pop().unwrap_or(Value::Nil))
    }
}
