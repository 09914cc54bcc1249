//! Checks that Redis accepts writes, and permits the commands that the broker needs.
//!
//! A Redis that answers may refuse to write: it cannot save, lacks replicas, or has revoked the
//! right to write. So each connection that publishes does so once a second, to a topic of its own
//! without subscribers: a Redis that refuses messages refuses the probe. The same
//! pipeline tries all other [commands](crate::redis::health::rights) that the broker needs. A full Redis refuses
//! persistent publications and nothing else, and counts as [working](crate::redis::health::capacity).

use std::time::Duration;

use redis::{Pipeline, RedisError, RedisResult, Value};

use super::Link;
use crate::redis::error::{code, in_words, is_missing_right, is_refusal, was_unknown_script};
use crate::redis::health::capacity::Memory;
use crate::redis::health::rights;
use crate::redis::names::{Address, Names};
use crate::redis::publish::batch;
use crate::redis::shared::Shared;

/// How long Redis keeps what was published.
const TTL: Duration = Duration::from_secs(10);

/// The probe of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    address: Address,
}

/// Whether Redis accepts writes.
pub(crate) enum Writes {
    /// Redis takes writes, but for those that need memory if it is full.
    Taken,
    Refused(RedisError),
}

/// The replies of Redis.
struct Answers {
    published: RedisResult<()>,
    /// The first right that is missing.
    missing: Option<RedisError>,
}

impl Probe {
    pub(crate) fn new(names: &Names) -> Self {
        Self { address: names.probe() }
    }

    /// Publishes to the topic of the probe. Fails if Redis does not answer, or if the connection
    /// should be replaced, since its address may lead to another server now.
    pub(crate) async fn publish(&self, link: &mut Link, shared: &Shared) -> RedisResult<Writes> {
        self.run(link, shared, false).await
    }

    /// As [`publish`](Self::publish), and a right that is missing is a refusal, too.
    pub(crate) async fn check(&self, link: &mut Link, shared: &Shared) -> RedisResult<Writes> {
        self.run(link, shared, true).await
    }

    async fn run(
        &self,
        link: &mut Link,
        shared: &Shared,
        with_rights: bool,
    ) -> RedisResult<Writes> {
        let Answers { mut published, missing } = self.ask(link, shared, with_rights).await?;
        if published.as_ref().is_err_and(was_unknown_script) {
            // Nothing was written then.
            published = match link.load().await {
                Ok(()) => self.ask(link, shared, false).await?.published,
                refused => refused,
            };
        }
        match published {
            Ok(()) => shared.capacity.taken(),
            Err(error) => match code(&error).as_deref() {
                Some("OOM") => shared.capacity.refused(&in_words(&error)),
                // The key holds a value of another type: that concerns this topic alone.
                Some("WRONGTYPE") => {}
                _ if is_refusal(&error) => return Ok(Writes::Refused(error)),
                _ => return Err(error),
            },
        }
        Ok(missing.map_or(Writes::Taken, Writes::Refused))
    }

    async fn ask(
        &self,
        link: &mut Link,
        shared: &Shared,
        with_rights: bool,
    ) -> RedisResult<Answers> {
        let mut commands = Pipeline::new();
        commands.ignore_errors();
        batch::add_probe(&mut commands, &shared.scripts.publish, &self.address, TTL);
        let asks_memory = shared.capacity.is_due();
        if asks_memory {
            commands.cmd("INFO").arg("memory");
        }
        let rights_begin = commands.len();
        if with_rights {
            rights::add_all(&mut commands, &self.address, shared.database());
        }

        let mut replies = link.send_uncounted(&commands).await?;
        for reply in replies.iter_mut().skip(rights_begin) {
            // Any other answer proves that the right is there.
            if !is_missing_right(reply) {
                *reply = Value::Nil;
            }
        }
        shared.refusals.count_replies(&commands, &replies, &shared.scripts);
        let mut replies = replies.into_iter();
        let published = replies.next().unwrap_or(Value::Nil).extract_error().map(drop);
        if asks_memory {
            // Without the right to `INFO` it stays unknown.
            let info = replies.next().and_then(|info| redis::from_redis_value::<String>(info).ok());
            if let Some(info) = info {
                shared.capacity.set(Memory::parse(&info));
            }
        }
        let missing = replies.find_map(|reply| reply.extract_error().err());
        Ok(Answers { published, missing })
    }
}
