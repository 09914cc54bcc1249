//! The keys that tokens are verified with, and the algorithms that each kind of key allows.

use std::fmt;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use jsonwebtoken::{Algorithm, DecodingKey};
use pem::Pem;
use ring::digest::{SHA256, digest};
use ring::hmac;
use simple_asn1::{ASN1Block, from_der};

/// The shortest secret, in bytes: the length of the hash of HS256 (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Sizes of RSA keys: RFC 7518, section 3.3, asks for 2048 bits, and *ring* verifies no more than
/// 8192.
const RSA_BITS: std::ops::RangeInclusive<u64> = 2048..=8192;

/// A key that tokens cannot be signed or verified with. The text says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidKey(String);

impl InvalidKey {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// A key to verify tokens with.
#[derive(Clone)]
pub(super) struct VerificationKey {
    pub(super) kind: KeyKind,
    pub(super) key: DecodingKey,
    /// What distinguishes keys: see [`of_secret`] and [`of_public_key`].
    pub(super) fingerprint: Vec<u8>,
}

/// A key, with the id that tokens name it by.
#[derive(Clone)]
pub(super) struct NamedKey {
    pub(super) id: Option<String>,
    pub(super) key: VerificationKey,
    /// The one algorithm that the key is for, of those that its kind allows; `None`: all of them.
    pub(super) only: Option<Algorithm>,
    /// When it stops to verify tokens.
    pub(super) until: Option<SystemTime>,
}

/// The kind of a key. It determines the algorithms, and the header of a token only selects one of them:
/// otherwise an attacker could sign a token by HS256 with the public key as the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyKind {
    /// A shared secret, and its length.
    Secret {
        bytes: usize,
    },
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl KeyKind {
    /// The names of the algorithms in tokens (RFC 7518, section 3.1; RFC 8037; RFC 9864).
    pub(super) fn algorithms(self) -> &'static [(&'static str, Algorithm)] {
        match self {
            Self::Secret { .. } => &[
                ("HS256", Algorithm::HS256),
                ("HS384", Algorithm::HS384),
                ("HS512", Algorithm::HS512),
            ],
            Self::Rsa => &[
                ("RS256", Algorithm::RS256),
                ("RS384", Algorithm::RS384),
                ("RS512", Algorithm::RS512),
                ("PS256", Algorithm::PS256),
                ("PS384", Algorithm::PS384),
                ("PS512", Algorithm::PS512),
            ],
            Self::P256 => &[("ES256", Algorithm::ES256)],
            Self::P384 => &[("ES384", Algorithm::ES384)],
            Self::Ed25519 => &[("EdDSA", Algorithm::EdDSA), ("Ed25519", Algorithm::EdDSA)],
        }
    }
}

impl VerificationKey {
    /// A shared secret.
    pub(super) fn secret(secret: &[u8]) -> Result<Self, InvalidKey> {
        check_secret(secret)?;
        let kind = KeyKind::Secret { bytes: secret.len() };
        let fingerprint = of_secret(secret);
        Ok(Self { kind, key: DecodingKey::from_secret(secret), fingerprint })
    }

    /// The public key in a file.
    pub(super) fn public(file: &[u8]) -> Result<Self, InvalidKey> {
        let pem = only_block(file)?;
        match pem.tag() {
            "PUBLIC KEY" => of_public_key_info(pem.contents()),
            "RSA PUBLIC KEY" => Self::rsa(pem.contents()),
            tag => Err(InvalidKey::new(not_public(tag))),
        }
    }

    /// An `RSAPublicKey` (RFC 8017, appendix A.1.1): modulus and exponent.
    pub(super) fn rsa(der: &[u8]) -> Result<Self, InvalidKey> {
        let blocks = from_der(der).map_err(|_| damaged())?;
        let [ASN1Block::Sequence(_, numbers)] = blocks.as_slice() else { return Err(damaged()) };
        let [ASN1Block::Integer(_, modulus), ASN1Block::Integer(..)] = numbers.as_slice() else {
            return Err(damaged());
        };
        let bits = modulus.bits();
        if !RSA_BITS.contains(&bits) {
            return Err(other(&format!("an RSA key of {bits} bits (2048 to 8192 are supported)")));
        }
        Ok(Self::of_public_bytes(KeyKind::Rsa, DecodingKey::from_rsa_der(der), der))
    }

    /// A point on the curve of `kind` (SEC 1, section 2.3.3).
    pub(super) fn point(kind: KeyKind, point: &[u8]) -> Result<Self, InvalidKey> {
        let coordinate = if kind == KeyKind::P384 { 48 } else { 32 };
        match point.first() {
            Some(4) if point.len() == 1 + 2 * coordinate => {
                Ok(Self::of_public_bytes(kind, DecodingKey::from_ec_der(point), point))
            }
            Some(2 | 3) => {
                Err(other("an EC key in compressed form (openssl ec -conv_form uncompressed)"))
            }
            _ => Err(damaged()),
        }
    }

    /// The 32 bytes of a public key of Ed25519 (RFC 8032, section 5.1.5).
    pub(super) fn ed25519(key: &[u8]) -> Result<Self, InvalidKey> {
        let is_whole = key.len() == 32;
        let read = || Self::of_public_bytes(KeyKind::Ed25519, DecodingKey::from_ed_der(key), key);
        is_whole.then(read).ok_or_else(damaged)
    }

    fn of_public_bytes(kind: KeyKind, key: DecodingKey, bytes: &[u8]) -> Self {
        let fingerprint = of_public_key(bytes);
        Self { kind, key, fingerprint }
    }
}

/// The fingerprint of a public key, which everybody may know: its hash.
fn of_public_key(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// The fingerprint of a secret: 16 bits of what HS256 would sign a known text with. The metrics, which need no
/// key, have a digest of the fingerprints. It is cut here and not there: several digests, of a rotation, would
/// each have 16 other bits of a secret, and together confirm a guess at a weak one.
fn of_secret(secret: &[u8]) -> Vec<u8> {
    const BYTES: usize = 2;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, b"roomcast token key").as_ref()[..BYTES].to_vec()
}

impl NamedKey {
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// What is equal for two keys that verify the same tokens.
    pub(super) fn identity(&self) -> String {
        let Self { id, key, only, until } = self;
        let until = until.and_then(|until| until.duration_since(SystemTime::UNIX_EPOCH).ok());
        format!("{} {id:?} {only:?} {until:?}", HEXLOWER.encode(&key.fingerprint))
    }

    /// The algorithm of this name, if the key is for it.
    pub(super) fn algorithm(&self, name: &str) -> Option<Algorithm> {
        self.algorithms().find(|(allowed, _)| *allowed == name).map(|(_, algorithm)| *algorithm)
    }

    pub(super) fn algorithms(&self) -> impl Iterator<Item = &'static (&'static str, Algorithm)> {
        let only = self.only;
        let of_kind = self.key.kind.algorithms().iter();
        of_kind.filter(move |(_, algorithm)| only.is_none_or(|only| only == *algorithm))
    }
}

/// Shows no key.
impl fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, kind) = (&self.id, &self.key.kind);
        f.debug_struct("NamedKey").field("id", id).field("kind", kind).finish_non_exhaustive()
    }
}

pub(super) fn check_secret(secret: &[u8]) -> Result<(), InvalidKey> {
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
        // With a public key as the secret, everyone who knows it could sign tokens.
        return Err(InvalidKey::new("it is a key in PEM: a public key belongs in a file"));
    }
    if secret.len() < MIN_SECRET_BYTES {
        let why = format!("the secret has less than {MIN_SECRET_BYTES} bytes");
        return Err(InvalidKey::new(why));
    }
    Ok(())
}

/// The block of a PEM file that has one.
pub(super) fn only_block(file: &[u8]) -> Result<Pem, InvalidKey> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file).trim_ascii();
    let mut blocks = pem::parse_many(file)
        .map_err(|error| InvalidKey::new(format!("its PEM is damaged: {error}")))?;
    match (blocks.pop(), blocks.as_slice()) {
        (None, _) => Err(InvalidKey::new(no_pem(file))),
        (Some(block), []) => Ok(block),
        // `openssl ecparam -genkey` writes the parameters of a curve before the key.
        (Some(key), [parameters]) if parameters.tag() == "EC PARAMETERS" => Ok(key),
        (Some(_), others) => Err(InvalidKey::new(format!(
            "it holds {} PEM blocks, and one key is needed",
            others.len() + 1
        ))),
    }
}

/// Says what a file without PEM is.
fn no_pem(file: &[u8]) -> &'static str {
    let begins_with = |texts: &[&[u8]]| texts.iter().any(|text| file.starts_with(text));
    if file.is_empty() {
        "the file is empty"
    } else if file.windows(10).any(|text| text == b"-----BEGIN") {
        "its PEM is damaged: the line that begins with -----END is missing"
    } else if begins_with(&[b"{", b"["]) {
        "it is JSON (a JWK?), and PEM is needed"
    } else if begins_with(&[b"\x30"]) && file.contains(&0) {
        "it is DER, and PEM is needed: openssl pkey -inform DER"
    } else if begins_with(&[b"ssh-", b"ecdsa-sha2-", b"sk-", b"---- BEGIN SSH2"]) {
        "it is a key of OpenSSH, and PEM is needed: ssh-keygen -e -m PKCS8"
    } else {
        "it is not PEM, which begins with -----BEGIN"
    }
}

/// Says what is in a PEM block that is no public key.
fn not_public(tag: &str) -> String {
    if tag.ends_with("PRIVATE KEY") {
        "it is a private key, and the server needs the public half: openssl pkey -pubout".to_owned()
    } else if tag.ends_with("CERTIFICATE") {
        "it is a certificate, and its public key is needed: openssl x509 -pubkey -noout".to_owned()
    } else {
        format!("it holds {tag:?}, and a PUBLIC KEY is needed")
    }
}

const RSA: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
const RSA_PSS: &[u64] = &[1, 2, 840, 113_549, 1, 1, 10];
const DSA: &[u64] = &[1, 2, 840, 10_040, 4, 1];
const EC: &[u64] = &[1, 2, 840, 10_045, 2, 1];
const P256: &[u64] = &[1, 2, 840, 10_045, 3, 1, 7];
const SECP256K1: &[u64] = &[1, 3, 132, 0, 10];
const P384: &[u64] = &[1, 3, 132, 0, 34];
const P521: &[u64] = &[1, 3, 132, 0, 35];
const X25519: &[u64] = &[1, 3, 101, 110];
const X448: &[u64] = &[1, 3, 101, 111];
const ED25519: &[u64] = &[1, 3, 101, 112];
const ED448: &[u64] = &[1, 3, 101, 113];

/// A `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7): an algorithm, and a key in bits.
fn of_public_key_info(der: &[u8]) -> Result<VerificationKey, InvalidKey> {
    let blocks = from_der(der).map_err(|_| damaged())?;
    let [ASN1Block::Sequence(_, info)] = blocks.as_slice() else { return Err(damaged()) };
    let [ASN1Block::Sequence(_, algorithm), ASN1Block::BitString(_, _, key)] = info.as_slice()
    else {
        return Err(damaged());
    };
    let ids: Vec<Vec<u64>> = algorithm.iter().map_while(object_id).collect();
    let ids: Vec<&[u64]> = ids.iter().map(Vec::as_slice).collect();
    match ids.as_slice() {
        [RSA] => VerificationKey::rsa(key),
        [EC, P256] => VerificationKey::point(KeyKind::P256, key),
        [EC, P384] => VerificationKey::point(KeyKind::P384, key),
        [ED25519] => VerificationKey::ed25519(key),
        [RSA_PSS] => Err(other("an RSA key for PSS alone (write it as rsaEncryption)")),
        [DSA] => Err(other("a DSA key")),
        [EC, P521] => Err(other("an EC key on the curve P-521")),
        [EC, SECP256K1] => Err(other("an EC key on the curve secp256k1")),
        [EC, ..] => Err(other("an EC key on another curve")),
        [ED448] => Err(other("an Ed448 key")),
        [X25519 | X448] => Err(other("a key to encrypt with")),
        _ => Err(other("a key of another kind")),
    }
}

fn object_id(block: &ASN1Block) -> Option<Vec<u64>> {
    match block {
        ASN1Block::ObjectIdentifier(_, id) => id.as_vec().ok(),
        _ => None,
    }
}

fn other(what: &str) -> InvalidKey {
    InvalidKey::new(format!("it is {what}; RSA, EC on P-256 or P-384, or Ed25519 is needed"))
}

fn damaged() -> InvalidKey {
    InvalidKey::new("the key is damaged")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The public key of this kind in the tokens of other libraries.
    fn pem(kind: &str) -> String {
        let libraries = include_str!("../../tests/e2e/auth/libraries.json");
        let libraries: serde_json::Value = serde_json::from_str(libraries).unwrap();
        libraries["keys"][kind].as_str().unwrap().to_owned()
    }

    #[test]
    fn pem_key_is_rejected_as_secret() {
        for before in ["", "\n", " \t\r\n"] {
            let secret = format!("{before}{}", pem("ed25519"));
            assert!(VerificationKey::secret(secret.as_bytes()).is_err(), "{before:?}");
        }
    }

    #[test]
    fn kind_of_key_determines_algorithms() {
        let algorithms = |key: VerificationKey| {
            let algorithms = key.kind.algorithms().iter();
            algorithms.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
        };
        for (kind, expected) in [
            ("rsa", "RS256 RS384 RS512 PS256 PS384 PS512"),
            ("p256", "ES256"),
            ("p384", "ES384"),
            ("ed25519", "EdDSA Ed25519"),
        ] {
            assert_eq!(
                algorithms(VerificationKey::public(pem(kind).as_bytes()).unwrap()),
                expected
            );
        }
        let secret = VerificationKey::secret(&[7; 32]).unwrap();
        assert_eq!(algorithms(secret), "HS256 HS384 HS512");
    }

    proptest! {
        #[test]
        fn damaged_key_is_an_error(
            kind in prop::sample::select(vec!["rsa", "p256", "p384", "ed25519"]),
            place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut der = only_block(pem(kind).as_bytes()).unwrap().into_contents();
            let place = place.index(der.len());
            der[place] = byte;
            let _ = of_public_key_info(&der);
            let whole = der.len();
            der.truncate(cut.index(whole));
            prop_assert!(of_public_key_info(&der).is_err());
        }
    }
}
