//! Kicks and bans.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State as Shared;
use axum::{Extension, Json};
use chat_core::{RoomId, UserId};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::Caller;
use super::body::{Body, OptionalBody, bad_field, integer, missing};
use super::keys::ActiveKey;
use super::names::{RoomPath, UserPath, user_id};
use super::query::{Params, limit};
use crate::moderation::{Ban, BannedBy, LONGEST_BAN, SanctionScope, ends_at};
use crate::refusal::Refusal;
use crate::service::sanctions;
use crate::state::State;

/// The most bans of a page.
const MAX_PAGE: u32 = 1000;

/// A user to remove.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct KickRequest {
    /// The id of the user.
    #[cfg_attr(test, schema(required, value_type = String, example = "42"))]
    user: Option<String>,
    /// The reason, which the user receives, in at most 512 bytes.
    reason: Option<String>,
}

/// A user to ban. Without `until` and `seconds` the ban lasts for ten years, the longest time.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct BanRequest {
    /// The id of the user.
    #[cfg_attr(test, schema(required, value_type = String, example = "42"))]
    user: Option<String>,
    /// The reason, which the user receives, in at most 512 bytes.
    reason: Option<String>,
    /// The end of the ban, in milliseconds since 1970.
    #[serde(default, deserialize_with = "integer")]
    until: Option<u64>,
    /// The time of the ban from now on, in seconds.
    #[serde(default, deserialize_with = "integer")]
    #[cfg_attr(test, schema(minimum = 1))]
    seconds: Option<u64>,
}

/// A user whose ban ends.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct UnbanRequest {
    /// The id of the user.
    #[cfg_attr(test, schema(required, value_type = String, example = "42"))]
    user: Option<String>,
}

/// How to disconnect a user. With `ban`, `until` or `seconds` the user is banned from all servers.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct DisconnectRequest {
    /// The reason, which the user receives, in at most 512 bytes.
    reason: Option<String>,
    /// Whether the user is banned. Without `until` and `seconds` the ban lasts for ten years, the longest
    /// time. Default: whether there is one of these.
    ban: Option<bool>,
    /// The end of the ban, in milliseconds since 1970.
    #[serde(default, deserialize_with = "integer")]
    until: Option<u64>,
    /// The time of the ban from now on, in seconds.
    #[serde(default, deserialize_with = "integer")]
    #[cfg_attr(test, schema(minimum = 1))]
    seconds: Option<u64>,
}

/// The call was carried out.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct Done {
    ok: bool,
}

impl Done {
    pub(super) const OK: Json<Self> = Json(Self { ok: true });
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct BansParams {
    /// The id of a user, whose bans alone are listed.
    user: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// The most bans of the page.
    #[cfg_attr(test, param(minimum = 1, maximum = 1000, default = 1000))]
    limit: Option<u32>,
}

/// A page of the active bans.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct BansAnswer {
    /// The bans, by the ids of their users.
    bans: Vec<BanEntry>,
    /// The `after` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    next: Option<String>,
}

/// An active ban.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct BanEntry {
    user: String,
    /// The room that the user is banned from; absent: all servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    room: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    reason: Option<String>,
    /// The end of the ban, in milliseconds since 1970; absent: by an unban.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    until: Option<u64>,
    /// When the ban was imposed, in milliseconds since 1970; absent: a server of an earlier version has
    /// stored it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    at: Option<u64>,
    /// Who imposed the ban: `application`, `key` or `moderator`; absent: a server of an earlier version has
    /// stored it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false, value_type = String, example = "key"))]
    by: Option<&'static str>,
    /// The name of the key that imposed the ban.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    key: Option<String>,
    /// The id of the user who imposed the ban.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    moderator: Option<String>,
}

impl From<Ban> for BanEntry {
    fn from(ban: Ban) -> Self {
        let (by, key, moderator) = match ban.by {
            Some(BannedBy::Application) => (Some("application"), None, None),
            Some(BannedBy::Key(key)) => (Some("key"), Some(key), None),
            Some(BannedBy::Moderator(user)) => (Some("moderator"), None, Some(user.to_string())),
            None => (None, None, None),
        };
        Self {
            user: ban.user.to_string(),
            room: ban.room.map(|room| room.to_string()),
            reason: ban.reason,
            until: (!ban.is_permanent).then(|| ends_at(ban.expires_in)),
            at: ban.at,
            by,
            key,
            moderator,
        }
    }
}

type Answer = Result<Json<Done>, Refusal>;

/// Removes a user from a room.
///
/// The user may join again.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/rooms/{room}/kick", tag = "moderation",
    params(("room" = String, Path, description = "The name of the room")),
    request_body = KickRequest,
    responses((status = 200, description = "The user is removed.", body = Done)),
))]
pub(super) async fn kick(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    RoomPath(room): RoomPath,
    Body(KickRequest { user, reason }): Body<KickRequest>,
) -> Answer {
    let (user, scope) = (required(user)?, SanctionScope::Room(&room));
    sanctions::kick(&state, caller.actor(), scope, &user, reason.as_deref()).await?;
    Ok(Done::OK)
}

/// Removes a user from a room, and refuses the user's joins and messages there.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/rooms/{room}/ban", tag = "moderation",
    params(("room" = String, Path, description = "The name of the room")),
    request_body = BanRequest,
    responses((status = 200, description = "The user is banned.", body = Done)),
))]
pub(super) async fn ban(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    RoomPath(room): RoomPath,
    Body(BanRequest { user, reason, until, seconds }): Body<BanRequest>,
) -> Answer {
    let (user, scope) = (required(user)?, SanctionScope::Room(&room));
    let time = duration(until, seconds)?.unwrap_or(LONGEST_BAN);
    sanctions::ban(&state, caller.actor(), scope, &user, time, reason.as_deref()).await?;
    Ok(Done::OK)
}

/// Ends the ban of a user from a room.
///
/// That there is none is no error.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/rooms/{room}/unban", tag = "moderation",
    params(("room" = String, Path, description = "The name of the room")),
    request_body = UnbanRequest,
    responses((status = 200, description = "The user is not banned.", body = Done)),
))]
pub(super) async fn unban(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    RoomPath(room): RoomPath,
    Body(UnbanRequest { user }): Body<UnbanRequest>,
) -> Answer {
    sanctions::unban(&state, caller.actor(), SanctionScope::Room(&room), &required(user)?).await?;
    Ok(Done::OK)
}

/// Closes all connections of a user; with `ban` or a time, bans the user from all servers.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/users/{user}/disconnect", tag = "moderation",
    params(("user" = String, Path, description = "The id of the user")),
    request_body = Option<DisconnectRequest>,
    responses((status = 200, description = "The user is disconnected.", body = Done)),
))]
pub(super) async fn disconnect(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    UserPath(user): UserPath,
    OptionalBody(request): OptionalBody<DisconnectRequest>,
) -> Answer {
    let DisconnectRequest { reason, ban, until, seconds } = request;
    let (scope, reason) = (SanctionScope::Server, reason.as_deref());
    let time = match (ban, duration(until, seconds)?) {
        (Some(true), time) => Some(time.unwrap_or(LONGEST_BAN)),
        (Some(false), Some(_)) => {
            return Err(bad_field("The body has the time of a ban, and \"ban\":false."));
        }
        (_, time) => time,
    };
    match time {
        Some(time) => sanctions::ban(&state, caller.actor(), scope, &user, time, reason).await?,
        None => sanctions::kick(&state, caller.actor(), scope, &user, reason).await?,
    }
    Ok(Done::OK)
}

/// Ends the ban of a user from all servers.
///
/// Bans from rooms stay. That there is none is no error.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/users/{user}/unban", tag = "moderation",
    params(("user" = String, Path, description = "The id of the user")),
    responses((status = 200, description = "The user is not banned.", body = Done)),
))]
pub(super) async fn unban_user(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    UserPath(user): UserPath,
) -> Answer {
    sanctions::unban(&state, caller.actor(), SanctionScope::Server, &user).await?;
    Ok(Done::OK)
}

/// Lists the active bans, in the order of their users.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/bans", tag = "moderation",
    params(BansParams),
    responses((status = 200, description = "A page of bans.", body = BansAnswer)),
))]
pub(super) async fn bans(
    Shared(state): Shared<Arc<State>>,
    Extension(key): Extension<Arc<ActiveKey>>,
    Params(params): Params<BansParams>,
) -> Result<Json<BansAnswer>, Refusal> {
    let limit = limit(params.limit, MAX_PAGE, MAX_PAGE)? as usize;
    let wanted = params.user.as_deref().map(user_id).transpose()?;
    let is_seen = |user: &UserId, room: Option<&RoomId>| {
        wanted.as_ref().is_none_or(|wanted| wanted == user)
            && room.map_or_else(|| key.is_for_user(user), |room| key.is_for_room(room))
    };
    let mut bans = state.moderation.bans(is_seen);
    if let Some(after) = &params.after {
        let last = read_cursor(after);
        let (user, room) = last.ok_or_else(|| bad_field("\"after\" is not a \"next\"."))?;
        bans.retain(|ban| (&ban.user, &ban.room) > (&user, &room));
    }
    let is_last = bans.len() <= limit;
    bans.truncate(limit);
    let next =
        bans.last().filter(|_| !is_last).map(|ban| cursor_after(&ban.user, ban.room.as_ref()));
    Ok(Json(BansAnswer { bans: bans.into_iter().map(BanEntry::from).collect(), next }))
}

/// The text that stands for the last ban of a page: its user, and its room in a further line.
fn cursor_after(user: &UserId, room: Option<&RoomId>) -> String {
    let room = room.map(|room| format!("\n{room}")).unwrap_or_default();
    BASE64URL_NOPAD.encode(format!("{user}{room}").as_bytes())
}

fn read_cursor(after: &str) -> Option<(UserId, Option<RoomId>)> {
    let target = String::from_utf8(BASE64URL_NOPAD.decode(after.as_bytes()).ok()?).ok()?;
    let (user, room) = match target.split_once('\n') {
        Some((user, room)) => (user, Some(RoomId::new(room).ok()?)),
        None => (&*target, None),
    };
    Some((UserId::new(user).ok()?, room))
}

fn required(user: Option<String>) -> Result<UserId, Refusal> {
    user_id(&user.ok_or_else(|| missing("user"))?)
}

/// The time of a ban from now on; `None` if the body has none.
fn duration(until: Option<u64>, seconds: Option<u64>) -> Result<Option<Duration>, Refusal> {
    match (until, seconds) {
        (Some(_), Some(_)) => {
            Err(bad_field("The body has both \"until\" and \"seconds\". Send one of them."))
        }
        (None, seconds) => Ok(seconds.map(Duration::from_secs)),
        (Some(until), None) => {
            let until = UNIX_EPOCH.checked_add(Duration::from_millis(until));
            let left = until.and_then(|until| until.duration_since(SystemTime::now()).ok());
            left.map(Some).ok_or_else(|| {
                bad_field("\"until\" is in the past. It is in milliseconds since 1970.")
            })
        }
    }
}
