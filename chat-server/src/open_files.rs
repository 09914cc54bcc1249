//! The connections that the system's limit of open files allows.

use chat_server::{LimitsConfig, ServerConfig};
use tracing::{info, warn};

/// For Redis, the log, listeners, and what is over before it counts.
pub(crate) const SPARE: usize = 64;

/// The settings, within what the system gives: as many files as it allows, and so many
/// connections that some are left over for what the server itself needs.
pub(crate) fn bound(mut config: ServerConfig, connections_by_system: bool) -> ServerConfig {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) if connections_by_system => {
            let files = usize::try_from(files).unwrap_or(usize::MAX);
            let least = |limit: Option<usize>, max: usize| limit.map(|limit| limit.min(max.max(1)));
            let limits = &mut config.limits;
            limits.http_connections = least(limits.http_connections, files / 4);
            // Connections that speak HTTP, and spare files, come on top of the WebSocket connections.
            let besides = limits.http_connections.map_or(SPARE, |asking| asking + SPARE);
            limits.connections = least(limits.connections, files.saturating_sub(besides));
        }
        Ok(files) => {
            if let Some(warning) = too_few(&config.limits, files) {
                warn!("{warning}");
            }
        }
        Err(error) => info!("the limit of open files stays as it is: {error}"),
    }
    config
}

/// What to say if the system allows fewer files than the limits need.
pub(crate) fn too_few(limits: &LimitsConfig, files: u64) -> Option<String> {
    let connections = limits.connections?;
    let needed = connections + limits.http_connections.unwrap_or(0) + SPARE;
    (needed as u64 > files).then(|| {
        format!(
            "max-connections is {connections}, which needs {needed} open files, and the system allows \
             {files}: raise LimitNOFILE (ulimit -n), or remove max-connections"
        )
    })
}
