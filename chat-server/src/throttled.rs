//! Clients that rate limits slow down: a line a minute for each user. A client that never waits takes no lock here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use chat_core::UserId;
use parking_lot::Mutex;
use tracing::field::display;

use crate::limits::network;

/// How many users are distinguished in a minute, and how many of them, the most throttled ones, have a line
/// at `info`: clients can be any number of users.
const USERS: usize = 1_000;
const LINES: usize = 60;

/// Nobody notices a shorter time in a minute. Well-behaved clients wait for milliseconds now and then.
const NOTICEABLE: Duration = Duration::from_secs(1);

/// What was throttled since the latest report.
#[derive(Debug, Default)]
pub(crate) struct Throttled(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    users: HashMap<Source, Tally>,
    /// Waits and refusals of users beyond those that are distinguished.
    uncounted: u64,
}

/// A user, and before the user is known an address.
type Source = Result<UserId, Option<IpAddr>>;

/// What happened to one user.
#[derive(Debug)]
struct Tally {
    waits: u64,
    waited: Duration,
    refused: u64,
    /// The latest.
    limit: &'static str,
    connection: String,
    address: Option<IpAddr>,
}

/// How a limit slows a client down.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Brake {
    /// The client is not read for so long.
    Wait(Duration),
    /// A frame is refused with `rate_limited`.
    Refusal,
}

impl Throttled {
    pub(crate) fn count(
        &self,
        limit: &'static str,
        brake: Brake,
        user: Option<&UserId>,
        connection: String,
        address: Option<IpAddr>,
    ) {
        let source = user.cloned().ok_or_else(|| address.map(network));
        let mut minute = self.0.lock();
        let Minute { users, uncounted } = &mut *minute;
        if users.len() >= USERS && !users.contains_key(&source) {
            *uncounted += 1;
            return;
        }
        let tally = users.entry(source).or_insert_with(Tally::new);
        (tally.limit, tally.connection, tally.address) = (limit, connection, address);
        match brake {
            Brake::Wait(time) => {
                tally.waits += 1;
                tally.waited += time;
            }
            Brake::Refusal => tally.refused += 1,
        }
    }

    /// Logs what was counted since the last call.
    pub(crate) fn log(&self) {
        let Minute { users, uncounted } = std::mem::take(&mut *self.0.lock());
        let mut noticeable: Vec<_> =
            users.into_iter().filter(|(_, tally)| tally.is_noticeable()).collect();
        noticeable.sort_unstable_by_key(|(_, tally)| std::cmp::Reverse(tally.rank()));
        for (nth, (source, tally)) in noticeable.iter().enumerate() {
            tally.log(source.as_ref().ok(), nth < LINES);
        }
        let lines = noticeable.len().saturating_sub(LINES);
        if lines > 0 || uncounted > 0 {
            tracing::info!(lines, uncounted, "suppressed log lines of throttled clients");
        }
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            waits: 0,
            waited: Duration::ZERO,
            refused: 0,
            limit: "",
            connection: String::new(),
            address: None,
        }
    }

    fn is_noticeable(&self) -> bool {
        self.refused > 0 || self.waited >= NOTICEABLE
    }

    fn rank(&self) -> (Duration, u64) {
        (self.waited, self.refused)
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
    use super::*;

    fn user(nth: usize) -> UserId {
        UserId::new(format!("u{nth}")).unwrap()
    }

    #[test]
    fn users_of_a_minute_are_bounded() {
        let throttled = Throttled::default();
        let wait = Brake::Wait(Duration::from_millis(300));
        let count =
            |nth| throttled.count("user_frames", wait, Some(&user(nth)), "c".to_owned(), None);
        (0..USERS + 7).for_each(count);
        count(0);
        let minute = throttled.0.lock();
        assert_eq!((minute.users.len(), minute.uncounted), (USERS, 7));
        let first = &minute.users[&Ok(user(0))];
        assert_eq!((first.waits, first.waited), (2, Duration::from_millis(600)));
    }

    #[test]
    fn short_waits_are_not_noticed() {
        let of = |brakes: &[Brake]| {
            let throttled = Throttled::default();
            for brake in brakes {
                throttled.count("user_frames", *brake, None, "c".to_owned(), None);
            }
            let minute = std::mem::take(&mut *throttled.0.lock());
            minute.users[&Err(None)].is_noticeable()
        };
        let wait = Brake::Wait(Duration::from_millis(100));
        assert!(!of(&[wait; 9]));
        assert!(of(&[wait; 10]));
        assert!(of(&[Brake::Refusal]));
    }
}
