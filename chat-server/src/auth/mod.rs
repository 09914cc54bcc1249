//! Who clients are, and what they may do.
//!
//! Without an [`Authenticator`] everybody is let in under the name they give. With one, a
//! client is who the authenticator says, on every dialect, and may do what its [`Grants`]
//! say, or an [`Authorizer`] of the application's own.

mod access;
#[cfg(feature = "jwt")]
mod claims;
#[cfg(feature = "jwt")]
mod crypto;
#[cfg(feature = "jwt")]
mod jwt;
#[cfg(feature = "jwt")]
mod key;
#[cfg(feature = "jwt")]
mod payload;
#[cfg(feature = "jwt")]
mod signer;
#[cfg(feature = "jwt")]
mod token_header;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::http::{HeaderMap, header};
use chat_core::{Capability, Grants, RoomId, UserId, UserName};
use tokio::time::timeout;

use crate::log_budget::OncePerMinute;

pub(crate) use access::{Access, Verdict, unauthorized};
#[cfg(feature = "jwt")]
pub use claims::{Audience, TokenClaims};
#[cfg(feature = "jwt")]
pub use jwt::JwtAuthenticator;
#[cfg(feature = "jwt")]
pub use signer::JwtSigner;

/// Finds out who a client is.
///
/// It is asked at the handshake, and again for each `hello` with a token: with that token and
/// without headers.
///
/// ```
/// use async_trait::async_trait;
/// use chat_core::UserId;
/// use chat_server::{AuthError, Authenticator, Credentials, Identity};
///
/// /// Believes the proxy in front, which has asked for a password.
/// #[derive(Debug)]
/// struct BehindProxy;
///
/// #[async_trait]
/// impl Authenticator for BehindProxy {
///     async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
///         let name = client.headers.and_then(|headers| headers.get("x-user"));
///         let name = name.and_then(|name| name.to_str().ok()).ok_or(AuthError::Missing)?;
///         let id = UserId::new(name).map_err(|why| AuthError::invalid(why.to_string()))?;
///         Ok(Identity::new(id))
///     }
/// }
///
/// let server = chat_server::Server::builder().authenticator(BehindProxy);
/// ```
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// Who the client is.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong. After [`AuthError::Missing`] at the handshake the
    /// client may still say a token in `hello`; any other error refuses it.
    ///
    /// # Cancel safety
    /// The call is dropped after [`auth_timeout`](crate::ServerConfig::auth_timeout), and the
    /// client told to try again: it must change nothing.
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError>;
}

/// Decides, verb by verb, instead of the [`Grants`] of an [`Identity`].
///
/// It is asked on the server that carries the verb out, for every frame that needs a
/// capability; at a join also for `presence` and `history`; for the rooms that a client is in when
/// it shows a new token. Its answer is waited for, and the client's next frame meanwhile not read:
/// an answer from far away belongs into a cache.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Whether `who` may do `what`. A panic refuses, and costs the client its connection.
    ///
    /// # Cancel safety
    /// The call is dropped after 5 s, which is a refusal: it must change nothing.
    async fn allows(&self, who: &Identity, what: Action<'_>) -> bool;
}

/// What a client wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<'a> {
    /// Something in a room: anything but [`Capability::Direct`].
    InRoom(Capability, &'a RoomId),
    /// To write to a user.
    Direct(&'a UserId),
}

/// What is known of a client that asks to be let in. Its `Debug` form shows no secret.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct Credentials<'a> {
    /// From `hello`, from the header `Authorization: Bearer …`, or from `?token=`.
    pub token: Option<&'a str>,
    /// Those of the handshake; `None` for a `hello`.
    pub headers: Option<&'a HeaderMap>,
    /// Where the client is, as far as it is known.
    pub address: Option<IpAddr>,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token.map(|_| "…"))
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Who a client is, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The user's id: what others see, and what direct messages are sent to.
    pub user: UserId,
    /// The user's name; `None` has one made up from the id.
    pub name: Option<UserName>,
    /// What the user may do. By default all that members do, in every room.
    pub grants: Grants,
    /// When this is true no more. `None`: never.
    pub expires: Option<SystemTime>,
    /// How many times as much as others the user may use of what
    /// [`LimitsConfig`](crate::LimitsConfig) limits by rates: for bots. Default 1.
    pub limit_factor: u32,
}

impl Identity {
    /// A user with a made-up name, who may do in every room what members do, for ever.
    #[must_use]
    pub fn new(user: UserId) -> Self {
        Self { user, name: None, grants: Grants::everywhere(), expires: None, limit_factor: 1 }
    }

    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn name(mut self, name: Option<UserName>) -> Self {
        self.name = name;
        self
    }

    /// Sets [`grants`](Self::grants).
    #[must_use]
    pub fn grants(mut self, grants: Grants) -> Self {
        self.grants = grants;
        self
    }

    /// Sets [`limit_factor`](Self::limit_factor).
    #[must_use]
    pub fn limit_factor(mut self, factor: u32) -> Self {
        self.limit_factor = factor;
        self
    }

    /// Sets [`expires`](Self::expires).
    #[must_use]
    pub fn expires(mut self, expires: Option<SystemTime>) -> Self {
        self.expires = expires;
        self
    }
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// There is nothing that would say who it is.
    #[error("a token is needed")]
    Missing,
    /// What there is proves nothing. The text is told to the client: it holds no secret.
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// Nobody can say for now.
    #[error("tokens cannot be checked now: {0}")]
    Unavailable(String),
}

/// Asks `authenticator`, for as long as a client may take to say who it is.
pub(crate) async fn authenticate(
    authenticator: &dyn Authenticator,
    client: &Credentials<'_>,
    patience: Duration,
) -> Result<Identity, AuthError> {
    let asked = timeout(patience, authenticator.authenticate(client)).await;
    asked
        .unwrap_or_else(|_| Err(AuthError::Unavailable("it took too long".to_owned())))
        .inspect_err(log_refusal)
}

/// Says why a client is refused, for those who look for what is wrong with their tokens: ten lines
/// a minute at most, since clients can cause them at any rate. The token itself is a secret.
fn log_refusal(error: &AuthError) {
    static LINES: [OncePerMinute; 10] = [const { OncePerMinute::new() }; 10];
    if *error != AuthError::Missing && LINES.iter().any(OncePerMinute::is_due) {
        tracing::warn!(reason = ?error.why(), "token refused");
    }
}

/// The token in `Authorization: Bearer …`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl AuthError {
    /// [`AuthError::Invalid`] because of `why`.
    pub fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }

    /// The reason alone, without what it is the reason of.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Missing => "a token is needed",
            Self::Invalid(why) | Self::Unavailable(why) => why,
        }
    }
}
