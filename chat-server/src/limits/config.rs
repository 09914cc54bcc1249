//! The settings of the limits.

use std::time::Duration;

use super::cost::Rates;
use super::rate::Rate;
use crate::setters::setters;

/// Limits on what clients may use. `None` is no limit.
///
/// ```
/// use chat_server::{LimitsConfig, Rate, Rates, ServerConfig};
///
/// let bots = Rates::default().frames(Some(Rate::new(500, 1_000)));
/// let limits = LimitsConfig::default().connections(Some(20_000)).connection(bots);
/// let config = ServerConfig::default().limits(limits);
/// ```
///
/// The bounds that keep the server's memory are not among them and hold always: outbox, frame,
/// fragments and handshake, in [`TransportConfig`](chat_transport::TransportConfig).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Connections to this server. Default 100,000. One above it is answered with 503.
    pub connections: Option<usize>,
    /// Connections that speak HTTP: those that have not become WebSockets. Default 4,096. One above it
    /// is answered with 503.
    pub http_connections: Option<usize>,
    /// HTTP requests on one connection, handshakes included, where the server
    /// [listens by itself](crate::Server::serve). Default 50 a second, 200 at once. A request above
    /// the rate is delayed, and so are those pipelined behind it. Connections of
    /// [trusted](crate::ServerConfig::trusted_proxies) proxies have no such limit.
    pub http_requests: Option<Rate>,
    /// HTTP requests from one address, in the same way; a request that would be delayed for
    /// longer than 5 s is answered with 429. Default none, as for the connections.
    pub http_requests_per_address: Option<Rate>,
    /// Connections from one address (of IPv6: from one /64). Default none: behind a balancer
    /// that is not [trusted](crate::ServerConfig::trusted_proxies) all users have one. One
    /// above it is answered with 429, and one that speaks HTTP with 503: both kinds are counted
    /// separately.
    pub connections_per_address: Option<usize>,
    /// What one connection may use. Defaults, a second and at once: 50 and 300 frames; 256 KiB of
    /// frames; 2 and 16 MiB of answers, so that a client that has missed megabytes in 128 rooms
    /// receives them without a wait; 15,000 bytes and 3 MiB kept in Redis; 10 and 256 joins.
    pub connection: Rates,
    /// What all connections of a user on this server may use together, if the user has an id that
    /// other connections can share. Defaults: 100 and 1,500 frames; 1 and 30 kicks and bans (backends
    /// have no such limit); 4 and 32 MiB of answers; received and kept bytes as for one
    /// connection.
    pub user: Rates,
    /// What all connections from an address may use together. Default none, as for the
    /// connections; [`per_address`](Self::per_address) has those that the program uses with trusted
    /// proxies.
    pub address: Rates,
    /// How long a frame may wait for rates that are used up. Default 5 s. One that would wait
    /// longer is refused with `rate_limited`, and an HTTP request with 429.
    pub max_wait: Duration,
    /// Rooms that one connection may be in. Default 128. Each costs memory here and in Redis and,
    /// on the first member of this server, a subscription.
    pub rooms: Option<usize>,
    /// Rooms that all connections of a user on this server may be in together: a room counts once
    /// for each connection. Default 1,536.
    pub rooms_per_user: Option<usize>,
    /// Longest name of a room or a user, in bytes. Default and at most
    /// [`MAX_NAME_BYTES`](chat_core::MAX_NAME_BYTES), 128.
    pub name_bytes: usize,
    /// How deep arrays and objects in a frame may be nested. Default 64: the `data` of a message must not
    /// break the parser of another client.
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
            connection: Rates {
                frames: Some(Rate::new(50, 300)),
                received_bytes: Some(RECEIVED),
                answer_bytes: Some(Rate::new(2 * MIB, 16 * MIB)),
                kept_bytes: Some(KEPT),
                joins: Some(Rate::new(10, 256)),
                sanctions: None,
            },
            user: Rates {
                frames: Some(Rate::new(100, 1500)),
                received_bytes: Some(RECEIVED),
                answer_bytes: Some(Rate::new(4 * MIB, 32 * MIB)),
                kept_bytes: Some(KEPT),
                joins: None,
                sanctions: Some(Rate::new(1, 30)),
            },
            address: Rates::default(),
            max_wait: Duration::from_secs(5),
            rooms: Some(128),
            rooms_per_user: Some(ROOMS_PER_USER),
            name_bytes: chat_core::MAX_NAME_BYTES,
            json_depth: 64,
        }
    }
}

const MIB: u32 = 1024 * 1024;

/// A member on a line of 20 Mbit/s reads 2,400 KiB a second, and has an outbox of 1 MiB, half of
/// which direct messages may fill: one sender, with a burst of half of the rest, cannot fill it.
const RECEIVED: Rate = Rate::new(256 * 1024, 256 * 1024);

/// With the presence of a user in [`ROOMS_PER_USER`] rooms, a user adds less than 8 MB
/// to Redis in 20 s and less than 64 MB in an hour. The 50 messages a second of
/// a connection, in one room and with keys, add up to less than this.
const KEPT: Rate = Rate::new(15_000, 3 * MIB);

/// See [`KEPT`]. Twelve times what one connection may join.
const ROOMS_PER_USER: usize = 1536;

setters! {
    LimitsConfig {
        connections: Option<usize>,
        http_connections: Option<usize>,
        http_requests: Option<Rate>,
        http_requests_per_address: Option<Rate>,
        connections_per_address: Option<usize>,
        connection: Rates,
        user: Rates,
        address: Rates,
        max_wait: Duration,
        rooms: Option<usize>,
        rooms_per_user: Option<usize>,
        name_bytes: usize,
        json_depth: usize,
    }
}

impl LimitsConfig {
    /// Rates for an address that an office or a part of a mobile network may share.
    #[must_use]
    pub fn per_address() -> Rates {
        Rates {
            frames: Some(Rate::new(500, 5000)),
            received_bytes: Some(Rate::new(2 * MIB, 8 * MIB)),
            answer_bytes: Some(Rate::new(32 * MIB, 256 * MIB)),
            kept_bytes: Some(Rate::new(150_000, 32 * MIB)),
            joins: None,
            sanctions: None,
        }
    }

    /// No limit on rates and counts: for load tests, and behind a proxy that has such limits.
    #[must_use]
    pub fn off() -> Self {
        Self {
            connections: None,
            http_connections: None,
            http_requests: None,
            http_requests_per_address: None,
            connections_per_address: None,
            connection: Rates::default(),
            user: Rates::default(),
            address: Rates::default(),
            rooms: None,
            rooms_per_user: None,
            ..Self::default()
        }
    }

    pub(super) fn counts_addresses(&self) -> bool {
        self.connections_per_address.is_some() || !self.address.is_unlimited()
    }

    pub(super) fn has_no_rates(&self) -> bool {
        [&self.connection, &self.user, &self.address].iter().all(|rates| rates.is_unlimited())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Redis takes for the first user in a room, with the longest names (docs/redis.md).
    const PRESENCE: u64 = 2_630;

    #[test]
    fn kept_bytes_of_a_user_are_bounded() {
        let after = |seconds: u64| {
            let kept = u64::from(KEPT.burst()) + seconds * u64::from(KEPT.per_second());
            kept + ROOMS_PER_USER as u64 * PRESENCE
        };
        assert!(after(20) < 8_000_000, "{} bytes in 20 s", after(20));
        assert!(after(3600) < 64_000_000, "{} bytes in an hour", after(3600));
    }
}
