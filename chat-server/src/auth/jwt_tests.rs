//! Valid tokens, and the reasons for which others are rejected.

use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::hmac;
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn authenticator() -> JwtAuthenticator {
    JwtAuthenticator::with_secret(SECRET).unwrap()
}

/// A token with any header and claims, whose signature is right.
fn signed(header: &str, claims: &str) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let message = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

fn with_claims(claims: &Value) -> String {
    signed(r#"{"alg":"HS256"}"#, &claims.to_string())
}

fn with_header(header: &str) -> String {
    signed(header, r#"{"sub":"ann","exp":4102444800}"#)
}

/// Claims of Ann, with those in `changes` set, or removed where they are `null`.
fn claims(changes: Value) -> Value {
    let mut claims = json!({"sub": "ann", "exp": now() + 600.0});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn verify(token: &str) -> Result<Identity, AuthError> {
    authenticator().verify(token)
}

/// Why `token` is rejected.
fn reason(token: &str) -> String {
    verify(token).expect_err(token).to_string()
}

#[test]
fn critical_headers_are_refused() {
    for (header, named) in [
        (r#"{"alg":"HS256","crit":["x-bound"],"x-bound":1}"#, "\"x-bound\""),
        (r#"{"alg":"HS256","crit":["x-bound"]}"#, "\"x-bound\""),
        (r#"{"alg":"HS256","crit":["b64"],"b64":true}"#, "\"b64\""),
        (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "\"b64\""),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "\"exp\""),
        (r#"{"alg":"HS256","crit":["alg"]}"#, "\"alg\""),
        (r#"{"alg":"HS256","crit":["\u001b[31m"]}"#, "a name that cannot be shown"),
        (r#"{"alg":"HS256","crit":[]}"#, "\"crit\""),
        (r#"{"alg":"HS256","crit":"x"}"#, "\"crit\""),
        (r#"{"alg":"HS256","crit":[1]}"#, "\"crit\""),
        (r#"{"alg":"HS256","crit":{}}"#, "\"crit\""),
        (r#"{"alg":"HS256","crit":null}"#, "\"crit\""),
        (r#"{"alg":"HS256","crit":false}"#, "\"crit\""),
        (r#"{"crit":["x"],"alg":"HS256","crit":["y"]}"#, "header"),
        (r#"{"alg":"HS256","b64":false}"#, "\"b64\""),
        (r#"{"alg":"HS256","b64":null}"#, "\"b64\""),
    ] {
        let reason = reason(&with_header(header));
        assert!(reason.contains(named), "{header}: {reason}");
    }
}

#[test]
fn other_headers_are_ignored() {
    for header in [
        r#"{"alg":"HS256","typ":"at+jwt","kid":7,"x-bound":{"a":[1]},"cty":"x"}"#,
        r#"{"typ":"JWT","alg":"HS256","jwk":{"kty":"oct"},"jku":"http://evil.example"}"#,
        " {\"b64\":true, \"alg\":\"HS256\" } ",
    ] {
        assert_eq!(verify(&with_header(header)).map(|ann| ann.user.to_string()), Ok("ann".into()));
    }
}

#[test]
fn reason_names_the_algorithm() {
    for (header, named) in [
        (r#"{"alg":"none"}"#, r#"its "alg" is "none", and the key of this server is for HS256, "#),
        (r#"{"alg":"RS256"}"#, "\"RS256\""),
        (r#"{"alg":"hs256"}"#, "\"hs256\""),
        (r#"{"alg":"Ed25519"}"#, "\"Ed25519\""),
        (r#"{"alg":"a\r\nb"}"#, "a name that cannot be shown"),
        (r#"{"typ":"JWT"}"#, "no \"alg\""),
        (r#"{"alg":256}"#, "\"alg\" is not a text"),
        (r#"["HS256"]"#, "header is not a JSON object"),
        (r#"{"alg":"HS256""#, "header is not a JSON object"),
        (r#"{"alg":"HS256","alg":"none"}"#, "header is not a JSON object"),
        ("", "header is not a JSON object"),
    ] {
        let reason = reason(&with_header(header));
        assert!(reason.contains(named), "{header}: {reason}");
    }
}

#[test]
fn reason_describes_malformed_tokens() {
    let good = with_claims(&claims(json!({})));
    let (message, signature) = good.rsplit_once('.').unwrap();
    for (token, named) in [
        (String::new(), "not a JWT"),
        ("a.b".to_owned(), "not a JWT"),
        (format!("{good}.x"), "not a JWT"),
        ("a.b.c.d.e".to_owned(), "JWE"),
        (format!("{message}."), "signature is wrong"),
        (format!("{message}.A{}", &signature[1..]), "signature is wrong"),
        (format!("{message}.{signature}="), "signature is not in base64url"),
        (format!("{message}.{}", "x".repeat(9000)), "8192 bytes"),
        (signed(r#"{"alg":"HS256"}"#, "[\"ann\",null,4102444800]"), "claims are not a JSON object"),
        (signed(r#"{"alg":"HS256"}"#, "{\"sub\":"), "claims are not a JSON object"),
        (signed(r#"{"alg":"HS256"}"#, r#"{"sub":"a","sub":"b","exp":4102444800}"#), "twice"),
    ] {
        let reason = reason(&token);
        assert!(reason.contains(named), "{token}: {reason}");
    }
    assert!(verify(&format!(" {good}\r\n")).is_ok(), "a backend printed it as a line");
}

#[test]
fn times_may_have_fractions() {
    for changes in [
        json!({"exp": now() + 600.5}),
        json!({"exp": 4102444800_u64}),
        json!({"exp": 4102444800.25}),
        json!({"exp": 253_402_300_799_u64}),
        json!({"nbf": now() - 0.5, "iat": now() - 0.25}),
        json!({"nbf": 0, "iat": 0.0}),
        json!({"nbf": null, "iat": null}),
        json!({"nbf": now() + 3.5}),
        json!({"exp": now() - 3.5}),
        json!({"iat": now() + 1e6}),
    ] {
        assert!(verify(&with_claims(&claims(changes.clone()))).is_ok(), "{changes}");
    }
    let token = signed(r#"{"alg":"HS256"}"#, r#"{"sub":"ann","exp":41024448e2}"#);
    assert_eq!(
        verify(&token).map(|ann| ann.expires),
        verify(&with_header(r#"{"alg":"HS256"}"#)).map(|ann| ann.expires)
    );
    let half = verify(&with_claims(&claims(json!({"exp": 4102444800.5})))).unwrap();
    let expected = UNIX_EPOCH + Duration::from_millis(4_102_444_800_500);
    assert_eq!(half.expires, Some(expected));
}

#[test]
fn reason_names_the_claim() {
    for (changes, expected) in [
        (json!({"exp": null}), "the claim \"exp\" is missing"),
        (json!({"exp": "4102444800"}), "the claim \"exp\" is a text, not a number of seconds"),
        (json!({"exp": true}), "\"exp\" is true or false"),
        (json!({"exp": [1]}), "\"exp\" is a list"),
        (json!({"exp": -1}), "\"exp\" is before 1970"),
        (
            json!({"exp": now() * 1e3}),
            "\"exp\" is after the year 9999: in seconds since 1970, not in milliseconds",
        ),
        (json!({"exp": 1_795_841_234_000_u64}), "not in milliseconds"),
        (json!({"exp": 253_402_300_800_u64}), "not in milliseconds"),
        (json!({"exp": u64::MAX}), "not in milliseconds"),
        (json!({"exp": 1e300}), "not in milliseconds"),
        (json!({"exp": now() - 60.0}), "it has expired: its \"exp\" was 60 s ago"),
        (json!({"exp": 0}), "it has expired"),
        (json!({"nbf": now() + 60.9}), "it is not valid yet: its \"nbf\" is in 60 s"),
        (json!({"nbf": "now"}), "\"nbf\" is a text"),
        (json!({"nbf": now() * 1e3}), "\"nbf\" is after the year 9999"),
        (json!({"iat": now() * 1e3}), "\"iat\" is after the year 9999"),
        (json!({"iat": "2026-01-01T00:00:00Z"}), "\"iat\" is a text"),
        (json!({"sub": null}), "the claim \"sub\" is missing"),
        (json!({"sub": 42}), "the claim \"sub\" is a number, not a text"),
        (json!({"sub": ["a"]}), "\"sub\" is a list"),
        (json!({"sub": ""}), "\"sub\""),
        (json!({"sub": "a".repeat(129)}), "\"sub\""),
        (json!({"name": 1}), "\"name\" is a number"),
        (json!({"name": ""}), "\"name\""),
        (
            json!({"aud": "chat"}),
            "\"aud\" is for an audience, and none is set here (CHAT_JWT_AUDIENCE)",
        ),
        (json!({"aud": []}), "\"aud\""),
        (json!({"iss": 1}), "\"iss\" is a number"),
        (json!({"rooms": null}), "\"rooms\" is null"),
        (json!({"rooms": ["join"]}), "\"rooms\" is a list"),
        (json!({"rooms": {"a-*": "join"}}), "\"rooms\" has a text for \"a-*\""),
        (json!({"rooms": {"a-*": [1]}}), "\"rooms\" has a number"),
        (json!({"rooms": {"a-*": ["fly"]}}), "\"rooms\" has \"fly\""),
        (json!({"limit_factor": 0}), "\"limit_factor\" is 0, not an integer from 1 to 1000"),
        (json!({"limit_factor": 1001}), "\"limit_factor\" is 1001"),
        (json!({"limit_factor": -1}), "\"limit_factor\" is -1"),
        (json!({"limit_factor": 1.5}), "\"limit_factor\" is 1.5"),
        (json!({"limit_factor": 1e300}), "\"limit_factor\""),
        (json!({"limit_factor": "20"}), "\"limit_factor\" is a text"),
    ] {
        let reason = reason(&with_claims(&claims(changes.clone())));
        assert!(reason.contains(expected), "{changes}: {reason}");
    }
}

/// A name that was cut by UTF-16 units.
#[test]
fn half_of_an_emoji_is_allowed_in_a_name_alone() {
    let with = |claim: &str| {
        signed(r#"{"alg":"HS256"}"#, &format!(r#"{{"sub":"ann","exp":4102444800,{claim}}}"#))
    };
    let ann = verify(&with(r#""name":"Zo\ud83d","given_name":"\ude00""#)).unwrap();
    assert_eq!(ann.name.unwrap().as_str(), "Zo\u{fffd}");
    let whole = verify(&with(r#""name":"Zo\ud83d\ude00""#)).unwrap();
    assert_eq!(whole.name.unwrap().as_str(), "Zo😀");
    for claim in [r#""iss":"\ud83d""#, r#""rooms":{"\ud83d*":["join"]}"#, r#""aud":["\ud83d"]"#] {
        let why = reason(&with(claim));
        assert!(why.contains("half of a character"), "{claim}: {why}");
    }
    let why = reason(&signed(r#"{"alg":"HS256"}"#, r#"{"sub":"a\ud83d","exp":4102444800}"#));
    assert!(why.contains("\"sub\""), "{why}");
}

#[test]
fn whole_numbers_are_integers_however_they_are_written() {
    for (written, factor) in [("20", 20), ("20.0", 20), ("2e1", 20), ("1", 1), ("1000", 1000)] {
        let claims = format!(r#"{{"sub":"ann","exp":4102444800,"limit_factor":{written}}}"#);
        let identity = verify(&signed(r#"{"alg":"HS256"}"#, &claims)).unwrap();
        assert_eq!(identity.limit_factor, factor, "{written}");
    }
}

#[test]
fn longest_token_is_valid() {
    let claims = crate::TokenClaims::new(&chat_core::UserId::new("ann").unwrap(), Duration::MAX);
    let token = crate::JwtSigner::with_secret(SECRET).unwrap().sign(&claims).unwrap();
    assert!(verify(&token).is_ok());
}

#[test]
fn audiences_and_issuers_are_checked() {
    let strict = authenticator().audience(["chat", "talk"]).issuer(["us"]);
    for (aud, iss, named) in [
        (json!("chat"), json!("us"), None),
        (json!(["x", "talk"]), json!("us"), None),
        (json!([1, "talk"]), json!("us"), None),
        (json!(null), json!("us"), Some("\"aud\" is missing")),
        (json!("other"), json!("us"), Some("\"aud\" is another audience")),
        (json!([]), json!("us"), Some("\"aud\" is another audience")),
        (json!(7), json!("us"), Some("\"aud\" is a number")),
        (json!("chat"), json!(null), Some("\"iss\" is missing")),
        (json!("chat"), json!("them"), Some("\"iss\" is another issuer")),
        (json!("chat"), json!(["us"]), Some("\"iss\" is a list")),
    ] {
        let token = with_claims(&claims(json!({"aud": aud, "iss": iss})));
        let refused = strict.verify(&token).err();
        let why = refused.as_ref().map(ToString::to_string).unwrap_or_default();
        assert_eq!(refused.is_some(), named.is_some(), "{aud} {iss}: {why}");
        assert!(named.is_none_or(|named| why.contains(named)), "{aud} {iss}: {why}");
    }
}

#[test]
fn leeway_is_a_setting() {
    let tokens = [
        with_claims(&claims(json!({"exp": now() - 20.0}))),
        with_claims(&claims(json!({"nbf": now() + 20.0}))),
    ];
    for token in tokens {
        let verify =
            |leeway| authenticator().leeway(Duration::from_secs(leeway)).verify(&token).map(drop);
        assert!(verify(0).is_err() && verify(10).is_err());
        assert_eq!(verify(60), Ok(()));
    }
    let just_expired = with_claims(&claims(json!({"exp": now()})));
    assert!(authenticator().leeway(Duration::ZERO).verify(&just_expired).is_err());
}

proptest! {
    /// A text in a token must not forge a line of the log, or fill the log.
    #[test]
    fn reasons_are_short_and_printable(header in "\\PC{0,80}", alg in ".{0,80}", rule in ".{0,80}") {
        let alg = json!({"alg": alg}).to_string();
        let critical = json!({"alg": "HS256", "crit": [header]}).to_string();
        let rooms = claims(json!({"rooms": {&rule: [&rule]}}));
        let tokens =
            [signed(&header, "{}"), with_header(&alg), with_header(&critical), with_claims(&rooms)];
        for token in tokens {
            if let Err(error) = verify(&token) {
                prop_assert!(error.to_string().len() < 300, "{}", error);
                prop_assert!(!error.to_string().contains(char::is_control), "{:?}", error);
            }
        }
    }
}
