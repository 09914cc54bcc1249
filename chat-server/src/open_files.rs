//! The connections that the system's limit of open files allows.

use chat_server::ServerConfig;
use tracing::info;

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
        Ok(_) => {}
        Err(error) => info!("the limit of open files stays as it is: {error}"),
    }
    config
}
