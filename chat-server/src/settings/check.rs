//! Which values of settings are refused.

use std::time::Duration;

use chat_server::ServerConfig;
use tracing_subscriber::filter::LevelFilter;

use super::Layer;
use super::period::Period;

/// The most that a room may keep: a history is a cache, not an archive.
const MAX_HISTORY: u32 = 100_000;

/// As many as a hub has workers at most.
const MAX_THREADS: usize = 256;

const SHORTEST_TTL: Duration = Duration::from_secs(1);
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

impl Layer {
    /// What a type alone does not say of a value.
    pub(super) fn check(&self) -> Result<(), String> {
        let at_least = |name: &str, value: Option<usize>, least: usize| match value {
            Some(value) if value < least => {
                Err(format!("invalid value '{value}' for {name}: at least {least}"))
            }
            _ => Ok(()),
        };
        at_least("max-rooms", self.max_rooms, 1)?;
        if let Some(threads) = self.threads.filter(|threads| threads.get() > MAX_THREADS) {
            return Err(format!("invalid value '{threads}' for threads: at most {MAX_THREADS}"));
        }
        let classes = || self.rooms.iter().flatten();
        let histories = classes().map(|class| class.history).chain([self.history]);
        if let Some(messages) = histories.flatten().find(|messages| *messages > MAX_HISTORY) {
            return Err(format!(
                "invalid value '{messages}' for history: at most {MAX_HISTORY} messages"
            ));
        }
        let mut ttls = classes().map(|class| class.history_ttl).chain([self.history_ttl]);
        if ttls.any(|ttl| ttl.is_some_and(|Period(ttl)| ttl < SHORTEST_TTL)) {
            return Err("invalid value for history-ttl: at least 1s".to_owned());
        }
        if self.presence_lease.is_some_and(|Period(lease)| lease < SHORTEST_LEASE) {
            return Err("invalid value for presence-lease: at least 1s".to_owned());
        }
        let max_frame = ServerConfig::default().transport.max_frame_bytes;
        at_least("max-message-bytes", self.max_message_bytes, 1)?;
        at_least("outbox-bytes", self.outbox_bytes, max_frame)?;
        if let Some(bytes) = self.max_message_bytes.filter(|bytes| *bytes >= max_frame) {
            return Err(format!(
                "invalid value '{bytes}' for max-message-bytes: a frame has {max_frame} bytes"
            ));
        }
        if self.pong_timeout.is_some_and(|Period(timeout)| timeout.is_zero()) {
            return Err("invalid value '0s' for pong-timeout: longer than nothing".to_owned());
        }
        let is_web = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        if let Some(url) = self.public_url.as_deref().filter(|url| !url.is_empty() && !is_web(url))
        {
            return Err(format!("invalid value '{url}' for public-url: http://… or https://…"));
        }
        let levels = self
            .log
            .as_deref()
            .unwrap_or_default()
            .split(',')
            .filter(|level| !level.is_empty() && !level.contains(['=', '[']));
        for level in levels {
            if level.parse::<LevelFilter>().is_err() {
                return Err(format!("invalid value '{level}' for log: no such level"));
            }
        }
        Ok(())
    }
}
