//! What a token says of its bearer.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_core::{Capabilities, Capability, Grants, Pattern, UserId, UserName};
use serde::{Deserialize, Serialize};

use super::{AuthError, Identity};

/// Rules that a token may hold.
const MAX_RULES: usize = 256;

/// The most that a token may raise the limits.
const MAX_FACTOR: u32 = 1000;

/// What a token says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenClaims {
    /// The user's id.
    pub sub: String,
    /// The user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When the token expires, in seconds since 1970.
    pub exp: u64,
    /// When it begins to count.
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
    /// Claims of a user, good for `lifetime` from now.
    #[must_use]
    pub fn new(user: &UserId, lifetime: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exp = now.saturating_add(lifetime).as_secs();
        Self { sub: user.as_str().to_owned(), exp, ..Self::default() }
    }

    pub(super) fn identity(self) -> Result<Identity, AuthError> {
        let user = UserId::new(&self.sub)
            .map_err(|why| AuthError::invalid(format!("the claim \"sub\" {why}")))?;
        let name = self.name.map(UserName::new).transpose();
        let name = name.map_err(|why| AuthError::invalid(format!("the claim \"name\" {why}")))?;
        let grants = self.rooms.map_or_else(|| Ok(Grants::everywhere()), grants)?;
        let factor = self.limit_factor.unwrap_or(1);
        if !(1..=MAX_FACTOR).contains(&factor) {
            return Err(AuthError::invalid("the claim \"limit_factor\" is not 1 to 1000"));
        }
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(self.exp));
        let identity = Identity::new(user).name(name).grants(grants).expires(expires);
        Ok(identity.limit_factor(factor))
    }
}

fn grants(rooms: BTreeMap<String, Vec<String>>) -> Result<Grants, AuthError> {
    if rooms.len() > MAX_RULES {
        return Err(AuthError::invalid("the claim \"rooms\" has too many rules"));
    }
    let rule = |(pattern, names): (String, Vec<String>)| {
        let one = |name: &String| match name.as_str() {
            "*" => Ok(Capability::ALL.to_vec()),
            name => Capability::parse(name).map(|one| vec![one]).ok_or_else(|| {
                AuthError::invalid("the claim \"rooms\" has a capability that does not exist")
            }),
        };
        let names: Result<Vec<_>, _> = names.iter().map(one).collect();
        Ok((Pattern::from(pattern), names?.into_iter().flatten().collect::<Capabilities>()))
    };
    let rules: Result<Vec<_>, _> = rooms.into_iter().map(rule).collect();
    Ok(Grants::new(rules?))
}
