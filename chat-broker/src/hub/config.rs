//! Settings of a hub, and which rooms keep a history.

use std::sync::Arc;
use std::time::Duration;

use chat_core::{Pattern, Retention, RoomId};

/// How long after a failed call to the broker it is made again.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Settings of a [`Hub`](super::Hub).
///
/// As in all settings of this crate, each has a default, and a setter of its own name that takes
/// and returns the settings.
///
/// ```
/// use std::time::Duration;
/// use chat_broker::{HistoryRules, HubConfig};
///
/// let config = HubConfig::default()
///     .grace(Duration::from_secs(10))
///     .history(HistoryRules::default().class("game-*", None))
///     .workers(2);
/// assert_eq!(config.grace, Duration::from_secs(10));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HubConfig {
    /// How long a room stays subscribed after its last member has left. Default 1 s. A longer time
    /// saves subscribe calls when members join and leave often; until it ends the server receives
    /// messages of rooms without members.
    pub linger: Duration,
    /// Which rooms keep a history, and how much of it. Default: all rooms, 256 messages for 24
    /// hours. All servers of one broker need the same rules.
    pub history: HistoryRules,
    /// Memory for the latest messages of rooms with members, from which joins are served without a
    /// read of the broker: payload over all rooms, in bytes. Default 64 MiB. Above it a room that
    /// grows evicts its older half, unless it holds less than its share; so it can be twice as much
    /// at worst.
    pub recent_bytes: usize,
    /// The maximum number of users in a room for which members receive each join and leave. In
    /// larger rooms they receive the number of users, at most once a second. Default 200.
    pub presence_limit: usize,
    /// How long a user whose last connection was lost stays in a room before the leave is sent.
    /// Default 5 s.
    pub grace: Duration,
    /// How long a join waits while the broker is not [`Ready`](crate::Status::Ready) before it
    /// fails. Default 5 s, at least 1 ms. If the broker is ready, the join waits for its answer,
    /// which may take longer when many members join at once.
    pub join_timeout: Duration,
    /// How many threads deliver to members, including that of the hub's own task: as many as the
    /// server has cores. Default 1, at least 1, at most 256.
    pub workers: usize,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(1),
            history: HistoryRules::default(),
            recent_bytes: 64 << 20,
            presence_limit: 200,
            grace: Duration::from_secs(5),
            join_timeout: Duration::from_secs(5),
            workers: 1,
        }
    }
}

impl HubConfig {
    /// Sets [`linger`](Self::linger).
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Sets [`history`](Self::history).
    #[must_use]
    pub fn history(mut self, history: HistoryRules) -> Self {
        self.history = history;
        self
    }

    /// Sets [`recent_bytes`](Self::recent_bytes).
    #[must_use]
    pub fn recent_bytes(mut self, recent_bytes: usize) -> Self {
        self.recent_bytes = recent_bytes;
        self
    }

    /// Sets [`presence_limit`](Self::presence_limit).
    #[must_use]
    pub fn presence_limit(mut self, presence_limit: usize) -> Self {
        self.presence_limit = presence_limit;
        self
    }

    /// Sets [`grace`](Self::grace).
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets [`join_timeout`](Self::join_timeout).
    #[must_use]
    pub fn join_timeout(mut self, join_timeout: Duration) -> Self {
        self.join_timeout = join_timeout;
        self
    }

    /// Sets [`workers`](Self::workers).
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }
}

/// Which rooms keep a history: a default for all rooms, and classes of rooms, by patterns of their
/// names, with a rule of their own.
///
/// ```
/// use std::time::Duration;
/// use chat_broker::HistoryRules;
/// use chat_core::{Pattern, Retention, RoomId};
///
/// let week = Duration::from_secs(7 * 24 * 3600);
/// let long = Retention::new(10_000, 16 << 20, week);
/// let rules = HistoryRules::new(Some(Retention::default()))
///     .class("game-*", None)
///     .class("support-*", Some(long));
/// assert_eq!(rules.of(&RoomId::new("support-42")?), Some(long));
/// assert_eq!(rules.of(&RoomId::new("game-7")?), None);
/// # Ok::<(), chat_core::InvalidName>(())
/// ```
///
/// A clone shares the rules.
#[derive(Debug, Clone)]
pub struct HistoryRules {
    default: Option<Retention>,
    classes: Arc<Vec<(Pattern, Option<Retention>)>>,
}

impl Default for HistoryRules {
    fn default() -> Self {
        Self::new(Some(Retention::default()))
    }
}

impl HistoryRules {
    /// One rule for all rooms; `None` for no history.
    #[must_use]
    pub fn new(default: Option<Retention>) -> Self {
        Self { default, classes: Arc::default() }
    }

    /// Adds a rule for the rooms whose names match `pattern`, in which `*` stands for any text. The
    /// first class that matches applies.
    #[must_use]
    pub fn class(mut self, pattern: impl Into<Pattern>, retention: Option<Retention>) -> Self {
        Arc::make_mut(&mut self.classes).push((pattern.into(), retention));
        self
    }

    /// What `room` keeps of its history; `None` if nothing.
    #[must_use]
    pub fn of(&self, room: &RoomId) -> Option<Retention> {
        let class = self.classes.iter().find(|(pattern, _)| pattern.matches(room.as_str()));
        class.map_or(self.default, |(_, retention)| *retention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_matching_class_applies() {
        let some = |messages| Some(Retention::default().messages(messages));
        let rules = HistoryRules::new(some(1)).class("a*", some(2)).class("*", None);
        let of = |name| rules.of(&RoomId::new(name).unwrap());
        assert_eq!((of("abc"), of("b")), (some(2), None));
        assert_eq!(HistoryRules::default().of(&RoomId::new("b").unwrap()), some(256));
    }
}
