//! JSON Web Tokens (RFC 7519), signed (RFC 7515) by a shared secret or by a private key whose
//! public half is known here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jsonwebtoken::Algorithm;
use parking_lot::RwLock;

use super::key::{InvalidKey, KeyKind};
use super::key_set::JwtKeys;
use super::payload::{Payload, Rules};
use super::token_header::Header;
use super::{AuthError, Authenticator, Credentials, Identity, KeyEnds, KeySet, crypto};
#[cfg(feature = "jwks")]
use super::{KeyFetches, remote_keys::RemoteKeys};

use crate::log_budget::OncePerMinute;

/// The default of [`JwtAuthenticator::leeway`].
const LEEWAY: Duration = Duration::from_secs(5);

/// The longest token that is verified, in bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Authenticates clients by JSON Web Tokens. A valid token is signed with one of the keys, not expired
/// (`exp` is required), not used before its time (`nbf`), and, where these are set, for one of the
/// audiences and by one of the issuers.
///
/// ```
/// use chat_server::{JwtAuthenticator, Server};
///
/// let authenticator = JwtAuthenticator::with_secret(b"0123456789abcdef0123456789abcdef")?
///     .audience(["chat"])
///     .issuer(["accounts.example"]);
/// let server = Server::builder().authenticator(authenticator);
/// # Ok::<(), chat_server::InvalidKey>(())
/// ```
///
/// | claim | |
/// |---|---|
/// | `sub` | the user's id, a text; required |
/// | `name` | the user's name |
/// | `exp`, `nbf`, `iat` | in seconds since 1970, perhaps with a fraction, up to the year 9999 |
/// | `aud`, `iss` | must be among [`audience`](Self::audience) and [`issuer`](Self::issuer) where these are set; a token with an `aud` is refused where none is |
/// | `rooms` | `{"team-*":["join","send"],"@support":["direct"]}`: [`Grants`](chat_core::Grants) by pattern; absent: what members do, in every room; `"*"` in a list is every capability |
/// | `limit_factor` | an integer from 1 to 1000: [`Identity::limit_factor`] |
///
/// The kind of each key determines which algorithms a token may be signed with:
///
/// | key | `alg` |
/// |---|---|
/// | secret | HS256, HS384, HS512 |
/// | RSA | RS256, RS384, RS512, PS256, PS384, PS512 |
/// | EC on P-256 | ES256 |
/// | EC on P-384 | ES384 |
/// | Ed25519 | EdDSA, Ed25519 |
///
/// A token with a critical header (`crit`) is rejected.
///
/// A clone is another handle on the same authenticator: an application keeps one to
/// [`replace`](Self::replace) the keys while a server uses the other.
#[derive(Debug, Clone)]
pub struct JwtAuthenticator {
    current: Arc<RwLock<Arc<Verifier>>>,
}

/// Keys and rules, which are replaced together.
#[derive(Debug, Clone)]
struct Verifier {
    keys: JwtKeys,
    rules: Rules,
}

impl JwtAuthenticator {
    /// Verifies tokens that are signed with a shared `secret`.
    ///
    /// # Errors
    /// [`InvalidKey`] if the secret has less than 32 bytes, or is a key in PEM.
    pub fn with_secret(secret: &[u8]) -> Result<Self, InvalidKey> {
        JwtKeys::new().secret(secret).map(Self::with_keys)
    }

    /// Verifies tokens that are signed with the private half of the public key in `pem`: RSA with 2048 to 8192 bits,
    /// EC on P-256 or P-384, or Ed25519.
    ///
    /// # Errors
    /// [`InvalidKey`] says what `pem` contains instead.
    pub fn with_public_key(pem: &[u8]) -> Result<Self, InvalidKey> {
        JwtKeys::new().public_key(pem).map(Self::with_keys)
    }

    /// Verifies tokens that are signed with one of several keys.
    #[must_use]
    pub fn with_keys(keys: JwtKeys) -> Self {
        crypto::install();
        let rules = Rules { leeway: LEEWAY, audiences: Vec::new(), issuers: Vec::new() };
        Self { current: Arc::new(RwLock::new(Arc::new(Verifier { keys, rules }))) }
    }

    /// Takes over the keys, audiences, issuers and leeway of `other`: tokens that are sent from now
    /// on are verified with these. Open connections stay until their tokens expire, also those with
    /// a token of a key that is no longer accepted.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use chat_core::UserId;
    /// # use chat_server::{JwtSigner, TokenClaims};
    /// use chat_server::{JwtAuthenticator, JwtKeys, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (old, new) = (b"the secret until now, of 32 bytes", b"the next secret, also of 32 bytes");
    /// let tokens = JwtAuthenticator::with_secret(old)?;
    /// let server = Server::builder().authenticator(tokens.clone()).start();
    ///
    /// let both = JwtKeys::new().secret(old)?.secret(new)?;
    /// tokens.replace(&JwtAuthenticator::with_keys(both));
    /// # let claims = TokenClaims::new(&UserId::new("ann")?, Duration::from_secs(3600));
    /// # for secret in [old, new] {
    /// #     tokens.verify(&JwtSigner::with_secret(secret)?.sign(&claims)?)?;
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn replace(&self, other: &Self) {
        let replacement = other.verifier();
        *self.current.write() = replacement;
    }

    fn verifier(&self) -> Arc<Verifier> {
        Arc::clone(&self.current.read())
    }

    fn with_rules(self, change: impl FnOnce(&mut Rules)) -> Self {
        change(&mut Arc::make_mut(&mut *self.current.write()).rules);
        self
    }

    /// Sets the audiences, of which a token must name one (`aud`). Default: none, and a token must name
    /// none.
    #[must_use]
    pub fn audience(self, audiences: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let audiences = audiences.into_iter().map(Into::into).collect();
        self.with_rules(|rules| rules.audiences = audiences)
    }

    /// Sets the issuers, of which a token must name one (`iss`). Default: none, and `iss` is ignored.
    #[must_use]
    pub fn issuer(self, issuers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let issuers = issuers.into_iter().map(Into::into).collect();
        self.with_rules(|rules| rules.issuers = issuers)
    }

    /// Sets how far the clocks of this server and of the issuer may differ: a token is valid from
    /// `leeway` before its `nbf` until `leeway` after its `exp`. Default 5 s.
    #[must_use]
    pub fn leeway(self, leeway: Duration) -> Self {
        self.with_rules(|rules| rules.leeway = leeway)
    }

    /// Verifies a token with the keys that are known now, and returns the identity of its bearer.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] names the header or the claim that is wrong; [`AuthError::InvalidOf`] also has
    /// the user, if the signature is valid.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        let described = |why| format!("the token is not valid: {why}");
        self.identity(token).map_err(|error| match error {
            AuthError::Invalid(why) => AuthError::Invalid(described(why)),
            AuthError::InvalidOf { user, reason } => {
                AuthError::InvalidOf { user, reason: described(reason) }
            }
            error => error,
        })
    }

    fn identity(&self, token: &str) -> Result<Identity, AuthError> {
        let verifier = self.verifier();
        let payload = verifier.payload(token)?;
        let identity = payload.identity(&verifier.rules, SystemTime::now());
        identity.map_err(|error| match (error, payload.user()) {
            (AuthError::Invalid(reason), Ok(user)) => AuthError::InvalidOf { user, reason },
            (error, _) => error,
        })
    }
}

impl Verifier {
    /// The claims of a token whose signature is valid.
    fn payload(&self, token: &str) -> Result<Payload, AuthError> {
        // Backends print tokens with a line feed at the end.
        let token = token.trim();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::invalid(format!("it is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(AuthError::invalid(match parts.len() {
                5 => "it is encrypted (JWE), and not just signed",
                _ => "it is not a JWT: three parts with dots between them",
            }));
        };
        let header_fields = Header::read(header)?;
        let signed = &token[..header.len() + 1 + claims.len()];
        let (kind, algorithm) = self.keys.verify(&header_fields, signed, signature)?;
        warn_of_short_secret(kind, algorithm);
        Payload::read(claims)
    }
}

/// RFC 7518, section 3.2: a secret is as long as the hash. Libraries also sign with shorter ones,
/// and 32 bytes cannot be guessed.
fn warn_of_short_secret(kind: KeyKind, algorithm: Algorithm) {
    static WARNED: OncePerMinute = OncePerMinute::new();
    let needed = match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => return,
    };
    if let KeyKind::Secret { bytes } = kind
        && bytes < needed
        && WARNED.is_due()
    {
        tracing::warn!(
            ?algorithm,
            bytes,
            needed,
            "the secret of tokens is shorter than their algorithm asks for (RFC 7518)"
        );
    }
}

#[cfg(feature = "jwks")]
impl JwtAuthenticator {
    /// Verifies a token, if need be with keys that are fetched first: where none has been fetched
    /// yet, and for a token that names an unknown one.
    async fn verify_with_fetch(&self, token: &str) -> Result<Identity, AuthError> {
        let outcome = self.verify(token);
        let verifier = self.verifier();
        let Some(remote) = verifier.keys.remote_keys() else { return outcome };
        if outcome.is_ok() || remote.is_loaded() && !verifier.keys.lack_key_of(token.trim()) {
            return outcome;
        }
        match remote.fetch_missing().await {
            Some(Ok(())) => self.verify(token),
            // The client tries again later, which a wrong token would be no reason for.
            Some(Err(_)) => Err(AuthError::Unavailable("its key cannot be fetched".to_owned())),
            None => outcome,
        }
    }
}

#[async_trait]
impl Authenticator for JwtAuthenticator {
    #[cfg(feature = "jwks")]
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        self.verify_with_fetch(client.token.ok_or(AuthError::Missing)?).await
    }

    #[cfg(not(feature = "jwks"))]
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        self.verify(client.token.ok_or(AuthError::Missing)?)
    }

    fn is_ready(&self) -> bool {
        let verifier = self.verifier();
        #[cfg(feature = "jwks")]
        if !verifier.keys.remote_keys().is_none_or(RemoteKeys::is_loaded) {
            return false;
        }
        !verifier.keys.have_ended()
    }

    #[cfg(feature = "jwks")]
    fn key_fetches(&self) -> Option<KeyFetches> {
        self.verifier().keys.remote_keys().map(RemoteKeys::fetches)
    }

    fn key_ends(&self) -> KeyEnds {
        self.verifier().keys.ends(SystemTime::now())
    }

    fn key_set(&self) -> Option<KeySet> {
        Some(self.verifier().keys.in_effect(SystemTime::now()))
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
