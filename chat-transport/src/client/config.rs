//! How a client behaves.

use std::fmt;
use std::time::Duration;

use super::token::{TokenError, TokenSource};

/// Settings of a [`Client`](super::Client).
///
/// ```
/// use std::time::Duration;
/// use chat_transport::client::ClientConfig;
///
/// let config = ClientConfig::default()
///     .name("Ann")
///     .send_timeout(Duration::from_secs(10));
/// assert_eq!(config.send_queue, 100);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The user's name. Without one the server makes one up.
    pub name: Option<String>,
    /// What an earlier client's [`Welcome::resume`](super::Welcome::resume) was, to be the
    /// same user.
    pub resume: Option<Resume>,
    /// What the client shows to a server that asks for tokens: one from here for each `hello`.
    pub token: Option<TokenSource>,
    /// From the first byte of a connection to the server's welcome. What it takes to get a
    /// token before is not part of it. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a request waits for its answer, from when it is sent. Default 15 s.
    pub request_timeout: Duration,
    /// How long a message is tried to be sent, over as many connections as it takes: from its
    /// first attempt. Before that, how long it may wait without a connection, or without any
    /// message of its room being answered; the time that it waits for its turn at the server's
    /// rates does not count. Default 30 s. Servers remember a key for five minutes: stay well
    /// below.
    pub send_timeout: Duration,
    /// Messages that may wait to be sent or confirmed, at least one; further ones
    /// [wait](super::Client::send), or fail with [`QueueFull`](super::ClientError::QueueFull) if
    /// they were only to be [tried](super::Client::try_send). Also the requests that may wait
    /// for an answer; further ones fail. Default 100.
    pub send_queue: usize,
    /// Events that may wait to be read, at least one. Default 256. When as many wait, the
    /// socket is not read either; see [`Events`](super::Events).
    pub event_queue: usize,
    /// The first pause before a reconnect is a random one below this, and each further one
    /// below twice as much as before. Default 0.5 s.
    pub backoff_base: Duration,
    /// No pause is longer, but for one that the server asks for. Default 20 s.
    pub backoff_cap: Duration,
    /// How long the server may be silent before it is pinged. Default 25 s.
    pub ping_after: Duration,
    /// How long it then has for an answer, which may be anything. Default 10 s.
    pub pong_timeout: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            name: None,
            resume: None,
            token: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(15),
            send_timeout: Duration::from_secs(30),
            send_queue: 100,
            event_queue: 256,
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(20),
            ping_after: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
        }
    }
}

impl ClientConfig {
    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets [`resume`](Self::resume).
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.resume = Some(resume);
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

    /// Sets [`connect_timeout`](Self::connect_timeout).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`request_timeout`](Self::request_timeout).
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets [`send_timeout`](Self::send_timeout).
    #[must_use]
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.send_timeout = timeout;
        self
    }

    /// Sets [`send_queue`](Self::send_queue).
    #[must_use]
    pub fn send_queue(mut self, messages: usize) -> Self {
        self.send_queue = messages;
        self
    }

    /// Sets [`event_queue`](Self::event_queue).
    #[must_use]
    pub fn event_queue(mut self, events: usize) -> Self {
        self.event_queue = events;
        self
    }

    /// Sets [`backoff_base`](Self::backoff_base) and [`backoff_cap`](Self::backoff_cap).
    #[must_use]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.backoff_base = base;
        self.backoff_cap = cap;
        self
    }

    /// Sets [`ping_after`](Self::ping_after) and [`pong_timeout`](Self::pong_timeout).
    #[must_use]
    pub fn ping(mut self, after: Duration, timeout: Duration) -> Self {
        self.ping_after = after;
        self.pong_timeout = timeout;
        self
    }
}

/// What proves to every server that a client is a certain user. A secret: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Resume(String);

impl Resume {
    /// Takes a text that [`as_str`](Self::as_str) gave.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The text, to be kept in a safe place.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resume(..)")
    }
}
