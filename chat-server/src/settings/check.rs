//! Which values of settings are refused.

use std::time::Duration;

use chat_core::MAX_NAME_BYTES;
use chat_server::ServerConfig;
use tracing_subscriber::filter::LevelFilter;

use super::layer::Layer;
use super::period::Period;

/// The most that a room may keep: a history is a cache, not an archive.
const MAX_HISTORY: u32 = 100_000;

/// As many as a hub has workers at most.
const MAX_THREADS: usize = 256;

/// What can be guessed is no key.
const SHORTEST_KEY: usize = 16;

/// As many as the pings and pongs of a client that is well.
const FEWEST_CONTROLS: usize = 10;

/// With less, a connection waits for its peer every few frames.
const SMALLEST_BUFFER: usize = 16 * 1024;

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
        for bytes in classes().map(|class| class.history_bytes).chain([self.history_bytes]) {
            at_least("history-bytes", bytes, 1)?;
        }
        let mut ttls = classes().map(|class| class.history_ttl).chain([self.history_ttl]);
        if ttls.any(|ttl| ttl.is_some_and(|Period(ttl)| ttl < SHORTEST_TTL)) {
            return Err("invalid value for history-ttl: at least 1s".to_owned());
        }
        if self.presence_lease.is_some_and(|Period(lease)| lease < SHORTEST_LEASE) {
            return Err("invalid value for presence-lease: at least 1s".to_owned());
        }
        let message_bytes =
            self.max_message_bytes.unwrap_or(ServerConfig::default().max_message_bytes);
        let max_frame = self.max_frame_bytes.unwrap_or(ServerConfig::frame_bytes(message_bytes));
        at_least("max-frame-bytes", self.max_frame_bytes, 1024)?;
        at_least("max-header-bytes", self.max_header_bytes, 8192)?;
        at_least("outbox-frames", self.outbox_frames, 256)?;
        let buffer = self.socket_buffer_bytes.filter(|bytes| *bytes > 0);
        at_least("socket-buffer-bytes", buffer, SMALLEST_BUFFER)?;
        let controls = self.max_control_frames.map(|frames| frames as usize);
        at_least("max-control-frames", controls, FEWEST_CONTROLS)?;
        at_least("max-connections", self.max_connections, 1)?;
        at_least("max-rooms-per-user", self.max_rooms_per_user, 1)?;
        at_least("max-connections-per-address", self.max_connections_per_address, 1)?;
        at_least("max-name-bytes", self.max_name_bytes, 1)?;
        at_least("max-json-depth", self.max_json_depth, 1)?;
        if let Some(bytes) = self.max_name_bytes.filter(|bytes| *bytes > MAX_NAME_BYTES) {
            return Err(format!(
                "invalid value '{bytes}' for max-name-bytes: at most {MAX_NAME_BYTES}"
            ));
        }
        let key = self.api_key.as_deref().unwrap_or_default().trim();
        let is_shown = key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if (1..SHORTEST_KEY).contains(&key.len()) || !is_shown {
            return Err(format!("invalid value for api-key: at least {SHORTEST_KEY} of ASCII"));
        }
        let is_zero = |period: Option<Period>| period.is_some_and(|Period(time)| time.is_zero());
        for (name, period) in [
            ("handshake-timeout", self.handshake_timeout),
            ("message-timeout", self.message_timeout),
            ("write-timeout", self.write_timeout),
            ("auth-timeout", self.auth_timeout),
            ("drain-timeout", self.drain_timeout),
        ] {
            if is_zero(period) {
                return Err(format!("invalid value '0s' for {name}: longer than nothing"));
            }
        }
        // The response announces whole seconds.
        let keep_alive = self.keep_alive_timeout.map(|Period(time)| time);
        if keep_alive.is_some_and(|time| !time.is_zero() && time < Duration::from_secs(1)) {
            return Err("invalid value for keep-alive-timeout: 0s, or at least 1s".to_owned());
        }
        at_least("max-message-bytes", self.max_message_bytes, 1)?;
        at_least("outbox-bytes", self.outbox_bytes, max_frame)?;
        let outbox = ServerConfig::default().transport.outbox_bytes;
        if self.outbox_bytes.is_none() && max_frame > outbox {
            return Err(format!(
                "invalid value '{message_bytes}' for max-message-bytes: its frame may have \
                 {max_frame} bytes, and outbox-bytes is {outbox}"
            ));
        }
        if let Some(bytes) = self.max_message_bytes.filter(|bytes| *bytes >= max_frame) {
            return Err(format!(
                "invalid value '{bytes}' for max-message-bytes: a frame has {max_frame} bytes"
            ));
        }
        if self.pong_timeout.is_some_and(|Period(timeout)| timeout.is_zero()) {
            return Err("invalid value '0s' for pong-timeout: longer than nothing".to_owned());
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
