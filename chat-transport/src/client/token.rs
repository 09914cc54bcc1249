//! Where tokens come from.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use chat_core::client::{Token, TokenError};

/// Where a client's tokens come from: always the same one, or one asked for before each
/// `hello`. `Debug` shows none.
#[derive(Clone)]
pub struct TokenSource(Source);

#[derive(Clone)]
enum Source {
    Fixed(String),
    Asked(Arc<dyn Fn() -> Fetch + Send + Sync>),
}

pub(super) type Fetch = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>;

impl TokenSource {
    /// Always this token. When it has run out, the client is closed.
    #[must_use]
    pub fn fixed(token: impl Into<String>) -> Self {
        Self(Source::Fixed(token.into()))
    }

    /// A token that `ask` gives: asked for before each connection, and again in time before
    /// the token of a connection runs out. While it fails, the client tries again, as after a
    /// lost connection, and also if it takes longer than two minutes; only
    /// [`TokenError::Unauthorized`] closes the client instead. The client connects when it has the
    /// token, so that does not count to
    /// [`connect_timeout`](chat_core::client::Config::connect_timeout).
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
        let ask = move || -> Fetch {
            let asking = ask();
            Box::pin(async move { asking.await.map_err(Into::into) })
        };
        Self(Source::Asked(Arc::new(ask)))
    }

    /// What the machine needs to know of it.
    pub(super) fn kind(&self) -> Token {
        match &self.0 {
            Source::Fixed(token) => Token::Fixed(token.clone()),
            Source::Asked(_) => Token::Fetched,
        }
    }

    /// Asks for a token.
    pub(super) fn fetch(&self) -> Option<Fetch> {
        match &self.0 {
            Source::Fixed(_) => None,
            Source::Asked(ask) => Some(ask()),
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Fixed(_) => "TokenSource(fixed)",
            Source::Asked(_) => "TokenSource(asked)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_token() {
        let config = super::super::ClientConfig::default().token("a.secret.b");
        let asked =
            TokenSource::asked(|| async { Ok::<_, std::io::Error>("a.secret.b".to_owned()) });
        for shown in [format!("{config:?}"), format!("{asked:?}")] {
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
