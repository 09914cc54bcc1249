//! JSON Web Tokens (RFC 7519), signed (RFC 7515) by a shared secret or by a private key whose
//! public half is known here.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jsonwebtoken::Algorithm;

use super::key::{InvalidKey, KeyKind, VerificationKey};
use super::payload::{Payload, Rules};
use super::token_header;
use super::{AuthError, Authenticator, Credentials, Identity, crypto};
use crate::log_budget::OncePerMinute;

/// The default of [`JwtAuthenticator::leeway`].
const LEEWAY: Duration = Duration::from_secs(5);

/// The longest token that is verified, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Authenticates clients by JSON Web Tokens. A valid token is signed with the key, not expired (`exp` is
/// required), not used before its time (`nbf`), and, where these are set, for one of the audiences and
/// by one of the issuers.
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
/// The kind of the key determines which algorithms a token may be signed with:
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
pub struct JwtAuthenticator {
    key: VerificationKey,
    rules: Rules,
}

impl JwtAuthenticator {
    /// Verifies tokens that are signed with a shared `secret`.
    ///
    /// # Errors
    /// [`InvalidKey`] if the secret has less than 32 bytes, or is a key in PEM.
    pub fn with_secret(secret: &[u8]) -> Result<Self, InvalidKey> {
        VerificationKey::secret(secret).map(Self::new)
    }

    /// Verifies tokens that are signed with the private half of the public key in `pem`: RSA with 2048 to 8192 bits,
    /// EC on P-256 or P-384, or Ed25519.
    ///
    /// # Errors
    /// [`InvalidKey`] says what `pem` contains instead.
    pub fn with_public_key(pem: &[u8]) -> Result<Self, InvalidKey> {
        VerificationKey::public(pem).map(Self::new)
    }

    fn new(key: VerificationKey) -> Self {
        crypto::install();
        let rules = Rules { leeway: LEEWAY, audiences: Vec::new(), issuers: Vec::new() };
        Self { key, rules }
    }

    /// Sets the audiences, of which a token must name one (`aud`). Default: none, and a token must name
    /// none.
    #[must_use]
    pub fn audience(mut self, audiences: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.rules.audiences = audiences.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the issuers, of which a token must name one (`iss`). Default: none, and `iss` is ignored.
    #[must_use]
    pub fn issuer(mut self, issuers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.rules.issuers = issuers.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how far the clocks of this server and of the issuer may differ: a token is valid from
    /// `leeway` before its `nbf` until `leeway` after its `exp`. Default 5 s.
    #[must_use]
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.rules.leeway = leeway;
        self
    }

    /// Verifies a token, and returns the identity of its bearer.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] names the header or the claim that is wrong.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        self.identity(token).map_err(|error| match error {
            AuthError::Invalid(why) => AuthError::Invalid(format!("the token is not valid: {why}")),
            error => error,
        })
    }

    fn identity(&self, token: &str) -> Result<Identity, AuthError> {
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
        let algorithm = token_header::algorithm(header, self.key.kind)?;
        let signed = &token[..header.len() + 1 + claims.len()];
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.key.key, algorithm) {
            Ok(true) => {}
            Ok(false) => return Err(AuthError::invalid("its signature is wrong")),
            Err(_) => return Err(AuthError::invalid("its signature is not in base64url")),
        }
        self.warn_of_short_secret(algorithm);
        Payload::read(claims)?.identity(&self.rules, SystemTime::now())
    }

    /// RFC 7518, section 3.2: a secret is as long as the hash. Libraries also sign with shorter
    /// ones, and 32 bytes cannot be guessed.
    fn warn_of_short_secret(&self, algorithm: Algorithm) {
        static WARNED: OncePerMinute = OncePerMinute::new();
        let needed = match algorithm {
            Algorithm::HS384 => 48,
            Algorithm::HS512 => 64,
            _ => return,
        };
        if let KeyKind::Secret { bytes } = self.key.kind
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
}

#[async_trait]
impl Authenticator for JwtAuthenticator {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        self.verify(client.token.ok_or(AuthError::Missing)?)
    }
}

impl fmt::Debug for JwtAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtAuthenticator")
            .field("key", &self.key.kind)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
