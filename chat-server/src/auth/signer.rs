//! Making tokens.

use std::fmt;

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::claims::TokenClaims;
use super::jwt::check_secret;
use super::{AuthError, crypto};

/// Makes tokens, for trying out and for tests. Those that are used in earnest are made by
/// whoever knows the users.
pub struct JwtSigner {
    key: EncodingKey,
    algorithm: Algorithm,
}

impl JwtSigner {
    /// Signs with a shared secret: HS256.
    ///
    /// # Errors
    /// [`AuthError::Invalid`]: the secret has less than 32 bytes.
    pub fn with_secret(secret: &[u8]) -> Result<Self, AuthError> {
        check_secret(secret)?;
        crypto::install();
        Ok(Self { key: EncodingKey::from_secret(secret), algorithm: Algorithm::HS256 })
    }

    /// Signs with a private key in PEM: RSA, EC (P-256, in PKCS #8) or Ed25519.
    ///
    /// # Errors
    /// [`AuthError::Invalid`]: there is no such key in `pem`.
    pub fn with_private_key(pem: &[u8]) -> Result<Self, AuthError> {
        type Read = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;
        let kinds: [(Read, Algorithm); 3] = [
            (EncodingKey::from_rsa_pem, Algorithm::RS256),
            (EncodingKey::from_ec_pem, Algorithm::ES256),
            (EncodingKey::from_ed_pem, Algorithm::EdDSA),
        ];
        crypto::install();
        let mut known =
            kinds.iter().filter_map(|(read, algorithm)| Some((read(pem).ok()?, *algorithm)));
        let (key, algorithm) = known.next().ok_or_else(|| {
            AuthError::invalid("not a private key in PEM: RSA, EC (P-256) or Ed25519")
        })?;
        Ok(Self { key, algorithm })
    }

    /// A token that says `claims`.
    ///
    /// # Errors
    /// [`AuthError::Invalid`]: the key is not what its PEM says.
    pub fn sign(&self, claims: &TokenClaims) -> Result<String, AuthError> {
        jsonwebtoken::encode(&Header::new(self.algorithm), claims, &self.key)
            .map_err(|_| AuthError::invalid("the key does not sign"))
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSigner").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
