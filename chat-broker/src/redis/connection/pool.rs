//! The pool of connections for what is read and written now and then.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, RecycleResult};
use deadpool_redis::Manager;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult};

use super::connection_config;
use crate::error::BrokerError;
use crate::redis::error::is_refusal;
use crate::redis::health::refusals::CONNECT;
use crate::redis::shared::Shared;

/// For how long after its last use a connection is used again without a `PING`.
const TRUSTED: Duration = Duration::from_secs(1);

pub(crate) type Pool = managed::Pool<Connector>;

/// Opens connections as deadpool-redis does, and has a rule of its own for those to keep: that of
/// deadpool-redis ends a connection whose `PING` Redis refuses.
#[derive(Debug)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
    /// When a connection of the pool was found broken: what broke it may have broken the others.
    broken: Mutex<Option<Instant>>,
}

/// A pool of so many connections at most.
pub(crate) fn open(shared: &Arc<Shared>, size: usize) -> Result<Pool, BrokerError> {
    let deadline = Some(shared.config.deadline);
    Pool::builder(Connector { shared: Arc::clone(shared), broken: Mutex::default() })
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(deadline)
        .create_timeout(deadline)
        .recycle_timeout(deadline)
        .build()
        .map_err(BrokerError::config)
}

/// The time limits of every connection, and a count of those that are lost.
fn counted_config(shared: &Shared) -> AsyncConnectionConfig {
    let counters = Arc::clone(&shared.counters);
    connection_config().set_push_sender(move |push: PushInfo| {
        if push.kind == PushKind::Disconnection {
            counters.lost();
        }
        Ok::<_, Infallible>(())
    })
}

impl Connector {
    /// Records that a connection is broken: the others are tried before they are used.
    pub(crate) fn suspect_all(&self) {
        *self.broken.lock() = Some(Instant::now());
    }

    /// Whether a connection was handed out just now, and none was found broken since.
    fn is_trusted(&self, metrics: &Metrics) -> bool {
        let handed_out = metrics.recycled.unwrap_or(metrics.created);
        handed_out.elapsed() < TRUSTED
            && self.broken.lock().is_none_or(|broken| broken < handed_out)
    }

    /// As a trait object: futures nested as deep as these exceed a limit of the compiler.
    fn connect(
        &self,
    ) -> Pin<Box<dyn Future<Output = RedisResult<MultiplexedConnection>> + Send + '_>> {
        #[cfg(feature = "testing")]
        if self.shared.config.dial.is_some() {
            return Box::pin(async {
                super::connect(&self.shared, &counted_config(&self.shared)).await
            });
        }
        Box::pin(async {
            // Of each connection, as the certificates may have been replaced.
            let info = self.shared.client().get_connection_info().clone();
            let manager = Manager::new_with_config(info, counted_config(&self.shared))?;
            managed::Manager::create(&manager).await
        })
    }
}

impl managed::Manager for Connector {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<MultiplexedConnection> {
        let connected = self.connect().await;
        self.shared.refusals.count_error(CONNECT, &connected);
        if connected.is_ok() {
            self.shared.counters.opened();
        }
        connected
    }

    /// A refusal is a sign of life: Redis says instead that it cannot save its data, or that a
    /// script runs. Another connection would get the same answer.
    ///
    /// A connection that was in use a moment ago is not tried: a round trip costs both sides as much as
    /// a read, and a connection that breaks in that moment could break after a `PING` as well.
    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        metrics: &Metrics,
    ) -> RecycleResult<RedisError> {
        if self.is_trusted(metrics) {
            return Ok(());
        }
        let outcome = redis::cmd("PING").exec_async(connection).await;
        self.shared.refusals.count_error("PING", &outcome);
        match outcome {
            Err(error) if !is_refusal(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
