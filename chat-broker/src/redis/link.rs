//! One connection to Redis, and how long it may be silent.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, Pipeline, PushInfo, PushKind, RedisError,
    RedisResult, Value,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::answer::is_refusal;
use super::script::Scripts;
use crate::error::BrokerError;
use crate::random;

/// How long connecting may take, from the look-up of the name to the greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long Redis may take to answer before the connection counts as broken.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an idle connection is asked whether it lives.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(1);

/// A connection that says when it is lost. Dropping it closes it.
///
/// After an error of [`send`](Self::send), [`ping`](Self::ping) and their like, drop it:
/// redis-rs keeps using a connection that does not answer.
#[derive(Debug)]
pub(super) struct Link {
    connection: MultiplexedConnection,
    lost: Arc<Notify>,
}

impl Link {
    /// Connects. `on_message` gets the channel and the payload of each message; it runs in
    /// the task that reads the socket, and must not wait.
    pub(super) async fn open(
        client: &Client,
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
        let connect = client.get_multiplexed_async_connection_with_config(&config);
        let connection = timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| timed_out())??;
        Ok(Self { connection, lost })
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
        match redis::cmd("PING").exec_async(&mut self.connection).await {
            Err(error) if is_refusal(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sends commands in one go. The answers stand in their order, errors among them.
    pub(super) async fn send(&mut self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        commands.query_async(&mut self.connection).await
    }

    /// As [`send`](Self::send), but an error among the answers is the outcome.
    pub(super) async fn query<T: FromRedisValue>(&mut self, commands: &Pipeline) -> RedisResult<T> {
        commands.query_async(&mut self.connection).await
    }

    pub(super) async fn load(&mut self, scripts: &Scripts) -> RedisResult<()> {
        scripts.load(&mut self.connection).await
    }

    pub(super) async fn subscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        self.connection.subscribe(channels).await
    }

    pub(super) async fn unsubscribe(&mut self, channels: &[String]) -> RedisResult<()> {
        self.connection.unsubscribe(channels).await
    }
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

/// The code of an error that Redis answered, of the first one in a pipeline. Of one inside a
/// script it stands in the text, before Redis 7: `ERR Error running script (call to f_…):
/// @user_script: 7: -OOM …`.
pub(super) fn code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    let (_, error) = errors.first()?;
    let is_code = |word: &&str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase());
    let inside = error
        .details()
        .filter(|text| error.code() == "ERR" && text.starts_with("Error running script"))
        .and_then(|text| text.split(' ').map(|word| word.trim_start_matches('-')).find(is_code));
    Some(inside.unwrap_or(error.code()).to_owned())
}

/// Answers of a server that will work again by itself.
fn is_passing(code: &str) -> bool {
    matches!(code, "BUSY" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "TRYAGAIN")
}

/// How long to wait before the next attempt to connect: up to 50 ms, doubling to 2 s, each
/// time a random part of it, so that many servers do not come back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(2);

    pub(super) fn next(&mut self) -> Duration {
        let longest = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LAST);
        self.failures = self.failures.saturating_add(1);
        let part = random::bits() as f64 / u64::MAX as f64;
        longest.mul_f64(part)
    }

    /// The connection held for this long: the next loss is a new one.
    pub(super) fn connected_for(&mut self, time: Duration) {
        if time > Self::LAST {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_error_inside_a_script_is_found() {
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
        ] {
            let reply = redis::parse_redis_value(format!("{answer}\r\n").as_bytes()).unwrap();
            let code = code(&reply.extract_error().unwrap_err());
            assert_eq!(code.as_deref(), Some(expected), "{answer}");
        }
    }

    #[test]
    fn the_backoff_grows_to_its_limit_and_begins_anew() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= Backoff::FIRST);
        let longest = (0..200).map(|_| backoff.next()).max().unwrap();
        assert!(longest <= Backoff::LAST && longest > Backoff::LAST / 2, "{longest:?}");
        backoff.connected_for(Duration::from_secs(1));
        assert_ne!(backoff.failures, 0, "a connection that breaks at once proves nothing");
        backoff.connected_for(Duration::from_secs(3));
        assert!(backoff.next() <= Backoff::FIRST);
    }
}
