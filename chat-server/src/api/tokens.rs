//! Tokens for clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use chat_core::{Capability, UserName};
use serde::{Deserialize, Serialize};

use super::Caller;
use super::audit::Subject;
use super::body::{Body, bad_field, integer, missing};
use super::keys::{ActiveKey, ApiScope};
use super::names::user_id;
use crate::auth::{MAX_RULES, MAX_TOKEN_BYTES, TokenClaims};
use crate::refusal::Refusal;
use crate::state::State;

/// The longest lifetime of a token, in seconds: a year.
const MAX_SECONDS: u64 = 31_557_600;

/// A token to issue.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRequest {
    /// The id of the user.
    #[cfg_attr(test, schema(required, value_type = String, example = "42"))]
    user: Option<String>,
    /// The name of the user. Default: made from the id.
    name: Option<String>,
    /// Capabilities by patterns of rooms, as in docs/authentication.md. Default: what members do, in
    /// every room. At most 256 patterns.
    #[cfg_attr(test, schema(example = json!({"shop-*": ["join", "send"]})))]
    rooms: Option<BTreeMap<String, Vec<String>>>,
    /// The lifetime of the token, in seconds, at most a year.
    #[serde(default, deserialize_with = "integer")]
    #[cfg_attr(test, schema(required, value_type = u64, minimum = 1, maximum = 31_557_600))]
    seconds: Option<u64>,
}

/// A token.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct TokenAnswer {
    token: String,
    expires_in_ms: u64,
}

/// Issues a token for a client.
///
/// The server must know the secret of tokens. A token with the capability `moderate` or `*` needs the scope
/// `moderate` as well.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/tokens", tag = "tokens",
    request_body = TokenRequest,
    responses((status = 200, description = "The token.", body = TokenAnswer)),
))]
pub(super) async fn issue(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    Body(request): Body<TokenRequest>,
) -> Result<Json<TokenAnswer>, Refusal> {
    let key = &caller.key;
    let issuer = state.token_issuer.read().clone().ok_or_else(unsupported)?;
    let user = user_id(&request.user.ok_or_else(|| missing("user"))?)?;
    key.check_user(&user)?;
    if user.as_str().starts_with('@') {
        return Err(bad_field("A user id that begins with @ is a backend's, and gets no token."));
    }
    let name = request.name.map(UserName::new).transpose();
    let name = name.map_err(|why| Refusal::name("name", why))?;
    let seconds = request.seconds.ok_or_else(|| missing("seconds"))?;
    if !(1..=MAX_SECONDS).contains(&seconds) {
        return Err(bad_field(format!("\"seconds\" is a number from 1 to {MAX_SECONDS}.")));
    }
    check_rooms(key, request.rooms.as_ref())?;
    let lifetime = Duration::from_secs(seconds);
    let mut claims = TokenClaims::new(&user, lifetime);
    claims.name = name.map(|name| name.to_string());
    claims.rooms = request.rooms;
    let token = issuer.issue(claims).map_err(|error| bad_field(error.to_string()))?;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(bad_field(format!("The token would be longer than {MAX_TOKEN_BYTES} bytes.")));
    }
    let (user, seconds) = (Some(user), Some(seconds));
    caller.audit.note(Subject { user, seconds, ..Subject::default() });
    Ok(Json(TokenAnswer { token, expires_in_ms: lifetime.as_millis() as u64 }))
}

/// A key issues no more rights than it has: it is for the rooms of the token, of which one without rules
/// has all, and may moderate them if the token may.
fn check_rooms(
    key: &ActiveKey,
    rooms: Option<&BTreeMap<String, Vec<String>>>,
) -> Result<(), Refusal> {
    let Some(rooms) = rooms else { return key.check_rule("*") };
    if rooms.len() > MAX_RULES {
        return Err(bad_field(format!("\"rooms\" has at most {MAX_RULES} entries.")));
    }
    for (rule, capabilities) in rooms {
        key.check_rule(rule)?;
        for name in capabilities {
            match Capability::parse(name) {
                _ if name == "*" => key.check_scope(ApiScope::Moderate)?,
                Some(Capability::Moderate) => key.check_scope(ApiScope::Moderate)?,
                Some(_) => {}
                None => return Err(bad_field(format!("There is no capability {name:?}."))),
            }
        }
    }
    Ok(())
}

fn unsupported() -> Refusal {
    let message = "This server signs no tokens: it knows no secret of tokens.";
    Refusal::new(StatusCode::NOT_IMPLEMENTED, "unsupported", message)
}
