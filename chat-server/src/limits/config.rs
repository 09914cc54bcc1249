//! Settings of the limits.

use super::rate::Rate;

/// Limits on what clients may use. `None` is no limit.
///
/// The bounds that keep the server's memory are not among them and hold always: outbox, frame,
/// fragments and handshake, in [`TransportConfig`](chat_transport::TransportConfig).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Connections to this server. Default 100,000. One above it is answered with 503.
    pub connections: Option<usize>,
    /// Connections that speak HTTP: they are asking for something, or have yet to become
    /// WebSockets. Default 4,096. One above it is answered with 503.
    pub http_connections: Option<usize>,
    /// Requests by HTTP on one connection, handshakes included, where the server
    /// [listens by itself](crate::Server::serve). Default 50 a second, 200 at once. A request above
    /// the rate is delayed, and so are those pipelined behind it. Connections of
    /// [trusted](crate::ServerConfig::trusted_proxies) proxies have no such limit.
    pub http_requests: Option<Rate>,
    /// Requests by HTTP from one address, in the same way; a request that would be delayed for
    /// longer than 5 s is answered with 429. Default none, as for the connections.
    pub http_requests_per_address: Option<Rate>,
    /// Connections from one address (of IPv6: from one /64). Default none: behind a balancer
    /// that is not [trusted](crate::ServerConfig::trusted_proxies) all users have one. One
    /// above it is answered with 429; one that has not asked for anything yet, with 503. An address
    /// may have as many of either kind.
    pub connections_per_address: Option<usize>,
    /// Frames from one connection. Default 50 a second, 300 at once: who reconnects joins all
    /// its rooms at once.
    pub frames: Option<Rate>,
    /// Frames from all connections of a user on this server, if the user is known by more than
    /// a connection. Default 100 a second, 600 at once.
    pub frames_per_user: Option<Rate>,
    /// Frames from one address. Default none, as for the connections.
    pub frames_per_address: Option<Rate>,
    /// Joins of one connection. Default 10 a second, 256 at once.
    pub joins: Option<Rate>,
    /// Kicks and bans by one user, over all its connections on this server. Default 1 a second,
    /// 30 at once. Backends have no such limit.
    pub sanctions: Option<Rate>,
    /// Frames of one connection that are refused for the client's fault. Default 1 a second,
    /// 100 at once; one above it closes the connection with 1008.
    pub errors: Option<Rate>,
    /// Rooms that one connection may be in. Default 128. Each costs a place in the room and,
    /// on the first member of this server, a subscription.
    pub rooms: Option<usize>,
    /// Longest name of a room or a user, in bytes. Default and at most
    /// [`MAX_NAME_BYTES`](chat_core::MAX_NAME_BYTES), 128.
    pub name_bytes: usize,
    /// How deep arrays and objects may stand in one another in a frame. Default 64: what is
    /// passed on must not break the parser of whoever gets it.
    pub json_depth: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: Some(100_000),
            http_connections: Some(4096),
            http_requests: Some(Rate::new(50, 200)),
            http_requests_per_address: None,
            connections_per_address: None,
            frames: Some(Rate::new(50, 300)),
            frames_per_user: Some(Rate::new(100, 600)),
            frames_per_address: None,
            joins: Some(Rate::new(10, 256)),
            sanctions: Some(Rate::new(1, 30)),
            errors: Some(Rate::new(1, 100)),
            rooms: Some(128),
            name_bytes: chat_core::MAX_NAME_BYTES,
            json_depth: 64,
        }
    }
}

impl LimitsConfig {
    /// No rate and no count is limited: for load tests, and behind something that does.
    #[must_use]
    pub fn off() -> Self {
        Self {
            connections: None,
            http_connections: None,
            http_requests: None,
            http_requests_per_address: None,
            connections_per_address: None,
            frames: None,
            frames_per_user: None,
            frames_per_address: None,
            joins: None,
            sanctions: None,
            errors: None,
            rooms: None,
            ..Self::default()
        }
    }
}
