//! One connection to Redis, and how long it may be silent.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, FromRedisValue, Pipeline, PushInfo, PushKind, RedisError, RedisResult,
    ServerError, Value,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Shared;
use super::answer::is_refusal;
use super::refusals::CONNECT;
use crate::error::BrokerError;

/// How long connecting may take, from the look-up of the name to the greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long Redis may take to answer before the connection counts as broken.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an idle connection is asked whether it lives.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A connection that says when it is lost, and counts what Redis [refuses](super::refusals) on it.
/// Dropping it closes it.
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

    /// Asks for a sign of life. A refusal is one: Redis says instead that it cannot save its
    /// data, or that a script runs.
    pub(super) async fn ping(&mut self) -> RedisResult<()> {
        let outcome = redis::cmd("PING").exec_async(&mut self.connection).await;
        self.shared.refusals.count_error("PING", &outcome);
        match outcome {
            Err(error) if is_refusal(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sends commands in one go. The answers stand in their order, errors among them.
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
    /// Redis would. Both at once, since others wait for the connection meanwhile.
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
        let connect = async {
            let settings = shared.client.get_connection_info().redis_settings();
            let stream = dial().await?;
            MultiplexedConnection::new_with_config(settings, stream, config.clone()).await
        };
        let connected =
            timeout(CONNECT_TIMEOUT, connect).await.unwrap_or_else(|_| Err(timed_out()));
        let (connection, driver) = connected?;
        tokio::spawn(driver);
        return Ok(connection);
    }
    let connect = shared.client.get_multiplexed_async_connection_with_config(config);
    timeout(CONNECT_TIMEOUT, connect).await.unwrap_or_else(|_| Err(timed_out()))
}

/// The time limits of every connection.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
}

pub(super) fn timed_out() -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, "redis took too long").into()
}

/// What a failed command means to who asked for it.
pub(super) fn broker_error(error: RedisError) -> BrokerError {
    use redis::ErrorKind;

    let refused = match code(&error).as_deref() {
        Some(code) => !is_passing(code),
        None => matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed
                | ErrorKind::Extension
                | ErrorKind::Parse
                | ErrorKind::RESP3NotSupported
                | ErrorKind::UnexpectedReturnType
        ),
    };
    if refused { BrokerError::refused(error) } else { BrokerError::unavailable(error) }
}

/// The code of an error that Redis answered, of the first one in a pipeline.
pub(super) fn code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| server_code(error).to_owned())
}

/// The code of an error, where it says `ERR` and knows better. Of an error inside a script the code
/// stands in the text, before Redis 7: `ERR Error running script (call to f_…): @user_script: 7:
/// -OOM …`; and a right that a script lacks has no code in any version.
pub(super) fn server_code(error: &ServerError) -> &str {
    const NO_RIGHT: [&str; 2] = ["The user executing the script", "ACL failure in script"];
    let text = error.details().unwrap_or_default();
    if error.code() != "ERR" {
        error.code()
    } else if NO_RIGHT.iter().any(|right| text.contains(right)) {
        "NOPERM"
    } else if text.starts_with("max number of clients") {
        "MAXCLIENTS"
    } else if text.starts_with("Error running script") {
        let is_code = |word: &&str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase());
        text.split(' ').map(|word| word.trim_start_matches('-')).find(is_code).unwrap_or("ERR")
    } else {
        "ERR"
    }
}

/// Answers of a server that will work again by itself.
fn is_passing(code: &str) -> bool {
    matches!(code, "BUSY" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "MAXCLIENTS" | "TRYAGAIN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_an_error_is_found_where_redis_hides_it() {
        for (answer, expected) in [
            ("-READONLY You can't write against a read only replica.", "READONLY"),
            (
                "-ERR Error running script (call to f_0a1b): @user_script: 21: -READONLY You can't",
                "READONLY",
            ),
            (
                "-ERR Error running script (call to f_0a1b): @user_script:8: WRONGTYPE Operation",
                "WRONGTYPE",
            ),
            ("-ERR Error running script (call to f_0a1b): @user_script:8: attempt to", "ERR"),
            ("-ERR unknown command OOM", "ERR"),
            (
                "-ERR Error running script (call to f_0a1b): @user_script:1: @user_script: 1: The \
                 user executing the script can't run this command or subcommand",
                "NOPERM",
            ),
            ("-ERR The user executing the script can't publish to the channel", "NOPERM"),
            ("-ERR ACL failure in script: No permissions to access a key", "NOPERM"),
            ("-ERR max number of clients reached", "MAXCLIENTS"),
        ] {
            let reply = redis::parse_redis_value(format!("{answer}\r\n").as_bytes()).unwrap();
            let code = code(&reply.extract_error().unwrap_err());
            assert_eq!(code.as_deref(), Some(expected), "{answer}");
        }
    }
}
