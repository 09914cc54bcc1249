//! What is in rooms: messages and users.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chat_broker::OccupiedRooms;
use chat_core::wire::{self, PageFrame};
use chat_core::{Epoch, ErrorCode, HistoryRange, Position, Topic};
use serde::{Deserialize, Serialize};

use super::Caller;
use super::audit::Subject;
use super::body::{Body, bad_field, missing};
use super::connections::{BUSIEST, MAX_BUSIEST};
use super::keys::{ActiveKey, ApiScope};
use super::moderation::Done;
use super::names::{RoomPath, room_id, user_id};
use super::query::{Params, limit};
use crate::error::Error;
use crate::refusal::Refusal;
use crate::samples::rounded;
use crate::service::rules::check_name;
use crate::service::{history, members};
use crate::state::State;

/// The most rooms of a page: as many as a broker lists.
const MAX_ROOMS: u32 = OccupiedRooms::MAX as u32;

/// The most users that are listed.
const MAX_LISTED: u32 = 10_000;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryParams {
    /// The messages before this offset, the newest of them.
    before: Option<u64>,
    /// The messages after this offset, the oldest of them.
    after: Option<u64>,
    /// The most messages of the page.
    #[cfg_attr(test, param(minimum = 1, maximum = 256, default = 256))]
    limit: Option<u32>,
}

/// A page of a room's history.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct HistoryAnswer<'a> {
    /// The epoch of the room's sequence; empty before the first message.
    #[cfg_attr(test, schema(value_type = String))]
    epoch: Epoch,
    /// The offset of the room's latest message; 0 before the first message.
    offset: u64,
    /// The messages as members receive them, oldest first.
    #[cfg_attr(test, schema(value_type = Vec<super::schemas::Message>))]
    messages: Vec<PageFrame<'a>>,
    /// Whether there are further messages in the direction asked for.
    more: bool,
}

/// A room.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct RoomAnswer<'a> {
    room: &'a str,
    /// The epoch of the room's sequence; absent in a room without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(value_type = Option<String>, nullable = false))]
    epoch: Option<Epoch>,
    /// The offset of the room's latest message; absent in a room without history.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    offset: Option<u64>,
    /// The number of users in the room, on all servers.
    count: u32,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct MembersParams {
    /// The number of users above which none is listed. Default: that of clients, 200.
    #[cfg_attr(test, param(minimum = 1, maximum = 10_000))]
    limit: Option<u32>,
}

/// The users in a room.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct MembersAnswer<'a> {
    /// The users, each once; empty if there are more than the limit.
    #[cfg_attr(test, schema(value_type = Vec<super::schemas::User>))]
    members: Vec<wire::User<'a>>,
    /// The number of all users in the room, on all servers.
    count: u32,
}

/// Reads a page of a room's history.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/rooms/{room}/messages", tag = "rooms",
    params(("room" = String, Path, description = "The name of the room"), HistoryParams),
    responses((status = 200, description = "The page.", body = HistoryAnswer)),
))]
pub(super) async fn history(
    Shared(state): Shared<Arc<State>>,
    RoomPath(room): RoomPath,
    Params(params): Params<HistoryParams>,
) -> Result<Response, Refusal> {
    let range = match (params.before, params.after) {
        (Some(_), Some(_)) => return Err(bad_field("Send \"before\" or \"after\", and not both.")),
        (Some(before), None) => HistoryRange::Before(before),
        (None, Some(after)) => HistoryRange::After(after),
        (None, None) => HistoryRange::Latest,
    };
    let limit = limit(params.limit, history::MAX_PAGE, history::MAX_PAGE)?;
    let page = history::page(&state, &room, range, limit).await?;
    let Position { epoch, offset } = page.position;
    let messages = PageFrame::page(&room, epoch, &page.entries);
    Ok(Json(HistoryAnswer { epoch, offset, messages, more: page.more }).into_response())
}

/// Reads the position of a room, and the number of its users.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/rooms/{room}", tag = "rooms",
    params(("room" = String, Path, description = "The name of the room")),
    responses((status = 200, description = "The room.", body = RoomAnswer)),
))]
pub(super) async fn room(
    Shared(state): Shared<Arc<State>>,
    RoomPath(room): RoomPath,
) -> Result<Response, Refusal> {
    let (_, count) = members::members(&state, &room, 0).await.map_err(Error::from)?;
    let position = match state.hub.retention(&room) {
        Some(_) => {
            let topic = Topic::Room(room.clone());
            let read = state.hub.broker().positions(std::slice::from_ref(&topic)).await;
            read.map_err(Error::from)?.first().copied()
        }
        None => None,
    };
    let epoch = position.map(|position| position.epoch);
    let offset = position.map(|position| position.offset);
    Ok(Json(RoomAnswer { room: room.as_str(), epoch, offset, count }).into_response())
}

/// Lists the users in a room.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/rooms/{room}/members", tag = "rooms",
    params(("room" = String, Path, description = "The name of the room"), MembersParams),
    responses((status = 200, description = "The users.", body = MembersAnswer)),
))]
pub(super) async fn members(
    Shared(state): Shared<Arc<State>>,
    RoomPath(room): RoomPath,
    Params(params): Params<MembersParams>,
) -> Result<Response, Refusal> {
    let default = u32::try_from(state.config.max_listed_members).unwrap_or(MAX_LISTED);
    let limit = limit(params.limit, default.clamp(1, MAX_LISTED), MAX_LISTED)?;
    let (users, count) =
        members::members(&state, &room, limit as usize).await.map_err(Error::from)?;
    let members = users.iter().map(wire::User::from).collect();
    Ok(Json(MembersAnswer { members, count }).into_response())
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct RoomsParams {
    /// What the names of the rooms begin with.
    prefix: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// The most rooms of the page; by traffic at most 100, and 20 by default.
    #[cfg_attr(test, param(minimum = 1, maximum = 1000, default = 1000))]
    limit: Option<u32>,
    /// The order of the rooms. Default: that of their names.
    order: Option<Order>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum Order {
    /// Those with the most traffic on this server first.
    Traffic,
}

/// A page of the rooms that have users.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct RoomsAnswer {
    /// The id of the server, of rooms by traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    node: Option<String>,
    /// The rooms. Fewer than the limit, or none, may have a next page.
    rooms: Vec<OccupiedRoom>,
    /// The `after` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    next: Option<String>,
}

/// A room that has users.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct OccupiedRoom {
    room: String,
    /// The number of users in the room, on all servers.
    count: u32,
    /// What the room's members on this server received, if the rooms are listed by traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    traffic: Option<Traffic>,
}

/// The traffic of a room on one server in the last minute: estimates by samples.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct Traffic {
    /// Connections in the room, on this server.
    members: usize,
    /// Messages in a second.
    messages: f64,
    /// Messages to members in a second: one for each message and member.
    deliveries: f64,
    /// Bytes to members in a second, as the messages are stored.
    bytes: f64,
}

/// Lists the rooms that have users, on any server.
///
/// A room that has users while all pages are read is in one of them. The key must be for every room whose
/// name begins with the prefix.
///
/// With `order=traffic`, for which the key needs the scope `admin` as well, the rooms with the most traffic on this
/// server in the last minute: by the bytes to their members, to which each delivery adds 256. A room
/// with less than a 128th of the traffic, or with few messages, may be missing.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/rooms", tag = "rooms",
    params(RoomsParams),
    responses((status = 200, description = "A page of rooms.", body = RoomsAnswer)),
))]
pub(super) async fn rooms(
    Shared(state): Shared<Arc<State>>,
    Extension(key): Extension<Arc<ActiveKey>>,
    Params(params): Params<RoomsParams>,
) -> Result<Json<RoomsAnswer>, Refusal> {
    if let Some(Order::Traffic) = params.order {
        return hottest(&state, &key, params).await;
    }
    let limit = limit(params.limit, MAX_ROOMS, MAX_ROOMS)?;
    let after = params.after.as_deref().map(room_id).transpose()?;
    let prefix = params.prefix.as_deref().unwrap_or_default();
    // Otherwise `next` would name rooms of others.
    key.check_prefix(prefix)?;
    let page = members::rooms(&state, prefix, after.as_ref(), limit as usize).await;
    let page = page.map_err(Error::from)?;
    let rooms = page
        .rooms
        .into_iter()
        .map(|occupied| (occupied.room.to_string(), occupied.count))
        .map(|(room, count)| OccupiedRoom { room, count, traffic: None });
    let next = page.next.map(|room| room.to_string());
    Ok(Json(RoomsAnswer { node: None, rooms: rooms.collect(), next }))
}

/// The rooms with the most traffic on this server.
async fn hottest(
    state: &State,
    key: &ActiveKey,
    params: RoomsParams,
) -> Result<Json<RoomsAnswer>, Refusal> {
    key.check_scope(ApiScope::Admin)?;
    let prefix = params.prefix.as_deref().unwrap_or_default();
    key.check_prefix(prefix)?;
    if params.after.is_some() {
        return Err(bad_field("Rooms by traffic are one page: they have no \"after\"."));
    }
    let limit = limit(params.limit, BUSIEST, MAX_BUSIEST)?;
    let mut hottest = state.hub.hottest_rooms(MAX_BUSIEST as usize);
    hottest.retain(|traffic| traffic.room.as_str().starts_with(prefix));
    hottest.truncate(limit as usize);
    let topics: Vec<_> = hottest.iter().map(|traffic| Topic::Room(traffic.room.clone())).collect();
    let presence = members::presence(state).map_err(Error::from)?;
    let occupancies = presence.occupancy(&topics, 0).await.map_err(Error::from)?;
    let rooms = hottest.into_iter().zip(occupancies).map(|(traffic, occupancy)| OccupiedRoom {
        room: traffic.room.to_string(),
        count: occupancy.count,
        traffic: Some(Traffic {
            members: traffic.members,
            messages: rounded(traffic.messages),
            deliveries: rounded(traffic.deliveries),
            bytes: rounded(traffic.bytes),
        }),
    });
    let (node, rooms) = (Some(state.node.clone()), rooms.collect());
    Ok(Json(RoomsAnswer { node, rooms, next: None }))
}

/// A user to move.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct UserRequest {
    /// The id of the user.
    #[cfg_attr(test, schema(required, value_type = String, example = "42"))]
    user: Option<String>,
}

/// Makes the connections of a user join a room.
///
/// Those that are open now and speak the native protocol, on all servers. Each receives `joined` without
/// an `id`. Bans and limits apply, permissions and hooks do not. The key must be for the room
/// and for the user.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/rooms/{room}/join", tag = "rooms",
    params(("room" = String, Path, description = "The name of the room")),
    request_body = UserRequest,
    responses((status = 200, description = "The request is on its way.", body = Done)),
))]
pub(super) async fn join(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    RoomPath(room): RoomPath,
    Body(UserRequest { user }): Body<UserRequest>,
) -> Result<Json<Done>, Refusal> {
    let user = user_id(&user.ok_or_else(|| missing("user"))?)?;
    caller.key.check_user(&user)?;
    caller.audit.note(Subject { user: Some(user.clone()), ..Subject::default() });
    let max = state.limits.config().name_bytes;
    check_name(ErrorCode::RoomNameInvalid, room.as_str(), max).map_err(Error::from)?;
    state.request_room(user, room, true).await.map_err(Error::from)?;
    Ok(Done::OK)
}

/// Makes the connections of a user leave a room.
///
/// As the call that makes them join. Each that was in the room receives `left` without an `id`.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/rooms/{room}/leave", tag = "rooms",
    params(("room" = String, Path, description = "The name of the room")),
    request_body = UserRequest,
    responses((status = 200, description = "The request is on its way.", body = Done)),
))]
pub(super) async fn leave(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    RoomPath(room): RoomPath,
    Body(UserRequest { user }): Body<UserRequest>,
) -> Result<Json<Done>, Refusal> {
    let user = user_id(&user.ok_or_else(|| missing("user"))?)?;
    caller.key.check_user(&user)?;
    caller.audit.note(Subject { user: Some(user.clone()), ..Subject::default() });
    state.request_room(user, room, false).await.map_err(Error::from)?;
    Ok(Done::OK)
}
