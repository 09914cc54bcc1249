//! What the key of a request may do.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;

use super::keys::{ActiveKey, ApiScope};

/// The key of the request.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct KeyAnswer<'a> {
    /// The name, which metrics and logs have.
    name: &'a str,
    /// What the key may be used for.
    scopes: Vec<&'static str>,
    /// The patterns of the rooms, and after an `@` of the users, that it may be used for.
    rooms: Vec<&'a str>,
    /// When the key ends, in milliseconds since 1970; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    until: Option<u64>,
}

/// Says what the key of the request may be used for.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/key", tag = "servers",
    responses((status = 200, description = "The key.", body = KeyAnswer)),
))]
pub(super) async fn key(Extension(key): Extension<Arc<ActiveKey>>) -> Response {
    let until = key.ends_at().and_then(|end| end.duration_since(UNIX_EPOCH).ok());
    let answer = KeyAnswer {
        name: key.name(),
        scopes: key.scopes().iter().copied().map(ApiScope::as_str).collect(),
        rooms: key.patterns().collect(),
        until: until.map(|until| until.as_millis() as u64),
    };
    Json(answer).into_response()
}
