//! The claims of a token with a valid signature. Each claim is read separately, so that the error
//! names the wrong one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_core::{Capabilities, Capability, Grants, Pattern, UserId, UserName, json};
use serde::Deserialize;
use serde_json::Value;

use super::claims::LATEST_SECOND;
use super::token_header::{self, even_null, object_of, shown};
use super::{AuthError, Identity};

/// The most rules in the claim `rooms`.
pub(crate) const MAX_RULES: usize = 256;

/// The largest `limit_factor`.
const MAX_FACTOR: u32 = 1000;

/// The supported claims, of any type. `null` is the same as a missing claim, except for `rooms`: a
/// backend that has lost its rules must not grant everything.
#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    sub: Option<Value>,
    name: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
    aud: Option<Value>,
    iss: Option<Value>,
    #[serde(default, deserialize_with = "even_null")]
    rooms: Option<Value>,
    limit_factor: Option<Value>,
}

/// What the claims must satisfy.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// How far the clocks of issuer and server may differ.
    pub(super) leeway: Duration,
    /// The audiences, of which a token must name one; if there are none, it must name none.
    pub(super) audiences: Vec<String>,
    /// The issuers, of which a token must name one; if there are none, it may name any.
    pub(super) issuers: Vec<String>,
}

impl Payload {
    /// Decodes the claims of a token.
    ///
    /// Half of an emoji, as in a name that was cut by UTF-16 units, does not make a token invalid. In a
    /// claim that grants something it does: different values would become equal.
    pub(super) fn read(part: &str) -> Result<Self, AuthError> {
        let json = token_header::text(part).ok_or_else(unreadable)?;
        if let Some(payload) = object_of(&json) {
            return Ok(payload);
        }
        let whole = json::replace_lone_surrogates(&json);
        let payload: Self = object_of(&whole).ok_or_else(unreadable)?;
        let Self { sub, aud, iss, rooms, .. } = &payload;
        for (name, value) in [("sub", sub), ("aud", aud), ("iss", iss), ("rooms", rooms)] {
            let is_cut = |value: &Value| value.to_string().contains(char::REPLACEMENT_CHARACTER);
            if value.as_ref().is_some_and(is_cut) {
                return Err(claim(name, "holds half of a character"));
            }
        }
        Ok(payload)
    }

    /// The identity of the bearer, if the token is valid `now`.
    pub(super) fn identity(&self, rules: &Rules, now: SystemTime) -> Result<Identity, AuthError> {
        let expires = self.lifetime(rules.leeway, now)?;
        check_audience(self.aud.as_ref(), &rules.audiences)?;
        check_issuer(self.iss.as_ref(), &rules.issuers)?;
        let user = self.user()?;
        let name = text("name", self.name.as_ref())?.map(UserName::new).transpose();
        let name = name.map_err(|why| claim("name", &why.to_string()))?;
        let grants = self.rooms.as_ref().map_or_else(|| Ok(Grants::everywhere()), grants)?;
        let factor = self.limit_factor.as_ref().map_or(Ok(1), limit_factor)?;
        Ok(Identity::new(user)
            .name(name)
            .grants(grants)
            .expires(Some(expires))
            .limit_factor(factor))
    }

    /// Whose token it is, whether it is valid or not.
    pub(super) fn user(&self) -> Result<UserId, AuthError> {
        let id = text("sub", self.sub.as_ref())?.ok_or_else(|| missing("sub"))?;
        UserId::new(id).map_err(|why| claim("sub", &why.to_string()))
    }

    /// When the token expires.
    fn lifetime(&self, leeway: Duration, now: SystemTime) -> Result<SystemTime, AuthError> {
        let expires = time("exp", self.exp.as_ref())?.ok_or_else(|| missing("exp"))?;
        let begins = time("nbf", self.nbf.as_ref())?;
        time("iat", self.iat.as_ref())?;
        if let Ok(past) = now.duration_since(expires)
            && past >= leeway
        {
            return Err(AuthError::invalid(format!(
                "it has expired: its \"exp\" was {} s ago",
                past.as_secs()
            )));
        }
        let early = begins.and_then(|begins| begins.duration_since(now).ok());
        match early.filter(|early| *early > leeway) {
            Some(early) => Err(AuthError::invalid(format!(
                "it is not valid yet: its \"nbf\" is in {} s",
                early.as_secs()
            ))),
            None => Ok(expires),
        }
    }
}

fn unreadable() -> AuthError {
    AuthError::invalid(
        "its claims are not a JSON object, or one is there twice, or a number is too large",
    )
}

/// A `NumericDate` (RFC 7519, section 2): seconds since 1970, perhaps with a fraction.
fn time(name: &str, value: Option<&Value>) -> Result<Option<SystemTime>, AuthError> {
    let Some(value) = value else { return Ok(None) };
    let seconds = value.as_f64().ok_or_else(|| {
        claim(name, &format!("is {}, not a number of seconds since 1970", kind(value)))
    })?;
    if seconds < 0.0 {
        return Err(claim(name, "is before 1970"));
    }
    if seconds > LATEST_SECOND as f64 {
        let hint = "is after the year 9999: in seconds since 1970, not in milliseconds";
        return Err(claim(name, hint));
    }
    Ok(UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds)))
}

/// RFC 7519, section 4.1.3: a server rejects a token for another audience.
fn check_audience(value: Option<&Value>, expected: &[String]) -> Result<(), AuthError> {
    let Some(value) = value else {
        return if expected.is_empty() { Ok(()) } else { Err(missing("aud")) };
    };
    if expected.is_empty() {
        return Err(claim("aud", "is for an audience, and none is set here (CHAT_JWT_AUDIENCE)"));
    }
    let given = match value {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Err(claim("aud", &format!("is {}, not a text or a list", kind(value)))),
    };
    if given.iter().any(|given| expected.iter().any(|expected| expected == given)) {
        return Ok(());
    }
    Err(claim("aud", "is another audience than this server's (CHAT_JWT_AUDIENCE)"))
}

fn check_issuer(value: Option<&Value>, expected: &[String]) -> Result<(), AuthError> {
    let issuer = text("iss", value)?;
    if expected.is_empty() {
        return Ok(());
    }
    let issuer = issuer.ok_or_else(|| missing("iss"))?;
    if expected.iter().any(|expected| expected == issuer) {
        return Ok(());
    }
    Err(claim("iss", "is another issuer than those of this server (CHAT_JWT_ISSUER)"))
}

fn text<'a>(name: &str, value: Option<&'a Value>) -> Result<Option<&'a str>, AuthError> {
    let wrong = |value| claim(name, &format!("is {}, not a text", kind(value)));
    value.map(|value| value.as_str().ok_or_else(|| wrong(value))).transpose()
}

fn grants(rooms: &Value) -> Result<Grants, AuthError> {
    let rules = rooms.as_object().ok_or_else(|| {
        claim("rooms", &format!("is {}, not an object such as {{\"*\":[\"join\"]}}", kind(rooms)))
    })?;
    if rules.len() > MAX_RULES {
        return Err(claim("rooms", &format!("has more than {MAX_RULES} rules")));
    }
    let rules = rules.iter().map(|(pattern, names)| {
        let names = names.as_array().ok_or_else(|| {
            let (kind, pattern) = (kind(names), shown(pattern));
            claim("rooms", &format!("has {kind} for {pattern}, not a list of capabilities"))
        })?;
        let capabilities: Result<Vec<_>, _> = names.iter().map(capabilities).collect();
        let capabilities: Capabilities = capabilities?.into_iter().flatten().collect();
        Ok((Pattern::from(pattern.as_str()), capabilities))
    });
    Ok(Grants::new(rules.collect::<Result<Vec<_>, AuthError>>()?))
}

fn capabilities(name: &Value) -> Result<Vec<Capability>, AuthError> {
    let name = name.as_str().ok_or_else(|| {
        claim("rooms", &format!("has {} where the name of a capability is needed", kind(name)))
    })?;
    if name == "*" {
        return Ok(Capability::ALL.to_vec());
    }
    let one = Capability::parse(name)
        .ok_or_else(|| claim("rooms", &format!("has {}, which is not a capability", shown(name))));
    one.map(|one| vec![one])
}

/// An integer, also in the form 20.0: JSON has one type for both.
fn limit_factor(value: &Value) -> Result<u32, AuthError> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0);
    let factor = number.filter(|number| (1.0..=f64::from(MAX_FACTOR)).contains(number));
    factor.map(|factor| factor as u32).ok_or_else(|| {
        let is = match value {
            Value::Number(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        claim("limit_factor", &format!("is {is}, not an integer from 1 to {MAX_FACTOR}"))
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn claim(name: &str, why: &str) -> AuthError {
    AuthError::invalid(format!("the claim \"{name}\" {why}"))
}

fn missing(name: &str) -> AuthError {
    claim(name, "is missing")
}
