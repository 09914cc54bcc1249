//! The rate of HTTP requests. A request above the rate is delayed, and with it those pipelined behind
//! it. It is rejected if its wait would exceed [`LimitsConfig::max_wait`](super::LimitsConfig::max_wait).

use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

use super::rate::{Rate, SharedBucket};
use super::usage_by_key::KeyPermit;
use super::{Limits, network};

/// The bucket of the requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct RequestBucket {
    bucket: SharedBucket,
    /// The rate of the latest request: the bucket is converted when another one is in effect.
    rate: Mutex<Option<Rate>>,
}

impl RequestBucket {
    fn at(&self, rate: Option<Rate>, now: Duration) -> &SharedBucket {
        let mut current = self.rate.lock();
        self.bucket.convert(*current, rate, now);
        *current = rate;
        &self.bucket
    }
}

impl Limits {
    /// Takes a request from the bucket of its connection and from that of its address; returns how long
    /// it waits. Either is `None` where it has no limit.
    ///
    /// # Errors
    /// The wait, if it exceeds `max_wait`: nothing is taken from that bucket.
    pub(crate) fn request(
        &self,
        bucket: Option<&RequestBucket>,
        address: Option<IpAddr>,
    ) -> Result<Duration, Duration> {
        let (config, now) = (self.config(), self.now());
        let reserve = |bucket: Option<&SharedBucket>, rate| match (bucket, rate) {
            (Some(bucket), Some(rate)) => bucket.take_within(rate, now, config.max_wait),
            _ => Ok(Duration::ZERO),
        };
        let bucket = bucket.map(|bucket| bucket.at(config.http_requests, now));
        let of_connection = reserve(bucket, config.http_requests)?;
        let rate = config.http_requests_per_address;
        let permit = address
            .filter(|_| rate.is_some())
            .and_then(|address| self.http_requests.acquire(network(address), usize::MAX, now));
        let of_address = reserve(permit.as_ref().map(KeyPermit::requests), rate)?;
        Ok(of_connection.max(of_address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LimitsConfig;

    fn limits(of_connection: Option<Rate>, of_address: Option<Rate>) -> Limits {
        let mut config = LimitsConfig::off();
        config.http_requests = of_connection;
        config.http_requests_per_address = of_address;
        Limits::new(config)
    }

    #[test]
    fn requests_of_a_connection_wait_for_its_rate() {
        let (limits, bucket) = (limits(Some(Rate::new(10, 3)), None), RequestBucket::default());
        let waits: Vec<_> = (0..5).map(|_| limits.request(Some(&bucket), None).unwrap()).collect();
        assert!(waits[..3].iter().all(Duration::is_zero), "{waits:?}");
        assert!(waits[3] > Duration::from_millis(50) && waits[4] > waits[3], "{waits:?}");
        let other = RequestBucket::default();
        assert_eq!(limits.request(Some(&other), None), Ok(Duration::ZERO));
        assert_eq!(limits.request(None, None), Ok(Duration::ZERO), "trusted proxy");
    }

    #[test]
    fn request_beyond_max_wait_is_rejected_and_not_counted() {
        let limits = limits(None, Some(Rate::new(1, 1)));
        let request = |address: &str| limits.request(None, Some(address.parse().unwrap()));
        let waits: Vec<_> = (0..6).map(|_| request("10.0.0.1").unwrap()).collect();
        assert!(
            waits[5] > Duration::from_secs(4) && waits[5] <= limits.config().max_wait,
            "{waits:?}"
        );
        for _ in 0..100 {
            let retry_after = request("10.0.0.1").unwrap_err();
            assert!(
                retry_after > limits.config().max_wait && retry_after <= Duration::from_secs(6)
            );
        }
        assert_eq!(request("10.0.0.2"), Ok(Duration::ZERO));
        assert_eq!(request("2001:db8::1"), Ok(Duration::ZERO));
        assert!(request("2001:db8::2").unwrap() > Duration::ZERO, "the same /64");
    }

    #[test]
    fn higher_rates_serve_requests_at_once() {
        let with = |rate| {
            let mut config = LimitsConfig::off();
            (config.http_requests, config.http_requests_per_address) = (Some(rate), Some(rate));
            config
        };
        let limits = Limits::new(with(Rate::new(1, 300)));
        let bucket = RequestBucket::default();
        let request = || limits.request(Some(&bucket), Some("10.0.0.1".parse().unwrap()));
        for _ in 0..280 {
            assert_eq!(request(), Ok(Duration::ZERO));
        }
        limits.replace(with(Rate::new(100, 300)));
        assert_eq!(request(), Ok(Duration::ZERO), "20 were left");
    }
}
