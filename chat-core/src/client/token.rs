//! Tokens: their source, and when the next one is due.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::backoff::{at_least, fraction};

use super::rng::Rng;

/// The pause, to which jitter is added, before a failed renewal is retried.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// A fetch that takes longer counts as failed.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(120);

/// Tokens are not renewed more often, however soon they expire.
const SHORTEST: Duration = Duration::from_secs(1);

/// The source of the token of a `hello`. `Debug` hides the token.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Token {
    /// Always this token. When it has expired, the client is closed.
    Fixed(String),
    /// A token that the transport [fetches](super::Action::FetchToken) before each connection, and
    /// again before the token of a connection expires.
    Fetched,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Fetched { "Token::Fetched" } else { "Token::Fixed(..)" })
    }
}

/// Why there is no token.
///
/// Any other error becomes [`Retry`](Self::Retry) by `?` or `into`, a boxed one and one of `anyhow`
/// as well. For that to hold it is not an [`Error`] itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// There is no token yet. It is fetched again, as after a lost connection.
    Retry(Box<dyn Error + Send + Sync>),
    /// There will be no other token: the user has logged out, or was blocked. The client is closed,
    /// with this reason, which is for people, in
    /// [`State::Closed`](super::State::Closed).
    Unauthorized(String),
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for TokenError {
    fn from(error: E) -> Self {
        Self::Retry(error.into())
    }
}

/// The next token of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// No token is needed.
    Never,
    /// The token is fetched at this time.
    At(Duration),
    /// The token is being fetched, until this time at most.
    Fetching(Duration),
}

impl Renewal {
    /// Before a token expires.
    pub(super) fn before(expires_in: Duration, rng: &mut Rng, now: Duration) -> Self {
        Self::At(now.saturating_add(in_time(expires_in, rng.next())))
    }

    /// Soon after a renewal that failed.
    pub(super) fn again(rng: &mut Rng, now: Duration) -> Self {
        Self::At(now.saturating_add(at_least(RENEW_AGAIN, rng.next())))
    }

    pub(super) fn due(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::At(due) | Self::Fetching(due) => Some(due),
        }
    }
}

/// Between eight and nine tenths of the time that is left, so that clients which connected together
/// do not fetch together.
fn in_time(expires_in: Duration, random_bits: u64) -> Duration {
    let tenth = expires_in / 10;
    (tenth * 8 + fraction(tenth, random_bits)).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_are_renewed_in_time_and_not_all_the_time(nanos: u64, bits: u64) {
            let expires_in = Duration::from_nanos(nanos);
            let due = in_time(expires_in, bits);
            prop_assert!(due >= (expires_in / 10 * 8).max(SHORTEST));
            prop_assert!(due <= (expires_in / 10 * 9).max(SHORTEST));
        }
    }

    #[test]
    fn longest_time_does_not_overflow() {
        assert!(in_time(Duration::MAX, u64::MAX) < Duration::MAX);
    }

    #[test]
    fn debug_hides_the_token() {
        assert_eq!(format!("{:?}", Token::Fixed("a.secret.b".into())), "Token::Fixed(..)");
    }
}
