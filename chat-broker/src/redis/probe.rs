//! Whether Redis takes what is to be kept.
//!
//! A Redis that answers may refuse to write: it is full, cannot save, lacks replicas, or may
//! not be written to by us. So each connection that publishes does so once a second, in a
//! topic of its own that nobody hears: whatever refuses a message refuses that, too.

use redis::{Pipeline, RedisError, RedisResult, Value};

use super::answer::wants_reconnect;
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
        let mut commands = Pipeline::with_capacity(1);
        commands.ignore_errors();
        let call = scripts.publish.call(&mut commands, &[self.address.meta(), &self.address.log()]);
        call.arg(self.address.channel()).arg("12345678").arg(MessageId::random().as_bytes());
        call.arg(1).arg(TTL * 1000).arg(TTL).arg("");
        let reply = link.send(&commands).await?.pop().unwrap_or(Value::Nil);
        if is_unknown(&reply) {
            link.load(scripts).await?;
            return Ok(Writes::Taken);
        }
        match reply.extract_error() {
            Ok(_) => Ok(Writes::Taken),
            Err(error) if wants_reconnect(&error) => Err(error),
            // Somebody has put something else there: that concerns this topic alone.
            Err(error) if code(&error).as_deref() == Some("WRONGTYPE") => Ok(Writes::Taken),
            Err(error) => Ok(Writes::Refused(error)),
        }
    }
}
