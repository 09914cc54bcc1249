//! The source of tokens.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use chat_core::client::{Token, TokenError};

/// The source of a client's tokens: a fixed token, or one that is fetched before each `hello`.
/// `Debug` hides the token.
#[derive(Clone)]
pub struct TokenSource(Source);

#[derive(Clone)]
enum Source {
    Fixed(String),
    Fetched(Arc<dyn Fn() -> Fetch + Send + Sync>),
}

pub(super) type Fetch = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

impl TokenSource {
    /// Always this token. When it has expired, the client is closed.
    ///
    /// ```
    /// let source = chat_transport::client::TokenSource::fixed("a.b.c");
    /// assert_eq!(format!("{source:?}"), "TokenSource(fixed)");
    /// ```
    #[must_use]
    pub fn fixed(token: impl Into<String>) -> Self {
        Self(Source::Fixed(token.into()))
    }

    /// Tokens that `fetch` returns. The client calls it before each connection, and again before
    /// the token of a connection expires. If it fails, or takes longer than two minutes, the client
    /// retries as after a lost connection; only [`TokenError::Unauthorized`] closes the client. The
    /// client connects when it has the token, so fetching does not count towards
    /// [`connect_timeout`](chat_core::client::Config::connect_timeout).
    ///
    /// ```
    /// use chat_transport::client::{TokenError, TokenSource};
    ///
    /// # struct Answer { status: u16, token: String }
    /// # async fn ask_backend() -> std::io::Result<Answer> {
    /// #     Ok(Answer { status: 200, token: String::new() })
    /// # }
    /// let source = TokenSource::fetched(|| async {
    ///     let answer = ask_backend().await?; // is retried
    ///     match answer.status {
    ///         401 => Err(TokenError::Unauthorized("logged out".to_owned())),
    ///         _ => Ok(answer.token),
    ///     }
    /// });
    /// ```
    #[must_use]
    pub fn fetched<A, F, E>(fetch: A) -> Self
    where
        A: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<TokenError>,
    {
        let fetch = move || -> Fetch {
            let fetching = fetch();
            Box::pin(async move { fetching.await.map_err(Into::into) })
        };
        Self(Source::Fetched(Arc::new(fetch)))
    }

    /// What the machine has to know about it.
    pub(super) fn kind(&self) -> Token {
        match &self.0 {
            Source::Fixed(token) => Token::Fixed(token.clone()),
            Source::Fetched(_) => Token::Fetched,
        }
    }

    /// Starts to fetch a token.
    pub(super) fn fetch(&self) -> Option<Fetch> {
        match &self.0 {
            Source::Fixed(_) => None,
            Source::Fetched(fetch) => Some(fetch()),
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Fixed(_) => "TokenSource(fixed)",
            Source::Fetched(_) => "TokenSource(fetched)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_token() {
        let config = super::super::ClientConfig::default().token("a.secret.b");
        let fetched =
            TokenSource::fetched(|| async { Ok::<_, std::io::Error>("a.secret.b".to_owned()) });
        for shown in [format!("{config:?}"), format!("{fetched:?}")] {
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
