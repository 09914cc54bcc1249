//! The health of Redis: whether all connections work, and one log line when that changes.
//!
//! | question | file | reported by |
//! |---|---|---|
//! | Do all connections work? | this one | [`Health`]: ready, refused, down or unsuitable |
//! | Does Redis take writes, and permit all commands? | `rights.rs`, [`connection::probe`](super::connection::probe) | [`ConnectionHealth`], each second |
//! | Is it full, and what does it delete then? | `capacity.rs` | the log, metrics |
//! | Which commands did it refuse, and why? | `refusals.rs` | the log, metrics |
//! | Does a key of ours hold something else? | `damage.rs` | the log, the caller |
//!
//! What an error means is in [`error`](super::error) alone.

pub(super) mod capacity;
pub(super) mod damage;
pub(super) mod refusals;
pub(super) mod rights;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chat_core::printable;
use redis::RedisError;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{code, in_words, is_unsuitable};

/// How often the log repeats a state that lasts.
const REMINDER: Duration = Duration::from_secs(60);

/// The connections of one broker.
#[derive(Debug)]
pub(super) struct Health {
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The state of each connection; `None` before its first attempt.
    connections: Vec<Option<HealthState>>,
    /// The states that were logged since Redis was last up.
    logged: Vec<HealthState>,
    /// The latest answer of a Redis that refuses.
    refusal: String,
    outage: Option<Outage>,
    /// The process of Redis of the latest connection; `None` if unknown.
    run_id: Option<String>,
}

/// Since when connections do not work, and why.
#[derive(Debug)]
struct Outage {
    since: Instant,
    logged: Instant,
    worst: HealthState,
    cause: String,
}

/// The state of one connection, or the worst of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HealthState {
    Up,
    /// Redis answers, and refuses commands.
    Refused,
    Down,
    /// The server is no Redis that can be used.
    Unsuitable,
}

/// The health of one connection.
#[derive(Debug)]
pub(super) struct ConnectionHealth {
    health: Arc<Health>,
    index: usize,
}

impl Health {
    /// Starts without connections; [`connection`](Self::connection) adds them.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: watch::Sender::new(State::default()) })
    }

    /// Adds a connection, which is not up.
    pub(super) fn connection(self: &Arc<Self>) -> ConnectionHealth {
        let mut index = 0;
        self.state.send_modify(|state| {
            index = state.connections.len();
            state.connections.push(None);
        });
        ConnectionHealth { health: Arc::clone(self), index }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// A connection to this process of Redis was made.
    pub(super) fn set_run_id(&self, run_id: Option<String>) {
        self.state.send_if_modified(|state| {
            state.run_id = run_id;
            false
        });
    }

    /// The process of Redis of the latest connection; `None` if unknown.
    pub(super) fn run_id(&self) -> Option<String> {
        self.state.borrow().run_id.clone()
    }

    /// Why connections do not work; `None` if they do, and before the first report.
    pub(super) fn outage(&self) -> Option<String> {
        self.state.borrow().outage.as_ref().map(Outage::to_string)
    }

    /// Waits until all connections are up, or one has failed.
    pub(super) async fn first_report(&self) {
        let is_over = |state: &State| state.is_ready() || !state.logged.is_empty();
        // The sender is `self`, so this cannot fail.
        let _ = self.state.subscribe().wait_for(is_over).await;
    }
}

impl State {
    /// Before the first connection was added, the broker is not ready.
    fn is_ready(&self) -> bool {
        !self.connections.is_empty()
            && self.connections.iter().all(|connection| *connection == Some(HealthState::Up))
    }

    /// Logs a worse state than before, until all connections are up again: a Redis that is refusing
    /// and unreachable in turns logs two lines, not two a second. What lasts is logged again each
    /// minute: the log of the last few has the cause. Connections that were not tried yet do not count.
    fn log(&mut self, condition: HealthState, cause: &str) {
        let worst = self.connections.iter().flatten().max().copied().unwrap_or(HealthState::Up);
        let now = Instant::now();
        if worst == HealthState::Up {
            self.logged.clear();
            if let Some(outage) = self.outage.take() {
                let (run_id, seconds) = (&self.run_id, (now - outage.since).as_secs());
                tracing::info!(run_id, seconds, "redis available again");
            }
            return;
        }
        let is_new = !self.logged.contains(&worst);
        if is_new {
            self.logged.push(worst);
        }
        let unknown = || Outage { since: now, logged: now, worst, cause: String::new() };
        let outage = self.outage.get_or_insert_with(unknown);
        if is_new || condition == worst {
            outage.worst = worst;
            outage.cause = match worst {
                HealthState::Refused => self.refusal.clone(),
                // In one line: what answers may not be a Redis, and its words may be any.
                _ => printable(cause).into_owned(),
            };
        }
        if is_new || (condition == worst && now - outage.logged >= REMINDER) {
            outage.logged = now;
            outage.log((now - outage.since).as_secs());
        }
    }
}

impl Outage {
    fn log(&self, seconds: u64) {
        let cause = &self.cause;
        match self.worst {
            HealthState::Unsuitable => tracing::error!(
                cause,
                seconds,
                "this redis cannot be used: Redis 6 or later is needed, or Valkey; a single server, \
                 behind no proxy that lacks commands"
            ),
            HealthState::Down => tracing::warn!(cause, seconds, "redis unavailable, reconnecting"),
            _ => tracing::warn!(cause, seconds, "redis refuses writes"),
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.worst {
            HealthState::Unsuitable => "this Redis cannot be used",
            HealthState::Down => "Redis is unavailable",
            _ => "Redis refuses writes",
        };
        write!(f, "{what}: {}", self.cause)
    }
}

impl ConnectionHealth {
    /// The connection works.
    pub(super) fn set_up(&self) {
        self.set(HealthState::Up, "");
    }

    /// The connection is there, and Redis refuses what it is for.
    pub(super) fn set_refused(&self, cause: &RedisError) {
        self.set(HealthState::Refused, &in_words(cause));
    }

    /// The connection is lost, or given up: behind the address of a replica there may be another Redis.
    pub(super) fn set_down(&self, cause: &RedisError) {
        let condition = if is_unsuitable(cause) {
            HealthState::Unsuitable
        } else if code(cause).as_deref() == Some("READONLY") {
            HealthState::Refused
        } else {
            HealthState::Down
        };
        self.set(condition, &in_words(cause));
    }

    fn set(&self, condition: HealthState, cause: &str) {
        self.health.state.send_if_modified(|state| {
            let before = state
                .connections
                .get_mut(self.index)
                .map(|connection| connection.replace(condition));
            let is_new = before != Some(Some(condition));
            if is_new && condition == HealthState::Refused {
                state.refusal = cause.to_owned();
            }
            if is_new || condition != HealthState::Up {
                state.log(condition, cause);
            }
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::redis::error::timed_out;

    fn answer(text: &str) -> RedisError {
        let reply = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        reply.extract_error().unwrap_err()
    }

    #[test]
    fn broker_is_ready_when_all_connections_are_up() {
        let health = Health::new();
        assert!(!health.is_ready(), "there is no connection");
        let (first, second) = (health.connection(), health.connection());
        let logged = |expected: &[HealthState], ready| {
            assert_eq!(health.state.borrow().logged, expected);
            assert_eq!(health.is_ready(), ready);
        };
        first.set_up();
        logged(&[], false);
        second.set_up();
        logged(&[], true);
        second.set_down(&timed_out());
        first.set_down(&timed_out());
        logged(&[HealthState::Down], false);
        first.set_refused(&answer("OOM full"));
        second.set_up();
        assert_eq!(health.state.borrow().refusal, "OOM full");
        logged(&[HealthState::Down, HealthState::Refused], false);
        second.set_down(&timed_out());
        second.set_up();
        logged(&[HealthState::Down, HealthState::Refused], false);
        first.set_up();
        logged(&[], true);
    }

    #[tokio::test(start_paused = true)]
    async fn outage_that_lasts_is_logged_again_each_minute() {
        let health = Health::new();
        let connection = health.connection();
        let logged = || health.state.borrow().outage.as_ref().map(|outage| outage.logged.elapsed());
        assert_eq!(health.outage(), None);
        connection.set_down(&timed_out());
        assert!(health.outage().unwrap().starts_with("Redis is unavailable: "));
        advance(REMINDER - Duration::from_secs(1)).await;
        connection.set_down(&timed_out());
        assert_eq!(logged(), Some(REMINDER - Duration::from_secs(1)));
        advance(Duration::from_secs(1)).await;
        connection.set_down(&timed_out());
        assert_eq!(logged(), Some(Duration::ZERO));
        connection.set_refused(&answer("OOM full"));
        assert_eq!(health.outage().unwrap(), "Redis refuses writes: OOM full");
        connection.set_up();
        assert_eq!((logged(), health.outage()), (None, None));
    }

    #[tokio::test]
    async fn refusal_ends_the_wait_for_the_first_report() {
        let health = Health::new();
        let (refused, _untried) = (health.connection(), health.connection());
        refused.set_refused(&answer("OOM full"));
        health.first_report().await;
    }

    /// As while a Redis moves: scripts on the former one fail, and the broker connects again each time.
    #[test]
    fn replica_refuses_writes() {
        let health = Health::new();
        let connection = health.connection();
        connection.set_down(&answer("READONLY You can't write. script: 0a1b, on @user_script:19."));
        let why = health.outage().unwrap();
        assert_eq!(why, "Redis refuses writes: READONLY You can't write.");
    }

    #[test]
    fn server_without_commands_is_unsuitable() {
        let health = Health::new();
        let connection = health.connection();
        connection.set_down(&timed_out());
        connection.set_down(&answer("ERR unknown command 'HELLO'"));
        assert_eq!(health.state.borrow().logged, [HealthState::Down, HealthState::Unsuitable]);
        assert!(!health.is_ready());
    }
}
