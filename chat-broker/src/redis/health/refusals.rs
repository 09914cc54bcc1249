//! Commands that Redis answered with an error, by command and cause: counted, and in the log once a
//! minute, or once if the broker does without the command.
//!
//! Both labels are of fixed lists, so the table is bounded whatever Redis answers. A call of a
//! script counts under the script's file name, and the log line has the text of Redis, which since
//! Redis 7 names the command inside the script.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use redis::{Cmd, Pipeline, RedisError, RedisResult, ServerError, Value};
use tokio::time::Instant;

use crate::redis::error;
use crate::redis::scripts::Scripts;
use crate::stats::CommandRefusals;

/// How often the log names one command and cause.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Commands that the broker can do without: docs/redis.md permits to withhold these rights, so the
/// log names a missing one once.
const OPTIONAL: &[&str] = &["CLIENT ID", "CLIENT KILL", "INFO", "PUBSUB NUMSUB"];

/// The label of a connection that Redis did not accept.
pub(crate) const CONNECT: &str = "connect";

/// The label of commands and causes that are not in the lists.
const OTHER: &str = "other";

/// Labels of commands, but for scripts.
const COMMANDS: &[&str] = &[
    "CLIENT ID",
    "CLIENT KILL",
    "DEL",
    "EVAL",
    "EXISTS",
    "EXPIRE",
    "GET",
    "HDEL",
    "HELLO",
    "HGET",
    "HGETALL",
    "HLEN",
    "HMGET",
    "HSCAN",
    "HSET",
    "INFO",
    "LINDEX",
    "LLEN",
    "LPUSH",
    "LRANGE",
    "LTRIM",
    "PEXPIRE",
    "PING",
    "PUBLISH",
    "PUBSUB NUMSUB",
    "RPOP",
    "RPUSH",
    "SADD",
    "SCRIPT LOAD",
    "SELECT",
    "SET",
    "SISMEMBER",
    "SRANDMEMBER",
    "SREM",
    "SUBSCRIBE",
    "TIME",
    "UNSUBSCRIBE",
    "ZADD",
    "ZCARD",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZREM",
    "ZSCORE",
];

/// Labels of causes: the codes of Redis' errors, and [`error::cause`]'s own.
const CAUSES: &[&str] = &[
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "DENIED",
    "ERR",
    "LOADING",
    "MASTERDOWN",
    "MAXCLIENTS",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOPERM_CHANNEL",
    "NOPERM_KEY",
    "NOPROTO",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "WRONGPASS",
    "WRONGTYPE",
];

/// What is counted from 0: Prometheus takes the first value of a series for no increase. A right that is
/// missing is refused each second, and so increases whatever its first value was.
const EXPECTED: [(&str, &str); 5] = [
    (CONNECT, "MAXCLIENTS"),
    (OTHER, "NOPERM"),
    (OTHER, "NOPERM_CHANNEL"),
    (OTHER, "NOPERM_KEY"),
    ("publish.lua", "OOM"),
];

#[derive(Debug)]
pub(crate) struct Refusals {
    table: Mutex<BTreeMap<(&'static str, &'static str), Entry>>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { table: Mutex::new(EXPECTED.map(|labels| (labels, Entry::default())).into()) }
    }
}

#[derive(Debug, Default)]
struct Entry {
    count: u64,
    logged: Option<Instant>,
    /// How many are not in the log yet.
    unlogged: u64,
}

impl Refusals {
    /// Counts an error that Redis answered. A script that Redis does not know is none: it is
    /// stored, and called again.
    pub(crate) fn count(&self, command: &'static str, error: &ServerError) {
        if error.code() == "NOSCRIPT" {
            return;
        }
        let cause = label(CAUSES, error::cause(error));
        let interval = log_interval(command, cause);
        let due = self.table().entry((command, cause)).or_default().add(interval);
        if let Some(refusals) = due {
            let answer = error.details().unwrap_or_default();
            tracing::warn!(command, cause, answer, refusals, "redis refused a command");
        }
    }

    /// As [`count`](Self::count), for the outcome of one command. Errors that are not an answer of
    /// Redis do not count.
    pub(crate) fn count_error<T>(&self, command: &'static str, outcome: &RedisResult<T>) {
        let errors = outcome.as_ref().err().and_then(server_errors);
        for (_, error) in errors.iter().flat_map(|errors| errors.iter()) {
            self.count(command, error);
        }
    }

    /// As [`count`](Self::count), for the error of a pipeline.
    pub(crate) fn count_pipeline<T>(
        &self,
        commands: &Pipeline,
        outcome: &RedisResult<T>,
        scripts: &Scripts,
    ) {
        let errors = outcome.as_ref().err().and_then(server_errors);
        for (n, error) in errors.iter().flat_map(|errors| errors.iter()) {
            let command = commands.cmd_iter().nth(*n);
            self.count(command.map_or(OTHER, |command| name(command, scripts)), error);
        }
    }

    /// As [`count`](Self::count), for the answers to a pipeline, which are in its order. A script may
    /// answer with a list, in which some are errors.
    pub(crate) fn count_replies(&self, commands: &Pipeline, replies: &[Value], scripts: &Scripts) {
        for (command, reply) in commands.cmd_iter().zip(replies) {
            let parts = match reply {
                Value::Array(parts) => parts,
                one => slice::from_ref(one),
            };
            for part in parts {
                if let Value::ServerError(error) = part {
                    self.count(name(command, scripts), error);
                }
            }
        }
    }

    /// Since the start, in the order of their labels.
    pub(crate) fn snapshot(&self) -> Vec<CommandRefusals> {
        let table = self.table();
        let entry = |(&(command, cause), entry): (&_, &Entry)| CommandRefusals {
            command,
            cause,
            count: entry.count,
        };
        table.iter().map(entry).collect()
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<(&'static str, &'static str), Entry>> {
        self.table.lock()
    }
}

impl Entry {
    /// Counts one. If a log line is due, `interval` after the last, returns how many refusals it
    /// covers.
    fn add(&mut self, interval: Duration) -> Option<u64> {
        self.count += 1;
        self.unlogged += 1;
        let now = Instant::now();
        let is_due = self.logged.is_none_or(|logged| now - logged >= interval);
        is_due.then(|| {
            self.logged = Some(now);
            std::mem::take(&mut self.unlogged)
        })
    }
}

/// How often the log names this command and cause.
fn log_interval(command: &str, cause: &str) -> Duration {
    let is_optional = cause == "NOPERM" && OPTIONAL.contains(&command);
    if is_optional { Duration::MAX } else { LOG_INTERVAL }
}

fn server_errors(error: &RedisError) -> Option<Arc<[(usize, ServerError)]>> {
    error.clone().into_server_errors()
}

/// The label of a command: its name, with that of a subcommand, or the file name of a script.
pub(crate) fn name(command: &Cmd, scripts: &Scripts) -> &'static str {
    let word = |n| match command.args_iter().nth(n) {
        Some(redis::Arg::Simple(word)) => std::str::from_utf8(word).unwrap_or_default(),
        _ => "",
    };
    let (first, second) = (word(0), word(1));
    match first {
        "EVAL" | "EVALSHA" => scripts.file_of(second).unwrap_or("EVAL"),
        "CLIENT" | "PUBSUB" | "SCRIPT" => label(COMMANDS, &[first, second].join(" ")),
        _ => label(COMMANDS, first),
    }
}

fn label(labels: &[&'static str], text: &str) -> &'static str {
    labels.iter().find(|label| **label == text).unwrap_or(&OTHER)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn error(answer: &str) -> ServerError {
        match redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap() {
            Value::ServerError(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn counted(refusals: &Refusals) -> Vec<(&'static str, &'static str, u64)> {
        let all = refusals.snapshot();
        let refused = all.iter().filter(|each| each.count > 0);
        refused.map(|each| (each.command, each.cause, each.count)).collect()
    }

    #[test]
    fn refusals_are_counted_by_command() {
        let (refusals, scripts) = (Refusals::default(), Scripts::new());
        let mut commands = Pipeline::new();
        commands.cmd("PUBLISH").arg("a").arg("b");
        scripts.publish.call(&mut commands, &["key"]);
        commands.cmd("CLIENT").arg("KILL").arg("ID").arg(7).cmd("FLUSHALL");
        let replies = [
            Value::ServerError(error("NOPERM this user has no permissions to run 'publish'")),
            Value::Array(vec![
                Value::BulkString(Vec::new()),
                Value::ServerError(error("OOM command not allowed")),
            ]),
            Value::Int(1),
            Value::ServerError(error("SPLENDID no such code")),
        ];
        refusals.count_replies(&commands, &replies, &scripts);
        refusals.count_replies(&commands, &replies[..1], &scripts);
        let expected = [("PUBLISH", "NOPERM", 2), ("other", "other", 1), ("publish.lua", "OOM", 1)];
        assert_eq!(counted(&refusals), expected);
    }

    #[test]
    fn refusals_that_alarms_are_about_begin_at_zero() {
        let all = Refusals::default().snapshot();
        let causes: Vec<_> = all.iter().map(|each| (each.cause, each.count)).collect();
        let expected = ["MAXCLIENTS", "NOPERM", "NOPERM_CHANNEL", "NOPERM_KEY", "OOM"];
        assert_eq!(causes, expected.map(|cause| (cause, 0)));
    }

    #[test]
    fn errors_in_the_list_of_a_script_count_one_by_one() {
        let (refusals, scripts) = (Refusals::default(), Scripts::new());
        let mut commands = Pipeline::new();
        scripts.enter.call(&mut commands, &["key"]);
        let denied = || Value::ServerError(error("NOPERM no permissions to run 'sadd'"));
        let damaged = Value::ServerError(error("WRONGTYPE Operation against a key"));
        let reply = Value::Array(vec![Value::Int(1), denied(), damaged, denied()]);
        refusals.count_replies(&commands, &[reply], &scripts);
        let expected = [("enter.lua", "NOPERM", 2), ("enter.lua", "WRONGTYPE", 1)];
        assert_eq!(counted(&refusals), expected);
    }

    #[test]
    fn unknown_scripts_and_broken_connections_are_no_refusals() {
        let refusals = Refusals::default();
        refusals.count("publish.lua", &error("NOSCRIPT No matching script"));
        let broken = RedisError::from(std::io::Error::other("gone"));
        refusals.count_error::<()>(CONNECT, &Err(broken));
        assert_eq!(counted(&refusals), []);
    }

    #[tokio::test(start_paused = true)]
    async fn log_has_a_line_a_minute_for_each_command_and_cause() {
        let mut entry = Entry::default();
        let mut add = || entry.add(LOG_INTERVAL);
        assert_eq!([add(), add(), add()], [Some(1), None, None]);
        advance(LOG_INTERVAL - Duration::from_millis(1)).await;
        assert_eq!(add(), None);
        advance(Duration::from_millis(1)).await;
        assert_eq!([add(), add()], [Some(4), None], "three and this one");
        assert_eq!(entry.count, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn log_names_missing_optional_right_once() {
        for command in OPTIONAL {
            assert_eq!(log_interval(command, "NOPERM"), Duration::MAX, "{command}");
            assert_eq!(log_interval(command, "ERR"), LOG_INTERVAL, "{command}");
        }
        assert_eq!(log_interval("SADD", "NOPERM"), LOG_INTERVAL);
        let mut entry = Entry::default();
        assert_eq!(entry.add(Duration::MAX), Some(1));
        advance(LOG_INTERVAL * 1000).await;
        assert_eq!(entry.add(Duration::MAX), None);
    }
}
