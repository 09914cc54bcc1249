//! Clients that rate limits slow down: a line a minute for each user. A client that never waits takes no lock here.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use chat_core::UserId;
use parking_lot::Mutex;
use tracing::field::display;

use crate::limits::network;

/// How many users, and how many addresses, are distinguished in a minute, and how many of each, the most
/// throttled ones, have a line at `info`: clients can be any number of users.
const DISTINGUISHED: usize = 1_000;
const LINES: usize = 60;

/// Nobody notices a shorter time in a minute. Well-behaved clients wait for milliseconds now and then.
const NOTICEABLE: Duration = Duration::from_secs(1);

/// What was throttled since the latest report.
#[derive(Debug, Default)]
pub(crate) struct Throttled(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    users: HashMap<UserId, Throttling>,
    /// Clients whose user is not known, by address, apart: anyone can have many addresses.
    addresses: HashMap<Option<IpAddr>, Throttling>,
    /// Waits and refusals of clients beyond those that are distinguished.
    uncounted: u64,
}

/// What happened to one user, or to the clients of an address.
#[derive(Debug, Default)]
struct Throttling {
    waits: u64,
    waited: Duration,
    refused: u64,
    /// The latest.
    limit: &'static str,
    connection: String,
    address: Option<IpAddr>,
}

/// What a limit does to a client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measure {
    /// The client is not read for so long.
    Wait(Duration),
    /// A frame is refused with `rate_limited`.
    Refusal,
}

impl Throttled {
    pub(crate) fn count(
        &self,
        limit: &'static str,
        measure: Measure,
        user: Option<&UserId>,
        connection: String,
        address: Option<IpAddr>,
    ) {
        let mut minute = self.0.lock();
        let Minute { users, addresses, uncounted } = &mut *minute;
        let throttling = match user {
            Some(user) => entry(users, user.clone()),
            None => entry(addresses, address.map(network)),
        };
        match throttling {
            Some(throttling) => throttling.add(limit, measure, connection, address),
            None => *uncounted += 1,
        }
    }

    /// Logs what was counted since the last call.
    pub(crate) fn log(&self) {
        let Minute { users, addresses, uncounted } = std::mem::take(&mut *self.0.lock());
        let of_users = users.into_iter().map(|(user, throttling)| (Some(user), throttling));
        let of_addresses = addresses.into_values().map(|throttling| (None, throttling));
        let lines = log_most(of_users.collect()) + log_most(of_addresses.collect());
        if lines > 0 || uncounted > 0 {
            tracing::info!(lines, uncounted, "suppressed log lines of throttled clients");
        }
    }
}

/// Logs the most throttled ones. Returns how many others there are, whose lines are at `debug`.
fn log_most(mut clients: Vec<(Option<UserId>, Throttling)>) -> usize {
    clients.retain(|(_, throttling)| throttling.rank() >= NOTICEABLE);
    clients.sort_unstable_by_key(|(_, throttling)| Reverse(throttling.rank()));
    for (nth, (user, throttling)) in clients.iter().enumerate() {
        throttling.log(user.as_ref(), nth < LINES);
    }
    clients.len().saturating_sub(LINES)
}

/// The entry of a key; `None` if there are too many others.
fn entry<K: Eq + Hash>(map: &mut HashMap<K, Throttling>, key: K) -> Option<&mut Throttling> {
    let has_place = map.len() < DISTINGUISHED || map.contains_key(&key);
    has_place.then(|| map.entry(key).or_default())
}

impl Throttling {
    fn add(
        &mut self,
        limit: &'static str,
        measure: Measure,
        connection: String,
        address: Option<IpAddr>,
    ) {
        (self.limit, self.connection, self.address) = (limit, connection, address);
        match measure {
            Measure::Wait(time) => {
                self.waits += 1;
                self.waited += time;
            }
            Measure::Refusal => self.refused += 1,
        }
    }

    /// A refused request is as noticeable as a second of waiting.
    fn rank(&self) -> Duration {
        let refused = u32::try_from(self.refused).unwrap_or(u32::MAX);
        self.waited.saturating_add(NOTICEABLE.saturating_mul(refused))
    }

    fn log(&self, user: Option<&UserId>, is_permitted: bool) {
        let Self { waits, waited, refused, limit, ref connection, address } = *self;
        let (user, address) = (user.map(UserId::as_str), address.map(display));
        let waited_ms = waited.as_millis() as u64;
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    limit,
                    user,
                    connection,
                    address,
                    waits,
                    waited_ms,
                    refused,
                    "client throttled"
                )
            };
        }
        if is_permitted { log!(info) } else { log!(debug) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const WAIT: Measure = Measure::Wait(Duration::from_millis(300));

    fn user(nth: usize) -> UserId {
        UserId::new(format!("u{nth}")).unwrap()
    }

    #[test]
    fn users_of_a_minute_are_bounded() {
        let throttled = Throttled::default();
        let count =
            |nth| throttled.count("user_frames", WAIT, Some(&user(nth)), "c".to_owned(), None);
        (0..DISTINGUISHED + 7).for_each(count);
        count(0);
        let minute = throttled.0.lock();
        assert_eq!((minute.users.len(), minute.uncounted), (DISTINGUISHED, 7));
        let first = &minute.users[&user(0)];
        assert_eq!((first.waits, first.waited), (2, Duration::from_millis(600)));
    }

    /// Anyone has many addresses.
    #[test]
    fn addresses_do_not_take_the_places_of_users() {
        let throttled = Throttled::default();
        for address in 0..2 * DISTINGUISHED as u32 {
            let address = Some(Ipv4Addr::from_bits(address << 8).into());
            throttled.count("address_frames", WAIT, None, "c".to_owned(), address);
        }
        throttled.count("user_frames", WAIT, Some(&user(0)), "c".to_owned(), None);
        let minute = throttled.0.lock();
        assert_eq!((minute.addresses.len(), minute.users.len()), (DISTINGUISHED, 1));
    }

    #[test]
    fn short_waits_are_not_noticed() {
        let of = |measures: &[Measure]| {
            let throttled = Throttled::default();
            for measure in measures {
                throttled.count("user_frames", *measure, None, "c".to_owned(), None);
            }
            throttled.0.lock().addresses[&None].rank()
        };
        let wait = Measure::Wait(Duration::from_millis(100));
        assert!(of(&[wait; 9]) < NOTICEABLE);
        assert!(of(&[wait; 10]) >= NOTICEABLE);
        assert!(of(&[Measure::Refusal]) >= NOTICEABLE);
        assert!(of(&[Measure::Refusal; 11]) > of(&[Measure::Wait(Duration::from_secs(10))]));
    }
}
