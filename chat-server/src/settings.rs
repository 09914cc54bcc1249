//! The program's settings: a file, the environment and flags, each over the one before.

mod check;
mod exit;
mod period;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use chat_broker::{HistoryRules, HubConfig};
use chat_core::Retention;
use chat_server::ServerConfig;
use clap::{Args, Parser, ValueEnum};
use serde::Deserialize;

pub(crate) use exit::{Exit, complain};
use period::Period;

/// What the program runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) port: u16,
    pub(crate) host: Option<String>,
    pub(crate) redis_url: Option<String>,
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "of use to Redis alone"))]
    pub(crate) redis_prefix: String,
    /// How long a server that is gone holds its users in rooms.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "of use to Redis alone"))]
    pub(crate) presence_lease: Duration,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) threads: NonZeroUsize,
    server: ServerConfig,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Human,
    /// One JSON object a line
    Json,
}

/// A chat server whose rooms stay in sync across processes through Redis.
///
/// Every setting is a flag, an environment variable, and a key of the configuration file;
/// a flag wins over the environment, and the environment over the file.
#[derive(Debug, Parser)]
#[command(name = "chat-server", version)]
struct Cli {
    /// A TOML file with settings, named as the flags are: `port = 8081`
    #[arg(long, env = "CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    layer: Layer,
}

/// The settings of one source. What is absent is left to the source below.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Layer {
    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(long, env)]
    port: Option<u16>,

    /// Address or name to listen on; 0.0.0.0 is every address [default: 127.0.0.1 and ::1]
    #[arg(long, env, value_name = "ADDRESS")]
    host: Option<String>,

    /// Redis that keeps servers in sync: redis://[USER:PASSWORD@]HOST:PORT[/DB], or rediss://
    /// for TLS [default: none; rooms live in this process alone]
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,

    /// What the names of Redis keys and channels begin with; servers that share it share
    /// rooms [default: chat]
    #[arg(long, env, value_name = "TEXT")]
    redis_prefix: Option<String>,

    /// Messages that a room keeps, at least; 0: none, the cheapest way [default: 256]
    #[arg(long, env, value_name = "MESSAGES")]
    history: Option<u32>,

    /// How long after the latest message a room keeps them [default: 24h]
    #[arg(long, env, value_name = "TIME")]
    history_ttl: Option<Period>,

    /// Users in a room above which it is told their number, once a second, instead of each
    /// coming and going [default: 200]
    #[arg(long, env, value_name = "USERS")]
    presence_limit: Option<usize>,

    /// How long a user whose connection was lost stays in a room, in case of a return
    /// [default: 5s]
    #[arg(long, env, value_name = "TIME")]
    presence_grace: Option<Period>,

    /// How long a server that is not heard of counts as alive; its users leave at most 5 s
    /// later [default: 10s]
    #[arg(long, env, value_name = "TIME")]
    presence_lease: Option<Period>,

    /// Rooms that differ: `[[rooms]]` in the file, each with `name`, in which * stands for
    /// any text, and `history` or `history-ttl`. The first that matches counts.
    #[arg(skip)]
    rooms: Option<Vec<RoomClass>>,

    /// Longest text of a message, in bytes [default: 32768]
    #[arg(long, env, value_name = "BYTES")]
    max_message_bytes: Option<usize>,

    /// Rooms that one connection may be in [default: 128]
    #[arg(long, env, value_name = "ROOMS")]
    max_rooms: Option<usize>,

    /// What may be queued for a client that reads slowly, in bytes, before it is closed
    /// with code 4000 [default: 1048576]
    #[arg(long, env, value_name = "BYTES")]
    outbox_bytes: Option<usize>,

    /// How long a connection may be silent before it is pinged; 0s: never [default: 25s]
    #[arg(long, env, value_name = "TIME")]
    ping_interval: Option<Period>,

    /// How long a pinged client may stay silent before it is closed with code 4001
    /// [default: 20s]
    #[arg(long, env, value_name = "TIME")]
    pong_timeout: Option<Period>,

    /// How long a shutdown waits for clients [default: 10s]
    #[arg(long, env, value_name = "TIME")]
    drain_timeout: Option<Period>,

    /// Threads that serve clients; all but one of them have another beside them that helps to
    /// deliver when there is much [default: one for each core but one]
    #[arg(long, env)]
    threads: Option<NonZeroUsize>,

    /// What the links of POST /create-room begin with [default: http:// and the Host of
    /// the request]
    #[arg(long, env, value_name = "URL")]
    public_url: Option<String>,

    /// Origins of web pages that may use this server besides those on its own host, such
    /// as https://app.example; separated by commas [default: none]
    #[arg(long, env, value_name = "ORIGIN", value_delimiter = ',')]
    allow_origin: Option<Vec<String>>,

    /// What to log: error, warn, info, debug, trace, or by module: info,chat_broker=debug
    /// [default: info]
    #[arg(long, env, value_name = "LEVEL")]
    log: Option<String>,

    /// How to log [default: human]
    #[arg(long, env, value_enum)]
    log_format: Option<LogFormat>,
}

/// A class of rooms, by a pattern of their names.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RoomClass {
    name: String,
    history: Option<u32>,
    history_ttl: Option<Period>,
}

impl Layer {
    /// This layer, and below it `file` where it is silent.
    fn over(self, file: Self) -> Self {
        Self {
            port: self.port.or(file.port),
            host: self.host.or(file.host),
            redis_url: self.redis_url.or(file.redis_url),
            redis_prefix: self.redis_prefix.or(file.redis_prefix),
            history: self.history.or(file.history),
            history_ttl: self.history_ttl.or(file.history_ttl),
            presence_limit: self.presence_limit.or(file.presence_limit),
            presence_grace: self.presence_grace.or(file.presence_grace),
            presence_lease: self.presence_lease.or(file.presence_lease),
            rooms: self.rooms.or(file.rooms),
            max_message_bytes: self.max_message_bytes.or(file.max_message_bytes),
            max_rooms: self.max_rooms.or(file.max_rooms),
            outbox_bytes: self.outbox_bytes.or(file.outbox_bytes),
            ping_interval: self.ping_interval.or(file.ping_interval),
            pong_timeout: self.pong_timeout.or(file.pong_timeout),
            drain_timeout: self.drain_timeout.or(file.drain_timeout),
            threads: self.threads.or(file.threads),
            public_url: self.public_url.or(file.public_url),
            allow_origin: self.allow_origin.or(file.allow_origin),
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
        }
    }

    fn into_settings(self) -> Result<Settings, String> {
        self.check()?;
        let mut server = ServerConfig::default();
        let mut transport = server.transport.clone();
        server.max_message_bytes = self.max_message_bytes.unwrap_or(server.max_message_bytes);
        server.max_rooms = self.max_rooms.unwrap_or(server.max_rooms);
        transport.outbox_bytes = self.outbox_bytes.unwrap_or(transport.outbox_bytes);
        if let Some(heartbeat) = &mut transport.heartbeat {
            heartbeat.interval = self.ping_interval.map_or(heartbeat.interval, |period| period.0);
            heartbeat.timeout = self.pong_timeout.map_or(heartbeat.timeout, |period| period.0);
        }
        transport.heartbeat = transport.heartbeat.filter(|beat| !beat.interval.is_zero());
        if let Some(Period(timeout)) = self.drain_timeout {
            server.drain_timeout = timeout;
        }
        let threads = self.threads.unwrap_or_else(default_threads);
        server.hub = self.hub().workers(threads.get());
        server.public_url = filled(self.public_url);
        let origins = self.allow_origin.unwrap_or_default();
        server.allow_origin = origins.into_iter().filter_map(|origin| trimmed(&origin)).collect();
        server.transport = transport;
        Ok(Settings {
            port: self.port.unwrap_or(8080),
            host: filled(self.host),
            redis_url: filled(self.redis_url),
            redis_prefix: filled(self.redis_prefix).unwrap_or_else(|| "chat".to_owned()),
            presence_lease: self.presence_lease.map_or(PRESENCE_LEASE, |lease| lease.0),
            log: filled(self.log).unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format.unwrap_or_default(),
            threads,
            server,
        })
    }

    fn hub(&self) -> HubConfig {
        let Retention { messages, ttl } = Retention::default();
        let messages = self.history.unwrap_or(messages);
        let ttl = self.history_ttl.map_or(ttl, |ttl| ttl.0);
        let mut rules = HistoryRules::new(retention(messages, ttl));
        for class in self.rooms.iter().flatten() {
            let messages = class.history.unwrap_or(messages);
            let ttl = class.history_ttl.map_or(ttl, |ttl| ttl.0);
            rules = rules.class(&class.name, retention(messages, ttl));
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
fn retention(messages: u32, ttl: Duration) -> Option<Retention> {
    (messages > 0).then_some(Retention { messages, ttl })
}

const PRESENCE_LEASE: Duration = Duration::from_secs(10);

/// `REDIS_URL=` says what an absent `REDIS_URL` says.
fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn trimmed(text: &str) -> Option<String> {
    filled(Some(text.trim().to_owned()))
}

impl Settings {
    /// Reads all sources.
    pub(crate) fn load() -> Result<Self, Exit> {
        let Cli { config, layer } = Cli::try_parse().map_err(Exit::Usage)?;
        let file = config.map_or(Ok(Layer::default()), |path| read(&path).map_err(Exit::File))?;
        layer.over(file).into_settings().map_err(Exit::Value)
    }

    pub(crate) fn server(&self) -> ServerConfig {
        self.server.clone()
    }
}

fn read(path: &std::path::Path) -> Result<Layer, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        format!("{}, line {line}: {}", path.display(), error.message())
    })
}

#[cfg(test)]
mod tests {
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
        assert_eq!(kept, Some(Retention { messages: 256, ttl: day }));
        assert_eq!((hub.presence_limit, hub.grace), (200, Duration::from_secs(5)));
        assert_eq!(settings.presence_lease, Duration::from_secs(10));
        assert_eq!(settings.threads, default_threads());
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
        let file = "history = 10\n[[rooms]]\nname = \"game-*\"\nhistory = 0\n\
                    [[rooms]]\nname = \"*\"\nhistory-ttl = \"1h\"";
        let file: Layer = toml::from_str(file).unwrap();
        let settings = Layer::default().over(file).into_settings().unwrap();
        let of = |name| settings.server.hub.history.of(&chat_core::RoomId::new(name).unwrap());
        assert_eq!(of("game-1"), None);
        let hour = Duration::from_secs(3600);
        assert_eq!(of("general"), Some(Retention { messages: 10, ttl: hour }));
        for wrong in ["[[rooms]]\nhistory = 1", "[[rooms]]\nname = \"a\"\nhistori = 1"] {
            assert!(toml::from_str::<Layer>(wrong).is_err(), "{wrong}");
        }
        let none = Layer { history: Some(0), ..Layer::default() };
        let none = none.into_settings().unwrap().server.hub.history;
        assert_eq!(none.of(&chat_core::RoomId::new("r").unwrap()), None);
        for wrong in ["history = 100001", "history-ttl = \"10ms\"", "presence-lease = \"0s\""] {
            assert!(toml::from_str::<Layer>(wrong).unwrap().into_settings().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_file_knows_no_other_settings() {
        assert!(toml::from_str::<Layer>("prot = 1").is_err());
    }
}
