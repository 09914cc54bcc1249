//! Whether a Redis can be used, and how it is set up: found out once, for an operator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Pipeline, RedisError, RedisResult, Value, from_redis_value};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::config::RedisConfig;
use super::connection::probe::{Probe, Writes};
use super::connection::server_identity::ServerIdentity;
use super::connection::{Link, RESPONSE_TIMEOUT};
use super::error::{broker_error, cause, is_missing_right, timed_out};
use super::health::capacity::{Memory, info_field};
use super::health::refusals;
use super::health::rights;
use super::names::Address;
use super::shared::Shared;
use crate::error::BrokerError;

/// Round trips of which the median is the latency.
const PINGS: usize = 5;

/// What [`RedisConfig::inspect`] found out. Fields that Redis does not reveal are `None`: mostly for
/// lack of the right to `INFO`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RedisInspection {
    /// The version of Redis, or the one that Valkey is compatible with.
    pub version: Option<String>,
    /// `master`, or `slave` for a replica, which takes no writes.
    pub role: Option<String>,
    /// `maxmemory-policy`.
    pub eviction: Option<String>,
    /// `used_memory`, in bytes.
    pub memory_used: Option<u64>,
    /// `maxmemory`, in bytes; 0: no limit.
    pub memory_max: Option<u64>,
    /// Whether `appendonly` is on.
    pub append_only: Option<bool>,
    /// Snapshots that this process of Redis has written; `None` also before Redis 7.
    pub snapshots: Option<u64>,
    /// Whether the latest save to the disk failed.
    pub save_failed: Option<bool>,
    /// Whether Redis refuses to keep messages for lack of memory.
    pub is_full: bool,
    /// Why else Redis refuses to keep a message; `None` if it does not.
    pub refusal: Option<BrokerError>,
    /// `keys`, `channels` or both, if the user may not use those of the broker's prefix, whatever the
    /// command.
    pub missing_names: Vec<&'static str>,
    /// The commands that the broker needs and may not use, by the names in `docs/redis.md`.
    pub missing_rights: Vec<&'static str>,
    /// Those of these that it can do without.
    pub missing_optional_rights: Vec<&'static str>,
    /// The median of five round trips.
    pub latency: Duration,
    /// How far the clock of Redis is ahead of this machine's, in milliseconds; negative if it is
    /// behind. `None` without the right to `TIME`.
    pub clock_ahead_ms: Option<i64>,
    /// How long a message took from one connection to another through Pub/Sub; or why it did not
    /// arrive within 2 s.
    pub delivery: Result<Duration, BrokerError>,
}

impl RedisConfig {
    /// Connects to Redis, and finds out whether a broker can use it and how it is set up. It leaves
    /// a key that Redis deletes within 11 s, and the broker's scripts in the script cache of Redis,
    /// where each server of the same version loads them too.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), chat_broker::BrokerError> {
    /// let found = chat_broker::RedisConfig::new("redis://10.0.0.5:6379").inspect().await?;
    /// assert!(found.missing_rights.is_empty(), "{:?}", found.missing_rights);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BrokerError::Config`] if a setting is invalid; else Redis cannot be reached, accepts no
    /// connection, or is a Redis Cluster or a Sentinel.
    ///
    /// # Panics
    /// Outside of a Tokio runtime with I/O and time.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped closes its connections.
    pub async fn inspect(&self) -> Result<RedisInspection, BrokerError> {
        let shared = Arc::new(Shared::new(self.clone())?);
        inspect(&shared).await.map_err(broker_error)
    }
}

async fn inspect(shared: &Arc<Shared>) -> RedisResult<RedisInspection> {
    let mut link = Link::open(shared, drop).await?;
    ServerIdentity::of(&mut link).await?.check()?;
    let info = info(&mut link).await?;
    let latency = latency(&mut link).await?;
    let clock_ahead_ms = clock_ahead_ms(&mut link).await?;
    let refusal = refusal(&mut link, shared).await;
    let probe = shared.names.probe();
    let mut needed = Pipeline::new();
    rights::add_all(&mut needed, &probe, shared.database());
    let mut optional = Pipeline::new();
    rights::add_optional(&mut optional, &probe);
    let needed = missing(&mut link, shared, needed).await?;
    let optional = missing(&mut link, shared, optional).await?;
    let missing_names: BTreeSet<_> = needed.names.union(&optional.names).copied().collect();
    let field = |name| info_field(&info, name).map(str::to_owned);
    let memory = field("used_memory:").map(|_| Memory::parse(&info));
    Ok(RedisInspection {
        version: field("redis_version:"),
        role: field("role:"),
        eviction: field("maxmemory_policy:"),
        memory_used: memory.map(|memory| memory.used),
        memory_max: memory.map(|memory| memory.max),
        append_only: field("aof_enabled:").map(|enabled| enabled == "1"),
        snapshots: info_field(&info, "rdb_saves:").and_then(|saves| saves.parse().ok()),
        save_failed: save_failed(&info),
        is_full: shared.capacity.is_full(),
        refusal: refusal.map(broker_error),
        missing_names: missing_names.into_iter().collect(),
        missing_rights: needed.commands,
        missing_optional_rights: optional.commands,
        latency,
        clock_ahead_ms,
        delivery: delivery(&mut link, shared, &probe).await.map_err(broker_error),
    })
}

/// All that `INFO` reveals; nothing without the right to it.
async fn info(link: &mut Link) -> RedisResult<String> {
    let mut ask = Pipeline::new();
    ask.cmd("INFO").ignore_errors();
    let reply = link.send(&ask).await?.into_iter().next();
    Ok(reply.and_then(|reply| from_redis_value(reply).ok()).unwrap_or_default())
}

fn save_failed(info: &str) -> Option<bool> {
    let fields = ["rdb_last_bgsave_status:", "aof_last_write_status:"];
    let mut found = fields.iter().filter_map(|name| info_field(info, name)).peekable();
    found.peek()?;
    Some(found.any(|status| status != "ok"))
}

async fn latency(link: &mut Link) -> RedisResult<Duration> {
    let mut times = [Duration::ZERO; PINGS];
    for time in &mut times {
        let start = Instant::now();
        link.ping().await?;
        *time = start.elapsed();
    }
    times.sort_unstable();
    Ok(times[PINGS / 2])
}

/// Redis read its clock in the middle of the round trip, as far as this server can know.
async fn clock_ahead_ms(link: &mut Link) -> RedisResult<Option<i64>> {
    let mut ask = Pipeline::new();
    ask.cmd("TIME").ignore_errors();
    let before = SystemTime::now();
    let reply = link.send(&ask).await?.into_iter().next();
    let round_trip = before.elapsed().unwrap_or_default();
    // A missing right to `TIME` is reported with the others.
    let Some(Ok((seconds, micros))) = reply.map(from_redis_value::<(i64, i64)>) else {
        return Ok(None);
    };
    let here = before + round_trip / 2;
    let here_ms = here.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let here_ms = i64::try_from(here_ms).unwrap_or(i64::MAX);
    Ok(Some(seconds * 1000 + micros / 1000 - here_ms))
}

/// Why Redis does not keep a message, other than that it is full.
async fn refusal(link: &mut Link, shared: &Shared) -> Option<RedisError> {
    // As a broker does: messages are then stored by EVALSHA. If Redis refuses to load scripts, a right
    // is missing, which is found out besides.
    let _ = link.load().await;
    match Probe::new(&shared.names).publish(link, shared).await {
        Ok(Writes::Taken) => None,
        Ok(Writes::Refused(error)) | Err(error) => Some(error),
    }
}

/// What Redis does not permit.
#[derive(Default)]
struct Missing {
    /// Also those that it does not have.
    commands: Vec<&'static str>,
    /// `keys`, `channels`.
    names: BTreeSet<&'static str>,
}

/// Tries these commands.
async fn missing(link: &mut Link, shared: &Shared, mut commands: Pipeline) -> RedisResult<Missing> {
    commands.ignore_errors();
    let replies = link.send_uncounted(&commands).await?;
    let mut missing = Missing::default();
    for (command, reply) in commands.cmd_iter().zip(&replies) {
        let Value::ServerError(error) = reply else { continue };
        match cause(error) {
            "NOPERM_KEY" => drop(missing.names.insert("keys")),
            "NOPERM_CHANNEL" => drop(missing.names.insert("channels")),
            _ if is_missing_right(reply) => {
                missing.commands.push(refusals::name(command, &shared.scripts));
            }
            _ => {}
        }
    }
    Ok(missing)
}

/// Sends a message on `link` to another connection.
async fn delivery(link: &mut Link, shared: &Arc<Shared>, probe: &Address) -> RedisResult<Duration> {
    let (arrived, mut arrivals) = mpsc::channel(1);
    let on_message = move |_: Vec<Value>| {
        let _ = arrived.try_send(Instant::now());
    };
    let mut subscriber = Link::open(shared, on_message).await?;
    // Also shows whether the broker may unsubscribe.
    subscriber.try_to_subscribe(probe.channel(), shared.names.probe().channel()).await?;
    let mut publish = Pipeline::new();
    publish.cmd("PUBLISH").arg(probe.channel()).arg("");
    let start = Instant::now();
    link.query::<Value>(&publish).await?;
    match timeout(RESPONSE_TIMEOUT, arrivals.recv()).await {
        Ok(Some(at)) => Ok(at - start),
        _ => Err(timed_out()),
    }
}
