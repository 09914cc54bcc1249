//! From the settings of all sources to what the server runs with.

use std::num::NonZeroUsize;
use std::time::Duration;

use chat_broker::{HistoryRules, HubConfig};
use chat_core::Retention;
use chat_server::{ForwardedHeader, IpNet, LimitsConfig, Rate, Secret, ServerConfig};

use super::layer::{Header, Layer, Switch};
use super::network::parse_network;
use super::period::Period;
use super::rate::Limit;
use super::redis::RedisTls;
use super::sources::{Invalid, trim};
use super::{Settings, TokenKey, Tokens};

/// Where addresses are told apart: enough for an office behind one of them.
const CONNECTIONS_PER_ADDRESS: usize = 100;

impl Layer {
    /// What these settings come to, with the defaults of all others.
    pub(crate) fn into_settings(self) -> Result<Settings, Invalid> {
        self.check()?;
        let mut server = ServerConfig::default();
        let mut transport = server.transport.clone();
        server.max_message_bytes = self.max_message_bytes.unwrap_or(server.max_message_bytes);
        transport.outbox_bytes = self.outbox_bytes.unwrap_or(transport.outbox_bytes);
        if let Some(heartbeat) = &mut transport.heartbeat {
            heartbeat.interval = self.ping_interval.map_or(heartbeat.interval, |period| period.0);
            heartbeat.timeout = self.pong_timeout.map_or(heartbeat.timeout, |period| period.0);
        }
        transport.heartbeat = transport.heartbeat.filter(|beat| !beat.interval.is_zero());
        let period = |period: Option<Period>, default| period.map_or(default, |period| period.0);
        transport.max_control_frames = match self.limits {
            Some(Switch::Off) => u32::MAX,
            _ => self.max_control_frames.unwrap_or(transport.max_control_frames),
        };
        transport.outbox_frames = self.outbox_frames.unwrap_or(transport.outbox_frames);
        let least_frame = ServerConfig::frame_bytes(server.max_message_bytes);
        transport.max_frame_bytes = self.max_frame_bytes.unwrap_or(least_frame);
        transport.socket_buffer_bytes =
            self.socket_buffer_bytes.unwrap_or(transport.socket_buffer_bytes);
        transport.max_message_bytes = transport.max_frame_bytes;
        transport.max_head_bytes = self.max_header_bytes.unwrap_or(transport.max_head_bytes);
        transport.handshake_timeout = period(self.handshake_timeout, transport.handshake_timeout);
        transport.message_timeout = period(self.message_timeout, transport.message_timeout);
        transport.write_timeout = period(self.write_timeout, transport.write_timeout);
        server.drain_timeout = period(self.drain_timeout, server.drain_timeout);
        server.drain_spread = period(self.drain_spread, server.drain_spread);
        server.auth_timeout = period(self.auth_timeout, server.auth_timeout);
        server.token_grace = period(self.token_grace, server.token_grace);
        server.keep_alive_timeout = period(self.keep_alive_timeout, server.keep_alive_timeout);
        server.trusted_proxies = self.proxies()?;
        server.forwarded_header = match self.forwarded_header {
            Some(Header::Forwarded) => ForwardedHeader::Forwarded,
            Some(Header::XForwardedFor) | None => ForwardedHeader::XForwardedFor,
        };
        server.limits = self.limits(!server.trusted_proxies.is_empty());
        server.serve_metrics = self.metrics_addr.is_none();
        let threads = self.threads.unwrap_or_else(default_threads);
        server.hub = self.hub().workers(threads.get());
        let tokens = self.tokens()?;
        let connections_by_system =
            self.max_connections.is_none() && self.limits != Some(Switch::Off);
        server.api_key = self.api_key.as_deref().and_then(trimmed).map(Secret::new);
        server.public_url = self.public_url.as_deref().and_then(trimmed);
        server.allow_host = names(&self.allow_host);
        server.allow_origin = names(&self.allow_origin);
        server.check().map_err(|error| Invalid::new(error.setting, error.value, error.why))?;
        server.transport = transport;
        Ok(Settings {
            port: self.port.unwrap_or(8080),
            host: filled(self.host),
            metrics_addr: self.metrics_addr,
            redis_url: filled(self.redis_url),
            redis_tls: RedisTls {
                authority: self.redis_ca.filter(|path| !path.as_os_str().is_empty()),
                certificate: self.redis_cert.filter(|path| !path.as_os_str().is_empty()),
                key: self.redis_key.filter(|path| !path.as_os_str().is_empty()),
            },
            redis_prefix: filled(self.redis_prefix).unwrap_or_else(|| "chat".to_owned()),
            presence_lease: self.presence_lease.map_or(PRESENCE_LEASE, |lease| lease.0),
            tokens,
            log: filled(self.log).unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format.unwrap_or_default(),
            threads,
            server,
            connections_by_system,
            limits_are_off: self.limits == Some(Switch::Off),
        })
    }

    fn limits(&self, addresses_are_known: bool) -> LimitsConfig {
        if self.limits == Some(Switch::Off) {
            return self.sizes(LimitsConfig::off());
        }
        let mut limits = self.sizes(LimitsConfig::default());
        // Behind proxies that tell them apart, addresses are worth counting.
        if addresses_are_known {
            limits.connections_per_address = Some(CONNECTIONS_PER_ADDRESS);
            limits.address = LimitsConfig::per_address();
            limits.http_requests_per_address = Some(Rate::new(100, 500));
        }
        let set = |rate: &mut Option<Rate>, given: Option<Limit>| {
            *rate = given.map_or(*rate, |limit| limit.0);
        };
        limits.connections = self.max_connections.or(limits.connections);
        limits.connections_per_address =
            self.max_connections_per_address.or(limits.connections_per_address);
        set(&mut limits.http_requests, self.http_rate);
        set(&mut limits.http_requests_per_address, self.http_rate_per_address);
        let (connection, user) = (&mut limits.connection, &mut limits.user);
        set(&mut connection.frames, self.rate);
        set(&mut connection.received_bytes, self.byte_rate);
        set(&mut connection.answer_bytes, self.answer_rate);
        set(&mut connection.kept_bytes, self.kept_rate);
        set(&mut connection.joins, self.join_rate);
        set(&mut user.frames, self.rate_per_user);
        set(&mut user.received_bytes, self.byte_rate_per_user);
        set(&mut user.answer_bytes, self.answer_rate_per_user);
        set(&mut user.kept_bytes, self.kept_rate_per_user);
        set(&mut user.sanctions, self.sanction_rate);
        let address = &mut limits.address;
        set(&mut address.frames, self.rate_per_address);
        set(&mut address.received_bytes, self.byte_rate_per_address);
        set(&mut address.answer_bytes, self.answer_rate_per_address);
        set(&mut address.kept_bytes, self.kept_rate_per_address);
        limits.max_wait = self.max_wait.map_or(limits.max_wait, |wait| wait.0);
        limits.rooms = self.max_rooms.or(limits.rooms);
        limits.rooms_per_user = self.max_rooms_per_user.or(limits.rooms_per_user);
        limits
    }

    fn sizes(&self, mut limits: LimitsConfig) -> LimitsConfig {
        limits.name_bytes = self.max_name_bytes.unwrap_or(limits.name_bytes);
        limits.json_depth = self.max_json_depth.unwrap_or(limits.json_depth);
        limits
    }

    fn proxies(&self) -> Result<Vec<IpNet>, Invalid> {
        let given = self.trusted_proxies.iter().flatten().filter_map(|net| trimmed(net));
        let parse = |net: String| {
            parse_network(&net).map_err(|why| Invalid::hidden("trusted-proxies", why))
        };
        given.map(parse).collect()
    }

    /// What tokens clients need; `None` if none.
    fn tokens(&self) -> Result<Option<Tokens>, Invalid> {
        let (audience, issuer) = (names(&self.jwt_audience), names(&self.jwt_issuer));
        let key = match (filled(self.jwt_secret.clone()), self.jwt_public_key.clone()) {
            (Some(_), Some(_)) => {
                return Err(Invalid::hidden(
                    "jwt-public-key",
                    "JWT_SECRET is set as well, and \
                     tokens have one key",
                ));
            }
            (Some(secret), None) => TokenKey::Secret(secret),
            (None, Some(file)) => TokenKey::Public(file),
            (None, None) => {
                // A server that was meant to ask for tokens does not start without.
                let needs_key = "it needs JWT_SECRET or JWT_PUBLIC_KEY, and neither is set";
                return match (audience.first(), issuer.first()) {
                    (Some(audience), _) => Err(Invalid::new("jwt-audience", audience, needs_key)),
                    (None, Some(issuer)) => Err(Invalid::new("jwt-issuer", issuer, needs_key)),
                    (None, None) => Ok(None),
                };
            }
        };
        let leeway = self.token_leeway.map_or(TOKEN_LEEWAY, |leeway| leeway.0);
        Ok(Some(Tokens { key, audience, issuer, leeway }))
    }

    fn hub(&self) -> HubConfig {
        let default = Retention::default();
        let all = Retention::default()
            .messages(self.history.unwrap_or(default.messages))
            .bytes(self.history_bytes.unwrap_or(default.bytes))
            .ttl(self.history_ttl.map_or(default.ttl, |ttl| ttl.0));
        let mut rules = HistoryRules::new(if_any(all));
        for class in self.rooms.iter().flatten() {
            let retention = Retention::default()
                .messages(class.history.unwrap_or(all.messages))
                .bytes(class.history_bytes.unwrap_or(all.bytes))
                .ttl(class.history_ttl.map_or(all.ttl, |ttl| ttl.0));
            rules = rules.class(&class.name, if_any(retention));
        }
        let mut hub = HubConfig::default().history(rules);
        hub.presence_limit = self.presence_limit.unwrap_or(hub.presence_limit);
        hub.grace = self.presence_grace.map_or(hub.grace, |grace| grace.0);
        hub
    }
}

/// All cores but one. A server whose last core is shared with the kernel's half of its own
/// sockets, and with Redis, wakes up for single messages and gathers none.
fn default_threads() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores - 1).unwrap_or(NonZeroUsize::MIN)
}

/// `None` if nothing is kept.
fn if_any(retention: Retention) -> Option<Retention> {
    (retention.messages > 0).then_some(retention)
}

const PRESENCE_LEASE: Duration = Duration::from_secs(10);
const TOKEN_LEEWAY: Duration = Duration::from_secs(5);

/// `REDIS_URL=` says what an absent `REDIS_URL` says.
fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Those that are not empty.
pub(super) fn names(given: &Option<Vec<String>>) -> Vec<String> {
    given.iter().flatten().filter_map(|name| trimmed(name)).collect()
}

fn trimmed(text: &str) -> Option<String> {
    filled(Some(trim(text).to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;
    use super::*;

    #[test]
    fn a_layer_wins_over_the_file() {
        let file: Layer =
            toml::from_str("port = 1\nredis-url = \"redis://a\"\nping-interval = \"0s\"").unwrap();
        let flags = Layer { port: Some(2), redis_url: Some(String::new()), ..Layer::default() };
        let settings = flags.over(file).into_settings().unwrap();
        assert_eq!(settings.port, 2);
        assert_eq!(settings.redis_url, None, "empty is none, and still wins");
        assert_eq!(settings.server.transport.heartbeat, None);
    }

    #[test]
    fn what_is_not_set_is_as_the_help_says() {
        let settings = Layer::default().into_settings().unwrap();
        let hub = settings.server.hub;
        let kept = hub.history.of(&chat_core::RoomId::new("r").unwrap());
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(kept, Some(Retention::default().messages(256).bytes(1 << 20).ttl(day)));
        assert_eq!((hub.presence_limit, hub.grace), (200, Duration::from_secs(5)));
        assert_eq!(settings.presence_lease, Duration::from_secs(10));
        assert_eq!(settings.threads, default_threads());
    }

    /// Behind a proxy that does not tell them apart, all clients have one address.
    #[test]
    fn addresses_are_limited_where_they_are_told_apart() {
        let limits = |file: &str| {
            let file: Layer = toml::from_str(file).unwrap();
            let limits = file.into_settings().unwrap().server.limits;
            (limits.connections_per_address, limits.address.frames)
        };
        let (trusted, values) = (
            "trusted-proxies = [\"10.0.0.0/8\"]\n",
            "max-connections-per-address = 7\nrate-per-address = \"8/9\"\n",
        );
        let given = (Some(7), Some(Rate::new(8, 9)));
        assert_eq!(limits(""), (None, None));
        assert_eq!(limits("trusted-proxies = []"), (None, None));
        assert_eq!(limits("trusted-proxies = [\" \"]"), (None, None));
        assert_eq!(limits(trusted), (Some(100), Some(Rate::new(500, 5000))));
        assert_eq!(limits(values), given);
        assert_eq!(limits(&format!("{trusted}{values}")), given);
        let off = format!("{trusted}rate-per-address = \"off\"");
        assert_eq!(limits(&off), (Some(100), None));
        assert_eq!(limits(&format!("limits = \"off\"\n{trusted}{values}")), (None, None));
    }

    #[test]
    fn every_thread_delivers() {
        for threads in 1..=3 {
            let layer = Layer { threads: NonZeroUsize::new(threads), ..Layer::default() };
            let settings = layer.into_settings().unwrap();
            assert_eq!((settings.threads.get(), settings.server.hub.workers), (threads, threads));
        }
    }

    #[test]
    fn origins_are_separated_by_commas() {
        let origins = |text: &str| {
            let cli = Cli::try_parse_from(["chat-server", "--allow-origin", text]).unwrap();
            cli.layer.into_settings().unwrap().server.allow_origin
        };
        assert_eq!(origins("https://a.example, null"), ["https://a.example", "null"]);
        assert_eq!(origins(""), Vec::<String>::new(), "nobody, not whoever sends nothing");
    }

    #[test]
    fn classes_of_rooms_differ_in_what_they_keep() {
        let file = "history = 10\nhistory-bytes = 5000\n\
                    [[rooms]]\nname = \"game-*\"\nhistory = 0\n\
                    [[rooms]]\nname = \"files-*\"\nhistory-bytes = 900000\n\
                    [[rooms]]\nname = \"*\"\nhistory-ttl = \"1h\"";
        let file: Layer = toml::from_str(file).unwrap();
        let settings = Layer::default().over(file).into_settings().unwrap();
        let of = |name| settings.server.hub.history.of(&chat_core::RoomId::new(name).unwrap());
        assert_eq!(of("game-1"), None);
        let hour = Duration::from_secs(3600);
        assert_eq!(of("general"), Some(Retention::default().messages(10).bytes(5000).ttl(hour)));
        let ttl = Retention::default().ttl;
        assert_eq!(of("files-1"), Some(Retention::default().messages(10).bytes(900_000).ttl(ttl)));
        for wrong in ["[[rooms]]\nhistory = 1", "[[rooms]]\nname = \"a\"\nhistori = 1"] {
            assert!(toml::from_str::<Layer>(wrong).is_err(), "{wrong}");
        }
        let none = Layer { history: Some(0), ..Layer::default() };
        let none = none.into_settings().unwrap().server.hub.history;
        assert_eq!(none.of(&chat_core::RoomId::new("r").unwrap()), None);
        for wrong in [
            "history = 100001",
            "history-bytes = 0",
            "history-ttl = \"10ms\"",
            "presence-lease = \"0s\"",
        ] {
            assert!(toml::from_str::<Layer>(wrong).unwrap().into_settings().is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_show_no_secret() {
        for line in ["api-key = 1234567890", "jwt-secret = 1234567890", "redis-url = 1234567890"] {
            let error = toml::from_str::<Layer>(line).map(drop).unwrap_err();
            assert!(!error.message().contains("1234567890"), "{}", error.message());
        }
        let text: Layer = toml::from_str("api-key = \"a key for backends\"").unwrap();
        assert_eq!(text.api_key.as_deref(), Some("a key for backends"));
    }

    #[test]
    fn the_file_knows_no_other_settings() {
        assert!(toml::from_str::<Layer>("prot = 1").is_err());
    }
}
