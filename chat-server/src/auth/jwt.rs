//! JSON Web Tokens (RFC 7519), signed (RFC 7515) by a shared secret or by a private key whose
//! public half is known here.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use super::claims::TokenClaims;
use super::{AuthError, Authenticator, Credentials, Identity, crypto};

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(5);

/// Shortest RSA key, in bytes of its DER form: the modulus alone has 2048 bits (RFC 7518,
/// section 3.3).
const MIN_RSA_BYTES: usize = 256;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Shortest secret, in bytes: as many as the hash has (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Lets in whoever has a valid token: signed with the key, not expired (`exp` is required),
/// not before its time (`nbf`), and, where these are set, for one of the audiences and by one
/// of the issuers.
///
/// | claim | |
/// |---|---|
/// | `sub` | the user's id; required |
/// | `name` | the user's name |
/// | `exp`, `nbf` | in seconds since 1970 |
/// | `aud`, `iss` | must be among [`audience`](Self::audience) and [`issuer`](Self::issuer) where these are set; a token with an `aud` is refused where none is |
/// | `rooms` | `{"team-*":["join","send"],"@support":["direct"]}`: [`Grants`](chat_core::Grants) by pattern; absent: all that members do, everywhere; `"*"` in a list is every capability |
///
/// The algorithm follows from the key, whatever the token says: HS256 for a secret, RS256,
/// ES256 (P-256) or EdDSA (Ed25519) for a public key.
pub struct JwtAuthenticator {
    key: DecodingKey,
    validation: Validation,
}

impl JwtAuthenticator {
    /// Tokens signed with a shared `secret`: HS256.
    ///
    /// # Errors
    /// [`AuthError::Invalid`]: the secret has less than 32 bytes.
    pub fn with_secret(secret: &[u8]) -> Result<Self, AuthError> {
        check_secret(secret)?;
        Ok(Self::new(DecodingKey::from_secret(secret), Algorithm::HS256))
    }

    /// Tokens signed with the private half of a public key in PEM: RS256, ES256 or EdDSA, as
    /// the key is.
    ///
    /// # Errors
    /// [`AuthError::Invalid`]: there is no such key in `pem`.
    pub fn with_public_key(pem: &[u8]) -> Result<Self, AuthError> {
        type Read = fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>;
        let kinds: [(Read, Algorithm); 3] = [
            (DecodingKey::from_rsa_pem, Algorithm::RS256),
            (DecodingKey::from_ec_pem, Algorithm::ES256),
            (DecodingKey::from_ed_pem, Algorithm::EdDSA),
        ];
        let mut known =
            kinds.iter().filter_map(|(read, algorithm)| Some((read(pem).ok()?, *algorithm)));
        let (key, algorithm) = known.next().ok_or_else(|| {
            AuthError::invalid("not a public key in PEM: RSA, EC (P-256) or Ed25519")
        })?;
        let is_short = key.try_get_as_bytes().is_ok_and(|der| der.len() < MIN_RSA_BYTES);
        if algorithm == Algorithm::RS256 && is_short {
            return Err(AuthError::invalid("the RSA key has less than 2048 bits"));
        }
        Ok(Self::new(key, algorithm))
    }

    fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
        crypto::install();
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self { key, validation }
    }

    /// For whom tokens must be: one of these. Default: for nobody in particular.
    #[must_use]
    pub fn audience(mut self, audiences: &[String]) -> Self {
        self.validation.set_audience(audiences);
        // Without this a token that names none would pass.
        self.validation.required_spec_claims.insert("aud".to_owned());
        self
    }

    /// Who must have made tokens: one of these. Default: anybody who has the key.
    #[must_use]
    pub fn issuer(mut self, issuers: &[String]) -> Self {
        self.validation.set_issuer(issuers);
        self.validation.required_spec_claims.insert("iss".to_owned());
        self
    }

    /// Who the bearer of a token is.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] says why it is nobody.
    pub fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::invalid("it is too long"));
        }
        let read = jsonwebtoken::decode::<TokenClaims>(token, &self.key, &self.validation);
        read.map_err(|error| AuthError::invalid(reason(error.kind())))?.claims.identity()
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
            .field("algorithms", &self.validation.algorithms)
            .field("audience", &self.validation.aud)
            .field("issuer", &self.validation.iss)
            .finish_non_exhaustive()
    }
}

/// What a client may know of what is wrong.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "its time has not come yet",
        ErrorKind::InvalidAudience => "it is for another audience",
        ErrorKind::InvalidIssuer => "it is of another issuer",
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => "it has no \"aud\"",
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => "it has no \"iss\"",
        ErrorKind::MissingRequiredClaim(_) => "a claim is missing",
        ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => "a claim is malformed",
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::InvalidAlgorithm => "it is signed in another way",
        _ => "it is malformed",
    }
}

pub(super) fn check_secret(secret: &[u8]) -> Result<(), AuthError> {
    if secret.len() < MIN_SECRET_BYTES {
        return Err(AuthError::invalid("the secret has less than 32 bytes"));
    }
    Ok(())
}
