//! A JSON Web Key Set (RFC 7517): the public keys of an issuer, or secrets in a file.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use simple_asn1::{ASN1Block, BigInt, BigUint, to_der};

use super::key::NamedKey;
use super::key::{InvalidKey, KeyKind, VerificationKey};
use super::token_header::{object_of, shown};

/// Keys of a set that are read; further ones are skipped. Issuers have two or three.
const MAX_KEYS: usize = 64;

/// Where a set is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    File,
    /// Others can read it there: a secret in it is none.
    #[cfg_attr(not(feature = "jwks"), allow(dead_code, reason = "only files are read"))]
    Url,
}

#[derive(Debug, Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// The members of a key that matter here. No `Debug`: there may be a secret among them.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    /// The private half of a key, whose value is of no interest.
    d: Option<serde::de::IgnoredAny>,
}

/// The keys of a set that tokens can be verified with. The log has a warning for each other one.
///
/// # Errors
/// The text is no set, or has no such key.
pub(super) fn read_set(json: &[u8], source: Source) -> Result<Vec<NamedKey>, InvalidKey> {
    let set: Option<Set> = std::str::from_utf8(json).ok().and_then(object_of);
    let set = set.ok_or_else(|| InvalidKey::new("it is not a JWKS: {\"keys\":[…]}"))?;
    let mut keys = Vec::new();
    let mut skipped = Vec::new();
    for (place, key) in set.keys.into_iter().enumerate() {
        let name = name(&key, place);
        let read = if place < MAX_KEYS { read(key, source) } else { Err(too_many()) };
        match read {
            Ok(key) => keys.push(key),
            Err(why) => skipped.push(format!("{name}: {why}")),
        }
    }
    if keys.is_empty() {
        let why = skipped.first().map_or(String::new(), |why| format!(" ({why})"));
        return Err(InvalidKey::new(format!("it has no key to verify tokens with{why}")));
    }
    for why in skipped.iter().take(MAX_KEYS) {
        tracing::warn!("key of a JWKS skipped: {why}");
    }
    Ok(keys)
}

/// A key by its id, or by its place in the set.
fn name(key: &Value, place: usize) -> String {
    match key.get("kid").and_then(Value::as_str) {
        Some(id) => shown(id),
        None => format!("key {}", place + 1),
    }
}

fn too_many() -> InvalidKey {
    InvalidKey::new(format!("a set has {MAX_KEYS} keys at most"))
}

fn read(key: Value, source: Source) -> Result<NamedKey, InvalidKey> {
    let jwk: Jwk = serde_json::from_value(key)
        .map_err(|_| InvalidKey::new("a member is missing, or of another type"))?;
    jwk.check_use()?;
    let key = jwk.key(source)?;
    let only = match &jwk.alg {
        None => None,
        Some(name) => {
            let mut algorithms = key.kind.algorithms().iter();
            let known = algorithms.find(|(allowed, _)| allowed == name);
            let why = || format!("its \"alg\" {} is not one of its kind of key", shown(name));
            Some(known.ok_or_else(|| InvalidKey::new(why()))?.1)
        }
    };
    Ok(NamedKey { id: jwk.kid, key, only, until: None })
}

impl Jwk {
    /// Issuers also publish keys to encrypt with, which must not verify.
    fn check_use(&self) -> Result<(), InvalidKey> {
        if let Some(other) = self.usage.as_ref().filter(|usage| *usage != "sig") {
            return Err(InvalidKey::new(format!("its \"use\" is {}, not \"sig\"", shown(other))));
        }
        let verifies = |operations: &Vec<String>| operations.iter().any(|name| name == "verify");
        if !self.key_ops.as_ref().is_none_or(verifies) {
            return Err(InvalidKey::new("its \"key_ops\" have no \"verify\""));
        }
        Ok(())
    }

    fn key(&self, source: Source) -> Result<VerificationKey, InvalidKey> {
        if self.d.is_some() {
            return Err(InvalidKey::new("it has its private half (\"d\"), which no server needs"));
        }
        match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => VerificationKey::rsa(&self.rsa_public_key()?),
            ("EC", Some("P-256")) => VerificationKey::point(KeyKind::P256, &self.point()?),
            ("EC", Some("P-384")) => VerificationKey::point(KeyKind::P384, &self.point()?),
            ("OKP", Some("Ed25519")) => VerificationKey::ed25519(&bytes("x", self.x.as_ref())?),
            ("oct", _) if source == Source::Url => {
                Err(InvalidKey::new("it is a secret, and others can read the URL"))
            }
            ("oct", _) => VerificationKey::secret(&bytes("k", self.k.as_ref())?),
            (kty, curve) => {
                let curve = curve.map_or(String::new(), |curve| format!(" on {}", shown(curve)));
                let kind = shown(kty);
                Err(InvalidKey::new(format!("keys of the kind {kind}{curve} are not supported")))
            }
        }
    }

    /// As in a file in PEM: DER.
    fn rsa_public_key(&self) -> Result<Vec<u8>, InvalidKey> {
        let number = |name, text: &Option<String>| {
            let bytes = bytes(name, text.as_ref())?;
            Ok(ASN1Block::Integer(0, BigInt::from(BigUint::from_bytes_be(&bytes))))
        };
        let numbers = vec![number("n", &self.n)?, number("e", &self.e)?];
        to_der(&ASN1Block::Sequence(0, numbers)).map_err(|_| InvalidKey::new("it is damaged"))
    }

    /// Uncompressed (SEC 1, section 2.3.3).
    fn point(&self) -> Result<Vec<u8>, InvalidKey> {
        let (x, y) = (bytes("x", self.x.as_ref())?, bytes("y", self.y.as_ref())?);
        if x.len() != y.len() {
            return Err(InvalidKey::new("its \"x\" and \"y\" are not equally long"));
        }
        Ok([&[4], &*x, &*y].concat())
    }
}

fn bytes(name: &str, text: Option<&String>) -> Result<Vec<u8>, InvalidKey> {
    let text = text.ok_or_else(|| InvalidKey::new(format!("its {name:?} is missing")))?;
    let wrong = |_| InvalidKey::new(format!("its {name:?} is not in base64url"));
    URL_SAFE_NO_PAD.decode(text).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "1msNAMwUYuMqaH_llZGvhqRyChcxDVCC-myfo9heR-w";

    /// A key of Ed25519 with these members, or without them where they are `null`.
    fn key(changes: Value) -> Value {
        let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": X, "kid": "a", "use": "sig"});
        for (name, value) in changes.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn ids(keys: &[Value], source: Source) -> Result<Vec<Option<String>>, String> {
        let set = json!({"keys": keys}).to_string();
        let keys = read_set(set.as_bytes(), source).map_err(|error| error.to_string())?;
        Ok(keys.into_iter().map(|key| key.id).collect())
    }

    #[test]
    fn key_for_another_use_is_skipped() {
        let good = key(json!({"kid": "good"}));
        let secret = |bytes: usize| json!({"kty": "oct", "k": "A".repeat(bytes.div_ceil(3) * 4)});
        let short = URL_SAFE_NO_PAD.encode([0xff; 128]);
        for (other, named) in [
            (key(json!({"use": "enc"})), "\"use\" is \"enc\""),
            (key(json!({"key_ops": ["encrypt", "sign"]})), "key_ops"),
            (key(json!({"alg": "ECDH-ES"})), "\"ECDH-ES\" is not one of its kind"),
            (key(json!({"alg": "HS256"})), "\"HS256\" is not one of its kind"),
            (key(json!({"d": "AA"})), "private half"),
            (key(json!({"x": null})), "\"x\" is missing"),
            (key(json!({"x": "AA"})), "damaged"),
            (key(json!({"x": format!("{X}=")})), "not in base64url"),
            (key(json!({"x": 7})), "of another type"),
            (key(json!({"kid": 7})), "of another type"),
            (key(json!({"crv": "X25519"})), "\"OKP\" on \"X25519\""),
            (key(json!({"kty": "EC", "crv": "P-521", "y": X})), "\"EC\" on \"P-521\""),
            (key(json!({"kty": "EC", "crv": "P-384", "y": X})), "damaged"),
            (key(json!({"kty": "EC", "crv": "P-256", "y": "AA"})), "equally long"),
            (key(json!({"kty": "RSA", "n": short, "e": "AQAB"})), "an RSA key of 1024 bits"),
            (key(json!({"kty": "RSA", "n": "", "e": "AQAB"})), "an RSA key of 0 bits"),
            (key(json!({"kty": "\u{1b}[31m"})), "a name that cannot be shown"),
            (secret(30), "less than 32 bytes"),
            (json!([]), "of another type"),
            (json!("key"), "of another type"),
        ] {
            let expected = Ok(vec![Some("good".to_owned())]);
            let keys = [other.clone(), good.clone()];
            assert_eq!(ids(&keys, Source::File), expected, "{other}");
            let why = ids(std::slice::from_ref(&other), Source::Url).unwrap_err();
            assert!(why.contains(named) || other["kty"] == "oct", "{other}: {why}");
        }
        assert_eq!(ids(&[secret(33)], Source::File), Ok(vec![None]));
        let why = ids(&[secret(33)], Source::Url).unwrap_err();
        assert!(why.contains("others can read the URL"), "{why}");
    }

    #[test]
    fn text_that_is_no_set_is_an_error() {
        let not_a_set = "it is not a JWKS";
        for text in ["", "{}", "[]", "null", "<html>", r#"{"keys":{}}"#, r#"[[{"kty":"oct"}]]"#] {
            let error = read_set(text.as_bytes(), Source::File).err().unwrap().to_string();
            assert!(error.contains(not_a_set), "{text}: {error}");
        }
        assert!(read_set(b"{\"keys\":[]}\xff", Source::File).is_err());
        let error = read_set(br#"{"keys":[]}"#, Source::File).err().unwrap().to_string();
        assert_eq!(error, "it has no key to verify tokens with");
    }

    #[test]
    fn so_many_keys_are_read() {
        let keys: Vec<_> = (0..100).map(|n| key(json!({"kid": n.to_string()}))).collect();
        assert_eq!(ids(&keys, Source::Url).unwrap().len(), MAX_KEYS);
    }
}
