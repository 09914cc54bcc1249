//! How a client behaves.

use std::fmt;
use std::time::Duration;

use super::token::Token;

/// Settings of a [`Machine`](super::Machine).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The user's name. Without one the server makes one up.
    pub name: Option<String>,
    /// The [`Welcome::resume`](super::Welcome::resume) of an earlier client, to be the same user.
    pub resume: Option<Resume>,
    /// What the client shows to a server that asks for tokens.
    pub token: Option<Token>,
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
    /// Messages that may wait to be sent or confirmed, at least one; further ones fail with
    /// [`QueueFull`](super::ClientError::QueueFull). Also the requests that may wait for an
    /// answer. Default 100.
    pub send_queue: usize,
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
        }
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
