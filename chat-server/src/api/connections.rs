//! The connections with the most traffic.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State as Shared;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::keys::ActiveKey;
use super::query::{Params, limit};
use crate::refusal::Refusal;
use crate::samples::rounded;
use crate::state::State;

/// The most that is listed by traffic: further ones are too light to be found.
pub(super) const MAX_BUSIEST: u32 = 100;

/// How many are listed by traffic, unless the call says.
pub(super) const BUSIEST: u32 = 20;

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
    /// The connections, those with the most traffic first.
    connections: Vec<BusyConnection>,
}

/// A connection, which may have ended since.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct BusyConnection {
    /// The id, which the client receives in `welcome` as `session`, and the log has.
    connection: String,
    /// The id of the user.
    user: String,
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
    let mut busiest = state.clients.heaviest(MAX_BUSIEST as usize, Instant::now());
    busiest.retain(|(client, _)| key.is_for_user(&client.user));
    busiest.truncate(limit as usize);
    let connections = busiest.into_iter().map(|(client, [frames, bytes])| BusyConnection {
        connection: state.session_name(client.id),
        user: client.user.to_string(),
        address: client.address.map(|address| address.to_string()),
        frames: rounded(frames),
        bytes: rounded(bytes),
    });
    Ok(Json(ConnectionsAnswer { node: state.node.clone(), connections: connections.collect() }))
}
