//! What the rooms live in: Redis, or the memory of this process.

use std::time::Duration;

use chat_server::{Server, ServerBuilder};
use tracing::info;

use crate::settings::{Exit, Redis};

#[cfg(feature = "redis")]
pub(crate) use with_redis::Engine;
#[cfg(not(feature = "redis"))]
pub(crate) use without_redis::Engine;

impl Engine {
    /// A server with its broker.
    ///
    /// # Errors
    /// A setting cannot be used. An unreachable Redis is no error.
    pub(crate) async fn start(
        settings: &Redis,
        grace: Duration,
    ) -> Result<(ServerBuilder, Self), Exit> {
        match settings.url() {
            Some(url) => Self::connect(settings, url, grace).await,
            None => {
                info!("no redis-url: rooms live in the memory of this process alone");
                Ok((Server::builder(), Self::default()))
            }
        }
    }
}

#[cfg(feature = "redis")]
mod with_redis {
    use std::sync::Arc;

    use chat_broker::{Broker, RedisBroker, RedisConfig};

    use super::{Duration, Exit, Redis, Server, ServerBuilder};
    use crate::settings::Invalid;

    /// The broker of Redis, and its URL.
    #[derive(Default)]
    pub(crate) struct Engine(Option<(Arc<RedisBroker>, String)>);

    /// Of these settings the certificates count.
    type Certificates = Option<RedisConfig>;

    impl Engine {
        pub(super) async fn connect(
            settings: &Redis,
            url: &str,
            grace: Duration,
        ) -> Result<(ServerBuilder, Self), Exit> {
            let config = settings.config(url, grace)?;
            // What the settings are made of has been checked.
            let (broker, events) = RedisBroker::connect(config)
                .await
                .map_err(|error| Invalid::hidden("redis-url", error.to_string()))?;
            let broker = Arc::new(broker);
            let shared: Arc<dyn Broker> = broker.clone();
            Ok((Server::builder().broker(shared, events), Self(Some((broker, url.to_owned())))))
        }

        /// Reads the certificates for the Redis of the start. They are checked, and not in effect yet.
        ///
        /// # Errors
        /// One cannot be used.
        pub(crate) fn read_certificates(&self, settings: &Redis) -> Result<Certificates, Exit> {
            let Some((_, url)) = &self.0 else { return Ok(None) };
            Ok(Some(settings.config(url, Duration::ZERO)?))
        }

        /// Opens connections to Redis with these certificates from now on.
        pub(crate) fn replace_certificates(&self, read: &Certificates) -> Result<(), Exit> {
            let (Some((broker, _)), Some(config)) = (&self.0, read) else { return Ok(()) };
            let invalid = |error: chat_broker::BrokerError| Exit::System(error.to_string());
            broker.replace_certificates(config).map_err(invalid)
        }
    }
}

#[cfg(not(feature = "redis"))]
mod without_redis {
    use super::{Duration, Exit, Redis, ServerBuilder};

    #[derive(Default)]
    pub(crate) struct Engine(());

    /// There are none.
    pub(crate) struct Certificates;

    impl Engine {
        #[allow(clippy::unused_async, reason = "as with the feature")]
        pub(super) async fn connect(
            _: &Redis,
            _: &str,
            _: Duration,
        ) -> Result<(ServerBuilder, Self), Exit> {
            Err(Exit::without("redis"))
        }

        #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "as with the feature")]
        pub(crate) fn read_certificates(&self, _: &Redis) -> Result<Certificates, Exit> {
            Ok(Certificates)
        }

        #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "as with the feature")]
        pub(crate) fn replace_certificates(&self, _: &Certificates) -> Result<(), Exit> {
            Ok(())
        }
    }
}
