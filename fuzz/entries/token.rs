//! Tokens, and the keys to verify them with.

use chat_server::{JwtAuthenticator, JwtSigner, TokenClaims};
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
