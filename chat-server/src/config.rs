//! The settings of a server.

mod digest;

use std::collections::HashSet;
use std::time::Duration;

use chat_broker::HubConfig;
use chat_core::wire::{Limits, RateLimit};
use chat_transport::TransportConfig;
use ipnet::IpNet;

use crate::api::keys::ApiKey;
use crate::host::Pattern;
use crate::limits::{LimitsConfig, Rate};
use crate::origin::serialized;
use crate::peer::ForwardedHeader;
use crate::public_url::PublicUrl;
use crate::secret::Secret;
use crate::setters::setters;

/// The settings of a [`Server`](crate::Server). The defaults suit a public chat.
///
/// ```
/// use std::time::Duration;
///
/// use chat_server::{Secret, Server, ServerConfig};
///
/// let config = ServerConfig::default()
///     .public_url(Some("https://chat.example".to_owned()))
///     .allow_origin(vec!["https://app.example".to_owned()])
///     .api_key(Some(Secret::new("a key of the backend")))
///     .drain_timeout(Duration::from_secs(20));
/// config.check()?;
/// let server = Server::builder().config(config);
/// # Ok::<(), chat_server::InvalidConfig>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Settings of the connections: frames, outboxes, heartbeats.
    pub transport: TransportConfig,
    /// Settings of the rooms: history, presence, grace.
    pub hub: HubConfig,
    /// The longest text of a message, in bytes of UTF-8. Default 32,768. A longer one is
    /// rejected with `message_too_long`. See [`frame_bytes`](Self::frame_bytes) for the frames.
    pub max_message_bytes: usize,
    /// Limits on what clients may use.
    pub limits: LimitsConfig,
    /// Publications of one connection that may be unanswered by the broker, and messages that a
    /// [hook](crate::Hooks) has yet to decide on, together. Default 64. At this number its socket is not
    /// read until one is answered.
    pub max_in_flight: usize,
    /// The most members in one frame. Default 200; the `count` of the frame has the number of all.
    pub max_listed_members: usize,
    /// How long a shutdown waits for clients to read their outboxes and disconnect. Default 10 s.
    pub drain_timeout: Duration,
    /// The longest time over which clients reconnect to other servers at a shutdown: half a millisecond
    /// for each client. Default 5 s; at most half of [`drain_timeout`](Self::drain_timeout).
    pub drain_spread: Duration,
    /// With an [`Authenticator`](crate::Authenticator): how long a client may take to authenticate before
    /// it is closed with 1008, and how long the authenticator may take. Default 10 s.
    pub auth_timeout: Duration,
    /// How long after the expiry of its token a connection may send `hello` with a new one, before it is
    /// closed with 4004. Default 30 s.
    pub token_grace: Duration,
    /// How long a [hook](crate::Hooks) may take to decide on a join or a message, which is rejected with
    /// `hook_unavailable` after that. Default 1 s.
    pub hook_timeout: Duration,
    /// How long an HTTP connection may be idle between two requests, where the server
    /// [listens by itself](crate::Server::serve). Responses announce it (`Keep-Alive: timeout=150`).
    /// Default 150 s, since a balancer must not keep connections for longer: nginx does so for 60 s,
    /// an Application Load Balancer of AWS for 60 s, Traefik for 90 s, Caddy for 120 s. 0 closes
    /// connections after each response. While more than half of the
    /// [HTTP connections](LimitsConfig::http_connections) are taken, every response closes its
    /// connection, but for those of [trusted proxies](Self::trusted_proxies).
    pub keep_alive_timeout: Duration,
    /// The secret, of at least 16 bytes, of a key with which backends use `/api`, with every scope. The key is
    /// named `api`. Default: none.
    pub api_key: Option<Secret>,
    /// The keys with which backends use `/api`. Without any key there is no `/api`. Default: none.
    /// [`Server::set_api_keys`](crate::Server::set_api_keys) replaces them while the server runs.
    pub api_keys: Vec<ApiKey>,
    /// Whether the routes for clients include `/api`. Default true. See
    /// [`Server::api_router`](crate::Server::api_router) for serving it elsewhere.
    pub serve_api: bool,
    /// Networks of the proxies whose [`forwarded_header`](Self::forwarded_header) is trusted. Default:
    /// none.
    pub trusted_proxies: Vec<IpNet>,
    /// The header that these proxies write. Default `X-Forwarded-For`.
    pub forwarded_header: ForwardedHeader,
    /// Whether [`Server::serve`](crate::Server::serve) serves `/metrics` to clients. Default true. See
    /// [`Server::operator_router`](crate::Server::operator_router) for serving it elsewhere.
    pub serve_metrics: bool,
    /// The part before `/join-room/…` of the link that `POST /create-room` returns, such as
    /// `https://chat.example`; the path under which an application nests the routes is added unless
    /// this ends in it. Behind TLS it is needed, as the server does not see that the client uses TLS.
    /// Default: `http://`, the request's `Host`, and that path.
    pub public_url: Option<String>,
    /// Hosts that this server answers for, such as `chat.example`, in addition to the host of
    /// [`public_url`](Self::public_url), IP addresses and loopback names. A request for another
    /// host is refused with 403 (`host_not_allowed`): otherwise a page whose own name resolves to
    /// this server (DNS rebinding) could use it with the rights of its visitor. An entry without a
    /// port is for every port; `.chat.example` is for all names below it; `*` is for every host,
    /// where a proxy in front checks them. `/healthz` and `/readyz` are not checked. Names may have
    /// letters beyond ASCII, which are compared in the form that browsers send (`xn--…`).
    /// Default: none.
    pub allow_host: Vec<String>,
    /// Origins of web pages, such as `https://app.example`, that may connect, create rooms
    /// and import the modules, in addition to those on the host of the request.
    /// `null` stands for pages without an origin. Compared by the URL standard: without a
    /// default port, names in lower case and in the form `xn--…`. Origins of other schemes, such as
    /// `capacitor://localhost` or `file://`, are compared as they are. Default: none.
    pub allow_origin: Vec<String>,
    /// What else should be equal on all servers of one broker, as a text in any form without secrets: a
    /// part of the [digest](Self::digest), such as the settings of the broker. Default: empty.
    pub shared_settings: String,
}

/// A setting with an invalid value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value '{value}' for {setting}: {why}")]
#[non_exhaustive]
pub struct InvalidConfig {
    /// The name of the setting, such as `public_url`.
    pub setting: &'static str,
    /// The value, or `…` if it may hold a password.
    pub value: String,
    /// What is wrong with the value.
    pub why: &'static str,
}

const MESSAGE_BYTES: usize = 32_768;

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            transport: TransportConfig::default()
                .max_message_bytes(Self::frame_bytes(MESSAGE_BYTES)),
            hub: HubConfig::default(),
            max_message_bytes: MESSAGE_BYTES,
            limits: LimitsConfig::default(),
            max_in_flight: 64,
            max_listed_members: 200,
            drain_timeout: Duration::from_secs(10),
            drain_spread: Duration::from_secs(5),
            auth_timeout: Duration::from_secs(10),
            token_grace: Duration::from_secs(30),
            hook_timeout: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(150),
            api_key: None,
            api_keys: Vec::new(),
            serve_api: true,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
            serve_metrics: true,
            public_url: None,
            allow_host: Vec::new(),
            allow_origin: Vec::new(),
            shared_settings: String::new(),
        }
    }
}

setters! {
    ServerConfig {
        transport: TransportConfig,
        hub: HubConfig,
        max_message_bytes: usize,
        limits: LimitsConfig,
        max_in_flight: usize,
        max_listed_members: usize,
        drain_timeout: Duration,
        drain_spread: Duration,
        auth_timeout: Duration,
        token_grace: Duration,
        hook_timeout: Duration,
        keep_alive_timeout: Duration,
        api_key: Option<Secret>,
        api_keys: Vec<ApiKey>,
        serve_api: bool,
        trusted_proxies: Vec<IpNet>,
        forwarded_header: ForwardedHeader,
        serve_metrics: bool,
        public_url: Option<String>,
        allow_host: Vec<String>,
        allow_origin: Vec<String>,
        shared_settings: String,
    }
}

impl ServerConfig {
    /// Checks the settings that are texts. A server that is started with an invalid one logs an error
    /// and ignores it: it rejects that host or origin, its links have no public URL, or the key is none. Metrics and
    /// the log cannot distinguish two keys of one name.
    ///
    /// # Errors
    /// The first invalid one of [`public_url`](Self::public_url),
    /// [`allow_host`](Self::allow_host), [`allow_origin`](Self::allow_origin), [`api_key`](Self::api_key)
    /// and the names of [`all_api_keys`](Self::all_api_keys).
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if let Some(url) = &self.public_url {
            PublicUrl::parse(url).map_err(|why| invalid("public_url", url, why))?;
        }
        check_hosts(&self.allow_host)?;
        check_origins(&self.allow_origin)?;
        if self.api_key.as_ref().is_some_and(|secret| ApiKey::of_all_scopes(secret).is_err()) {
            return Err(invalid("api_key", "…", "a secret has at least 16 bytes"));
        }
        let mut names = HashSet::new();
        for key in self.all_api_keys() {
            if !names.insert(key.name().to_owned()) {
                return Err(invalid("api_keys", key.name(), "two keys have this name"));
            }
        }
        Ok(())
    }

    /// The key of [`api_key`](Self::api_key), named `api`, and [`api_keys`](Self::api_keys): what
    /// [`Server::set_api_keys`](crate::Server::set_api_keys) takes from settings that were read again. An
    /// `api_key` of less than 16 bytes is left out: an empty one would open `/api` to every client.
    #[must_use]
    pub fn all_api_keys(&self) -> Vec<ApiKey> {
        let of_all_scopes = self.api_key.iter().filter_map(|key| ApiKey::of_all_scopes(key).ok());
        of_all_scopes.chain(self.api_keys.iter().cloned()).collect()
    }

    /// The bytes of the largest frame that a message with so many bytes of text, and of `data`,
    /// may take: a byte of text may be escaped by six (`\u001b`), and `data` is sent as it is.
    #[must_use]
    pub const fn frame_bytes(max_message_bytes: usize) -> usize {
        const REST: usize = 4096;
        max_message_bytes.saturating_mul(7).saturating_add(REST)
    }

    /// The limits in `welcome`, those of `config` for a client with this `limit_factor`.
    pub(crate) fn announced_limits(&self, config: &LimitsConfig, factor: u32) -> Limits {
        let rates = &config.connection;
        let announced = |rate: Option<Rate>| {
            rate.map(|rate| {
                let rate = rate.times(factor);
                RateLimit::new(rate.per_second().into(), rate.burst().into())
            })
        };
        let mut limits = Limits::new(self.max_message_bytes, self.transport.frame_limit());
        limits.rooms = config.rooms.unwrap_or(u32::MAX as usize);
        limits.in_flight = self.max_in_flight;
        limits.frames = announced(rates.frames);
        limits.joins = announced(rates.joins);
        limits.bytes = announced(rates.received_bytes);
        limits.answers = announced(rates.answer_bytes);
        limits.kept = announced(rates.kept_bytes);
        limits
    }
}

fn invalid(setting: &'static str, value: &str, why: &'static str) -> InvalidConfig {
    // Never a password in a log.
    let value = if value.contains('@') { "…" } else { value };
    InvalidConfig { setting, value: value.to_owned(), why }
}

/// Checks [`allow_host`](ServerConfig::allow_host).
pub(crate) fn check_hosts(allow_host: &[String]) -> Result<(), InvalidConfig> {
    for host in allow_host {
        Pattern::parse(host).map_err(|why| invalid("allow_host", host, why))?;
    }
    Ok(())
}

/// Checks [`allow_origin`](ServerConfig::allow_origin).
pub(crate) fn check_origins(allow_origin: &[String]) -> Result<(), InvalidConfig> {
    for origin in allow_origin {
        serialized(origin).map_err(|why| invalid("allow_origin", origin, why))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_texts_are_named() {
        let texts = |text: &str| vec!["*".to_owned(), text.to_owned()];
        let config = ServerConfig::default;
        for (config, setting) in [
            (config().public_url(Some("chat.example".to_owned())), "public_url"),
            (config().allow_host(texts("https://chat.example")), "allow_host"),
            (config().allow_origin(texts("app.example")), "allow_origin"),
        ] {
            let error = config.check().unwrap_err();
            assert_eq!(error.setting, setting);
            assert!(error.to_string().contains(&error.value), "{error}");
        }
        let key = || ApiKey::generate("shop").unwrap().0;
        assert_eq!(config().api_keys(vec![key(), key()]).check().unwrap_err().value, "shop");
        for short in ["", "0123456789abcde"] {
            let config = config().api_key(Some(Secret::new(short)));
            assert!(config.all_api_keys().is_empty());
            assert_eq!(config.check().unwrap_err().setting, "api_key");
        }
        let valid = config().public_url(Some("https://chat.example/chat".to_owned()));
        let valid = valid.allow_host(texts(".chat.example"));
        assert_eq!(valid.allow_origin(vec!["null".to_owned()]).check(), Ok(()));
        let secret = config().public_url(Some("https://ann:secret@chat.example".to_owned()));
        assert!(!secret.check().unwrap_err().to_string().contains("secret"));
    }
}
