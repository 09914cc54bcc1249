//! Users, and which of them are online.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::body::{Body, bad_field, missing};
use super::keys::ActiveKey;
use super::names::{UserPath, user_id};
use crate::error::Error;
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
    Extension(key): Extension<Arc<ActiveKey>>,
    Body(request): Body<StatusRequest>,
) -> Result<Json<StatusAnswer>, Refusal> {
    let mut users = request.users.ok_or_else(|| missing("users"))?;
    if users.len() > MAX_USERS {
        return Err(bad_field(format!("\"users\" has at most {MAX_USERS} entries.")));
    }
    let id = |name: &String| {
        let user = user_id(name)?;
        key.check_user(&user)?;
        Ok(user)
    };
    let ids = users.iter().map(id).collect::<Result<Vec<_>, Refusal>>()?;
    let mut online = members::online(&state, &ids).await.map_err(Error::from)?.into_iter();
    users.retain(|_| online.next().unwrap_or_default());
    Ok(Json(StatusAnswer { online: users }))
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
    let connections = state.sessions.of_user(&user);
    let servers = members::servers(&state, std::slice::from_ref(&user)).await;
    let servers = servers.map_err(Error::from)?.first().copied().unwrap_or(0);
    Ok(Json(UserAnswer { user: user.as_str(), servers, connections }).into_response())
}
