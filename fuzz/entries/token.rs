//! Tokens.

use chat_server::{JwtAuthenticator, JwtSigner, TokenClaims};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub fn authenticator() -> JwtAuthenticator {
    JwtAuthenticator::with_secret(SECRET).unwrap()
}

/// A token, and the claims of one that is signed: nobody is let in by any bytes, and whoever is
/// let in by claims is who they say.
pub fn token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    assert!(authenticator().verify(text).is_err(), "who knows the secret?");
    let Ok(claims) = serde_json::from_str::<TokenClaims>(text) else { return };
    let signed = JwtSigner::with_secret(SECRET).unwrap().sign(&claims).unwrap();
    if let Ok(identity) = authenticator().verify(&signed) {
        assert_eq!(identity.user.as_str(), claims.sub);
        assert_eq!(identity.name.as_ref().map(|name| name.as_str()), claims.name.as_deref());
        let (head, _) = signed.rsplit_once('.').unwrap();
        assert!(authenticator().verify(&format!("{head}.")).is_err(), "without its signature");
    }
}
