//! Which values of settings are refused.

use std::time::Duration;

use chat_core::MAX_NAME_BYTES;
use chat_server::ServerConfig;
use tracing_subscriber::filter::LevelFilter;

use super::layer::{Layer, RoomClass};
use super::period::Period;
use super::sources::{Invalid, trim};

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

/// The most of anything that is counted in bytes: more is a slip of the pen.
const MAX_BYTES: usize = 1 << 30;

/// The most of anything else that is counted: clients read some of these numbers, and those of
/// JavaScript are exact up to 2^53.
const MAX_COUNT: usize = u32::MAX as usize;

/// As many as the prefix of keys in Redis may have.
const MAX_PREFIX_BYTES: usize = 64;

const SECOND: Duration = Duration::from_secs(1);
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Layer {
    /// What a type alone does not say of a value.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        self.check_numbers()?;
        self.check_times()?;
        self.check_histories()?;
        self.check_frames()?;
        self.check_names()?;
        self.check_texts()
    }

    fn check_numbers(&self) -> Result<(), Invalid> {
        let threads = self.threads.map(usize::from);
        let controls = self.max_control_frames.map(|frames| frames as usize);
        // 0 leaves it to the kernel.
        let buffer = self.socket_buffer_bytes.filter(|bytes| *bytes > 0);
        for (setting, value, least, most) in [
            ("max-rooms", self.max_rooms, 1, MAX_COUNT),
            ("max-rooms-per-user", self.max_rooms_per_user, 1, MAX_COUNT),
            ("max-connections", self.max_connections, 1, MAX_COUNT),
            ("max-connections-per-address", self.max_connections_per_address, 1, MAX_COUNT),
            ("presence-limit", self.presence_limit, 0, MAX_COUNT),
            ("threads", threads, 1, MAX_THREADS),
            ("max-control-frames", controls, FEWEST_CONTROLS, MAX_COUNT),
            ("outbox-frames", self.outbox_frames, 256, MAX_COUNT),
            ("max-json-depth", self.max_json_depth, 1, MAX_COUNT),
            ("max-name-bytes", self.max_name_bytes, 1, MAX_NAME_BYTES),
            ("max-message-bytes", self.max_message_bytes, 1, MAX_BYTES),
            ("max-frame-bytes", self.max_frame_bytes, 1024, MAX_BYTES),
            ("max-header-bytes", self.max_header_bytes, 8192, MAX_BYTES),
            ("socket-buffer-bytes", buffer, SMALLEST_BUFFER, MAX_BYTES),
            ("outbox-bytes", self.outbox_bytes, 1024, MAX_BYTES),
            ("history-bytes", self.history_bytes, 1, MAX_BYTES),
        ] {
            within(setting, value, least, most)?;
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), Invalid> {
        let more_than_nothing = Duration::from_millis(1);
        for (setting, value, least, most) in [
            ("handshake-timeout", self.handshake_timeout, more_than_nothing, YEAR),
            ("message-timeout", self.message_timeout, more_than_nothing, YEAR),
            ("write-timeout", self.write_timeout, more_than_nothing, YEAR),
            ("auth-timeout", self.auth_timeout, more_than_nothing, YEAR),
            ("drain-timeout", self.drain_timeout, more_than_nothing, YEAR),
            ("pong-timeout", self.pong_timeout, more_than_nothing, YEAR),
            ("history-ttl", self.history_ttl, SECOND, YEAR),
            ("presence-lease", self.presence_lease, SECOND, HOUR),
            ("presence-grace", self.presence_grace, Duration::ZERO, HOUR),
            ("token-leeway", self.token_leeway, Duration::ZERO, FIVE_MINUTES),
        ] {
            let Some(Period(time)) = value else { continue };
            if !(least..=most).contains(&time) {
                let (least, most) = (Period(least), Period(most));
                let why = format!("{least} to {most}");
                return Err(Invalid::new(setting, Period(time), why));
            }
        }
        Ok(())
    }

    fn check_histories(&self) -> Result<(), Invalid> {
        if let Some(messages) = self.history.filter(|messages| *messages > MAX_HISTORY) {
            return Err(Invalid::new("history", messages, format!("at most {MAX_HISTORY}")));
        }
        let wrong = |class: &RoomClass, value: String, why: String| {
            Err(Invalid::new("rooms", value, format!("{why}, for the rooms {:?}", class.name)))
        };
        for class in self.rooms.iter().flatten() {
            if let Some(messages) = class.history.filter(|messages| *messages > MAX_HISTORY) {
                let why = format!("history is at most {MAX_HISTORY}");
                return wrong(class, messages.to_string(), why);
            }
            let bytes = class.history_bytes.filter(|bytes| !(1..=MAX_BYTES).contains(bytes));
            if let Some(bytes) = bytes {
                let why = format!("history-bytes is 1 to {MAX_BYTES}");
                return wrong(class, bytes.to_string(), why);
            }
            if let Some(ttl) = class.history_ttl.filter(|Period(ttl)| *ttl < SECOND) {
                return wrong(class, ttl.to_string(), "history-ttl is at least 1s".to_owned());
            }
        }
        Ok(())
    }

    /// What must fit into something else.
    fn check_frames(&self) -> Result<(), Invalid> {
        let message_bytes =
            self.max_message_bytes.unwrap_or(ServerConfig::default().max_message_bytes);
        let max_frame = self.max_frame_bytes.unwrap_or(ServerConfig::frame_bytes(message_bytes));
        let outbox = self.outbox_bytes.unwrap_or(ServerConfig::default().transport.outbox_bytes);
        if message_bytes >= max_frame {
            let why = format!("a frame has {max_frame} bytes, and a message must fit into one");
            return Err(Invalid::new(self.of_frames(), message_bytes, why));
        }
        if max_frame > outbox {
            let why = format!(
                "a frame may have {max_frame} bytes, and outbox-bytes is {outbox}: at least as many"
            );
            return Err(match self.outbox_bytes {
                Some(bytes) => Invalid::new("outbox-bytes", bytes, why),
                None => Invalid::new(self.of_frames(), message_bytes, why),
            });
        }
        Ok(())
    }

    /// The setting to blame for the size of frames.
    fn of_frames(&self) -> &'static str {
        if self.max_message_bytes.is_some() { "max-message-bytes" } else { "max-frame-bytes" }
    }

    /// Names that browsers, and Redis, compare.
    fn check_names(&self) -> Result<(), Invalid> {
        for origin in self.allow_origin.iter().flatten() {
            check_origin(trim(origin))?;
        }
        for host in self.allow_host.iter().flatten() {
            check_host(trim(host))?;
        }
        let prefix = self.redis_prefix.as_deref().unwrap_or_default();
        let in_prefix = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.bytes().all(in_prefix) {
            let why = "1 to 64 letters, digits, '-', '_', '.' or ':'";
            return Err(Invalid::new("redis-prefix", prefix, why));
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), Invalid> {
        let key = self.api_key.as_deref().map_or("", trim);
        let is_shown = key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if (1..SHORTEST_KEY).contains(&key.len()) || !is_shown {
            let why = format!("at least {SHORTEST_KEY} characters of ASCII");
            return Err(Invalid::hidden("api-key", why));
        }
        let key_file = self.jwt_public_key.as_deref().and_then(|file| file.to_str());
        if key_file.is_some_and(|file| file.contains("-----BEGIN")) {
            let why = "it is the key itself, and the name of a file with it is needed";
            return Err(Invalid::hidden("jwt-public-key", why));
        }
        let url = self.public_url.as_deref().map_or("", trim);
        if !url.is_empty() && !is_web_address(url) {
            return Err(Invalid::new("public-url", url, "such as https://chat.example"));
        }
        let log = self.log.as_deref().unwrap_or_default();
        let levels = log.split(',').map(str::trim);
        for level in levels.filter(|level| !level.is_empty() && !level.contains(['=', '['])) {
            if level.parse::<LevelFilter>().is_err() {
                let why = "a level is off, error, warn, info, debug or trace";
                return Err(Invalid::new("log", level, why));
            }
        }
        Ok(())
    }
}

/// A scheme and a host, perhaps with a port and a path: what links begin with.
fn is_web_address(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with(['/', ':'])
            && !rest.contains(|char: char| char.is_whitespace() || ['?', '#'].contains(&char))
    })
}

fn within(
    setting: &'static str,
    value: Option<usize>,
    least: usize,
    most: usize,
) -> Result<(), Invalid> {
    match value {
        Some(value) if value < least => {
            Err(Invalid::new(setting, value, format!("at least {least}")))
        }
        Some(value) if value > most => Err(Invalid::new(setting, value, format!("at most {most}"))),
        _ => Ok(()),
    }
}

/// A host, perhaps with a port; `*` and a leading `*.` or `.` are patterns.
fn check_host(host: &str) -> Result<(), Invalid> {
    let name = host.strip_prefix("*.").or_else(|| host.strip_prefix('.')).unwrap_or(host);
    let is_host = !name.is_empty() && !name.contains(['/', '*', ' ', '@', '?', '#']);
    // Browsers ask for the ASCII form of a name, and nothing else is compared.
    if is_host && host.is_ascii() || host == "*" || host.is_empty() {
        return Ok(());
    }
    Err(Invalid::new("allow-host", host, "such as chat.example, xn--mnchen-3ya.example or *"))
}

/// What browsers send: a scheme and a host, perhaps a port, and no path.
fn check_origin(origin: &str) -> Result<(), Invalid> {
    let host = origin.split_once("://").filter(|(scheme, _)| !scheme.is_empty());
    let host = host.map(|(_, host)| host.trim_end_matches('/'));
    let is_origin =
        host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ' ', '@']));
    if is_origin || origin == "null" || origin.is_empty() {
        return Ok(());
    }
    Err(Invalid::new("allow-origin", origin, "such as https://app.example, or null"))
}
