//! What a token says of its bearer, for those who make tokens.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_core::UserId;
use serde::{Deserialize, Serialize};

/// The last second of the year 9999, and the latest time in a token: what is later is a time in
/// another unit. What it leaves in milliseconds is below 2^53, which every client can read.
pub(super) const LATEST_SECOND: u64 = 253_402_300_799;

/// What a token says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenClaims {
    /// The user's id.
    pub sub: String,
    /// The user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When the token expires, in seconds since 1970; not after the year 9999.
    pub exp: u64,
    /// When the token begins to be valid, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// For whom it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<Audience>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Capabilities by patterns of rooms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<BTreeMap<String, Vec<String>>>,
    /// How many times as much as others the bearer may use, 1 to 1,000: for bots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_factor: Option<u32>,
}

/// One audience, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl TokenClaims {
    /// Claims of a user, good for `lifetime` from now, and not after the year 9999.
    #[must_use]
    pub fn new(user: &UserId, lifetime: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exp = now.saturating_add(lifetime).as_secs().min(LATEST_SECOND);
        Self { sub: user.as_str().to_owned(), exp, ..Self::default() }
    }
}
