//! The claims of a token, for backends that sign tokens.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_core::UserId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::setters::setters;

/// The last second of the year 9999, and the latest time in a token: a later time is in another unit.
/// In milliseconds it is below 2^53, which every client can read.
pub(super) const LATEST_SECOND: u64 = 253_402_300_799;

/// The claims of a token; see [`JwtSigner`](crate::JwtSigner) for an example.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenClaims {
    /// The user's id.
    pub sub: String,
    /// The user's name; `None` derives one from the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When the token expires, in seconds since 1970; not after the year 9999.
    pub exp: u64,
    /// When the token becomes valid, in seconds since 1970; `None`: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// The audiences of the token. Default: none.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "serialize_audience",
        deserialize_with = "deserialize_audience"
    )]
    pub aud: Vec<String>,
    /// The issuer of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Names of capabilities by patterns of rooms; `None`: what members do, in every room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<BTreeMap<String, Vec<String>>>,
    /// Multiplies the rates of the user, from 1 to 1,000; `None`: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_factor: Option<u32>,
}

setters! {
    TokenClaims {
        name: Option<String>,
        nbf: Option<u64>,
        aud: Vec<String>,
        iss: Option<String>,
        rooms: Option<BTreeMap<String, Vec<String>>>,
        limit_factor: Option<u32>,
    }
}

impl TokenClaims {
    /// The claims of a user: valid for `lifetime` from now, but not after the year 9999.
    #[must_use]
    pub fn new(user: &UserId, lifetime: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exp = now.saturating_add(lifetime).as_secs().min(LATEST_SECOND);
        Self { sub: user.as_str().to_owned(), exp, ..Self::default() }
    }
}

/// A single audience is a text (RFC 7519, section 4.1.3): not every library reads a list.
fn serialize_audience<S: Serializer>(aud: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match aud {
        [one] => one.serialize(serializer),
        several => several.serialize(serializer),
    }
}

fn deserialize_audience<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Several(several) => several,
    })
}
