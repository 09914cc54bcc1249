//! How much of the server a client may use.
//!
//! | limit | when it is reached |
//! |---|---|
//! | connections, of all and of an address | 503 and 429 with `Retry-After` |
//! | frames, bytes, answers, bytes kept in Redis, joins; of a connection, a user and an address | the connection is not read until it has budget again; `rate_limited` if that takes longer than [`LimitsConfig::max_wait`] |
//! | requests by HTTP, of a connection and an address | they wait; 429 with `Retry-After` after [`LimitsConfig::max_wait`] |
//!
//! A connection that is not read is slowed down by TCP: nothing is lost or reordered, the client
//! need not know, and a client that floods gets no more than its rate.

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

pub use config::LimitsConfig;
pub use cost::Rates;
pub(crate) use cost::{Cost, Resource, Wait};
pub(crate) use limiter::{Charge, RateLimiter, Refusal};
pub use rate::Rate;
pub(crate) use rate::SharedBucket;
pub(crate) use usage_by_key::RoomSlot;
use usage_by_key::{KeyPermit, UsageByKey};

/// What all connections of a server use together.
#[derive(Debug)]
pub(crate) struct Limits {
    config: LimitsConfig,
    has_no_rates: bool,
    connections: Arc<AtomicUsize>,
    users: UsageByKey<UserId>,
    addresses: UsageByKey<IpAddr>,
    /// Connections that speak HTTP, of all listeners.
    asking: Arc<AtomicUsize>,
    asking_addresses: UsageByKey<IpAddr>,
    /// What addresses ask by HTTP.
    requesting: UsageByKey<IpAddr>,
    /// All times are since then.
    began: Instant,
}

/// A connection's place among those that there may be.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    connections: Arc<AtomicUsize>,
    address: Option<KeyPermit>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// The server is full.
    Full,
    /// The address has all the connections that it may have.
    Address,
}

impl Limits {
    pub(crate) fn new(config: LimitsConfig) -> Self {
        Self {
            has_no_rates: config.has_no_rates(),
            config,
            connections: Arc::default(),
            users: UsageByKey::default(),
            addresses: UsageByKey::default(),
            asking: Arc::default(),
            asking_addresses: UsageByKey::default(),
            requesting: UsageByKey::default(),
            began: Instant::now(),
        }
    }

    pub(crate) fn config(&self) -> &LimitsConfig {
        &self.config
    }

    /// Takes a place for a connection from `address`.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> Result<ConnectionPermit, LimitReached> {
        let max = self.config.connections;
        let mut permit =
            ConnectionPermit::take(&self.connections, max).ok_or(LimitReached::Full)?;
        if let Some(address) = address.filter(|_| self.counts_addresses()) {
            let max = self.config.connections_per_address.unwrap_or(usize::MAX);
            let part = self.addresses.enter(network(address), max, self.now());
            permit.address = Some(part.ok_or(LimitReached::Address)?);
        }
        Ok(permit)
    }

    /// Takes a place for a connection that speaks HTTP, from a socket of `address` if it is not
    /// a proxy's: one address cannot have all places, if it may not have all connections.
    pub(crate) fn admit_asking(&self, address: Option<IpAddr>) -> Option<ConnectionPermit> {
        let mut permit = ConnectionPermit::take(&self.asking, self.config.http_connections)?;
        if let (Some(address), Some(max)) = (address, self.config.connections_per_address) {
            let part = self.asking_addresses.enter(network(address), max, self.now());
            permit.address = Some(part?);
        }
        Some(permit)
    }

    /// Whether a connection that speaks HTTP may keep its place while it asks for nothing: as long as
    /// half of the places are free.
    pub(crate) fn may_idle(&self) -> bool {
        let max = self.config.http_connections.unwrap_or(usize::MAX);
        self.asking.load(Ordering::Relaxed) <= max / 2
    }

    /// The part that a connection has in what its user may use; `None` if that is unlimited.
    pub(crate) fn user(&self, user: &UserId) -> Option<KeyPermit> {
        if self.config.user.is_unlimited() && self.config.rooms_per_user.is_none() {
            return None;
        }
        self.users.enter(user.clone(), usize::MAX, self.now())
    }

    fn counts_addresses(&self) -> bool {
        self.config.connections_per_address.is_some() || !self.config.address.is_unlimited()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl ConnectionPermit {
    /// A place among those that `taken` counts.
    fn take(taken: &Arc<AtomicUsize>, max: Option<usize>) -> Option<Self> {
        let max = max.unwrap_or(usize::MAX);
        let is_free = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < max).then_some(count + 1)
        });
        is_free.ok().map(|_| Self { connections: Arc::clone(taken), address: None })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What counts as one address: of IPv6, the part that a subscriber is given (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_and_given_back() {
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
        assert_eq!(limits.connections.load(Ordering::Relaxed), 3, "refusals take no place");
    }

    #[test]
    fn an_ipv6_subscriber_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:1.2.3.4"), of("1.2.3.4"));
        assert_ne!(of("1.2.3.4"), of("1.2.3.5"));
    }
}
