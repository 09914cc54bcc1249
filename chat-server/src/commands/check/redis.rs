//! Whether Redis can be used, and is set up as docs/redis.md asks.

use chat_broker::{RedisConfig, RedisInspection};

use super::super::mib;
use super::report::Report;

/// A clock that is further off than this makes times in the log and in messages differ.
const MAX_CLOCK_MS: u64 = 1000;

/// Above this a message takes noticeably longer than within one data centre.
const MAX_LATENCY_MS: u128 = 10;

/// Percent of `maxmemory` above which the server warns, too.
const MUCH_MEMORY: u64 = 80;

pub(super) async fn check(report: &mut Report, config: &RedisConfig) {
    let address = config.address();
    let found = match config.inspect().await {
        Ok(found) => found,
        Err(error) => return report.fail("redis", format!("{address}: {error}")),
    };
    let version = found.version.as_deref().unwrap_or("of an unknown version (no right to INFO)");
    report.ok("redis", format!("{address}: Redis {version}"));
    check_writes(report, &found);
    check_rights(report, &found);
    check_eviction(report, &found);
    check_memory(report, &found);
    check_persistence(report, &found);
    check_times(report, &found);
    match &found.delivery {
        Ok(time) => report.ok("redis pub/sub", format!("a message there and back in {time:.1?}")),
        Err(error) => report.fail("redis pub/sub", format!("a message did not arrive: {error}")),
    }
}

fn check_writes(report: &mut Report, found: &RedisInspection) {
    const CHECK: &str = "redis writes";
    match (&found.refusal, found.role.as_deref()) {
        (_, Some("slave")) => {
            report.fail(CHECK, "this is a replica: name the primary in redis-url");
        }
        (Some(error), _) => report.fail(CHECK, error.to_string()),
        (None, _) if found.is_full => {
            report
                .fail(CHECK, "Redis is full, rooms with history refuse messages: raise maxmemory");
        }
        (None, role) => report.ok(CHECK, format!("accepted; role {}", role.unwrap_or("unknown"))),
    }
}

fn check_rights(report: &mut Report, found: &RedisInspection) {
    const CHECK: &str = "redis rights";
    let (missing, optional) = (&found.missing_rights, &found.missing_optional_rights);
    if !found.missing_names.is_empty() {
        let names = found.missing_names.join(" and ");
        let why = "this user may use others than those of redis-prefix and the database";
        report.fail(CHECK, format!("{names}: {why}; set the ACL of docs/redis.md#rights"));
    } else if !missing.is_empty() {
        let missing = missing.join(", ");
        report.fail(CHECK, format!("missing: {missing}; set the ACL of docs/redis.md#rights"));
    } else if !optional.is_empty() {
        let optional = optional.join(", ");
        report.warn(CHECK, format!("missing, not needed to serve: {optional}; see docs/redis.md"));
    } else {
        report.ok(CHECK, "all commands are permitted");
    }
}

fn check_eviction(report: &mut Report, found: &RedisInspection) {
    const CHECK: &str = "redis eviction";
    match found.eviction.as_deref() {
        Some("noeviction") => report.ok(CHECK, "noeviction"),
        Some(policy) => report.warn(
            CHECK,
            format!("{policy}: a full Redis deletes data; set maxmemory-policy to noeviction"),
        ),
        None => report.warn(CHECK, "unknown: permit INFO"),
    }
}

fn check_memory(report: &mut Report, found: &RedisInspection) {
    const CHECK: &str = "redis memory";
    match (found.memory_used, found.memory_max) {
        (Some(used), Some(0)) => {
            let used = mib(used);
            report.warn(
                CHECK,
                format!("{used} used, no limit: set maxmemory below that of the machine"),
            );
        }
        (Some(used), Some(max)) => {
            let detail = format!("{} of {} used", mib(used), mib(max));
            if used / MUCH_MEMORY > max / 100 {
                report.warn(CHECK, format!("{detail}: raise maxmemory, or lower --history"));
            } else {
                report.ok(CHECK, detail);
            }
        }
        _ => report.warn(CHECK, "unknown: permit INFO"),
    }
}

fn check_persistence(report: &mut Report, found: &RedisInspection) {
    const CHECK: &str = "redis persistence";
    match (found.save_failed, found.append_only) {
        (Some(true), _) => {
            report.fail(CHECK, "the latest save failed: see the log of Redis, and its disk");
        }
        (_, Some(true)) => report.ok(CHECK, "appendonly is on"),
        (_, Some(false)) if found.snapshots == Some(0) => report.warn(
            CHECK,
            "appendonly is off, and this process of Redis has written no snapshot: a restart of Redis \
             loses what it holds; set appendonly to yes",
        ),
        (_, Some(false)) => report.ok(
            CHECK,
            "appendonly is off: a restart of Redis loses histories since its latest snapshot",
        ),
        (_, None) => report.warn(CHECK, "unknown: permit INFO"),
    }
}

fn check_times(report: &mut Report, found: &RedisInspection) {
    let latency = format!("{:.1?} for a round trip", found.latency);
    if found.latency.as_millis() > MAX_LATENCY_MS {
        report.warn("redis latency", format!("{latency}: place servers and Redis near each other"));
    } else {
        report.ok("redis latency", latency);
    }
    check_clock(report, found.clock_ahead_ms);
}

fn check_clock(report: &mut Report, ahead: Option<i64>) {
    const CHECK: &str = "redis clock";
    let Some(ahead) = ahead else { return report.warn(CHECK, "unknown: permit TIME") };
    let off = ahead.unsigned_abs();
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    let detail = format!("{off} ms {side} the clock of this machine");
    if off > MAX_CLOCK_MS {
        report.warn(CHECK, format!("{detail}: synchronize both (NTP)"));
    } else {
        report.ok(CHECK, detail);
    }
}
