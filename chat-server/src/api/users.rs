//! Users, and which of them are online.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use chat_core::{ConnectionId, MAX_NAME_BYTES, User, UserId, UserName};
use serde::{Deserialize, Serialize};

use super::Caller;
use super::audit::Subject;
use super::body::{Body, bad_field, missing};
use super::connections::known_user;
use super::names::{UserPath, user_id};
use super::query::{Params, limit};
use crate::error::Error;
use crate::process::host_name;
use crate::refusal::Refusal;
use crate::service::members;
use crate::state::State;

/// The most users of a call.
const MAX_USERS: usize = 1000;

/// The users to look for.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct StatusRequest {
    /// The ids of the users, at most 1,000.
    #[cfg_attr(test, schema(required, value_type = Vec<String>, max_items = 1000))]
    users: Option<Vec<String>>,
}

/// The users who are online.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct StatusAnswer {
    /// Those with a connection that receives direct messages, in the order of the request.
    online: Vec<String>,
}

/// Says which of these users are online, on any server.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/users/status", tag = "users",
    request_body = StatusRequest,
    responses((status = 200, description = "Those who are online.", body = StatusAnswer)),
))]
pub(super) async fn status(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    Body(request): Body<StatusRequest>,
) -> Result<Json<StatusAnswer>, Refusal> {
    let mut users = request.users.ok_or_else(|| missing("users"))?;
    if users.len() > MAX_USERS {
        return Err(bad_field(format!("\"users\" has at most {MAX_USERS} entries.")));
    }
    let id = |name: &String| {
        let user = user_id(name)?;
        caller.key.check_user(&user)?;
        Ok(user)
    };
    let ids = users.iter().map(id).collect::<Result<Vec<_>, Refusal>>()?;
    let (users_hash, count) = (hash(&ids), Some(ids.len()));
    caller.audit.note(Subject { users: count, users_hash, ..Subject::default() });
    let mut online = members::online(&state, &ids).await.map_err(Error::from)?.into_iter();
    users.retain(|_| online.next().unwrap_or_default());
    Ok(Json(StatusAnswer { online: users }))
}

fn hash(ids: &[UserId]) -> u64 {
    let mut hasher = DefaultHasher::new();
    ids.hash(&mut hasher);
    hasher.finish()
}

/// A user.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct UserAnswer<'a> {
    /// The id.
    user: &'a str,
    /// The number of servers with a connection of the user that receives direct messages.
    servers: u32,
    /// The number of connections of the user to the server that answers.
    connections: usize,
    /// The name on the oldest of these; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    name: Option<String>,
}

/// Reads how often a user is connected.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/users/{user}", tag = "users",
    params(("user" = String, Path, description = "The id of the user")),
    responses((status = 200, description = "The user.", body = UserAnswer)),
))]
pub(super) async fn user(
    Shared(state): Shared<Arc<State>>,
    UserPath(user): UserPath,
) -> Result<Response, Refusal> {
    let (oldest, connections) = state.sessions.origins(&user, 1);
    let name = oldest.first().map(|origin| origin.name.to_string());
    let servers = members::servers(&state, std::slice::from_ref(&user)).await;
    let servers = servers.map_err(Error::from)?.first().copied().unwrap_or(0);
    Ok(Json(UserAnswer { user: user.as_str(), servers, connections, name }).into_response())
}

/// The users that a search returns at most.
const MAX_FOUND: u32 = 100;

/// The users that a search returns, unless the call says.
const FOUND: u32 = 20;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct UsersParams {
    /// What the id begins with, or a part of the name, in upper or lower case.
    #[cfg_attr(test, param(required, value_type = String))]
    search: Option<String>,
    /// The most users that are listed.
    #[cfg_attr(test, param(minimum = 1, maximum = 100, default = 20))]
    limit: Option<u32>,
}

/// The users that a search has found on one server.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct UsersAnswer {
    /// The id of the server.
    node: String,
    /// The name of its machine, pod or container; `null` if the system does not say it.
    host: Option<String>,
    /// The users, by their ids.
    users: Vec<FoundUser>,
    /// Whether there are more than the call wants.
    more: bool,
}

/// A user who is connected.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct FoundUser {
    /// The id.
    id: String,
    /// The name on one of the connections.
    name: String,
}

/// Finds users who are connected to the server that answers, by the beginning of the id or by a part of
/// the name.
///
/// Takes time for all connections of that server. The key must be for the users.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/users", tag = "users",
    params(UsersParams),
    responses((status = 200, description = "The users.", body = UsersAnswer)),
))]
pub(super) async fn users(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    Params(params): Params<UsersParams>,
) -> Result<Json<UsersAnswer>, Refusal> {
    let search = params.search.filter(|text| !text.is_empty()).ok_or_else(|| missing("search"))?;
    if search.len() > MAX_NAME_BYTES {
        return Err(bad_field(format!("\"search\" has at most {MAX_NAME_BYTES} bytes.")));
    }
    let limit = limit(params.limit, FOUND, MAX_FOUND)? as usize;
    caller.audit.note(Subject { search: Some(search.clone()), ..Subject::default() });
    let search = search.to_lowercase();
    let is_found = |id: ConnectionId, user: &User| {
        (user.id.as_str().to_lowercase().starts_with(&search)
            || user.name.as_str().to_lowercase().contains(&search))
            && known_user(&state, id, &user.id, true).is_some()
            && caller.key.is_for_user(&user.id)
    };
    let found = state.sessions.users(limit + 1, is_found);
    let more = found.len() > limit;
    let user =
        |(id, name): (UserId, UserName)| FoundUser { id: id.to_string(), name: name.to_string() };
    let users = found.into_iter().take(limit).map(user).collect();
    Ok(Json(UsersAnswer { node: state.node.clone(), host: host_name(), users, more }))
}
