//! Authentication and authorization of clients.
//!
//! Without an [`Authenticator`] every client is accepted under the name that it gives. With one, the
//! authenticator determines the user of a client, in every dialect, and the [`Grants`] of that user or
//! an [`Authorizer`] of the application determine what the client may do.

mod access;
#[cfg(feature = "jwt")]
mod claims;
#[cfg(feature = "jwt")]
mod crypto;
#[cfg(feature = "jwt")]
mod issuer;
#[cfg(feature = "jwt")]
mod jwk;
#[cfg(feature = "jwt")]
mod jwt;
#[cfg(feature = "jwt")]
mod key;
#[cfg(feature = "jwt")]
mod key_set;
#[cfg(feature = "jwt")]
mod payload;
#[cfg(feature = "jwks")]
mod remote_keys;
#[cfg(feature = "jwt")]
mod signer;
#[cfg(feature = "jwt")]
mod token_header;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::http::{Extensions, HeaderMap, header};
use chat_core::{Capability, Grants, RoomId, UserId, UserName};
use tokio::time::timeout;

use crate::setters::setters;

pub(crate) use access::{Access, Verdict, unauthorized};
#[cfg(feature = "jwt")]
pub use claims::TokenClaims;
#[cfg(feature = "jwt")]
pub use issuer::TokenIssuer;
#[cfg(feature = "jwt")]
pub use jwt::JwtAuthenticator;
#[cfg(feature = "jwt")]
pub(crate) use jwt::MAX_TOKEN_BYTES;
#[cfg(feature = "jwt")]
pub use key::InvalidKey;
#[cfg(feature = "jwt")]
pub use key_set::JwtKeys;
#[cfg(feature = "jwt")]
pub(crate) use payload::MAX_RULES;
#[cfg(feature = "jwks")]
pub use remote_keys::{FetchError, RemoteKeys, RemoteKeysConfig};
#[cfg(feature = "jwt")]
pub use signer::{InvalidClaims, JwtSigner};

/// Determines the user of a client.
///
/// The server calls it at the handshake, and again for each `hello` with a token: with that token and
/// without headers. When an identity [expires](Identity::expires) whose client had no token, such as
/// one known by a cookie, it calls it once more with the headers and extensions of the handshake: if
/// the session was extended, the connection stays.
///
/// ```
/// use async_trait::async_trait;
/// use chat_core::UserId;
/// use chat_server::{AuthError, Authenticator, Credentials, Identity};
///
/// /// Trusts a header of the proxy in front, which has authenticated the client.
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
    /// The identity of the client.
    ///
    /// # Errors
    /// [`AuthError`] says what is wrong. After [`AuthError::Missing`] at the handshake the client may
    /// still send a token in `hello`; any other error rejects it.
    ///
    /// # Cancel safety
    /// The server drops the call after [`auth_timeout`](crate::ServerConfig::auth_timeout), and answers
    /// the client with an error that asks it to retry.
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError>;

    /// Whether clients can be authenticated now. A server that cannot is not ready (`/readyz`).
    /// Default: true.
    fn is_ready(&self) -> bool {
        true
    }

    /// How often keys were fetched, for `/metrics`. Default: `None`, and the metrics are missing.
    fn key_fetches(&self) -> Option<KeyFetches> {
        None
    }

    /// When the keys of tokens end, for `/metrics`. Default: never, and the metrics are missing.
    fn key_ends(&self) -> KeyEnds {
        KeyEnds::default()
    }

    /// The keys of tokens in effect, for `/metrics` and `GET /api/nodes`. Default: `None`, and both have
    /// none.
    fn key_set(&self) -> Option<KeySet> {
        None
    }
}

/// The keys that an [`Authenticator`] verifies tokens with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeySet {
    /// How many keys there are.
    pub count: usize,
    /// A text that is equal on two servers if they have the same keys. Other keys may have the same text: of a
    /// secret it is made of 16 bits.
    pub digest: String,
}

setters! {
    KeySet {
        count: usize,
        digest: String,
    }
}

/// When the keys of an [`Authenticator`] end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeyEnds {
    /// The end of the key that ends next; `None`: no key ends any more.
    pub next: Option<SystemTime>,
    /// The end of the key that ends last, also if it has ended; `None`: a key has no end.
    pub last: Option<SystemTime>,
}

setters! {
    KeyEnds {
        next: Option<SystemTime>,
        last: Option<SystemTime>,
    }
}

/// How often an [`Authenticator`] has fetched the keys of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeyFetches {
    /// Fetches that succeeded.
    pub succeeded: u64,
    /// Fetches that failed.
    pub failed: u64,
    /// The time since the latest that succeeded; `None`: there was none.
    pub age: Option<Duration>,
}

setters! {
    KeyFetches {
        succeeded: u64,
        failed: u64,
        age: Option<Duration>,
    }
}

/// Decides what a client may do, instead of the [`Grants`] of its [`Identity`].
///
/// The server calls it for every frame that needs a capability; at a join also for every capability in
/// the room, side by side; and for each joined room when the client authenticates with a new token. The client's
/// next frame is not read until it answers, so answers of a remote service should be cached.
///
/// ```
/// use async_trait::async_trait;
/// use chat_core::Capability;
/// use chat_server::{Action, Authorizer, Identity};
///
/// /// Lets every user read and join, and lets staff write.
/// #[derive(Debug)]
/// struct StaffWrites;
///
/// #[async_trait]
/// impl Authorizer for StaffWrites {
///     async fn allows(&self, identity: &Identity, action: Action<'_>) -> bool {
///         match action {
///             Action::InRoom(Capability::Send, _) => identity.user.as_str().starts_with("staff-"),
///             Action::InRoom(capability, _) => capability != Capability::Moderate,
///             _ => false,
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Whether the user of `identity` may do `action`. A panic ends the connection of the client.
    ///
    /// # Cancel safety
    /// The server drops the call after 5 s, and treats it as `false`.
    async fn allows(&self, identity: &Identity, action: Action<'_>) -> bool;
}

/// An action of a client that needs permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<'a> {
    /// Using a capability in a room: any but [`Capability::Direct`].
    InRoom(Capability, &'a RoomId),
    /// Sending a direct message to a user.
    Direct(&'a UserId),
}

/// What an [`Authenticator`] knows of a client. Its `Debug` form shows no secret.
///
/// ```
/// use chat_server::Credentials;
///
/// let credentials = Credentials::default().token(Some("secret"));
/// assert!(!format!("{credentials:?}").contains("secret"));
/// ```
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct Credentials<'a> {
    /// The token in `hello`, in the header `Authorization: Bearer …`, or in `?token=`.
    pub token: Option<&'a str>,
    /// The headers of the handshake; `None` for a `hello`.
    pub headers: Option<&'a HeaderMap>,
    /// The extensions of the request of the handshake, with what a middleware of the application has
    /// added, such as a session; `None` for a `hello`.
    pub extensions: Option<&'a Extensions>,
    /// The IP address of the client; `None` for a `hello`, and where the listener does not provide it.
    pub address: Option<IpAddr>,
}

setters! {
    Credentials<'a> {
        token: Option<&'a str>,
        headers: Option<&'a HeaderMap>,
        extensions: Option<&'a Extensions>,
        address: Option<IpAddr>,
    }
}

impl Credentials<'_> {
    /// A copy for the time when `identity` expires; `None` if it does not, or was proven by a token: the
    /// client sends another in `hello`.
    pub(crate) fn handshake(self, identity: &Identity) -> Option<Box<Handshake>> {
        if self.token.is_some() || identity.expires.is_none() {
            return None;
        }
        let (headers, extensions) = (self.headers?.clone(), self.extensions?.clone());
        Some(Box::new(Handshake { headers, extensions, address: self.address }))
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token.map(|_| "…"))
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What an authenticator received at a handshake, to ask it again. Its `Debug` form shows no secret.
pub(crate) struct Handshake {
    headers: HeaderMap,
    extensions: Extensions,
    address: Option<IpAddr>,
}

impl Handshake {
    pub(crate) fn credentials(&self) -> Credentials<'_> {
        let Self { headers, extensions, address } = self;
        let (headers, extensions) = (Some(headers), Some(extensions));
        Credentials { token: None, headers, extensions, address: *address }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credentials().fmt(f)
    }
}

/// The user of a client, and what the user may do.
///
/// ```
/// use chat_core::{UserId, UserName};
/// use chat_server::Identity;
///
/// let ann = Identity::new(UserId::new("ann")?).name(Some(UserName::new("Ann")?));
/// assert_eq!(ann.limit_factor, 1);
/// # Ok::<(), chat_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The user's id: shown to other users, and the address of direct messages.
    pub user: UserId,
    /// The user's name; `None` derives one from the id.
    pub name: Option<UserName>,
    /// What the user may do. Default: in every room what members do.
    pub grants: Grants,
    /// When the identity expires; `None`: never. The connection is closed
    /// [`token_grace`](crate::ServerConfig::token_grace) later, unless the client or its session is
    /// [authenticated again](Authenticator).
    pub expires: Option<SystemTime>,
    /// Multiplies the rates of [`LimitsConfig`](crate::LimitsConfig) for the user, such as a bot. 0 is
    /// taken as 1. Default 1.
    pub limit_factor: u32,
}

impl Identity {
    /// A user with a name derived from the id and the defaults of the other fields.
    #[must_use]
    pub fn new(user: UserId) -> Self {
        Self { user, name: None, grants: Grants::everywhere(), expires: None, limit_factor: 1 }
    }
}

setters! {
    Identity {
        name: Option<UserName>,
        grants: Grants,
        expires: Option<SystemTime>,
        limit_factor: u32,
    }
}

/// Why a client is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The client has sent no credentials. At the handshake it may still send a token in `hello`: an
    /// authenticator without tokens returns [`Invalid`](Self::Invalid) instead.
    #[error("credentials are needed")]
    Missing,
    /// The credentials are not valid. The client receives the text, such as "your session has
    /// expired", which must hold no secret.
    #[error("{0}")]
    Invalid(String),
    /// As [`Invalid`](Self::Invalid), of credentials that prove their user, such as a token with a valid
    /// signature that has expired. The log has the user, and lines for users beside those for strangers.
    #[error("{reason}")]
    InvalidOf {
        /// Whom the credentials name.
        user: UserId,
        /// As of [`Invalid`](Self::Invalid).
        reason: String,
    },
    /// The credentials cannot be checked for now. The client receives the text.
    #[error("credentials cannot be checked now: {0}")]
    Unavailable(String),
}

/// Calls `authenticator`, at most for `time_limit`.
pub(crate) async fn authenticate(
    authenticator: &dyn Authenticator,
    client: &Credentials<'_>,
    time_limit: Duration,
) -> Result<Identity, AuthError> {
    timeout(time_limit, authenticator.authenticate(client))
        .await
        .unwrap_or_else(|_| Err(AuthError::Unavailable("the check took too long".to_owned())))
        .and_then(not_a_backend)
}

/// Backends send by [`RoomHandle`](crate::RoomHandle). Clients could not tell a connection of the same
/// user from them.
fn not_a_backend(identity: Identity) -> Result<Identity, AuthError> {
    if identity.user.is_backend() {
        return Err(AuthError::invalid("the id of the user begins with @, as ids of backends do"));
    }
    Ok(identity)
}

/// The token in `Authorization: Bearer …`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl AuthError {
    /// [`AuthError::Invalid`] with this reason.
    pub fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid(reason.into())
    }

    /// The user whom the credentials prove that are not valid.
    pub(crate) fn user(&self) -> Option<&UserId> {
        match self {
            Self::InvalidOf { user, .. } => Some(user),
            _ => None,
        }
    }
}
