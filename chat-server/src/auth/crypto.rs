//! The signatures of tokens, by *ring*, which the tree has for TLS anyhow: RFC 7518, section
//! 3, and RFC 8037.
//!
//! The providers that jsonwebtoken ships, `aws_lc_rs` and `rust_crypto`, would be a second
//! cryptography in the tree, and the RSA of the latter leaks by its timing (RUSTSEC-2023-0071).
//! Tokens of other libraries test each algorithm (`tests/e2e/auth/libraries.json`).

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PKCS1_SHA256, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use ring::{error, hmac};
use signature::{Error, Signer, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has the process sign and verify tokens with *ring*, unless it uses something else already.
pub(super) fn install() {
    // Whatever is there already knows the same algorithms.
    let _ = PROVIDER.install_default();
}

struct RingSigner {
    algorithm: Algorithm,
    key: SigningKey,
}

enum SigningKey {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// What signs with this key; an error if it is no key of that kind. Of each kind of key one
/// algorithm is enough.
pub(super) fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    let bytes = key.as_bytes();
    let key = match algorithm {
        Algorithm::HS256 => Ok(SigningKey::Hmac(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
        Algorithm::RS256 => RsaKeyPair::from_der(bytes)
            .or_else(|_| RsaKeyPair::from_pkcs8(bytes))
            .map(|key| SigningKey::Rsa(Box::new(key))),
        Algorithm::ES256 => ec(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes),
        Algorithm::ES384 => ec(&ECDSA_P384_SHA384_FIXED_SIGNING, bytes),
        Algorithm::EdDSA => Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map(SigningKey::Ed),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    let key = key.map_err(|_| ErrorKind::InvalidKeyFormat)?;
    Ok(Box::new(RingSigner { algorithm: *algorithm, key }))
}

fn ec(
    algorithm: &'static EcdsaSigningAlgorithm,
    pkcs8: &[u8],
) -> std::result::Result<SigningKey, error::KeyRejected> {
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &SystemRandom::new()).map(SigningKey::Ec)
}

impl Signer<Vec<u8>> for RingSigner {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        let signed: std::result::Result<Vec<u8>, error::Unspecified> = match &self.key {
            SigningKey::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map(|()| signature)
            }
            SigningKey::Ec(key) => key.sign(&random, message).map(|tag| tag.as_ref().to_vec()),
            SigningKey::Ed(key) => Ok(key.sign(message).as_ref().to_vec()),
        };
        signed.map_err(|_| Error::new())
    }
}

impl JwtSigner for RingSigner {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if algorithm.family() != key.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key: key.clone() }))
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let key = self.key.try_get_as_bytes().map_err(|_| Error::new())?;
        let public: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::HS256 => return verify_hmac(hmac::HMAC_SHA256, key, message, signature),
            Algorithm::HS384 => return verify_hmac(hmac::HMAC_SHA384, key, message, signature),
            Algorithm::HS512 => return verify_hmac(hmac::HMAC_SHA512, key, message, signature),
            Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
            Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
            Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
            Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
            Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
            Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDSA => &ED25519,
            _ => return Err(Error::new()),
        };
        UnparsedPublicKey::new(public, key).verify(message, signature).map_err(|_| Error::new())
    }
}

fn verify_hmac(
    hash: hmac::Algorithm,
    secret: &[u8],
    message: &[u8],
    signature: &[u8],
) -> std::result::Result<(), Error> {
    let key = hmac::Key::new(hash, secret);
    hmac::verify(&key, message, signature).map_err(|_| Error::new())
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
