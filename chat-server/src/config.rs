//! Settings of a server, for those who embed it.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::{Extensions, HeaderMap};
use chat_broker::HubConfig;
use chat_core::wire::{Limits, RateLimit};
use chat_transport::TransportConfig;
use ipnet::IpNet;

use crate::host::Pattern;
use crate::limits::{LimitsConfig, Rate};
use crate::origin::serialized;
use crate::peer::{self, ForwardedHeader};
use crate::public_url::PublicUrl;
use crate::secret::Secret;

/// Settings of a [`Server`](crate::Server). The defaults suit a public chat.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Frames, outboxes and heartbeats of the connections.
    pub transport: TransportConfig,
    /// Rooms: their history, presence, lingering.
    pub hub: HubConfig,
    /// Longest text of a message, in bytes of UTF-8. Default 32,768. A longer one is
    /// refused with `message_too_long`. See [`frame_bytes`](Self::frame_bytes) for the frames.
    pub max_message_bytes: usize,
    /// How much of the server clients may use.
    pub limits: LimitsConfig,
    /// Sends of one connection that may be unanswered before its socket is read no
    /// further. Default 64.
    pub max_in_flight: usize,
    /// How many members a frame lists. Default 200; `count` tells the rest.
    pub max_listed_members: usize,
    /// How long a shutdown waits for clients to take what is queued for them. Default 10 s.
    pub drain_timeout: Duration,
    /// Over how long the clients of a server that shuts down come back elsewhere, at most:
    /// half a millisecond for each. Default 5 s; never more than half of
    /// [`drain_timeout`](Self::drain_timeout).
    pub drain_spread: Duration,
    /// With an [`Authenticator`](crate::Authenticator): how long a client may take to say who
    /// it is before it is closed with 1008, and how long that may take to be judged. Default 10 s.
    pub auth_timeout: Duration,
    /// How long after the end of its identity a connection may say `hello` with a new token,
    /// before it is closed with 4004. Default 30 s.
    pub token_grace: Duration,
    /// How long an HTTP connection may be idle between two requests, where the server
    /// [listens by itself](crate::Server::serve). Responses announce it (`Keep-Alive: timeout=150`).
    /// Default 150 s, since a balancer must not keep connections for longer: nginx does so for 60 s,
    /// an Application Load Balancer of AWS for 60 s, Traefik for 90 s, Caddy for 120 s. 0 closes
    /// connections after each response. While more than half of the
    /// [HTTP connections](LimitsConfig::http_connections) are taken, every response closes its
    /// connection, but for those of [trusted proxies](Self::trusted_proxies).
    pub keep_alive_timeout: Duration,
    /// What backends must show to use `/api`. Default: none, and there is no `/api`.
    pub api_key: Option<Secret>,
    /// Proxies whose word on where clients are is taken.
    /// Default: none.
    pub trusted_proxies: Vec<IpNet>,
    /// The header that these proxies write. Default `X-Forwarded-For`.
    pub forwarded_header: ForwardedHeader,
    /// Whether the routes include `/metrics`. Default true. See
    /// [`Server::operator_router`](crate::Server::operator_router) for serving it elsewhere.
    pub serve_metrics: bool,
    /// What comes before `/join-room/…` in the link that `POST /create-room` gives, such as
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
    /// and import the modules, besides those on the host that the server is asked for by.
    /// `null` stands for pages without an origin. Compared as the URL standard says: without a
    /// default port, names in lower case and in the form `xn--…`. Origins of other schemes, such as
    /// `capacitor://localhost` or `file://`, are compared as they are. Default: none.
    pub allow_origin: Vec<String>,
}

/// A setting that cannot be what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value '{value}' for {setting}: {why}")]
#[non_exhaustive]
pub struct InvalidConfig {
    /// The name of the setting, such as `public-url`.
    pub setting: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it.
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
            keep_alive_timeout: Duration::from_secs(150),
            api_key: None,
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default(),
            serve_metrics: true,
            public_url: None,
            allow_host: Vec::new(),
            allow_origin: Vec::new(),
        }
    }
}

macro_rules! setters {
    ($($name:ident: $type:ty),* $(,)?) => {
        impl ServerConfig {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](Self::", stringify!($name), ").")]
                #[must_use]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self
                }
            )*
        }
    };
}

setters! {
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
    keep_alive_timeout: Duration,
    api_key: Option<Secret>,
    trusted_proxies: Vec<IpNet>,
    forwarded_header: ForwardedHeader,
    serve_metrics: bool,
    public_url: Option<String>,
    allow_host: Vec<String>,
    allow_origin: Vec<String>,
}

impl ServerConfig {
    /// Checks the settings that are texts. A server that is started with one that is not valid logs
    /// an error and ignores it: that host or origin is refused, or links have no public URL.
    ///
    /// # Errors
    /// The first that is not valid of [`public_url`](Self::public_url),
    /// [`allow_host`](Self::allow_host) and [`allow_origin`](Self::allow_origin).
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let invalid = |setting, value: &str, why| InvalidConfig {
            setting,
            // Never a password in a log.
            value: if value.contains('@') { "…".to_owned() } else { value.to_owned() },
            why,
        };
        if let Some(url) = &self.public_url {
            PublicUrl::parse(url).map_err(|why| invalid("public-url", url, why))?;
        }
        for host in &self.allow_host {
            Pattern::parse(host).map_err(|why| invalid("allow-host", host, why))?;
        }
        for origin in &self.allow_origin {
            serialized(origin).map_err(|why| invalid("allow-origin", origin, why))?;
        }
        Ok(())
    }

    /// The bytes of the largest frame that a message with so many bytes of text, and of `data`,
    /// may take: a byte of text may come as an escape of six (`\u001b`), and `data` as it stands.
    #[must_use]
    pub const fn frame_bytes(max_message_bytes: usize) -> usize {
        const REST: usize = 4096;
        max_message_bytes.saturating_mul(7).saturating_add(REST)
    }

    /// What `welcome` tells a client that may use `factor` times as much as others.
    pub(crate) fn told_limits(&self, factor: u32) -> Limits {
        let rates = &self.limits.connection;
        let told = |rate: Option<Rate>| rate.map(|rate| told(rate.times(factor)));
        let mut limits = Limits::new(self.max_message_bytes, self.transport.frame_limit());
        limits.rooms = self.limits.rooms.unwrap_or(u32::MAX as usize);
        limits.in_flight = self.max_in_flight;
        limits.frames = told(rates.frames);
        limits.joins = told(rates.joins);
        limits.bytes = told(rates.received_bytes);
        limits.answers = told(rates.answer_bytes);
        limits.kept = told(rates.kept_bytes);
        limits
    }

    /// See [`peer::address`].
    pub(crate) fn client_address(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<IpAddr> {
        peer::address(headers, extensions, &self.trusted_proxies, self.forwarded_header)
    }
}

fn told(rate: Rate) -> RateLimit {
    RateLimit::new(rate.per_second().into(), rate.burst().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_checked_by_name() {
        let texts = |text: &str| vec!["*".to_owned(), text.to_owned()];
        let config = ServerConfig::default;
        for (config, setting) in [
            (config().public_url(Some("chat.example".to_owned())), "public-url"),
            (config().allow_host(texts("https://chat.example")), "allow-host"),
            (config().allow_origin(texts("app.example")), "allow-origin"),
        ] {
            let error = config.check().unwrap_err();
            assert_eq!(error.setting, setting);
            assert!(error.to_string().contains(&error.value), "{error}");
        }
        let valid = config().public_url(Some("https://chat.example/chat".to_owned()));
        let valid = valid.allow_host(texts(".chat.example"));
        assert_eq!(valid.allow_origin(vec!["null".to_owned()]).check(), Ok(()));
        let secret = config().public_url(Some("https://ann:secret@chat.example".to_owned()));
        assert!(!secret.check().unwrap_err().to_string().contains("secret"));
    }
}
