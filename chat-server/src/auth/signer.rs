//! Signing tokens.

use std::fmt;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::crypto;
use super::key::{InvalidKey, check_secret, only_block};

/// Signs tokens: for a backend in Rust, and for tests.
///
/// ```
/// use std::time::Duration;
///
/// use chat_core::UserId;
/// use chat_server::{JwtAuthenticator, JwtSigner, TokenClaims};
///
/// let secret = b"0123456789abcdef0123456789abcdef";
/// let claims = TokenClaims::new(&UserId::new("ann")?, Duration::from_secs(3600))
///     .name(Some("Ann".to_owned()));
/// let token = JwtSigner::with_secret(secret)?.sign(&claims)?;
/// let ann = JwtAuthenticator::with_secret(secret)?.verify(&token)?;
/// assert_eq!(ann.user.as_str(), "ann");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JwtSigner {
    key: EncodingKey,
    header: Header,
}

impl JwtSigner {
    /// Signs with a shared secret: HS256.
    ///
    /// # Errors
    /// [`InvalidKey`] if the secret has less than 32 bytes, or is a key in PEM.
    pub fn with_secret(secret: &[u8]) -> Result<Self, InvalidKey> {
        check_secret(secret)?;
        crypto::install();
        Ok(Self { key: EncodingKey::from_secret(secret), header: Header::new(Algorithm::HS256) })
    }

    /// Signs with a private key in PEM: RSA (RS256), or, in PKCS #8, EC on P-256 (ES256) or P-384
    /// (ES384), or Ed25519 (EdDSA).
    ///
    /// # Errors
    /// [`InvalidKey`] says what `pem` contains instead.
    pub fn with_private_key(pem: &[u8]) -> Result<Self, InvalidKey> {
        let pem = only_block(pem)?;
        if !["PRIVATE KEY", "RSA PRIVATE KEY"].contains(&pem.tag()) {
            return Err(InvalidKey::new(not_to_sign_with(pem.tag())));
        }
        let der = pem.contents();
        let kinds = [
            (Algorithm::RS256, EncodingKey::from_rsa_der(der)),
            (Algorithm::ES256, EncodingKey::from_ec_der(der)),
            (Algorithm::ES384, EncodingKey::from_ec_der(der)),
            (Algorithm::EdDSA, EncodingKey::from_ed_der(der)),
        ];
        crypto::install();
        let mut known = kinds.into_iter().filter(|(kind, key)| crypto::signer(kind, key).is_ok());
        let (algorithm, key) = known.next().ok_or_else(|| {
            let needed = "RSA of 2048 bits or more, EC on P-256 or P-384, or Ed25519";
            InvalidKey::new(format!("it is a private key of another kind than {needed}"))
        })?;
        Ok(Self { key, header: Header::new(algorithm) })
    }

    /// Sets the id of the key, which tokens name in their header (`kid`): that of the key in a JWKS,
    /// where the verifier has several. Default: none.
    #[must_use]
    pub fn key_id(mut self, id: impl Into<String>) -> Self {
        self.header.kid = Some(id.into());
        self
    }

    /// A token with these claims: [`TokenClaims`](super::TokenClaims), or any other type that
    /// serializes to a JSON object.
    ///
    /// # Errors
    /// [`InvalidClaims`] if `claims` cannot be serialized.
    pub fn sign<T: Serialize>(&self, claims: &T) -> Result<String, InvalidClaims> {
        jsonwebtoken::encode(&self.header, claims, &self.key)
            .map_err(|error| InvalidClaims(error.into()))
    }
}

/// Claims that cannot be serialized as JSON.
#[derive(Debug, thiserror::Error)]
#[error("the claims cannot be written as JSON")]
pub struct InvalidClaims(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Says what is in a PEM block that is no private key of the right form.
fn not_to_sign_with(tag: &str) -> String {
    match tag {
        "EC PRIVATE KEY" => "it is an EC key in the form of SEC 1, and PKCS #8 is needed: \
                             openssl pkcs8 -topk8 -nocrypt"
            .to_owned(),
        "ENCRYPTED PRIVATE KEY" => {
            "it is encrypted: openssl pkey takes the password off".to_owned()
        }
        tag => format!("it holds {tag:?}, and a PRIVATE KEY is needed to sign with"),
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSigner").field("algorithm", &self.header.alg).finish_non_exhaustive()
    }
}
