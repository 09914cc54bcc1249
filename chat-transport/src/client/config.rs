//! How a client behaves.

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
    /// The behaviour of the protocol: names, timeouts, queues and pauses. Its
    /// [`token`](Config::token) is not used: see below.
    pub machine: Config,
    /// What the client shows to a server that asks for tokens: one from here for each `hello`.
    pub token: Option<TokenSource>,
    /// Events that may wait to be read, at least one. Default 256. When as many wait, the
    /// socket is not read either; see [`Events`](super::Events).
    pub event_queue: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { machine: Config::default(), token: None, event_queue: 256 }
    }
}

impl ClientConfig {
    /// Sets [`name`](Config::name).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.machine.name = Some(name.into());
        self
    }

    /// Sets [`resume`](Config::resume).
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.machine.resume = Some(resume);
        self
    }

    /// Sets [`token`](Self::token) to one that is always the same.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(TokenSource::fixed(token));
        self
    }

    /// Sets [`token`](Self::token) to one that `ask` is asked for; see [`TokenSource::asked`].
    ///
    /// ```
    /// use chat_transport::client::ClientConfig;
    ///
    /// # async fn from_the_backend() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// let config = ClientConfig::default().token_from(from_the_backend);
    /// ```
    #[must_use]
    pub fn token_from<A, F, E>(mut self, ask: A) -> Self
    where
        A: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<TokenError>,
    {
        self.token = Some(TokenSource::asked(ask));
        self
    }

    /// Sets [`connect_timeout`](Config::connect_timeout).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.machine.connect_timeout = timeout;
        self
    }

    /// Sets [`request_timeout`](Config::request_timeout).
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.machine.request_timeout = timeout;
        self
    }

    /// Sets [`send_timeout`](Config::send_timeout).
    #[must_use]
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.machine.send_timeout = timeout;
        self
    }

    /// Sets [`send_queue`](Config::send_queue).
    #[must_use]
    pub fn send_queue(mut self, messages: usize) -> Self {
        self.machine.send_queue = messages;
        self
    }

    /// Sets [`event_queue`](Self::event_queue).
    #[must_use]
    pub fn event_queue(mut self, events: usize) -> Self {
        self.event_queue = events;
        self
    }

    /// Sets [`backoff_base`](Config::backoff_base) and [`backoff_cap`](Config::backoff_cap).
    #[must_use]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.machine.backoff_base = base;
        self.machine.backoff_cap = cap;
        self
    }

    /// Sets [`ping_after`](Config::ping_after) and [`pong_timeout`](Config::pong_timeout).
    #[must_use]
    pub fn ping(mut self, after: Duration, timeout: Duration) -> Self {
        self.machine.ping_after = after;
        self.machine.pong_timeout = timeout;
        self
    }
}
