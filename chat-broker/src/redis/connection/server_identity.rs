//! The identity of the Redis server behind a connection.

use redis::{Pipeline, RedisResult, Value};

use super::Link;
use crate::redis::health::capacity::info_field;

/// One process of Redis, and our connection as it numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerIdentity {
    /// Random, new with each start; `None` if we may not ask.
    pub(crate) run_id: Option<String>,
    connection: Option<i64>,
    /// The eviction policy; `None` without the right to ask.
    pub(crate) eviction: Option<String>,
    /// `standalone`, `cluster` or `sentinel`; `None` if we may not ask.
    mode: Option<String>,
}

impl ServerIdentity {
    pub(crate) async fn of(link: &mut Link) -> RedisResult<Self> {
        let mut ask = Pipeline::with_capacity(3);
        ask.ignore_errors();
        ask.cmd("INFO").arg("server").cmd("INFO").arg("memory").cmd("CLIENT").arg("ID");
        let mut replies = link.send(&ask).await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil);
        let mut info = || redis::from_redis_value::<String>(next()).unwrap_or_default();
        let (server, memory) = (info(), info());
        let field = |info, name| info_field(info, name).map(str::to_owned);
        Ok(Self {
            run_id: field(&server, "run_id:"),
            connection: redis::from_redis_value(next()).ok(),
            eviction: field(&memory, "maxmemory_policy:"),
            // Valkey has another name for it.
            mode: field(&server, "redis_mode:").or_else(|| field(&server, "server_mode:")),
        })
    }

    /// Checks that the server is of a kind that can be used.
    ///
    /// # Errors
    /// The server is of another kind, for as long as it runs.
    pub(crate) fn check(&self) -> RedisResult<()> {
        let kind = match self.mode.as_deref() {
            Some("cluster") => "this is a node of a Redis Cluster",
            Some("sentinel") => "this is a Redis Sentinel",
            _ => return Ok(()),
        };
        Err((redis::ErrorKind::InvalidClientConfig, kind).into())
    }

    /// Ends an earlier connection to the same process, which then executes nothing more: what
    /// was sent on it may still wait there, and must not be carried out after what is sent
    /// again on this one.
    pub(crate) async fn end(&self, earlier: &Self, link: &mut Link) -> RedisResult<()> {
        let Some(connection) = earlier.connection else { return Ok(()) };
        if self.run_id.is_none() || self.run_id != earlier.run_id {
            return Ok(());
        }
        let mut kill = Pipeline::with_capacity(1);
        kill.ignore_errors();
        kill.cmd("CLIENT").arg("KILL").arg("ID").arg(connection);
        link.send(&kill).await.map(drop)
    }
}
