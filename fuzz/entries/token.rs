//! Tokens, and the keys to verify them with.

use chat_server::{JwtAuthenticator, JwtKeys, JwtSigner, TokenClaims};
use serde_json::Value;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub fn authenticator() -> JwtAuthenticator {
    JwtAuthenticator::with_secret(SECRET).unwrap()
}

/// A token, the claims of one that is signed, and a file with a key: nobody is let in by any bytes,
/// and a user who is let in by claims is the one they name.
pub fn token(input: &[u8]) {
    let _ = JwtAuthenticator::with_public_key(input);
    let _ = JwtSigner::with_private_key(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    assert!(authenticator().verify(text).is_err(), "who knows the secret?");
    let Ok(claims) = serde_json::from_str::<Value>(text) else { return };
    let signed = JwtSigner::with_secret(SECRET).unwrap().sign(&claims).unwrap();
    match authenticator().verify(&signed) {
        Ok(identity) => {
            assert_eq!(claims["sub"], identity.user.as_str());
            assert_eq!(claims["name"].as_str(), identity.name.as_ref().map(|name| name.as_str()));
            assert!(claims["exp"].is_number());
            let (head, _) = signed.rsplit_once('.').unwrap();
            assert!(authenticator().verify(&format!("{head}.")).is_err(), "without its signature");
        }
        Err(error) => {
            let error = error.to_string();
            assert!(!error.contains(char::is_control) && error.len() < 350, "{error}");
            let read = serde_json::from_str::<TokenClaims>(text);
            assert!(read.is_err() || !error.contains("is missing"), "{error}");
        }
    }
}

/// A JWKS: of any bytes a set of keys is made or none, and only a shared secret in it accepts a
/// token that is signed with one.
pub fn jwks(input: &[u8]) {
    let keys = match JwtKeys::new().jwks(input) {
        Ok(keys) => keys,
        Err(error) => {
            let error = error.to_string();
            assert!(!error.contains(char::is_control) && error.len() < 350, "{error}");
            return;
        }
    };
    assert!(!keys.is_empty());
    let claims = serde_json::json!({"sub": "ann", "exp": 4_102_444_800_u64});
    let signed = JwtSigner::with_secret(SECRET).unwrap().sign(&claims).unwrap();
    let outcome = JwtAuthenticator::with_keys(keys).verify(&signed);
    assert!(outcome.is_err() || input.windows(3).any(|text| text == b"oct"), "{outcome:?}");
}
