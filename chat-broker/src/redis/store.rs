//! What is read and written now and then, through a small pool of connections.

use std::convert::Infallible;
use std::sync::Arc;

use chat_core::Topic;
use deadpool_redis::{Connection, Hook, Manager, Pool, PoolError, Runtime};
use redis::{FromRedisValue, Pipeline, PushInfo, PushKind};
use tokio::time::timeout;

use super::Shared;
use super::answer::wants_reconnect;
use super::link::{broker_error, code, connection_config};
use super::mark::{Mark, Stored};
use super::records::RecordState;
use super::secret::SecretState;
use super::{script, wire};
use crate::error::BrokerError;

/// Connections at most.
const POOL_SIZE: usize = 4;

/// Topics in one pipeline.
const MAX_TOPICS: usize = 256;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) records: RecordState,
    pub(super) secret: SecretState,
    pool: Pool,
}

impl Store {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, BrokerError> {
        let info = shared.client.get_connection_info().clone();
        let on_push = {
            let counters = Arc::clone(&shared.counters);
            move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    counters.lost();
                }
                Ok::<_, Infallible>(())
            }
        };
        let config = connection_config().set_push_sender(on_push);
        let manager = Manager::new_with_config(info, config).map_err(BrokerError::config)?;
        let counters = Arc::clone(&shared.counters);
        let deadline = Some(shared.config.deadline);
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .runtime(Runtime::Tokio1)
            .wait_timeout(deadline)
            .create_timeout(deadline)
            .recycle_timeout(deadline)
            .post_create(Hook::sync_fn(move |_, _| {
                counters.opened();
                Ok(())
            }))
            .build()
            .map_err(BrokerError::config)?;
        Ok(Self { shared, records: RecordState::default(), secret: SecretState::default(), pool })
    }

    /// See [`Broker::positions`](crate::Broker::positions).
    pub(super) async fn positions(&self, topics: &[Topic]) -> Result<Vec<Mark>, BrokerError> {
        let read = async {
            let mut marks = Vec::with_capacity(topics.len());
            for topics in topics.chunks(MAX_TOPICS) {
                let mut commands = Pipeline::with_capacity(topics.len());
                for topic in topics {
                    let address = self.shared.names.address(topic);
                    commands.cmd("HMGET").arg(address.meta()).arg(&["epoch", "offset", "id"]);
                }
                for stored in self.query::<Vec<Stored>>(&commands).await? {
                    marks.push(Mark::parse(stored).ok_or_else(malformed)?);
                }
            }
            Ok(marks)
        };
        self.in_time(read).await
    }

    /// Sends something to a channel; returns whether Redis took it.
    pub(super) async fn probe(&self, channel: &str) -> bool {
        let mut commands = Pipeline::with_capacity(1);
        commands.cmd("PUBLISH").arg(channel).arg(wire::ephemeral(b"")).ignore();
        self.in_time(self.query::<()>(&commands)).await.is_ok()
    }

    /// Sends commands in one go. Scripts that Redis does not know are stored first, and
    /// all is sent again: only for what may be done twice.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, BrokerError> {
        let mut connection = self.pool.get().await.map_err(pool_error)?;
        let counters = &self.shared.counters;
        let mut outcome = counters.timed(commands.query_async(&mut connection)).await;
        if outcome.as_ref().is_err_and(script::was_unknown) {
            outcome = match self.shared.scripts.load(&mut connection).await {
                Ok(()) => counters.timed(commands.query_async(&mut connection)).await,
                Err(error) => Err(error),
            };
        }
        let error = match outcome {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if code(&error).is_none() || wants_reconnect(&error) {
            // It may be the connection: the next caller should not get it.
            drop(Connection::take(connection));
            if error.is_timeout() {
                counters.lost();
            }
        }
        Err(broker_error(error))
    }

    /// Fails `work` when the deadline has passed.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        timeout(self.shared.config.deadline, work)
            .await
            .unwrap_or_else(|_| Err(BrokerError::unavailable("redis did not answer in time")))
    }
}

pub(super) fn malformed() -> BrokerError {
    BrokerError::refused("malformed epoch in redis")
}

fn pool_error(error: PoolError) -> BrokerError {
    match error {
        PoolError::Backend(error) => broker_error(error),
        error => BrokerError::unavailable(error),
    }
}
