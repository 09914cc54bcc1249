//! The pool of connections for what is read and written now and then.

use std::convert::Infallible;
use std::sync::Arc;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, RecycleResult};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult};

use super::{connect, connection_config};
use crate::error::BrokerError;
use crate::redis::error::is_refusal;
use crate::redis::health::refusals::CONNECT;
use crate::redis::shared::Shared;

pub(crate) type Pool = managed::Pool<Connector>;

/// Opens connections, and says which are kept.
#[derive(Debug)]
pub(crate) struct Connector {
    shared: Arc<Shared>,
}

/// A pool of so many connections at most.
pub(crate) fn open(shared: &Arc<Shared>, size: usize) -> Result<Pool, BrokerError> {
    let deadline = Some(shared.config.deadline);
    Pool::builder(Connector { shared: Arc::clone(shared) })
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

impl managed::Manager for Connector {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<MultiplexedConnection> {
        let connected = connect(&self.shared, &counted_config(&self.shared)).await;
        self.shared.refusals.count_error(CONNECT, &connected);
        if connected.is_ok() {
            self.shared.counters.opened();
        }
        connected
    }

    /// A refusal is a sign of life: Redis says instead that it cannot save its data, or that a
    /// script runs. Another connection would be told the same.
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
