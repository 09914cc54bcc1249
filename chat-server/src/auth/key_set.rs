//! The keys of tokens, and which of them a token is verified with.

use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use jsonwebtoken::Algorithm;
use ring::digest::{SHA256, digest};

use super::jwk;
use super::key::{InvalidKey, KeyKind, NamedKey, VerificationKey};
#[cfg(feature = "jwks")]
use super::remote_keys::RemoteKeys;
use super::token_header::{Header, shown};
use super::{AuthError, KeyEnds, KeySet};

/// Keys with which a token that names none of them is tried, at most. A signature by RSA takes some
/// 30 µs to verify, and clients can send tokens at any rate.
const MAX_TRIES: usize = 16;

/// The keys that tokens may be signed with: several at a time, so that a new one can be accepted on
/// every server before tokens are signed with it, and an old one until its last token has expired.
///
/// A token that names a key in its header (`kid`) is verified with the key of that id, which keys in
/// a JWKS have. If there is none, or if the token names none, the keys that may be meant are tried
/// in turn, at most 16: those without an id, or all. In any case the key determines the algorithms,
/// and the header of the token only selects one of them.
///
/// ```
/// use chat_server::{JwtAuthenticator, JwtKeys};
///
/// let keys = JwtKeys::new()
///     .secret(b"the secret until now, of 32 bytes")?
///     .secret(b"the next secret, also of 32 bytes")?;
/// let authenticator = JwtAuthenticator::with_keys(keys);
/// # Ok::<(), chat_server::InvalidKey>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct JwtKeys {
    fixed: Vec<NamedKey>,
    #[cfg(feature = "jwks")]
    remote: Option<RemoteKeys>,
}

impl JwtKeys {
    /// No key: every token is refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a secret that signer and server share, without an id.
    ///
    /// # Errors
    /// [`InvalidKey`] if the secret has less than 32 bytes, or is a key in PEM.
    pub fn secret(self, secret: &[u8]) -> Result<Self, InvalidKey> {
        Ok(self.with(VerificationKey::secret(secret)?))
    }

    /// Adds the public key in `pem`, without an id: RSA with 2048 to 8192 bits, EC on P-256 or
    /// P-384, or Ed25519.
    ///
    /// # Errors
    /// [`InvalidKey`] says what `pem` contains instead.
    pub fn public_key(self, pem: &[u8]) -> Result<Self, InvalidKey> {
        Ok(self.with(VerificationKey::public(pem)?))
    }

    /// Adds the keys of a JWKS (RFC 7517, section 5): public keys as [`public_key`](Self::public_key)
    /// takes them, and secrets (`oct`). A key of another kind, for another use or with its private
    /// half is skipped with a warning in the log.
    ///
    /// # Errors
    /// [`InvalidKey`] if `json` is no JWKS, or has no key that can be used.
    pub fn jwks(mut self, json: &[u8]) -> Result<Self, InvalidKey> {
        self.fixed.extend(jwk::read_set(json, jwk::Source::File)?);
        Ok(self)
    }

    /// Ends at `until` the keys that have been added so far and have no end: from then on they are as if
    /// they had not been added. So the former key of a rotation needs no second change of the settings.
    /// Keys at a URL do not end so.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use chat_server::JwtKeys;
    ///
    /// let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600);
    /// let keys = JwtKeys::new()
    ///     .secret(b"the secret until now, of 32 bytes")?
    ///     .until(tomorrow)
    ///     .secret(b"the next secret, also of 32 bytes")?;
    /// # Ok::<(), chat_server::InvalidKey>(())
    /// ```
    #[must_use]
    pub fn until(mut self, until: SystemTime) -> Self {
        for key in &mut self.fixed {
            key.until.get_or_insert(until);
        }
        self
    }

    /// Adds the keys of a JWKS at a URL, as they are known at any time. The last call counts.
    #[cfg(feature = "jwks")]
    #[must_use]
    pub fn remote(mut self, keys: RemoteKeys) -> Self {
        self.remote = Some(keys);
        self
    }

    /// Whether there is no key, and no URL of keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        #[cfg(feature = "jwks")]
        if self.remote.is_some() {
            return false;
        }
        self.fixed.is_empty()
    }

    /// Whether there are keys, and each has ended, so that no token is valid.
    pub(super) fn have_ended(&self) -> bool {
        let now = SystemTime::now();
        let has_ended = |key: &NamedKey| key.until.is_some_and(|until| until <= now);
        !self.fixed.is_empty() && self.fixed.iter().all(has_ended) && self.fetched().is_empty()
    }

    /// When these keys end. Those at a URL do not.
    pub(super) fn ends(&self, now: SystemTime) -> KeyEnds {
        let ends = || self.fixed.iter().filter_map(|key| key.until);
        #[cfg(feature = "jwks")]
        let has_lasting = self.remote.is_some() || self.fixed.iter().any(|key| key.until.is_none());
        #[cfg(not(feature = "jwks"))]
        let has_lasting = self.fixed.iter().any(|key| key.until.is_none());
        KeyEnds {
            next: ends().filter(|end| *end > now).min(),
            last: ends().max().filter(|_| !has_lasting),
        }
    }

    /// The keys that tokens are verified with at `now`.
    pub(super) fn in_effect(&self, now: SystemTime) -> KeySet {
        /// Of the 32 bytes of SHA-256, as in the digest of the settings.
        const BYTES: usize = 8;
        let remote = self.fetched();
        let keys = self.fixed.iter().chain(&*remote).filter(|key| key.is_valid(now));
        let mut keys: Vec<_> = keys.map(NamedKey::identity).collect();
        // In which order they stand, and how often, changes nothing.
        keys.sort_unstable();
        keys.dedup();
        let digest = digest(&SHA256, keys.join("\n").as_bytes());
        KeySet { count: keys.len(), digest: HEXLOWER.encode(&digest.as_ref()[..BYTES]) }
    }

    fn with(mut self, key: VerificationKey) -> Self {
        self.fixed.push(NamedKey { id: None, key, only: None, until: None });
        self
    }

    #[cfg(feature = "jwks")]
    pub(super) fn remote_keys(&self) -> Option<&RemoteKeys> {
        self.remote.as_ref()
    }

    /// Whether the token names a key that is not among these.
    #[cfg(feature = "jwks")]
    pub(super) fn lack_key_of(&self, token: &str) -> bool {
        let header = token.split('.').next().map(Header::read);
        let Some(Ok(Header { kid: Some(id), .. })) = header else { return false };
        let remote = self.fetched();
        !self.fixed.iter().chain(&*remote).any(|key| key.id.as_ref() == Some(&id))
    }

    #[cfg(feature = "jwks")]
    fn fetched(&self) -> Arc<[NamedKey]> {
        self.remote.as_ref().map(RemoteKeys::known).unwrap_or_default()
    }

    #[cfg(not(feature = "jwks"))]
    fn fetched(&self) -> Arc<[NamedKey]> {
        Arc::default()
    }

    /// Verifies the signature of `message`. Returns the kind of the key that it is of, and the
    /// algorithm.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] if it is of none of these keys.
    pub(super) fn verify(
        &self,
        header: &Header,
        message: &str,
        signature: &str,
    ) -> Result<(KeyKind, Algorithm), AuthError> {
        let remote = self.fetched();
        let now = SystemTime::now();
        let known = self.fixed.iter().chain(&*remote).filter(|key| key.is_valid(now));
        let known: Vec<&NamedKey> = known.collect();
        let keys = candidates(&known, header)?;
        let fitting = keys.iter().filter_map(|key| Some((key, key.algorithm(&header.alg)?)));
        let mut is_tried = false;
        for (NamedKey { key, .. }, algorithm) in fitting.take(MAX_TRIES) {
            is_tried = true;
            match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, algorithm) {
                Ok(true) => return Ok((key.kind, algorithm)),
                Ok(false) => {}
                Err(_) => return Err(AuthError::invalid("its signature is not in base64url")),
            }
        }
        let wrong_signature = || "its signature is wrong".to_owned();
        let why = if is_tried { wrong_signature() } else { other_algorithm(&header.alg, &keys) };
        Err(AuthError::invalid(why))
    }
}

/// The keys that a token may be signed with by its `kid`.
fn candidates<'a>(known: &[&'a NamedKey], header: &Header) -> Result<Vec<&'a NamedKey>, AuthError> {
    let with_id = |id: Option<&String>| {
        known.iter().filter(move |key| key.id.as_ref() == id).copied().collect::<Vec<_>>()
    };
    let keys = match &header.kid {
        None => known.to_vec(),
        Some(id) => match with_id(Some(id)) {
            // Backends may name a key that has no name here: a secret, or a file in PEM.
            named if named.is_empty() => with_id(None),
            named => named,
        },
    };
    match (keys.is_empty(), &header.kid) {
        (false, _) => Ok(keys),
        (true, Some(id)) => Err(AuthError::invalid(format!(
            "its \"kid\" is {}, and no key of this server has that id",
            shown(id)
        ))),
        (true, None) => Err(AuthError::invalid("this server has no key of tokens")),
    }
}

fn other_algorithm(alg: &str, keys: &[&NamedKey]) -> String {
    let mut allowed: Vec<&str> = Vec::new();
    for (name, _) in keys.iter().flat_map(|key| key.algorithms()) {
        if !allowed.contains(name) {
            allowed.push(name);
        }
    }
    let keys = if keys.len() == 1 { "key of this server is" } else { "keys of this server are" };
    format!("its \"alg\" is {}, and the {keys} for {}", shown(alg), allowed.join(", "))
}

#[cfg(test)]
#[path = "key_set_tests.rs"]
mod tests;
