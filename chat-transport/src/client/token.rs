//! Tokens: where they come from, and when the next one is due.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};

use super::backoff::{fraction, jittered, later, random};
use super::events::Loss;
use super::frames::{ID_BYTES, Outgoing};
use super::requests::Request;
use super::task::Task;

/// The pause, to which jitter is added, before a renewal that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// A source that takes longer is asked again.
const ASK_TIMEOUT: Duration = Duration::from_secs(120);

/// Tokens are not renewed more often, however soon they run out.
const SHORTEST: Duration = Duration::from_secs(1);

/// Where a client's tokens come from: always the same one, or one asked for before each
/// `hello`. `Debug` shows none.
#[derive(Clone)]
pub struct TokenSource(Source);

#[derive(Clone)]
enum Source {
    Fixed(Token),
    Asked(Arc<dyn Fn() -> Asking + Send + Sync>),
}

pub(super) type Asking = Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send>>;

/// Why a [token source](TokenSource::asked) has no token.
///
/// Any other error becomes [`Retry`](Self::Retry) by `?` or `into`, a boxed one and one of `anyhow`
/// as well. For that to hold it is not an [`Error`] itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// There is none yet. The source is asked again, as after a lost connection.
    Retry(Box<dyn Error + Send + Sync>),
    /// There will be none any more: the user has logged out, or was blocked. The client is closed
    /// for good, with this reason, which is for people, in
    /// [`State::Closed`](super::State::Closed).
    Unauthorized(String),
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for TokenError {
    fn from(error: E) -> Self {
        Self::Retry(error.into())
    }
}

/// A token. A secret: `Debug` hides it.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Token(String);

impl TokenSource {
    /// Always this token. When it has run out, the client is closed.
    #[must_use]
    pub fn fixed(token: impl Into<String>) -> Self {
        Self(Source::Fixed(Token::new(token)))
    }

    /// A token that `ask` gives: asked for before each connection, and again in time before
    /// the token of a connection runs out. While it fails, the client tries again, as after a
    /// lost connection, and also if it takes longer than two minutes; only
    /// [`TokenError::Unauthorized`] closes the client instead. The client connects when it has the
    /// token, so that does not count to
    /// [`connect_timeout`](super::ClientConfig::connect_timeout).
    ///
    /// ```
    /// use chat_transport::client::{TokenError, TokenSource};
    ///
    /// # struct Answer { status: u16, token: String }
    /// # async fn ask_backend() -> std::io::Result<Answer> {
    /// #     Ok(Answer { status: 200, token: String::new() })
    /// # }
    /// let source = TokenSource::asked(|| async {
    ///     let answer = ask_backend().await?; // is asked again
    ///     match answer.status {
    ///         401 => Err(TokenError::Unauthorized("logged out".to_owned())),
    ///         _ => Ok(answer.token),
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn asked<A, F, E>(ask: A) -> Self
    where
        A: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<TokenError>,
    {
        let ask = move || -> Asking {
            let asking = ask();
            Box::pin(async move { asking.await.map(Token::new).map_err(Into::into) })
        };
        Self(Source::Asked(Arc::new(ask)))
    }

    /// A token for a `hello`.
    pub(super) fn token(&self) -> Asking {
        match &self.0 {
            Source::Fixed(token) => Box::pin(std::future::ready(Ok(token.clone()))),
            Source::Asked(ask) => {
                let asking = ask();
                Box::pin(async move {
                    timeout(ASK_TIMEOUT, asking).await.unwrap_or_else(|_| {
                        Err(format!("none within {} s", ASK_TIMEOUT.as_secs()).into())
                    })
                })
            }
        }
    }

    /// Whether there may be another one.
    pub(super) fn renews(&self) -> bool {
        matches!(self.0, Source::Asked(_))
    }
}

impl Token {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.renews() { "TokenSource(asked)" } else { "TokenSource(fixed)" })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The next token of a connection.
pub(super) enum Renewal {
    /// None is needed.
    Never,
    /// It is asked for then.
    At(Instant, TokenSource),
    /// It is asked for.
    Asking(Asking),
}

impl Renewal {
    /// In time before a token of `source` runs out.
    pub(super) fn before(expires_in: Option<Duration>, source: Option<&TokenSource>) -> Self {
        match (expires_in, source) {
            (Some(time), Some(source)) if source.renews() => {
                Self::At(later(in_time(time, random())), source.clone())
            }
            _ => Self::Never,
        }
    }

    /// Soon after a renewal that failed.
    pub(super) fn again(source: Option<&TokenSource>) -> Self {
        source.map_or(Self::Never, |source| Self::At(jittered(RENEW_AGAIN), source.clone()))
    }

    /// The token, once. Nothing is lost when it is dropped.
    pub(super) async fn next(&mut self) -> Result<Token, TokenError> {
        loop {
            match self {
                Self::Never => std::future::pending().await,
                Self::At(due, source) => {
                    sleep_until(*due).await;
                    *self = Self::Asking(source.token());
                }
                Self::Asking(asking) => {
                    let token = asking.await;
                    *self = Self::Never;
                    return token;
                }
            }
        }
    }
}

impl Task {
    /// Goes on with a new token.
    pub(super) fn renew(&mut self, token: Result<Token, TokenError>) {
        let token = match token {
            Ok(token) => token,
            Err(TokenError::Retry(why)) => return self.renew_again(&why),
            Err(TokenError::Unauthorized(why)) => return self.end(Loss::new(why)),
        };
        let frame = Outgoing::Hello { name: None, resume: None, token: Some(&token) }.encode();
        match self.limits.check_frame(frame.len() + ID_BYTES) {
            Ok(()) => self.post(Request::Renew, &frame),
            Err(error) => self.renew_again(&error),
        }
    }

    /// There is no new token yet. If there is none in time, the server ends the connection.
    pub(super) fn renew_again(&mut self, why: &dyn fmt::Display) {
        tracing::debug!(%why, "the token could not be renewed");
        self.renewal = Renewal::again(self.config.token.as_ref());
    }
}

/// Between eight and nine tenths of the time that is left, so that those who came together do
/// not ask together.
fn in_time(expires_in: Duration, bits: u64) -> Duration {
    let tenth = expires_in / 10;
    (tenth * 8 + fraction(tenth, bits)).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_in_time_and_not_all_the_time() {
        let hour = Duration::from_secs(3600);
        assert_eq!(in_time(hour, 0), hour / 10 * 8);
        assert!(in_time(hour, u64::MAX) < hour / 10 * 9);
        assert_eq!(in_time(Duration::ZERO, u64::MAX), SHORTEST);
        assert!(in_time(Duration::MAX, u64::MAX) < Duration::MAX);
    }

    #[test]
    fn nothing_shows_a_token() {
        let config = super::super::ClientConfig::default().token("a.secret.b");
        let asked =
            TokenSource::asked(|| async { Ok::<_, std::io::Error>("a.secret.b".to_owned()) });
        for shown in
            [format!("{config:?}"), format!("{asked:?}"), format!("{:?}", Token::new("a.secret.b"))]
        {
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
