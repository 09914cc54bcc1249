//! Connections to Redis.
//!
//! [`Link`] is one connection of which a task has the only use: it publishes, subscribes or keeps
//! the lease. `store.rs` has the small pool for everything that is read and written now and then,
//! which `pool.rs` opens. Before a new connection is used, `identity.rs` finds out which server it
//! leads to, and `epochs.rs` ends the sequences that this server has lost. `probe.rs` finds out
//! each second whether Redis takes writes. `reconnect.rs` times attempts.

pub(super) mod epochs;
mod pool;
pub(super) mod probe;
pub(super) mod reconnect;
pub(super) mod server_identity;
pub(super) mod store;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, FromRedisValue, Pipeline, PushInfo, PushKind, RedisError, RedisResult,
    Value,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::error::{is_refusal, timed_out};
use super::health::refusals::CONNECT;
use super::shared::Shared;

/// How long connecting may take, from the look-up of the name to the greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long Redis may take to answer before the connection counts as broken.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an idle connection is asked whether it lives.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A connection that says when it is lost, and counts what Redis [refuses](super::health::refusals)
/// on it. Dropping it closes it.
///
/// After an error of [`send`](Self::send), [`ping`](Self::ping) and their like, drop it:
/// redis-rs keeps using a connection that does not answer.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    connection: MultiplexedConnection,
    lost: Arc<Notify>,
}

impl Link {
    /// Connects. `on_message` gets the channel and the payload of each message; it runs in
    /// the task that reads the socket, and must not wait.
    pub(super) async fn open(
        shared: &Arc<Shared>,
        on_message: impl Fn(Vec<Value>) + Send + Sync + 'static,
    ) -> RedisResult<Self> {
        let lost = Arc::new(Notify::new());
        let on_push = {
            let lost = Arc::clone(&lost);
            move |push: PushInfo| {
                match push.kind {
                    PushKind::Message => on_message(push.data),
                    PushKind::Disconnection => lost.notify_one(),
                    _ => {}
                }
                Ok::<_, Infallible>(())
            }
        };
        let config = connection_config().set_push_sender(on_push);
        let connection = connect(shared, &config).await;
        shared.refusals.count_error(CONNECT, &connection);
        Ok(Self { shared: Arc::clone(shared), connection: connection?, lost })
    }

    /// Waits until the connection breaks.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn lost(&self) -> RedisError {
        self.lost.notified().await;
        io::Error::new(io::ErrorKind::ConnectionReset, "the connection was lost").into()
    }

    /// Sends `PING`. An error reply also proves that Redis answers: that it cannot save its data, or
    /// that a script runs.
    pub(super) async fn ping(&mut self) -> RedisResult<()> {
        let outcome = redis::cmd("PING").exec_async(&mut self.connection).await;
        self.shared.refusals.count_error("PING", &outcome);
        match outcome {
            Err(error) if is_refusal(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sends commands as one pipeline. The replies are in their order, with errors among them.
    pub(super) async fn send(&mut self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let replies = self.send_uncounted(commands).await?;
        self.shared.refusals.count_replies(commands, &replies, &self.shared.scripts);
        Ok(replies)
    }

    /// As [`send`](Self::send), for commands whose refusals mean something else.
    pub(super) async fn send_uncounted(&mut self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        commands.query_async(&mut self.connection).await
    }

    /// As [`send`](Self::send), but an error among the answers is the outcome.
    pub(super) async fn query<T: FromRedisValue>(&mut self, commands: &Pipeline) -> RedisResult<T> {
        let outcome = commands.query_async(&mut self.connection).await;
        self.shared.refusals.count_pipeline(commands, &outcome, &self.shared.scripts);
        outcome
    }

    /// Stores all scripts.
    pub(super) async fn load(&mut self) -> RedisResult<()> {
        self.shared.load_scripts(&mut self.connection).await
    }

    /// Subscribes to a channel that is subscribed, and unsubscribes from one that is not: whether
    /// Redis would. Both at once, since callers wait for the connection.
    pub(super) async fn try_to_subscribe(
        &mut self,
        subscribed: &str,
        unsubscribed: &str,
    ) -> RedisResult<()> {
        let mut other = self.connection.clone();
        let (subscribe, unsubscribe) =
            tokio::join!(self.connection.subscribe(subscribed), other.unsubscribe(unsubscribed));
        self.shared.refusals.count_error("SUBSCRIBE", &subscribe);
        self.shared.refusals.count_error("UNSUBSCRIBE", &unsubscribe);
        subscribe.and(unsubscribe)
    }

    pub(super) async fn subscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        let outcome = self.connection.subscribe(channels).await;
        self.shared.refusals.count_error("SUBSCRIBE", &outcome);
        outcome
    }

    pub(super) async fn unsubscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        let outcome = self.connection.unsubscribe(channels).await;
        self.shared.refusals.count_error("UNSUBSCRIBE", &outcome);
        outcome
    }
}

/// Connects within [`CONNECT_TIMEOUT`].
pub(super) async fn connect(
    shared: &Shared,
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    #[cfg(feature = "testing")]
    if let Some(dial) = &shared.config.dial {
        let client = shared.client();
        let connect = async {
            let settings = client.get_connection_info().redis_settings();
            let stream = dial().await?;
            MultiplexedConnection::new_with_config(settings, stream, config.clone()).await
        };
        let connected =
            timeout(CONNECT_TIMEOUT, connect).await.unwrap_or_else(|_| Err(timed_out()));
        let (connection, driver) = connected?;
        tokio::spawn(driver);
        return Ok(connection);
    }
    let client = shared.client();
    let connect = client.get_multiplexed_async_connection_with_config(config);
    timeout(CONNECT_TIMEOUT, connect).await.unwrap_or_else(|_| Err(timed_out()))
}

/// The time limits of every connection.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
}
