//! The settings of one source: a file, the environment, or flags.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::LogFormat;
use super::period::Period;
use super::rate::Limit;
use super::sources::{in_words, line, trim};

/// The settings of one source. What is absent is left to the source below.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Layer {
    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(long, env)]
    pub(super) port: Option<u16>,

    /// Address or name to listen on; 0.0.0.0 is every address [default: 127.0.0.1 and ::1]
    #[arg(long, env, value_name = "ADDRESS")]
    pub(super) host: Option<String>,

    /// Redis that keeps servers in sync: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for
    /// TLS, or unix:///PATH for a socket. Redis 6 or later, or Valkey [default: none; rooms live in
    /// this process alone]
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    #[serde(default, deserialize_with = "hidden")]
    pub(super) redis_url: Option<String>,

    /// A file with the certificates of those who vouch for Redis' own, in PEM, for rediss://
    /// [default: those of the operating system, or of the file in SSL_CERT_FILE]
    #[arg(long, env, value_name = "FILE")]
    pub(super) redis_ca: Option<PathBuf>,

    /// A file with the certificate that this server shows to Redis (tls-auth-clients), in PEM,
    /// followed by those that lead to an authority which Redis trusts; with --redis-key
    /// [default: none]
    #[arg(long, env, value_name = "FILE")]
    pub(super) redis_cert: Option<PathBuf>,

    /// A file with the private key of --redis-cert, in PEM, without a password [default: none]
    #[arg(long, env, value_name = "FILE")]
    pub(super) redis_key: Option<PathBuf>,

    /// What the names of Redis keys and channels begin with; servers that share it share
    /// rooms [default: chat]
    #[arg(long, env, value_name = "TEXT")]
    pub(super) redis_prefix: Option<String>,

    /// Messages that a room keeps, at most; 0: none, the cheapest way [default: 256]
    #[arg(long, env, value_name = "MESSAGES")]
    pub(super) history: Option<u32>,

    /// Payload of these messages, in bytes, at most; the newest is kept in any case. Each counts as
    /// an equal share at least [default: 1048576]
    #[arg(long, env, value_name = "BYTES")]
    pub(super) history_bytes: Option<usize>,

    /// How long after the latest message a room keeps them [default: 24h]
    #[arg(long, env, value_name = "TIME")]
    pub(super) history_ttl: Option<Period>,

    /// Users in a room above which it is told their number, once a second, instead of each
    /// coming and going [default: 200]
    #[arg(long, env, value_name = "USERS")]
    pub(super) presence_limit: Option<usize>,

    /// How long a user whose connection was lost stays in a room, in case of a return
    /// [default: 5s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) presence_grace: Option<Period>,

    /// How long a server that is not heard of counts as alive; its users leave at most 5 s
    /// later [default: 10s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) presence_lease: Option<Period>,

    /// Rooms that differ: `[[rooms]]` in the file, each with `name`, in which * stands for
    /// any text, and `history`, `history-bytes` or `history-ttl`. The first that matches counts.
    #[arg(skip)]
    pub(super) rooms: Option<Vec<RoomClass>>,

    /// Longest text of a message, in bytes [default: 32768]
    #[arg(long, env, value_name = "BYTES")]
    pub(super) max_message_bytes: Option<usize>,

    /// Rooms that one connection may be in [default: 128]
    #[arg(long, env, value_name = "ROOMS")]
    pub(super) max_rooms: Option<usize>,

    /// What may be queued for a client that reads slowly, in bytes, before it is closed
    /// with code 4000 [default: 1048576]
    #[arg(long, env, value_name = "BYTES")]
    pub(super) outbox_bytes: Option<usize>,

    /// How long a connection may be silent before it is pinged; 0s: never [default: 25s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) ping_interval: Option<Period>,

    /// How long a pinged client may stay silent before it is closed with code 4001
    /// [default: 10s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) pong_timeout: Option<Period>,

    /// How long a shutdown waits for clients [default: 10s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) drain_timeout: Option<Period>,

    /// Over how long the clients of a server that shuts down come back elsewhere, at most
    /// [default: 5s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) drain_spread: Option<Period>,

    /// Threads that serve clients; all but one of them have another beside them that helps to
    /// deliver when there is much [default: one for each core but one]
    #[arg(long, env)]
    pub(super) threads: Option<NonZeroUsize>,

    /// What the links of POST /create-room begin with [default: http:// and the Host of
    /// the request]
    #[arg(long, env, value_name = "URL")]
    pub(super) public_url: Option<String>,

    /// Hosts that clients may ask for besides that of --public-url, localhost and addresses, such
    /// as chat.example or .chat.example for all names below it; separated by commas; * is any
    /// [default: none]
    #[arg(long, env, value_name = "HOST", value_delimiter = ',')]
    pub(super) allow_host: Option<Vec<String>>,

    /// Origins of web pages that may use this server besides those on its own host, such
    /// as https://app.example; separated by commas [default: none]
    #[arg(long, env, value_name = "ORIGIN", value_delimiter = ',')]
    pub(super) allow_origin: Option<Vec<String>>,

    /// Whether rates and counts are limited; `off` lifts all of them, for load tests. Outbox,
    /// frames and handshakes are bounded all the same [default: on]
    #[arg(long, env, value_enum)]
    pub(super) limits: Option<Switch>,

    /// Connections to this server; one above it gets 503 [default: 100000, or what the
    /// system's limit of open files allows]
    #[arg(long, env, value_name = "CONNECTIONS")]
    pub(super) max_connections: Option<usize>,

    /// Connections from one address (of IPv6: from one /64); one above it gets 429
    /// [default: none; 100 with --trusted-proxies]
    #[arg(long, env, value_name = "CONNECTIONS")]
    pub(super) max_connections_per_address: Option<usize>,

    /// Rooms that all connections of a user may be in together [default: 1536]
    #[arg(long, env, value_name = "ROOMS")]
    pub(super) max_rooms_per_user: Option<usize>,

    /// Requests by HTTP on one connection, handshakes included: a second / at once; or off. A
    /// request above the rate is delayed [default: 50/200]
    #[arg(long, env, value_name = "RATE")]
    pub(super) http_rate: Option<Limit>,

    /// Requests by HTTP from one address; one delayed for longer than 5 s gets 429
    /// [default: off; 100/500 with --trusted-proxies]
    #[arg(long, env, value_name = "RATE")]
    pub(super) http_rate_per_address: Option<Limit>,

    /// Frames of one connection: a second / at once; or off. A connection beyond a rate is read
    /// later [default: 50/300]
    #[arg(long, env)]
    pub(super) rate: Option<Limit>,

    /// Frames of all connections of a user [default: 100/1500]
    #[arg(long, env, value_name = "RATE")]
    pub(super) rate_per_user: Option<Limit>,

    /// Frames of all connections from one address [default: off; 500/5000 with
    /// --trusted-proxies]
    #[arg(long, env, value_name = "RATE")]
    pub(super) rate_per_address: Option<Limit>,

    /// Bytes of frames of one connection [default: 256K/256K]
    #[arg(long, env, value_name = "RATE")]
    pub(super) byte_rate: Option<Limit>,

    /// Bytes of frames of all connections of a user [default: 256K/256K]
    #[arg(long, env, value_name = "RATE")]
    pub(super) byte_rate_per_user: Option<Limit>,

    /// Bytes of frames of all connections from one address [default: off; 2M/8M with
    /// --trusted-proxies]
    #[arg(long, env, value_name = "RATE")]
    pub(super) byte_rate_per_address: Option<Limit>,

    /// Bytes of what one connection asks for: joined, members, history [default: 2M/16M]
    #[arg(long, env, value_name = "RATE")]
    pub(super) answer_rate: Option<Limit>,

    /// Bytes of what all connections of a user ask for [default: 4M/32M]
    #[arg(long, env, value_name = "RATE")]
    pub(super) answer_rate_per_user: Option<Limit>,

    /// Bytes of what all connections from one address ask for [default: off; 32M/256M with
    /// --trusted-proxies]
    #[arg(long, env, value_name = "RATE")]
    pub(super) answer_rate_per_address: Option<Limit>,

    /// Bytes that the messages of one connection add to Redis [default: 15000/3M]
    #[arg(long, env, value_name = "RATE")]
    pub(super) kept_rate: Option<Limit>,

    /// Bytes that the messages of all connections of a user add to Redis [default: 15000/3M]
    #[arg(long, env, value_name = "RATE")]
    pub(super) kept_rate_per_user: Option<Limit>,

    /// Bytes that the messages of all connections from one address add to Redis [default: off;
    /// 150000/32M with --trusted-proxies]
    #[arg(long, env, value_name = "RATE")]
    pub(super) kept_rate_per_address: Option<Limit>,

    /// How long a frame may wait for rates that are used up before it is refused [default: 5s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) max_wait: Option<Period>,

    /// Joins of one connection [default: 10/256]
    #[arg(long, env, value_name = "RATE")]
    pub(super) join_rate: Option<Limit>,

    /// Kicks and bans by one user [default: 1/30]
    #[arg(long, env, value_name = "RATE")]
    pub(super) sanction_rate: Option<Limit>,

    /// Pings and pongs of one connection in a second; one above it is closed with code 1008
    /// [default: 1000]
    #[arg(long, env, value_name = "FRAMES")]
    pub(super) max_control_frames: Option<u32>,

    /// Longest name of a room or a user, in bytes [default: 128, and no more]
    #[arg(long, env, value_name = "BYTES")]
    pub(super) max_name_bytes: Option<usize>,

    /// How deep JSON may be nested [default: 64]
    #[arg(long, env, value_name = "LEVELS")]
    pub(super) max_json_depth: Option<usize>,

    /// Largest frame from a client, in bytes; a larger one is closed with code 1009 [default: 7
    /// times --max-message-bytes and 4096, so that no text is too long by its escapes: 233472]
    #[arg(long, env, value_name = "BYTES")]
    pub(super) max_frame_bytes: Option<usize>,

    /// What the kernel may hold for a connection in either direction, in bytes of data; 0 leaves it
    /// to the kernel, which grows it to several MiB [default: 131072]
    #[arg(long, env, value_name = "BYTES")]
    pub(super) socket_buffer_bytes: Option<usize>,

    /// Frames that may be queued for a client [default: 4096]
    #[arg(long, env, value_name = "FRAMES")]
    pub(super) outbox_frames: Option<usize>,

    /// Largest head of a request, in bytes, 8192 at least [default: 16384]
    #[arg(long, env, value_name = "BYTES")]
    pub(super) max_header_bytes: Option<usize>,

    /// How long a client may take to send the head of its request [default: 10s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) handshake_timeout: Option<Period>,

    /// How long a client may take to send one message [default: 30s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) message_timeout: Option<Period>,

    /// How long a client may take nothing of what is sent to it [default: 10s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) write_timeout: Option<Period>,

    /// Proxies whose word on where clients are is taken: addresses and networks such as
    /// 10.0.0.0/8, separated by commas [default: none]
    #[arg(long, env, value_name = "NETWORK", value_delimiter = ',')]
    pub(super) trusted_proxies: Option<Vec<String>>,

    /// The header in which these proxies write it [default: x-forwarded-for]
    #[arg(long, env, value_enum)]
    pub(super) forwarded_header: Option<Header>,

    /// Secret of 32 bytes or more that tokens (JWT) are signed with: HS256, HS384 or HS512. With
    /// it, or with --jwt-public-key, clients need a token [default: none; anybody is let in]
    #[arg(long, env, hide_env_values = true, value_name = "SECRET")]
    #[serde(default, deserialize_with = "hidden")]
    pub(super) jwt_secret: Option<String>,

    /// A file with the public key of tokens, in PEM: RSA (RS256 to RS512, PS256 to PS512), EC on
    /// P-256 (ES256) or P-384 (ES384), or Ed25519 (EdDSA, Ed25519)
    #[arg(long, env, value_name = "FILE")]
    pub(super) jwt_public_key: Option<PathBuf>,

    /// For whom tokens must be, separated by commas [default: none may say]
    #[arg(long, env, value_name = "NAME", value_delimiter = ',')]
    pub(super) jwt_audience: Option<Vec<String>>,

    /// Who must have issued tokens, separated by commas [default: anybody with the key]
    #[arg(long, env, value_name = "NAME", value_delimiter = ',')]
    pub(super) jwt_issuer: Option<Vec<String>>,

    /// How long a client may take to show a token [default: 10s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) auth_timeout: Option<Period>,

    /// How long after its token has run out a client may show a new one before it is closed
    /// with code 4004 [default: 30s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) token_grace: Option<Period>,

    /// How far the clocks of this server and of the issuer of tokens may be apart, 5m at most: a
    /// token is valid so long before its `nbf` and after its `exp` [default: 5s]
    #[arg(long, env, value_name = "TIME")]
    pub(super) token_leeway: Option<Period>,

    /// What backends must show to use /api, 16 bytes or more [default: none; there is no /api]
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    #[serde(default, deserialize_with = "hidden")]
    pub(super) api_key: Option<String>,

    /// Address for /metrics, such as 127.0.0.1:9100, with /healthz and /readyz beside it; the
    /// port for clients has no /metrics then [default: the port for clients]
    #[arg(long, env, value_name = "ADDRESS")]
    pub(super) metrics_addr: Option<SocketAddr>,

    /// What to log: off, error, warn, info, debug, trace, or by module: info,chat_broker=debug
    /// [default: info]
    #[arg(long, env, value_name = "LEVEL")]
    pub(super) log: Option<String>,

    /// How to log [default: human]
    #[arg(long, env, value_enum)]
    pub(super) log_format: Option<LogFormat>,
}

/// The key whose value holds a byte of `file`, after a comma.
fn key(file: &str, byte: usize) -> Option<String> {
    let table = toml::de::DeTable::parse(file).ok()?;
    let mut entries = table.get_ref().iter();
    let (key, _) = entries.find(|(_, value)| value.span().contains(&byte))?;
    Some(format!(", {}", key.get_ref()))
}

/// Whether there was something to trim.
fn trim_text(text: &mut String) -> bool {
    let trimmed = trim(text).to_owned();
    let is_changed = trimmed != *text;
    *text = trimmed;
    is_changed
}

/// A text that an error does not show, even where it is none.
fn hidden<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer);
    text.map(Some).map_err(|_| serde::de::Error::custom("a text in quotes is expected"))
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Switch {
    /// It is
    On,
    /// It is not
    Off,
}

/// What proxies write.
#[derive(Debug, Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Header {
    /// X-Forwarded-For
    XForwardedFor,
    /// Forwarded (RFC 7239)
    Forwarded,
}

/// A class of rooms, by a pattern of their names.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RoomClass {
    pub(super) name: String,
    pub(super) history: Option<u32>,
    pub(super) history_bytes: Option<usize>,
    pub(super) history_ttl: Option<Period>,
}

impl Layer {
    /// The settings of a file; else a line of it, and what is wrong there.
    pub(crate) fn parse(file: &str) -> Result<Self, String> {
        toml::from_str(file).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let (line, key) = (line(file, start), key(file, start).unwrap_or_default());
            format!("line {line}{key}: {}", in_words(error.message()))
        })
    }

    /// Takes the white space off the ends of all texts, and returns which secrets had some.
    pub(super) fn trim(&mut self) -> Vec<&'static str> {
        let texts = [&mut self.host, &mut self.redis_prefix, &mut self.public_url, &mut self.log];
        for text in texts.into_iter().flatten() {
            trim_text(text);
        }
        let files = [
            &mut self.jwt_public_key,
            &mut self.redis_ca,
            &mut self.redis_cert,
            &mut self.redis_key,
        ];
        for file in files.into_iter().flatten() {
            if let Some(text) = file.to_str() {
                *file = trim(text).into();
            }
        }
        // A blank one stays, and is too short: nothing would let in anybody.
        let jwt_secret = self.jwt_secret.as_mut().filter(|secret| !trim(secret).is_empty());
        let secrets = [
            ("jwt-secret", jwt_secret),
            ("api-key", self.api_key.as_mut()),
            ("redis-url", self.redis_url.as_mut()),
        ];
        secrets.into_iter().filter_map(|(name, text)| trim_text(text?).then_some(name)).collect()
    }

    /// This layer, and below it `file` where it is silent.
    pub(super) fn over(self, file: Self) -> Self {
        macro_rules! first_of {
            ($($setting:ident),* $(,)?) => {
                Self { $($setting: self.$setting.or(file.$setting)),* }
            };
        }
        first_of![
            port,
            host,
            redis_url,
            redis_ca,
            redis_cert,
            redis_key,
            redis_prefix,
            history,
            history_bytes,
            history_ttl,
            presence_limit,
            presence_grace,
            presence_lease,
            rooms,
            max_message_bytes,
            max_rooms,
            outbox_bytes,
            ping_interval,
            pong_timeout,
            drain_timeout,
            drain_spread,
            threads,
            public_url,
            allow_host,
            allow_origin,
            limits,
            max_connections,
            max_connections_per_address,
            http_rate,
            http_rate_per_address,
            rate,
            rate_per_user,
            rate_per_address,
            byte_rate,
            byte_rate_per_user,
            byte_rate_per_address,
            answer_rate,
            answer_rate_per_user,
            answer_rate_per_address,
            kept_rate,
            kept_rate_per_user,
            kept_rate_per_address,
            max_wait,
            max_rooms_per_user,
            join_rate,
            sanction_rate,
            max_control_frames,
            max_name_bytes,
            max_json_depth,
            max_frame_bytes,
            socket_buffer_bytes,
            outbox_frames,
            max_header_bytes,
            handshake_timeout,
            message_timeout,
            write_timeout,
            trusted_proxies,
            forwarded_header,
            jwt_secret,
            jwt_public_key,
            jwt_audience,
            jwt_issuer,
            auth_timeout,
            token_grace,
            token_leeway,
            api_key,
            metrics_addr,
            log,
            log_format,
        ]
    }
}
