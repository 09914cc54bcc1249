//! Tokens as other libraries make them, with fixed keys: `libraries.json` has one of each algorithm
//! from up to three libraries, all of `ann` and until 2100, and the keys as node exports them.

use std::collections::{BTreeMap, BTreeSet};

use chat_server::{JwtAuthenticator, JwtKeys};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Libraries {
    keys: BTreeMap<String, String>,
    jwks: Value,
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    by: String,
    key: String,
    alg: String,
    token: String,
}

#[test]
fn tokens_of_other_libraries_are_valid() {
    let Libraries { keys, tokens, .. } =
        serde_json::from_str(include_str!("libraries.json")).unwrap();
    let authenticator = |(kind, key): (&String, &String)| match kind.as_str() {
        "secret" => JwtAuthenticator::with_secret(key.as_bytes()).unwrap(),
        _ => JwtAuthenticator::with_public_key(key.as_bytes()).unwrap(),
    };
    let authenticators: BTreeMap<_, _> =
        keys.iter().map(|key| (key.0.as_str(), authenticator(key))).collect();
    for Token { by, key, alg, token } in &tokens {
        for (kind, authenticator) in &authenticators {
            match authenticator.verify(token) {
                Ok(identity) if key == kind => assert_eq!(identity.user.as_str(), "ann"),
                Ok(_) => panic!("{by}: {alg} of {key} is valid with {kind}"),
                Err(error) => assert!(
                    key != kind && error.to_string().contains(alg),
                    "{by}: {alg} with {kind}: {error}"
                ),
            }
        }
    }
    let algorithms: BTreeSet<_> = tokens.iter().map(|token| token.alg.as_str()).collect();
    let expected = [
        "ES256", "ES384", "Ed25519", "EdDSA", "HS256", "HS384", "HS512", "PS256", "PS384", "PS512",
        "RS256", "RS384", "RS512",
    ];
    assert!(algorithms.into_iter().eq(expected));
}

/// None of them names its key.
#[test]
fn keys_of_a_set_are_tried_in_turn() {
    let Libraries { jwks, tokens, .. } =
        serde_json::from_str(include_str!("libraries.json")).unwrap();
    let keys = JwtKeys::new().jwks(jwks.to_string().as_bytes()).unwrap();
    let authenticator = JwtAuthenticator::with_keys(keys);
    for Token { by, alg, token, .. } in &tokens {
        let ann = authenticator.verify(token).unwrap_or_else(|why| panic!("{by}: {alg}: {why}"));
        assert_eq!(ann.user.as_str(), "ann");
    }
}
