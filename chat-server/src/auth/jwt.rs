//! JSON Web Tokens (RFC 7519), signed (RFC 7515) by a shared secret or by a private key whose
//! public half is known here.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jsonwebtoken::Algorithm;

use super::key::{KeyKind, VerificationKey};
use super::payload::{Payload, Rules};
use super::token_header;
use super::{AuthError, Authenticator, Credentials, Identity, crypto};
use crate::log_budget::OncePerMinute;

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(5);

/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Lets in whoever has a valid token: signed with the key, not expired (`exp` is required),
/// not before its time (`nbf`), and, where these are set, for one of the audiences and by one
/// of the issuers.
///
/// | claim | |
/// |---|---|
/// | `sub` | the user's id, a text; required |
/// | `name` | the user's name |
/// | `exp`, `nbf`, `iat` | in seconds since 1970, perhaps with a fraction, up to the year 9999 |
/// | `aud`, `iss` | must be among [`audience`](Self::audience) and [`issuer`](Self::issuer) where these are set; a token with an `aud` is refused where none is |
/// | `rooms` | `{"team-*":["join","send"],"@support":["direct"]}`: [`Grants`](chat_core::Grants) by pattern; absent: all that members do, everywhere; `"*"` in a list is every capability |
/// | `limit_factor` | an integer from 1 to 1000: [`Identity::limit_factor`] |
///
/// The kind of the key decides which algorithms a token may be signed with:
///
/// | key | `alg` |
/// |---|---|
/// | secret | HS256, HS384, HS512 |
/// | RSA | RS256, RS384, RS512, PS256, PS384, PS512 |
/// | EC on P-256 | ES256 |
/// | EC on P-384 | ES384 |
/// | Ed25519 | EdDSA, Ed25519 |
///
/// A token with a critical header (`crit`) is refused.
pub struct JwtAuthenticator {
    key: VerificationKey,
    rules: Rules,
}

impl JwtAuthenticator {
    /// Tokens signed with a shared `secret`.
    ///
    /// # Errors
    /// [`AuthError::Invalid`]: the secret has less than 32 bytes, or is a key in PEM.
    pub fn with_secret(secret: &[u8]) -> Result<Self, AuthError> {
        VerificationKey::secret(secret).map(Self::new)
    }

    /// Tokens signed with the private half of the public key in `pem`: RSA with 2048 to 8192 bits,
    /// EC on P-256 or P-384, or Ed25519.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] says what is in `pem` instead.
    pub fn with_public_key(pem: &[u8]) -> Result<Self, AuthError> {
        VerificationKey::public(pem).map(Self::new)
    }

    fn new(key: VerificationKey) -> Self {
        crypto::install();
        let rules = Rules { leeway: LEEWAY, audiences: Vec::new(), issuers: Vec::new() };
        Self { key, rules }
    }

    /// The audiences, of which a token must have one. Default: none, and a token must have none.
    #[must_use]
    pub fn audience(mut self, audiences: &[String]) -> Self {
        self.rules.audiences = audiences.to_vec();
        self
    }

    /// Who must have made tokens: one of these. Default: anybody who has the key.
    #[must_use]
    pub fn issuer(mut self, issuers: &[String]) -> Self {
        self.rules.issuers = issuers.to_vec();
        self
    }

    /// How far the clocks of this server and of the token's issuer may be apart: a token is valid
    /// so long before its `nbf` and after its `exp`. Default 5 s.
    #[must_use]
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.rules.leeway = leeway;
        self
    }

    /// Who the bearer of a token is.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] names the header or the claim that is wrong.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        // What a backend prints ends with a line feed as a rule.
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
