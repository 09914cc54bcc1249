//! The rooms and users that calls name, checked against the patterns of the key.

use std::sync::Arc;

use axum::RequestPartsExt;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use chat_core::{RoomId, UserId};

use super::keys::ActiveKey;
use crate::refusal::Refusal;
use crate::state::State;

/// The room in the path, which the key is for.
pub(super) struct RoomPath(pub(super) RoomId);

/// The user in the path, which the key is for.
pub(super) struct UserPath(pub(super) UserId);

impl FromRequestParts<Arc<State>> for RoomPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<State>) -> Result<Self, Refusal> {
        let Path(name) = parts.extract::<Path<String>>().await?;
        let room = room_id(&name)?;
        key(parts)?.check_room(&room)?;
        Ok(Self(room))
    }
}

impl FromRequestParts<Arc<State>> for UserPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<State>) -> Result<Self, Refusal> {
        let Path(name) = parts.extract::<Path<String>>().await?;
        let user = user_id(&name)?;
        key(parts)?.check_user(&user)?;
        Ok(Self(user))
    }
}

/// The key of an authenticated request; a route that lacks the authentication is not found.
fn key(parts: &Parts) -> Result<&ActiveKey, Refusal> {
    let key = parts.extensions.get::<Arc<ActiveKey>>();
    key.map(Arc::as_ref).ok_or_else(Refusal::not_found)
}

pub(super) fn room_id(name: &str) -> Result<RoomId, Refusal> {
    RoomId::new(name).map_err(|why| Refusal::name("room", why))
}

pub(super) fn user_id(name: &str) -> Result<UserId, Refusal> {
    UserId::new(name).map_err(|why| Refusal::name("user", why))
}
