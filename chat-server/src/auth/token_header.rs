//! The header of a token (RFC 7515, section 4), which is not authentic before the signature is
//! verified.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::AuthError;

/// The header fields that matter here. Others are for other uses, or bring a key along, which would
/// be the bearer's own.
#[derive(Debug, Deserialize)]
struct Fields {
    #[serde(default)]
    alg: Value,
    #[serde(default)]
    kid: Value,
    #[serde(default, deserialize_with = "even_null")]
    crit: Option<Value>,
    #[serde(default, deserialize_with = "even_null")]
    b64: Option<Value>,
}

/// What a header says about the signature.
#[derive(Debug)]
pub(super) struct Header {
    /// The name of an algorithm, perhaps an unknown one.
    pub(super) alg: String,
    /// The id of a key, if it is a text.
    pub(super) kid: Option<String>,
}

/// `Some` if the field is present, even if it is `null`.
pub(super) fn even_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Header {
    /// # Errors
    /// It is no header, or has a critical field.
    pub(super) fn read(part: &str) -> Result<Self, AuthError> {
        let fields: Fields = object(part)
            .ok_or_else(|| AuthError::invalid("its header is not a JSON object in base64url"))?;
        if let Some(critical) = &fields.crit {
            return Err(AuthError::invalid(not_understood(critical)));
        }
        // RFC 7797, section 7: never in a JWT, whether `crit` names it or not.
        if fields.b64.is_some_and(|b64| b64 != Value::Bool(true)) {
            return Err(AuthError::invalid("its header \"b64\" is not true"));
        }
        let alg = match fields.alg {
            Value::String(name) => name,
            Value::Null => return Err(AuthError::invalid("its header has no \"alg\"")),
            _ => return Err(AuthError::invalid("its header \"alg\" is not a text")),
        };
        let kid = match fields.kid {
            Value::String(id) => Some(id),
            _ => None,
        };
        Ok(Self { alg, kid })
    }
}

/// RFC 7515, section 4.1.11: a header that is critical and not understood makes the token invalid,
/// as does a list that is empty or no list of names. No critical header is understood here.
fn not_understood(critical: &Value) -> String {
    let names = critical.as_array().map(|names| names.iter().map(Value::as_str));
    match names.and_then(|mut names| names.next()).flatten() {
        Some(name) => format!("its header {} is critical, and not understood here", shown(name)),
        None => "its header \"crit\" is not a list of names".to_owned(),
    }
}

/// A JSON object in base64url without padding.
pub(super) fn object<T: DeserializeOwned>(part: &str) -> Option<T> {
    object_of(&text(part)?)
}

/// The decoded text of a part of a token.
pub(super) fn text(part: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

pub(super) fn object_of<T: DeserializeOwned>(json: &str) -> Option<T> {
    // serde would deserialize a struct from an array as well.
    let is_object = json.trim_ascii_start().starts_with('{');
    is_object.then(|| serde_json::from_str(json).ok())?
}

/// A name in a token, in a form that is safe in a log and in an answer.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 64;
    match name {
        name if name.len() <= LONGEST && name.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
            format!("{name:?}")
        }
        _ => "a name that cannot be shown".to_owned(),
    }
}
