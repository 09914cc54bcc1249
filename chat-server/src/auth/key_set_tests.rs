//! Which key a token is verified with, and by which algorithm.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chat_core::UserId;
use pem::{EncodeConfig, LineEnding, Pem, encode_config};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::{JwtAuthenticator, JwtSigner, TokenClaims};

const SECRETS: [&[u8]; 3] = [
    b"0123456789abcdef0123456789abcdef",
    b"fedcba9876543210fedcba9876543210",
    b"a third secret that has 32 bytes",
];

/// A generated key of Ed25519: what signs, and its public half as a JWK with an id.
fn generated(id: &str) -> (JwtSigner, Value) {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let pem = Pem::new("PRIVATE KEY", pkcs8.as_ref());
    let pem = encode_config(&pem, EncodeConfig::new().set_line_ending(LineEnding::LF));
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let signer = JwtSigner::with_private_key(pem.as_bytes()).unwrap();
    (signer, json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": id}))
}

fn set(keys: &[&Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

fn secrets(secrets: &[&[u8]]) -> JwtKeys {
    secrets.iter().fold(JwtKeys::new(), |keys, secret| keys.secret(secret).unwrap())
}

fn token(signer: &JwtSigner) -> String {
    let ann = UserId::new("ann").unwrap();
    signer.sign(&TokenClaims::new(&ann, Duration::from_secs(600))).unwrap()
}

fn hs256(secret: &[u8]) -> JwtSigner {
    JwtSigner::with_secret(secret).unwrap()
}

/// Why the token is refused; `None` if it is valid.
fn refusal(keys: &JwtKeys, token: &str) -> Option<String> {
    let outcome = JwtAuthenticator::with_keys(keys.clone()).verify(token);
    outcome.err().map(|error| error.to_string())
}

#[test]
fn digest_distinguishes_sets_of_keys() {
    let [a, b, _] = SECRETS;
    let now = SystemTime::now();
    let in_effect = |keys: &JwtKeys| keys.in_effect(now);
    let both = in_effect(&secrets(&[a, b]));
    assert_eq!((both.count, both.digest.len()), (2, 16));
    assert_eq!(in_effect(&secrets(&[b, a, b])), both, "order and repetition mean nothing");
    let (_, public) = generated("k");
    let (_, other) = generated("k");
    let set_of = |jwk: &Value| in_effect(&JwtKeys::new().jwks(&set(&[jwk])).unwrap());
    let mut renamed = public.clone();
    renamed["kid"] = "l".into();
    let sets = [
        both.clone(),
        in_effect(&secrets(&[a])),
        in_effect(&secrets(&[b])),
        in_effect(&secrets(&[a]).until(now + Duration::from_secs(1))),
        set_of(&public),
        set_of(&other),
        set_of(&renamed),
    ];
    let mut digests: Vec<_> = sets.iter().map(|set| &set.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), sets.len());
    let ended = secrets(&[a]).until(now).secret(b).unwrap();
    assert_eq!(in_effect(&ended), in_effect(&secrets(&[b])), "a key that has ended is none");
}

#[test]
fn no_number_of_digests_confirms_a_guess_at_a_secret() {
    let [a, b, _] = SECRETS;
    let digest = |keys: &[&[u8]]| secrets(keys).in_effect(SystemTime::UNIX_EPOCH).digest;
    let fits = |guess: &[u8]| digest(&[guess]) == digest(&[a]);
    // 65,536 on average.
    let guesses = (0..2_000_000).map(|n| format!("a wrong guess of 32 bytes {n:06}"));
    let wrong =
        guesses.into_iter().find(|guess| fits(guess.as_bytes())).expect("a wrong guess fits");
    assert_eq!(digest(&[wrong.as_bytes(), b]), digest(&[a, b]), "and fits all other digests");
}

#[test]
fn secrets_overlap() {
    let [old, new, other] = SECRETS;
    let keys = secrets(&[old, new]);
    for secret in [old, new] {
        assert_eq!(refusal(&keys, &token(&hs256(secret))), None);
        let named = token(&hs256(secret).key_id("unknown here"));
        assert_eq!(refusal(&keys, &named), None, "secrets have no ids");
    }
    assert!(refusal(&keys, &token(&hs256(other))).unwrap().contains("signature is wrong"));
}

#[test]
fn token_is_verified_with_the_key_that_it_names() {
    let ((a, a_key), (b, b_key)) = (generated("a"), generated("b"));
    let keys = JwtKeys::new().jwks(&set(&[&a_key, &b_key])).unwrap();
    assert_eq!(refusal(&keys, &token(&a)), None, "without an id");
    let (a, b) = (a.key_id("a"), b.key_id("b"));
    assert_eq!(refusal(&keys, &token(&a)), None);
    assert_eq!(refusal(&keys, &token(&b)), None);
    let misnamed = token(&a.key_id("b"));
    assert!(refusal(&keys, &misnamed).unwrap().contains("signature is wrong"));
    let unknown = refusal(&keys, &token(&b.key_id("c"))).unwrap();
    assert!(unknown.contains("its \"kid\" is \"c\", and no key of this server has that id"));
    let forged = token(&hs256(SECRETS[0]).key_id("\u{1b}[31m"));
    assert!(refusal(&keys, &forged).unwrap().contains("a name that cannot be shown"));
}

#[test]
fn key_verifies_until_its_end() {
    let [old, new, _] = SECRETS;
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let keys = |until| secrets(&[old]).until(until).secret(new).unwrap();
    assert_eq!(refusal(&keys(now + hour), &token(&hs256(old))), None);
    let ended = keys(now - hour);
    assert!(refusal(&ended, &token(&hs256(old))).unwrap().contains("signature is wrong"));
    assert_eq!(refusal(&ended, &token(&hs256(new))), None, "a later key has no end");
    let first_end = keys(now - hour).until(now + hour);
    assert!(
        refusal(&first_end, &token(&hs256(old))).is_some(),
        "a later end does not replace the first"
    );

    let (named, key) = generated("a");
    let named = named.key_id("a");
    let ended = JwtKeys::new().jwks(&set(&[&key])).unwrap().until(now - hour);
    assert!(refusal(&ended, &token(&named)).unwrap().contains("no key of this server has that id"));
}

/// Ids are the issuer's: two of them may choose the same.
#[test]
fn keys_of_one_id_are_tried_in_turn() {
    let ((a, a_key), (b, b_key), (c, _)) = (generated("1"), generated("1"), generated("1"));
    let keys = JwtKeys::new().jwks(&set(&[&a_key])).unwrap().jwks(&set(&[&b_key])).unwrap();
    assert_eq!(refusal(&keys, &token(&a.key_id("1"))), None);
    assert_eq!(refusal(&keys, &token(&b.key_id("1"))), None);
    assert!(refusal(&keys, &token(&c.key_id("1"))).is_some());
}

/// The public key is known to all: as a secret it must verify nothing, whatever the token says, and
/// whichever other keys there are.
#[test]
fn algorithm_follows_from_the_key() {
    let (signer, key) = generated("a");
    let x = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
    let keys = secrets(&SECRETS[..1]).jwks(&set(&[&key])).unwrap();
    for forged in [hs256(&x), hs256(&x).key_id("a")] {
        assert!(refusal(&keys, &token(&forged)).is_some());
    }
    let named = refusal(&keys, &token(&hs256(SECRETS[0]).key_id("a"))).unwrap();
    assert!(named.contains("its \"alg\" is \"HS256\", and the key of this server is for EdDSA"));
    assert_eq!(refusal(&keys, &token(&hs256(SECRETS[0]))), None);
    assert_eq!(refusal(&keys, &token(&signer)), None);
    let none = format!("{}.e30.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    let expected = "keys of this server are for HS256, HS384, HS512, EdDSA, Ed25519";
    assert!(refusal(&keys, &none).unwrap().contains(expected));
}

#[test]
fn alg_of_a_key_narrows_what_its_kind_allows() {
    let k = URL_SAFE_NO_PAD.encode(SECRETS[0]);
    let keys = |alg: &str| {
        let key = json!({"kty": "oct", "k": k, "alg": alg});
        JwtKeys::new().jwks(&set(&[&key])).unwrap()
    };
    assert_eq!(refusal(&keys("HS256"), &token(&hs256(SECRETS[0]))), None);
    let other = refusal(&keys("HS512"), &token(&hs256(SECRETS[0]))).unwrap();
    assert!(other.contains("the key of this server is for HS512"), "{other}");
}

#[test]
fn so_many_keys_are_tried() {
    let tried = |before: usize| {
        let mut all = vec![SECRETS[1]; before];
        all.push(SECRETS[0]);
        refusal(&secrets(&all), &token(&hs256(SECRETS[0]))).is_none()
    };
    assert!(tried(MAX_TRIES - 1));
    assert!(!tried(MAX_TRIES));
}

#[test]
fn without_a_key_every_token_is_refused() {
    let refused = refusal(&JwtKeys::new(), &token(&hs256(SECRETS[0]))).unwrap();
    assert!(refused.contains("this server has no key of tokens"), "{refused}");
    assert!(JwtKeys::new().is_empty() && !secrets(&SECRETS).is_empty());
}

#[test]
fn replaced_keys_count_in_every_clone() {
    let [old, new, _] = SECRETS;
    let authenticator = JwtAuthenticator::with_secret(old).unwrap();
    let clone = authenticator.clone();
    assert!(clone.verify(&token(&hs256(new))).is_err());
    authenticator.replace(&JwtAuthenticator::with_keys(secrets(&[new])).issuer(["us"]));
    assert!(clone.verify(&token(&hs256(old))).unwrap_err().to_string().contains("signature"));
    assert!(clone.verify(&token(&hs256(new))).unwrap_err().to_string().contains("\"iss\""));
    authenticator.replace(&JwtAuthenticator::with_keys(secrets(&[new])));
    assert!(clone.verify(&token(&hs256(new))).is_ok());
}
