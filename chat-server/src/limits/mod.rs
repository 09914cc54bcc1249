//! Limits on what clients may use.
//!
//! | limit | when it is reached |
//! |---|---|
//! | connections, of all and of an address | 503 and 429 with `Retry-After` |
//! | frames, bytes, answers, bytes kept in Redis, joins; of a connection, a user and an address | the connection is not read until it has budget again; `rate_limited` if that takes longer than [`LimitsConfig::max_wait`] |
//! | HTTP requests, of a connection and an address | they wait; 429 with `Retry-After` if the wait exceeds [`LimitsConfig::max_wait`] |
//!
//! TCP slows down a connection that is not read: nothing is lost or reordered, and a client that
//! floods gets its rate.

mod config;
mod cost;
mod limiter;
mod rate;
mod requests;
mod usage_by_key;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chat_core::UserId;
use parking_lot::RwLock;

pub use config::LimitsConfig;
pub use cost::Rates;
pub(crate) use cost::{Cost, Resource, Wait};
pub(crate) use limiter::{Charge, RateLimited, RateLimiter};
pub(crate) use rate::SharedBucket;
pub use rate::{InvalidRate, Rate};
pub(crate) use requests::RequestBucket;
pub(crate) use usage_by_key::RoomSlot;
use usage_by_key::{KeyPermit, UsageByKey};

/// The usage of all connections of a server.
#[derive(Debug)]
pub(crate) struct Limits {
    /// The limits in effect.
    config: RwLock<Arc<LimitsConfig>>,
    /// How many times they were replaced: by it a connection knows whether those that it has are still
    /// in effect, so that a frame takes no lock.
    replaced: AtomicUsize,
    connections: Arc<AtomicUsize>,
    users: UsageByKey<UserId>,
    addresses: UsageByKey<IpAddr>,
    /// Connections that speak HTTP, of all listeners.
    http_connections: Arc<AtomicUsize>,
    http_addresses: UsageByKey<IpAddr>,
    /// HTTP requests by address.
    http_requests: UsageByKey<IpAddr>,
    /// The origin of all times.
    started: Instant,
}

/// Counts a connection until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    connections: Arc<AtomicUsize>,
    address: Option<KeyPermit>,
}

/// The limit that a new connection exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// The connections of the server.
    Full,
    /// The connections of its address.
    Address,
}

impl Limits {
    pub(crate) fn new(config: LimitsConfig) -> Self {
        Self {
            config: RwLock::new(Arc::new(config)),
            replaced: AtomicUsize::new(0),
            connections: Arc::default(),
            users: UsageByKey::default(),
            addresses: UsageByKey::default(),
            http_connections: Arc::default(),
            http_addresses: UsageByKey::default(),
            http_requests: UsageByKey::default(),
            started: Instant::now(),
        }
    }

    pub(crate) fn config(&self) -> Arc<LimitsConfig> {
        Arc::clone(&self.config.read())
    }

    /// Replaces the limits. Each connection has the new ones from its next frame or request on. What is
    /// above a lower count stays. Buckets keep their tokens: shared ones are converted here, and those of
    /// a connection when it has the new limits.
    pub(crate) fn replace(&self, config: LimitsConfig) {
        let (mut current, now) = (self.config.write(), self.now());
        // Before anyone has the new rates: at these, what was taken at the old ones may be minutes of waiting.
        self.users.convert_buckets(&current.user, &config.user, now);
        self.addresses.convert_buckets(&current.address, &config.address, now);
        let (old, new) = (current.http_requests_per_address, config.http_requests_per_address);
        self.http_requests.convert_requests(old, new, now);
        *current = Arc::new(config);
        drop(current);
        // A connection that sees the new number finds the new limits.
        self.replaced.fetch_add(1, Ordering::Release);
    }

    /// Counts a connection from `address`.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> Result<ConnectionPermit, LimitReached> {
        let config = self.config();
        let mut permit = ConnectionPermit::take(&self.connections, config.connections)
            .ok_or(LimitReached::Full)?;
        if let Some(address) = address.filter(|_| config.counts_addresses()) {
            let max = config.connections_per_address.unwrap_or(usize::MAX);
            let of_address = self.addresses.acquire(network(address), max, self.now());
            permit.address = Some(of_address.ok_or(LimitReached::Address)?);
        }
        Ok(permit)
    }

    /// Counts a connection that speaks HTTP. `address` is that of the socket, or `None` for a trusted
    /// proxy. It may have as many of them as it may have connections, so that one address cannot use up
    /// all HTTP connections.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(crate) fn admit_http(
        &self,
        address: Option<IpAddr>,
    ) -> Result<ConnectionPermit, LimitReached> {
        let config = self.config();
        let mut permit = ConnectionPermit::take(&self.http_connections, config.http_connections)
            .ok_or(LimitReached::Full)?;
        if let (Some(address), Some(max)) = (address, config.connections_per_address) {
            let of_address = self.http_addresses.acquire(network(address), max, self.now());
            permit.address = Some(of_address.ok_or(LimitReached::Address)?);
        }
        Ok(permit)
    }

    /// Whether an idle connection that speaks HTTP may stay open: while half of them are free.
    pub(crate) fn may_idle(&self) -> bool {
        let max = self.config().http_connections.unwrap_or(usize::MAX);
        self.http_connections.load(Ordering::Relaxed) <= max / 2
    }

    /// A permit on the usage of a user; `None` if users have no limits.
    pub(crate) fn user(&self, user: &UserId) -> Option<KeyPermit> {
        let config = self.config();
        if config.user.is_unlimited() && config.rooms_per_user.is_none() {
            return None;
        }
        self.users.acquire(user.clone(), usize::MAX, self.now())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

impl ConnectionPermit {
    /// Counts one more in `connections`, unless there are `max`.
    fn take(connections: &Arc<AtomicUsize>, max: Option<usize>) -> Option<Self> {
        let max = max.unwrap_or(usize::MAX);
        let counted = connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < max).then_some(count + 1)
        });
        counted.ok().map(|_| Self { connections: Arc::clone(connections), address: None })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What counts as one address: of IPv6, the /64 that a subscriber is assigned (RFC 6177).
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_until_dropped() {
        let mut config = LimitsConfig::off();
        config.connections = Some(3);
        config.connections_per_address = Some(2);
        let limits = Limits::new(config);
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let a = limits.admit(address("10.0.0.1")).unwrap();
        let _b = limits.admit(address("::ffff:10.0.0.1")).unwrap();
        assert_eq!(limits.admit(address("10.0.0.1")).unwrap_err(), LimitReached::Address);
        let _c = limits.admit(address("2001:db8::1")).unwrap();
        assert_eq!(limits.admit(address("2001:db8::2")).unwrap_err(), LimitReached::Full);
        drop(a);
        let _d = limits.admit(address("2001:db8::2")).unwrap();
        assert_eq!(
            limits.connections.load(Ordering::Relaxed),
            3,
            "rejected connections do not count"
        );
    }

    #[test]
    fn http_connections_have_the_limit_that_is_reached() {
        let mut config = LimitsConfig::off();
        config.http_connections = Some(2);
        config.connections_per_address = Some(1);
        let limits = Limits::new(config);
        let admit = |text: &str| limits.admit_http(Some(text.parse().unwrap()));
        let _a = admit("10.0.0.1").unwrap();
        assert_eq!(admit("10.0.0.1").unwrap_err(), LimitReached::Address);
        let _b = admit("10.0.0.2").unwrap();
        assert_eq!(admit("10.0.0.3").unwrap_err(), LimitReached::Full);
    }

    #[test]
    fn ipv6_subnet_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:1.2.3.4"), of("1.2.3.4"));
        assert_ne!(of("1.2.3.4"), of("1.2.3.5"));
    }
}
