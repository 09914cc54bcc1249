//! The settings of a client.

use std::fmt;
use std::time::Duration;

use super::token::Token;

/// Settings of a [`Machine`](super::Machine).
///
/// ```
/// use std::time::Duration;
/// use chat_core::client::Config;
///
/// let config = Config::default().name("Ann").send_timeout(Duration::from_secs(10));
/// assert_eq!(config.send_queue, 100);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The name of the user, as others see it. Default `None`: the server chooses one.
    pub name: Option<String>,
    /// The [`Welcome::resume`](super::Welcome::resume) of an earlier client, to be the same
    /// user. Default `None`: a new user, or the one whom the token names.
    pub resume: Option<Resume>,
    /// The token for a server that requires one. Default `None`.
    pub token: Option<Token>,
    /// The longest time from the start of a connection to the server's `welcome`. Fetching a token
    /// before that does not count. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a request waits for its answer, from when it is sent. Default 15 s.
    pub request_timeout: Duration,
    /// How long the client tries to send a message, over as many connections as it takes, from its
    /// first attempt. Before that, how long the message may wait without a connection, or without
    /// any message of its room being answered; the time that it waits because of the server's rate
    /// limits does not count. Default 30 s. Servers remember a key for five minutes: stay well
    /// below.
    pub send_timeout: Duration,
    /// Messages that may wait to be sent or confirmed, at least one; further ones fail with
    /// [`QueueFull`](super::ClientError::QueueFull). Also the requests that may wait for an
    /// answer. Default 100.
    pub send_queue: usize,
    /// The first pause before a reconnect is random and below this; the bound doubles with each
    /// further one. Default 0.5 s.
    pub backoff_base: Duration,
    /// The longest pause, except for one that the server asks for. Default 20 s.
    pub backoff_cap: Duration,
    /// How long the server may be silent before it is pinged. Default 25 s.
    pub ping_after: Duration,
    /// How long the server then has for an answer, which may be any frame. Default 10 s.
    pub pong_timeout: Duration,
    /// While a request is unanswered, both of these times: so a connection that has lost a request is
    /// abandoned after twice this time, by default 5 s. A healthy server may take as long to read a ping,
    /// behind what it reads at its own rate. So the next connection may take twice as long to answer, and
    /// so on up to eight times, until nothing is unanswered.
    pub check_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            resume: None,
            token: None,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(15),
            send_timeout: Duration::from_secs(30),
            send_queue: 100,
            backoff_base: Duration::from_millis(500),
            backoff_cap: Duration::from_secs(20),
            ping_after: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            check_timeout: Duration::from_secs(5),
        }
    }
}

impl Config {
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

    /// Sets [`token`](Self::token).
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
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

    /// Sets [`backoff_base`](Self::backoff_base).
    #[must_use]
    pub fn backoff_base(mut self, base: Duration) -> Self {
        self.backoff_base = base;
        self
    }

    /// Sets [`backoff_cap`](Self::backoff_cap).
    #[must_use]
    pub fn backoff_cap(mut self, cap: Duration) -> Self {
        self.backoff_cap = cap;
        self
    }

    /// Sets [`ping_after`](Self::ping_after).
    #[must_use]
    pub fn ping_after(mut self, time: Duration) -> Self {
        self.ping_after = time;
        self
    }

    /// Sets [`pong_timeout`](Self::pong_timeout).
    #[must_use]
    pub fn pong_timeout(mut self, timeout: Duration) -> Self {
        self.pong_timeout = timeout;
        self
    }

    /// Sets [`check_timeout`](Self::check_timeout).
    #[must_use]
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.check_timeout = timeout;
        self
    }
}

/// The secret that identifies the user of a client to every server. `Debug` hides it.
///
/// ```
/// use chat_core::client::{Config, Resume};
///
/// let stored = String::from("…"); // `Resume::as_str` of an earlier client
/// let config = Config::default().resume(Resume::new(stored));
/// assert_eq!(config.resume.unwrap().as_str(), "…");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Resume(String);

impl Resume {
    /// The secret with this text, which [`as_str`](Self::as_str) returned.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The text; store it in a safe place.
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
