//! The settings of a client.

use std::io;
use std::time::Duration;

use chat_core::client::{Config, Resume, TokenError};

use tokio::io::{AsyncRead, AsyncWrite};

use super::connect::{self, ConnectOptions, Endpoint};
use super::token::TokenSource;

/// Settings of a [`Client`](super::Client).
///
/// ```
/// use std::time::Duration;
/// use chat_transport::client::ClientConfig;
///
/// let config = ClientConfig::default()
///     .name("Ann")
///     .send_timeout(Duration::from_secs(10));
/// assert_eq!(config.machine.send_queue, 100);
/// assert_eq!(config.event_queue, 256);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Settings of the protocol: names, timeouts, queues and pauses. Its [`token`](Config::token) is
    /// not used; the client uses the one below.
    pub machine: Config,
    /// The source of the tokens for a server that requires them: one for each `hello`. Default
    /// `None`.
    pub token: Option<TokenSource>,
    /// Events that may wait to be read, at least one. Default 256. While as many wait, the client
    /// does not read the socket; see [`Events`](super::Events).
    pub event_queue: usize,
    pub(super) connect: ConnectOptions,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            machine: Config::default(),
            token: None,
            event_queue: 256,
            connect: ConnectOptions::default(),
        }
    }
}

impl ClientConfig {
    /// Sets [`token`](Self::token) to a token that never changes.
    ///
    /// ```
    /// let config = chat_transport::client::ClientConfig::default().token("a.b.c");
    /// ```
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(TokenSource::fixed(token));
        self
    }

    /// Sets [`token`](Self::token) to tokens that `fetch` returns; see [`TokenSource::fetched`].
    ///
    /// ```
    /// use chat_transport::client::ClientConfig;
    ///
    /// # async fn from_the_backend() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// let config = ClientConfig::default().token_from(from_the_backend);
    /// ```
    #[must_use]
    pub fn token_from<A, F, E>(mut self, fetch: A) -> Self
    where
        A: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<TokenError>,
    {
        self.token = Some(TokenSource::fetched(fetch));
        self
    }

    /// Sets [`event_queue`](Self::event_queue).
    #[must_use]
    pub fn event_queue(mut self, events: usize) -> Self {
        self.event_queue = events;
        self
    }
}

/// Setters of how connections are opened.
impl ClientConfig {
    /// Adds a header to the request of each handshake: a cookie, `Authorization`, `Origin`,
    /// `User-Agent`. Its value is sent to every address of the client, and is not encrypted over
    /// `ws://`. `Debug` shows the names alone.
    ///
    /// At most 64 headers, of visible ASCII, and none of the handshake itself (`Host`, `Connection`,
    /// `Upgrade`, `Sec-WebSocket-…`): otherwise [`Client::connect`](super::Client::connect) fails
    /// with [`ClientError::Header`](super::ClientError::Header).
    ///
    /// ```
    /// use chat_transport::client::ClientConfig;
    ///
    /// let config = ClientConfig::default()
    ///     .header("Cookie", "session=31d4d96e407aad42")
    ///     .header("User-Agent", "echo-bot/1.0");
    /// assert!(!format!("{config:?}").contains("31d4d96e407aad42"));
    /// ```
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.connect.headers.push((name.into(), value.into()));
        self
    }

    /// Trusts the authorities with these certificates, in PEM, for `wss://` addresses, instead of
    /// those that the operating system trusts (or the file in `SSL_CERT_FILE`, or the directory in
    /// `SSL_CERT_DIR`). Certificates that are invalid are an error of
    /// [`Client::connect`](super::Client::connect), [`ClientError::Tls`](super::ClientError::Tls).
    ///
    /// A server whose certificate is not accepted is tried again, as it may have another one by
    /// then; [`State::Waiting`](super::State::Waiting) has the reason: "the certificate of
    /// chat.example is not accepted: it has expired" (or "it is not valid yet", "it is for another
    /// name", "no trusted authority has signed it").
    ///
    /// ```no_run
    /// use chat_transport::client::{Client, ClientConfig};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = ClientConfig::default().root_certificates(std::fs::read("ca.pem")?);
    /// let (client, events) = Client::connect(["wss://chat.internal/ws"], config)?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "client-tls")]
    #[must_use]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.connect.root_certificates = Some(pem.into());
        self
    }

    /// Opens each connection with `connect` instead of TCP: through a proxy, over a Unix socket, or
    /// in memory for a test. The time that it takes counts towards
    /// [`connect_timeout`](Config::connect_timeout), after which its future is dropped.
    ///
    /// For `wss://` addresses the client encrypts the stream. For TLS settings of one's own, such as a
    /// client certificate, return an encrypted stream and use `ws://` addresses.
    ///
    /// ```no_run
    /// use chat_transport::client::{Client, ClientConfig};
    /// use tokio::net::UnixStream;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = ClientConfig::default()
    ///     .connector(|_endpoint| UnixStream::connect("/run/chat.sock"));
    /// let (client, events) = Client::connect(["ws://localhost/ws"], config)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn connector<C, F, S>(mut self, connect: C) -> Self
    where
        C: Fn(Endpoint) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.connect.connector = Some(connect::connector(connect));
        self
    }
}

/// Setters of the [`machine`](ClientConfig::machine).
impl ClientConfig {
    /// Sets [`name`](Config::name).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.machine = self.machine.name(name);
        self
    }

    /// Sets [`resume`](Config::resume).
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.machine = self.machine.resume(resume);
        self
    }

    /// Sets [`connect_timeout`](Config::connect_timeout).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.machine = self.machine.connect_timeout(timeout);
        self
    }

    /// Sets [`request_timeout`](Config::request_timeout).
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.machine = self.machine.request_timeout(timeout);
        self
    }

    /// Sets [`send_timeout`](Config::send_timeout).
    #[must_use]
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.machine = self.machine.send_timeout(timeout);
        self
    }

    /// Sets [`send_queue`](Config::send_queue).
    #[must_use]
    pub fn send_queue(mut self, messages: usize) -> Self {
        self.machine = self.machine.send_queue(messages);
        self
    }

    /// Sets [`backoff_base`](Config::backoff_base).
    #[must_use]
    pub fn backoff_base(mut self, base: Duration) -> Self {
        self.machine = self.machine.backoff_base(base);
        self
    }

    /// Sets [`backoff_cap`](Config::backoff_cap).
    #[must_use]
    pub fn backoff_cap(mut self, cap: Duration) -> Self {
        self.machine = self.machine.backoff_cap(cap);
        self
    }

    /// Sets [`ping_after`](Config::ping_after).
    #[must_use]
    pub fn ping_after(mut self, time: Duration) -> Self {
        self.machine = self.machine.ping_after(time);
        self
    }

    /// Sets [`pong_timeout`](Config::pong_timeout).
    #[must_use]
    pub fn pong_timeout(mut self, timeout: Duration) -> Self {
        self.machine = self.machine.pong_timeout(timeout);
        self
    }

    /// Sets [`check_timeout`](Config::check_timeout).
    #[must_use]
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.machine = self.machine.check_timeout(timeout);
        self
    }
}
