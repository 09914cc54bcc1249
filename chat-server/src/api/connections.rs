//! The connections with the most traffic, and those of a user.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::State as Shared;
use axum::{Extension, Json};
use chat_core::{ConnectionId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use super::Caller;
use super::audit::Subject;
use super::body::{Body, bad_field, integer, missing};
use super::keys::ActiveKey;
use super::names::UserPath;
use super::query::{Params, limit};
use crate::process::host_name;
use crate::refusal::Refusal;
use crate::samples::rounded;
use crate::searches::OtherServer;
use crate::sessions::Origin;
use crate::state::State;

/// The most that is listed by traffic: further ones are too light to be found.
pub(super) const MAX_BUSIEST: u32 = 100;

/// How many are listed by traffic, unless the call says.
pub(super) const BUSIEST: u32 = 20;

/// The most connections of a user, and the most rooms of one, that are listed.
const MAX_LISTED: usize = 100;

/// How long a rebalance takes, unless the call says.
const REBALANCE_SECONDS: u64 = 60;
const MAX_REBALANCE_SECONDS: u64 = 3600;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionsParams {
    /// The most connections that are listed.
    #[cfg_attr(test, param(minimum = 1, maximum = 100, default = 20))]
    limit: Option<u32>,
}

/// The connections with the most traffic on one server.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct ConnectionsAnswer {
    /// The id of the server.
    node: String,
    /// The name of its machine, pod or container; `null` if the system does not say it.
    host: Option<String>,
    /// The connections, those with the most traffic first.
    connections: Vec<BusyConnection>,
}

/// A connection, which may have ended since.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct BusyConnection {
    /// The id, which the client receives in `welcome` as `session`, and the log has.
    connection: String,
    /// The id of the user; absent: not known, because the client has not authenticated, or had not when
    /// it was last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    user: Option<String>,
    /// The name of the user; absent with the id, and if the connection has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    name: Option<String>,
    /// Whether the connection has ended; absent: it is open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[cfg_attr(test, schema(required = false))]
    ended: bool,
    /// The IP address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    address: Option<String>,
    /// Frames from the client in a second.
    frames: f64,
    /// Bytes from the client in a second.
    bytes: f64,
}

/// Lists the connections from which this server received the most in the last minute.
///
/// Each frame counts 256 bytes beside its own. The figures are estimates by samples, at a cost that does
/// not depend on how many connections there are: one with less than a 128th of the traffic, or with few
/// frames, may be missing. The key must be for the users.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/connections", tag = "servers",
    params(ConnectionsParams),
    responses((status = 200, description = "The connections.", body = ConnectionsAnswer)),
))]
pub(super) async fn connections(
    Shared(state): Shared<Arc<State>>,
    Extension(key): Extension<Arc<ActiveKey>>,
    Params(params): Params<ConnectionsParams>,
) -> Result<Json<ConnectionsAnswer>, Refusal> {
    let limit = limit(params.limit, BUSIEST, MAX_BUSIEST)?;
    let heaviest = state.clients.heaviest(MAX_BUSIEST as usize, Instant::now()).into_iter();
    let mut busiest: Vec<_> = heaviest
        .map(|(mut client, traffic)| {
            let present = state.sessions.user(client.id);
            // The sample may be older than the user.
            if let Some(user) = &present {
                client.user = user.id.clone();
            }
            (client, present, traffic)
        })
        .collect();
    busiest.retain(|(client, ..)| key.is_for_user(&client.user));
    busiest.truncate(limit as usize);
    let connections = busiest.into_iter().map(|(client, present, [frames, bytes])| {
        let user = known_user(&state, client.id, &client.user, present.is_some());
        let name = user.and(present.as_ref()).map(|user| user.name.to_string());
        BusyConnection {
            connection: state.session_name(client.id),
            user: user.map(UserId::to_string),
            name,
            ended: present.is_none(),
            address: client.address.map(|address| address.to_string()),
            frames: rounded(frames),
            bytes: rounded(bytes),
        }
    });
    let connections = connections.collect();
    Ok(Json(ConnectionsAnswer { node: state.node.clone(), host: host_name(), connections }))
}

/// `None` for the id that a client has before it says which user it is. On a server without an
/// authenticator that is the id of a user who gives none, while the connection is open.
pub(super) fn known_user<'a>(
    state: &State,
    id: ConnectionId,
    user: &'a UserId,
    is_open: bool,
) -> Option<&'a UserId> {
    let may_be_named_so = state.authenticator.is_none() && is_open;
    (may_be_named_so || user.as_str() != state.session_name(id)).then_some(user)
}

/// How many connections are ended, and how slowly.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RebalanceRequest {
    /// The part of the connections, in percent. 0 ends a rebalance that goes on.
    #[serde(default, deserialize_with = "integer")]
    #[cfg_attr(test, schema(required = true, nullable = false, maximum = 100))]
    percent: Option<u64>,
    /// The time in which they end, one after the other.
    #[serde(default, deserialize_with = "integer")]
    #[cfg_attr(test, schema(nullable = false, maximum = 3600, default = 60))]
    seconds: Option<u64>,
}

/// What a rebalance does.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct RebalanceAnswer {
    /// The id of the server.
    node: String,
    /// The name of its machine, pod or container; `null` if the system does not say it.
    host: Option<String>,
    /// How many connections are ended.
    connections: usize,
}

/// Ends a part of the connections of the server that answers, so that their clients reconnect to another.
///
/// For a server that was added: connections stay where they are. The clients that are asked receive
/// `goodbye` with `"reconnect":true`, reconnect after a random pause, and miss nothing; where to is the
/// choice of the balancer. A further call replaces one that goes on.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/connections/rebalance", tag = "servers",
    request_body = RebalanceRequest,
    responses((status = 200, description = "The clients are asked from now on.", body = RebalanceAnswer)),
))]
pub(super) async fn rebalance(
    Shared(state): Shared<Arc<State>>,
    caller: Caller,
    Body(RebalanceRequest { percent, seconds }): Body<RebalanceRequest>,
) -> Result<Json<RebalanceAnswer>, Refusal> {
    let percent = percent.ok_or_else(|| missing("percent"))?;
    let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
    let seconds = seconds.unwrap_or(REBALANCE_SECONDS);
    let Some(percent) = percent.filter(|_| seconds <= MAX_REBALANCE_SECONDS) else {
        return Err(bad_field("\"percent\" is 100 at most, and \"seconds\" 3600."));
    };
    if state.draining.load(Ordering::SeqCst) {
        return Err(Refusal::draining());
    }
    let connections = state.rebalance(percent, Duration::from_secs(seconds));
    caller.audit.note(Subject {
        seconds: Some(seconds),
        percent: Some(percent),
        connections: Some(connections),
        ..Subject::default()
    });
    Ok(Json(RebalanceAnswer { node: state.node.clone(), host: host_name(), connections }))
}

/// The connections of a user to one server.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct UserConnectionsAnswer {
    /// The id of the server.
    node: String,
    /// The name of its machine, pod or container; `null` if the system does not say it.
    host: Option<String>,
    /// How many connections the user has to this server.
    count: usize,
    /// The oldest of them, at most 100.
    #[cfg_attr(test, schema(max_items = 100))]
    connections: Vec<UserConnection>,
    /// The other servers with connections of the user that receive direct messages, as far as they have
    /// answered within half a second, at most 100.
    #[cfg_attr(test, schema(max_items = 100))]
    others: Vec<OtherServer>,
}

/// An open connection of a user.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct UserConnection {
    /// The id, which the client receives in `welcome` as `session`, and the log has.
    connection: String,
    /// The name that the user has on it.
    name: String,
    /// The IP address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    address: Option<String>,
    /// When the connection opened, in milliseconds since 1970, to a second.
    since: u64,
    /// How many rooms the connection is in.
    room_count: usize,
    /// The first of them by their names, at most 100.
    #[cfg_attr(test, schema(max_items = 100))]
    rooms: Vec<String>,
}

/// Lists the connections of a user to the server that answers, and the other servers that the user is
/// connected to.
///
/// Takes time for all connections and all rooms of that server. The other servers list theirs.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/users/{user}/connections", tag = "users",
    params(("user" = String, Path, description = "The id of the user")),
    responses((status = 200, description = "The connections.", body = UserConnectionsAnswer)),
))]
pub(super) async fn of_user(
    Shared(state): Shared<Arc<State>>,
    Extension(key): Extension<Arc<ActiveKey>>,
    UserPath(user): UserPath,
) -> Json<UserConnectionsAnswer> {
    let (origins, count) = state.sessions.origins(&user, MAX_LISTED);
    let ids: Vec<_> = origins.iter().map(|origin| origin.id).collect();
    let (rooms, mut others) = tokio::join!(state.hub.rooms_of(&ids), state.other_servers(&user));
    others.truncate(MAX_LISTED);
    let connection = |(origin, mut rooms): (Origin, Vec<RoomId>)| {
        rooms.retain(|room| key.is_for_room(room));
        UserConnection {
            connection: state.session_name(origin.id),
            name: origin.name.to_string(),
            address: origin.address.map(|address| address.to_string()),
            since: state.millis_at(origin.opened),
            room_count: rooms.len(),
            rooms: rooms.iter().take(MAX_LISTED).map(RoomId::to_string).collect(),
        }
    };
    let connections = origins.into_iter().zip(rooms).map(connection).collect();
    let node = state.node.clone();
    Json(UserConnectionsAnswer { node, host: host_name(), count, connections, others })
}
