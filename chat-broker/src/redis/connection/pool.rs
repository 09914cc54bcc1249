//! The pool of connections for what is read and written now and then.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, RecycleResult};
use deadpool_redis::Manager;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult};

use super::connection_config;
use crate::error::BrokerError;
use crate::redis::error::is_refusal;
use crate::redis::health::refusals::CONNECT;
use crate::redis::shared::Shared;

pub(crate) type Pool = managed::Pool<Connector>;

/// Opens connections as deadpool-redis does, and has a rule of its own for those to keep: that of
/// deadpool-redis ends a connection whose `PING` Redis refuses.
#[derive(Debug)]
pub(crate) struct Connector {
    manager: Manager,
    shared: Arc<Shared>,
}

/// A pool of so many connections at most.
pub(crate) fn open(shared: &Arc<Shared>, size: usize) -> Result<Pool, BrokerError> {
    let info = shared.client.get_connection_info().clone();
    let manager =
        Manager::new_with_config(info, counted_config(shared)).map_err(BrokerError::config)?;
    let deadline = Some(shared.config.deadline);
    Pool::builder(Connector { manager, shared: Arc::clone(shared) })
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
        Box::pin(managed::Manager::create(&self.manager))
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
    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        _: &Metrics,
    ) -> RecycleResult<RedisError> {
        let outcome = redis::cmd("PING").exec_async(connection).await;
        self.shared.refusals.count_error("PING", &outcome);
        match outcome {
            Err(error) if !is_refusal(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
