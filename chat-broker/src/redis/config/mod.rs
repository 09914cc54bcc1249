//! Settings of the Redis backend.

mod tls;
mod url;

use std::fmt;
use std::time::Duration;
#[cfg(feature = "testing")]
use std::{io, pin::Pin, sync::Arc};

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
#[cfg(feature = "testing")]
use tokio::io::DuplexStream;

use crate::error::BrokerError;
use tls::Tls;

/// Longest prefix, in bytes.
const MAX_PREFIX: usize = 64;

/// Longest lifetime of anything.
pub(super) const MAX_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Shortest and longest lease of a node.
const MIN_LEASE: Duration = Duration::from_millis(100);
const MAX_LEASE: Duration = Duration::from_secs(60 * 60);

/// After how long without traffic the kernel probes a connection.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Settings of a [`RedisBroker`](super::RedisBroker).
///
/// ```
/// use std::time::Duration;
/// use chat_broker::RedisConfig;
///
/// let config = RedisConfig::new("redis://:secret@redis.example:6379/0")
///     .prefix("support-chat")
///     .deadline(Duration::from_secs(3));
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
///
/// Each setter takes and returns the settings, as in [`HubConfig`](crate::HubConfig). The fields
/// are private, since the URL has a password and the certificate a key.
#[derive(Clone)]
pub struct RedisConfig {
    url: String,
    tls: Tls,
    pub(super) prefix: String,
    pub(super) publish_connections: usize,
    pub(super) publish_queue: usize,
    pub(super) event_queue: usize,
    pub(super) deadline: Duration,
    pub(super) position_ttl: Duration,
    pub(super) lease: Duration,
    pub(super) grace: Duration,
    #[cfg(feature = "testing")]
    pub(super) dial: Option<Dial>,
}

/// Opens a stream to Redis, in the place of a socket.
#[cfg(feature = "testing")]
pub type Dial = Arc<dyn Fn() -> Dialing + Send + Sync>;

/// The stream that a [`Dial`] opens.
#[cfg(feature = "testing")]
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>;

impl RedisConfig {
    /// Settings for the Redis at `url`, with the defaults of all others.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls: Tls::default(),
            prefix: "chat".to_owned(),
            publish_connections: 1,
            publish_queue: 8192,
            event_queue: 8192,
            deadline: Duration::from_secs(5),
            position_ttl: Duration::from_secs(24 * 60 * 60),
            lease: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            #[cfg(feature = "testing")]
            dial: None,
        }
    }

    /// The URL of Redis: `redis://[[user]:password@]host[:port][/database]`, `rediss://` for
    /// TLS, `unix:///path[?db=…&user=…&pass=…]` for a socket. Default `redis://127.0.0.1:6379`.
    /// Redis 6 or later, or Valkey; neither Cluster nor Sentinel. What a URL holds beside that is
    /// refused, and so is `#insecure`: certificates are always checked.
    ///
    /// A TLS server must have a certificate that the operating system (or the file in
    /// `SSL_CERT_FILE`) or [`ca_certificate`](Self::ca_certificate) vouches for; it asks for
    /// [`client_certificate`](Self::client_certificate) by default.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// The certificates of the authorities that may sign the server's, in PEM, instead of the
    /// operating system's. For `rediss://` only. Default: the operating system's.
    #[must_use]
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls.authority = Some(pem.into());
        self
    }

    /// The identity of this client for a server that asks for a certificate, as Redis does by
    /// default (`tls-auth-clients yes`): its certificate, followed by those that lead to an
    /// authority which the server trusts, and the private key, both in PEM. For `rediss://` only.
    /// Default: none.
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.tls.client = Some((certificate.into(), key.into()));
        self
    }

    /// Takes the certificates of another configuration.
    pub(super) fn certificates_of(mut self, other: &Self) -> Self {
        self.tls = other.tls.clone();
        self
    }

    /// Beginning of all keys and channels; default `chat`. Servers form one chat if they
    /// have one Redis and one prefix. 1 to 64 letters, digits, `-`, `_`, `.` or `:`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Connections to publish on; default 1, which carries as much as one thread of
    /// a near Redis takes. More help against latency; each costs a task, a socket and
    /// its own queue, and batches get smaller.
    #[must_use]
    pub fn publish_connections(mut self, connections: usize) -> Self {
        self.publish_connections = connections;
        self
    }

    /// Publications that wait for each connection at most; default 8192, and never more
    /// than 64 MiB of payload. When it is full, `publish` waits, up to the
    /// [`deadline`](Self::deadline).
    #[must_use]
    pub fn publish_queue(mut self, publications: usize) -> Self {
        self.publish_queue = publications;
        self
    }

    /// Publications that wait to be read from the events at most; default 8192, and never
    /// more than 64 MiB of payload. When it is full they are dropped, and the reader gets
    /// [`BrokerEvent::Lagged`](crate::BrokerEvent::Lagged).
    #[must_use]
    pub fn event_queue(mut self, publications: usize) -> Self {
        self.event_queue = publications;
        self
    }

    /// How long a call waits for Redis before it fails, an hour at most; default 5 s. A publication
    /// that is in flight at its deadline waits up to 2 s more for its answer.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long, at least, Redis keeps the position of a topic in which nothing is published, a
    /// second to ten years; default 24 h. Then the topic begins a new epoch.
    ///
    /// A history that is kept for at least as long is the position of its topic, and if Redis loses
    /// it, the topic begins a new epoch. A topic whose [`Retention`](chat_core::Retention) is
    /// shorter has a position besides, which takes about 170 bytes in Redis and a write with each
    /// publication; it continues in its epoch when the history has expired.
    #[must_use]
    pub fn position_ttl(mut self, ttl: Duration) -> Self {
        self.position_ttl = ttl;
        self
    }

    /// How long a node that does not renew its lease counts as alive, 100 ms to an hour; default 10
    /// s. Its users leave within this time and 5 s more, if there is another node. A node that
    /// could not reach Redis for longer sends its users again.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long the users of a node that was [closed](crate::Broker::close) may take to connect to
    /// another node without a leave, up to an hour; default 5 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Connects by `dial` and not over the operating system's network, so that a test decides what
    /// arrives, and when. The URL still says how to log in, and to which database.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn dial(mut self, dial: Dial) -> Self {
        self.dial = Some(dial);
        self
    }

    /// Checks the settings, as far as that is possible without a connection.
    ///
    /// ```
    /// use chat_broker::RedisConfig;
    ///
    /// assert!(RedisConfig::new("redis://127.0.0.1/3").check().is_ok());
    /// assert!(RedisConfig::new("http://127.0.0.1").check().is_err());
    /// ```
    ///
    /// # Errors
    /// [`BrokerError::Config`] if one is invalid: the error that
    /// [`RedisBroker::connect`](super::RedisBroker::connect) returns.
    pub fn check(&self) -> Result<(), BrokerError> {
        self.client().map(drop)
    }

    /// The URL with its port and database and without a user and a password, for the log and for
    /// operators. Of a URL that [`check`](Self::check) rejects it may be `an invalid URL`.
    ///
    /// ```
    /// use chat_broker::RedisConfig;
    ///
    /// let config = RedisConfig::new("redis://ann:secret@redis.example/3");
    /// assert_eq!(config.address(), "redis://redis.example:6379/3");
    /// let config = RedisConfig::new("redis://127.0.0.1:17961");
    /// assert_eq!(config.address(), "redis://127.0.0.1:17961/0");
    /// let config = RedisConfig::new("unix:///run/redis.sock?pass=secret");
    /// assert_eq!(config.address(), "unix:///run/redis.sock?db=0");
    /// ```
    #[must_use]
    pub fn address(&self) -> String {
        url::without_credentials(&self.url).unwrap_or_else(|| "an invalid URL".to_owned())
    }

    /// The client of these settings.
    pub(super) fn client(&self) -> Result<Client, BrokerError> {
        self.check_values()?;
        url::check(&self.url).map_err(BrokerError::config)?;
        let info = self.connection_info().map_err(BrokerError::config)?;
        self.tls.client(info).map_err(BrokerError::config)
    }

    /// The client of these settings, on a machine that can verify the certificate of a Redis behind
    /// TLS.
    pub(super) fn verifying_client(&self) -> Result<Client, BrokerError> {
        let client = self.client()?;
        if matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }) {
            self.tls.check_authorities().map_err(BrokerError::config)?;
        }
        Ok(client)
    }

    fn check_values(&self) -> Result<(), BrokerError> {
        let in_prefix = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let wrong = if !(1..=MAX_PREFIX).contains(&self.prefix.len())
            || !self.prefix.bytes().all(in_prefix)
        {
            "the prefix must be 1 to 64 letters, digits, '-', '_', '.' or ':'"
        } else if self.publish_connections == 0 {
            "publish_connections must be at least 1"
        } else if self.publish_queue == 0 || self.event_queue == 0 {
            "a queue must have room for at least 1"
        } else if self.deadline.is_zero() || self.deadline > MAX_LEASE {
            "the deadline must be greater than zero and at most an hour"
        } else if !(Duration::from_secs(1)..=MAX_TTL).contains(&self.position_ttl) {
            "the lifetime of positions must be a second to ten years"
        } else if !(MIN_LEASE..=MAX_LEASE).contains(&self.lease) {
            "the lease must be 100 ms to an hour"
        } else if self.grace > MAX_LEASE {
            "the grace must be at most an hour"
        } else {
            return Ok(());
        };
        Err(BrokerError::config(wrong))
    }

    fn connection_info(&self) -> redis::RedisResult<ConnectionInfo> {
        let info = self.url.as_str().into_connection_info()?;
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        // One command less to permit, and Redis before 7.2 does not know it.
        let redis = redis.set_skip_set_lib_name();
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE));
        Ok(info.set_redis_settings(redis).set_tcp_settings(tcp))
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self::new("redis://127.0.0.1:6379")
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &self.address())
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .field("publish_connections", &self.publish_connections)
            .field("publish_queue", &self.publish_queue)
            .field("event_queue", &self.event_queue)
            .field("deadline", &self.deadline)
            .field("position_ttl", &self.position_ttl)
            .field("lease", &self.lease)
            .field("grace", &self.grace)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for url in [
            "redis://:hunter2@host",
            "redis://user:hunter2@host/1",
            "rediss://u:p@hunter2@host",
            "unix:///run/redis.sock?pass=hunter2",
        ] {
            let shown = format!("{:?}", RedisConfig::new(url));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn invalid_settings_are_refused() {
        let good = RedisConfig::default();
        assert!(good.client().is_ok());
        for bad in [
            good.clone().url("http://host"),
            good.clone().url("redis://host/x"),
            good.clone().url(""),
            good.clone().prefix(""),
            good.clone().prefix("a{b"),
            good.clone().prefix("x".repeat(65)),
            good.clone().publish_connections(0),
            good.clone().publish_queue(0),
            good.clone().event_queue(0),
            good.clone().deadline(Duration::ZERO),
            good.clone().position_ttl(Duration::from_millis(999)),
            good.clone().position_ttl(Duration::MAX),
            good.clone().lease(Duration::from_millis(99)),
            good.clone().lease(Duration::MAX),
            good.clone().grace(Duration::MAX),
        ] {
            assert!(matches!(bad.client(), Err(BrokerError::Config(_))), "{bad:?}");
        }
    }
}
