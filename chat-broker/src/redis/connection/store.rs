//! Occasional reads and writes, through a small pool of connections.
//!
//! A caller that finds all of them in use opens another. If that fails (Redis is at `maxclients`,
//! this process is out of files, a password was changed), the caller waits for a free one.

use std::sync::Arc;
use std::time::Duration;

use chat_core::Topic;
use deadpool::managed::{Object, PoolError};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::pool::{self, Connector, Pool};
use crate::error::BrokerError;
use crate::redis::error::{broker_error, code, concerns_all, wants_reconnect, was_unknown_script};
use crate::redis::health::damage::SEQUENCE;
use crate::redis::last_seen::LastSeen;
use crate::redis::names::Address;
use crate::redis::shared::Shared;
use crate::redis::wire;

/// Connections at most.
const POOL_SIZE: usize = 4;

/// For how long a connection is not opened again after that has failed while others serve.
const REST: Duration = Duration::from_secs(1);

/// Topics in one pipeline.
const MAX_TOPICS: usize = 256;

/// Channels whose subscribers one command counts.
const MAX_CHANNELS: usize = 1000;

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) shared: Arc<Shared>,
    pool: Pool,
    /// One for each connection that may be in use: callers get them in the order of their calls.
    turns: Arc<Semaphore>,
}

impl Store {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self, BrokerError> {
        let pool = pool::open(&shared, POOL_SIZE)?;
        let turns = Arc::new(Semaphore::new(POOL_SIZE));
        Ok(Self { shared, pool, turns })
    }

    /// See [`Broker::positions`](crate::Broker::positions).
    pub(crate) async fn positions(&self, topics: &[Topic]) -> Result<Vec<LastSeen>, BrokerError> {
        let read = async {
            let mut last_seen_of = Vec::with_capacity(topics.len());
            for topics in topics.chunks(MAX_TOPICS) {
                let addresses = self.addresses(topics);
                let mut commands = Pipeline::with_capacity(topics.len());
                for address in &addresses {
                    let keys = [address.log(), &address.position()];
                    self.shared.scripts.position.call(&mut commands, &keys);
                }
                let stored = self.query_each::<Vec<u8>>(&commands, &addresses, SEQUENCE).await?;
                last_seen_of.extend(
                    addresses
                        .iter()
                        .zip(stored)
                        .map(|(address, stored)| self.checked(address, LastSeen::parse(&stored))),
                );
            }
            Ok(last_seen_of)
        };
        self.in_time(read).await
    }

    /// See [`Broker::subscribers`](crate::Broker::subscribers).
    pub(crate) async fn subscribers(&self, topics: &[Topic]) -> Result<Vec<u32>, BrokerError> {
        let read = async {
            let mut counts = Vec::with_capacity(topics.len());
            for topics in topics.chunks(MAX_CHANNELS) {
                let mut commands = Pipeline::with_capacity(1);
                commands.cmd("PUBSUB").arg("NUMSUB");
                for topic in topics {
                    commands.arg(self.shared.names.address(topic).channel());
                }
                let (counted,): (Vec<(String, u32)>,) = self.query(&commands).await?;
                counts.extend(counted.into_iter().map(|(_, count)| count));
            }
            Ok(counts)
        };
        self.in_time(read).await
    }

    pub(crate) fn addresses<'a>(
        &self,
        topics: impl IntoIterator<Item = &'a Topic>,
    ) -> Vec<Address> {
        topics.into_iter().map(|topic| self.shared.names.address(topic)).collect()
    }

    /// A position as it was read. One that makes no sense is none: the next publication begins a new
    /// epoch.
    pub(crate) fn checked(&self, address: &Address, last_seen: Option<LastSeen>) -> LastSeen {
        last_seen.unwrap_or_else(|| {
            self.shared.damage.note_position(address);
            LastSeen::default()
        })
    }

    /// Sends something to a channel; returns whether Redis took it.
    pub(crate) async fn probe(&self, channel: &str) -> bool {
        let mut commands = Pipeline::with_capacity(1);
        commands.cmd("PUBLISH").arg(channel).arg(wire::ephemeral(b"")).ignore();
        self.in_time(self.query::<()>(&commands)).await.is_ok()
    }

    /// Sends one command for each address; the replies are in their order. What is wrong with the
    /// keys of one topic is said of that one.
    pub(crate) async fn query_each<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
        addresses: &[Address],
        keys: &'static str,
    ) -> Result<Vec<T>, BrokerError> {
        let damage = &self.shared.damage;
        let replies: Vec<Value> = match self.ask(commands).await?.and_then(read) {
            Ok(replies) => replies,
            Err(error) => {
                let failed = first_failed(&error).and_then(|n| addresses.get(n));
                return Err(match failed {
                    Some(address) => damage.explain(address, keys, error),
                    None => broker_error(error),
                });
            }
        };
        let answers = replies.into_iter().zip(addresses).map(|(reply, address)| {
            let answer = redis::from_redis_value(reply);
            answer.map_err(|error| damage.explain(address, keys, error.into()))
        });
        answers.collect()
    }

    /// Sends commands on keys that all topics share. What is wrong with those is said of them.
    pub(crate) async fn query_shared<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
        keys: &str,
    ) -> Result<T, BrokerError> {
        let answer = self.ask(commands).await?.and_then(read);
        answer.map_err(|error| self.shared.damage.explain_shared(keys, error))
    }

    /// As [`query`](Self::query), for commands of which each has an answer or a refusal of its own.
    /// A refusal that is [no command's own](concerns_all) is the outcome for all.
    pub(crate) async fn query_all(
        &self,
        commands: &mut Pipeline,
    ) -> Result<Vec<Value>, BrokerError> {
        let replies: Vec<Value> = self.query(commands.ignore_errors()).await?;
        self.shared.refusals.count_replies(commands, &replies, &self.shared.scripts);
        Ok(replies)
    }

    /// Sends commands in one go; see [`ask`](Self::ask).
    pub(crate) async fn query<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, BrokerError> {
        self.ask(commands).await?.and_then(read).map_err(broker_error)
    }

    /// Sends commands in one go. Scripts that Redis does not know are stored first, and
    /// all is sent again; so it is if the connection breaks: only for what may be done
    /// twice. The inner error is what Redis, or the connection to it, makes of them.
    async fn ask(&self, commands: &Pipeline) -> Result<RedisResult<Value>, BrokerError> {
        match self.ask_once(commands).await? {
            // Not after a timeout: the caller has waited for that long already.
            Err(error) if error.is_connection_dropped() => self.ask_once(commands).await,
            outcome => Ok(outcome),
        }
    }

    async fn ask_once(&self, commands: &Pipeline) -> Result<RedisResult<Value>, BrokerError> {
        let (_turn, mut connection) = self.connection().await?;
        let Shared { counters, refusals, scripts, .. } = &*self.shared;
        let mut outcome = self.send(commands, &mut connection).await;
        if outcome.as_ref().is_err_and(was_unknown_script) {
            outcome = match self.shared.load_scripts(&mut *connection).await {
                Ok(()) => self.send(commands, &mut connection).await,
                Err(error) => Err(error),
            };
        }
        refusals.count_pipeline(commands, &outcome, scripts);
        if let Err(error) = &outcome
            && (code(error).is_none() || wants_reconnect(error))
        {
            // It may be the connection: the next caller should not get it.
            drop(Object::take(connection));
            if error.is_timeout() {
                counters.lost();
            }
        }
        Ok(outcome)
    }

    /// Sends commands once. An error among the answers of a pipeline that ignores errors is the
    /// outcome if it [concerns all](concerns_all) of them.
    async fn send(
        &self,
        commands: &Pipeline,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Value> {
        let replies = self.shared.counters.timed(commands.query_async(connection)).await?;
        let each = match &replies {
            Value::Array(each) => &each[..],
            _ => &[],
        };
        each.iter().find_map(concerns_all).map_or(Ok(replies), Err)
    }

    /// The turn to use a connection, and the connection. It must be given back before the turn is.
    async fn connection(&self) -> Result<(OwnedSemaphorePermit, Object<Connector>), BrokerError> {
        loop {
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            let turn = turn.map_err(BrokerError::unavailable)?;
            let error = match self.pool.get().await {
                Ok(connection) => return Ok((turn, connection)),
                Err(error) => error,
            };
            if self.pool.status().size == 0 {
                return Err(pool_error(error));
            }
            // Those that there are serve all, one turn for each of them at least.
            tokio::spawn(async move {
                sleep(REST).await;
                drop(turn);
            });
        }
    }

    /// Fails `work` when the deadline has passed.
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        timeout(self.shared.config.deadline, work)
            .await
            .unwrap_or_else(|_| Err(BrokerError::unavailable("redis did not answer in time")))
    }
}

fn read<T: FromRedisValue>(replies: Value) -> RedisResult<T> {
    Ok(redis::from_redis_value(replies)?)
}

/// The index of the first command that failed.
fn first_failed(error: &RedisError) -> Option<usize> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(nth, _)| *nth)
}

fn pool_error(error: PoolError<RedisError>) -> BrokerError {
    match error {
        PoolError::Backend(error) => broker_error(error),
        error => BrokerError::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::config::RedisConfig;
    use crate::testing::RedisServer;

    /// A store whose pool has a connection, with scripts stored in Redis.
    async fn store(server: &RedisServer) -> Store {
        let store = Store::new(Arc::new(Shared::new(RedisConfig::new(server.url())).unwrap()));
        let store = store.unwrap();
        let (_turn, mut connection) = store.connection().await.unwrap();
        store.shared.load_scripts(&mut *connection).await.unwrap();
        drop(connection);
        store
    }

    /// Removes nothing from topics that do not exist.
    async fn reap(store: &Store) -> Result<Vec<Value>, BrokerError> {
        let mut commands = Pipeline::new();
        for topic in ["a", "b"] {
            let keys = ["topics", "leases", "members", "held"].map(|key| format!("{topic}:{key}"));
            let call = store.shared.scripts.reap.call(&mut commands, &keys);
            call.arg("node").arg(topic).arg(1);
        }
        store.query_all(&mut commands).await
    }

    #[tokio::test]
    async fn query_all_stores_unknown_scripts() {
        let server = RedisServer::start();
        let store = store(&server).await;
        for _ in 0..2 {
            assert_eq!(reap(&store).await.unwrap(), [Value::Int(0), Value::Int(0)]);
            server.command(&["SCRIPT", "FLUSH"]).await;
        }
    }

    #[tokio::test]
    async fn query_all_drops_connection_to_replica() {
        let server = RedisServer::start();
        let store = store(&server).await;
        reap(&store).await.unwrap();
        server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
        reap(&store).await.unwrap_err();
        assert_eq!(store.pool.status().size, 0, "the connection is not kept");
        server.command(&["REPLICAOF", "NO", "ONE"]).await;
        reap(&store).await.unwrap();
    }

    #[tokio::test]
    async fn query_all_keeps_errors_of_single_commands() {
        let server = RedisServer::start();
        let store = store(&server).await;
        server.command(&["SET", "a:members", "x"]).await;
        let replies = reap(&store).await.unwrap();
        assert!(matches!(replies[..], [Value::ServerError(_), Value::Int(0)]), "{replies:?}");
        assert_eq!(store.pool.status().size, 1, "the connection is kept");
    }
}
