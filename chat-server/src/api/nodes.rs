//! The servers that share the broker, and the last minutes of the one that answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use serde::{Deserialize, Serialize};

use super::body::bad_field;
use super::query::Params;
use crate::error::Error;
use crate::fleet::NodeInfo;
use crate::process::host_name;
use crate::refusal::Refusal;
use crate::samples::Sample;
use crate::state::State;

/// The servers that share the broker.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct NodesAnswer {
    /// The servers, by their ids.
    nodes: Vec<Node>,
}

/// A server.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
struct Node {
    /// The id, which clients receive in `welcome`.
    node: String,
    #[serde(flatten)]
    info: NodeInfo,
}

/// Lists the servers that share the broker.
///
/// The figures are at most 10 s old, and a server that has crashed is listed for 15 s.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/nodes", tag = "servers",
    responses((status = 200, description = "The servers.", body = NodesAnswer)),
))]
pub(super) async fn nodes(Shared(state): Shared<Arc<State>>) -> Result<Json<NodesAnswer>, Refusal> {
    let nodes = state.nodes().await.map_err(Error::from)?;
    let nodes = nodes.into_iter().map(|(node, info)| Node { node: node.to_string(), info });
    Ok(Json(NodesAnswer { nodes: nodes.collect() }))
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct SamplesParams {
    /// The `at` of a sample, after which all are listed. Default: 0, all.
    after: Option<u64>,
}

/// What the server that answers did in the last ten minutes.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct SamplesAnswer {
    /// The id of the server.
    node: String,
    /// The name of its machine, pod or container; `null` if the system does not say it.
    host: Option<String>,
    /// A sample for each 5 seconds, oldest first.
    samples: Vec<Sample>,
}

/// Lists what the server that answers did in the last ten minutes.
#[cfg_attr(test, utoipa::path(
    get, path = "/api/samples", tag = "servers",
    params(SamplesParams),
    responses((status = 200, description = "The samples.", body = SamplesAnswer)),
))]
pub(super) async fn samples(
    Shared(state): Shared<Arc<State>>,
    Params(SamplesParams { after }): Params<SamplesParams>,
) -> Result<Json<SamplesAnswer>, Refusal> {
    let after = after.unwrap_or_default();
    // The document has the type of 64 bits with a sign.
    if i64::try_from(after).is_err() {
        return Err(bad_field("\"after\" is a time in milliseconds since 1970."));
    }
    let samples = state.samples.after(after);
    Ok(Json(SamplesAnswer { node: state.node.clone(), host: host_name(), samples }))
}
