//! The settings of a client.

use std::time::Duration;

use chat_core::client::{Config, Resume, TokenError};

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
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { machine: Config::default(), token: None, event_queue: 256 }
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
}
