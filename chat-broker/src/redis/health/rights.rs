//! One of each command that the broker needs, in a form that leaves nothing behind.
//!
//! A right that is missing stops one thing while all others go on: without `SADD` no user is ever
//! announced, without `LRANGE` no history is read. So each probe of a publishing connection
//! tries them all. Redis checks the right before anything else, in a script as outside of it, and
//! any other answer than `NOPERM` shows that it is there: a full Redis refuses `SADD` as well. A
//! command that was renamed, or that a proxy does not know, is missing, too.
//!
//! `HSET`, `HDEL`, `SADD`, `SREM`, `LPUSH`, `RPUSH`, `RPOP` and `LTRIM` have no form that changes
//! nothing: they are eight small writes a second for each publishing connection, which Redis appends to its AOF and sends to its
//! replicas.
//!
//! Not tried are `EVALSHA`, which the probe uses itself, `SUBSCRIBE` and `UNSUBSCRIBE`, which the
//! [subscriber](crate::redis::subscribe) tries, and what the broker can do without: `INFO`, `CLIENT ID`,
//! `CLIENT KILL`, `PUBSUB NUMSUB` and `ZRANGEBYLEX`. An [inspection](crate::redis::inspection) tries these as well.

use redis::Pipeline;

use crate::redis::names::Address;

/// Adds one of each to `commands`. `database` is the one that was selected.
///
/// Keys are those of `probe`, which has published before, and one that exists only between two of
/// these commands.
pub(crate) fn add_all(commands: &mut Pipeline, probe: &Address, database: i64) {
    let (log, scratch) = (probe.log(), &*probe.scratch());
    let mut add = |command: &str, arguments: &[&str]| {
        commands.cmd(command).arg(arguments);
    };
    add("HGET", &[scratch, ""]);
    add("HMGET", &[scratch, ""]);
    add("HLEN", &[scratch]);
    add("HGETALL", &[scratch]);
    add("HSCAN", &[scratch, "0"]);
    add("HSET", &[scratch, "", ""]);
    add("HDEL", &[scratch, ""]);
    add("SADD", &[scratch, ""]);
    add("SRANDMEMBER", &[scratch]);
    add("SREM", &[scratch, ""]);
    add("SISMEMBER", &[scratch, ""]);
    add("LINDEX", &[log, "0"]);
    add("LLEN", &[log]);
    add("LRANGE", &[log, "0", "0"]);
    add("LPUSH", &[scratch, ""]);
    add("RPUSH", &[scratch, ""]);
    add("RPOP", &[scratch]);
    add("LTRIM", &[scratch, "1", "0"]);
    add("ZADD", &[scratch, "XX", "0", ""]);
    add("ZCARD", &[scratch]);
    add("ZSCORE", &[scratch, ""]);
    add("ZRANGEBYSCORE", &[scratch, "0", "0"]);
    add("ZREM", &[scratch, ""]);
    add("SET", &[scratch, "", "XX"]);
    add("GET", &[scratch]);
    add("EXISTS", &[scratch]);
    // One of them deletes what is there because the right to remove it is missing.
    add("EXPIRE", &[scratch, "1"]);
    add("PEXPIRE", &[scratch, "1000"]);
    add("DEL", &[scratch]);
    add("TIME", &[]);
    add("PUBLISH", &[probe.channel(), ""]);
    add("EVAL", &["return 0", "0"]);
    add("SCRIPT", &["LOAD", "return 0"]);
    // The first commands of each connection.
    add("HELLO", &[]);
    if database != 0 {
        add("SELECT", &[&database.to_string()]);
    }
    add("PING", &[]);
}

/// Adds one of each command that the broker can do without, in a form that changes nothing.
pub(crate) fn add_optional(commands: &mut Pipeline, probe: &Address) {
    commands.cmd("INFO").arg("server").cmd("CLIENT").arg("ID");
    // No connection has this id.
    commands.cmd("CLIENT").arg("KILL").arg("ID").arg(0);
    commands.cmd("PUBSUB").arg("NUMSUB").arg(probe.channel());
    commands.cmd("ZRANGEBYLEX").arg(probe.scratch()).arg("-").arg("+");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::redis::names::Names;
    use crate::redis::scripts::Scripts;

    fn tried() -> BTreeSet<String> {
        let mut commands = Pipeline::new();
        add_all(&mut commands, &Names::new("chat", 5).probe(), 5);
        let word = |word: redis::Arg<&[u8]>| match word {
            redis::Arg::Simple(word) => String::from_utf8(word.to_vec()).unwrap(),
            _ => panic!("a cursor"),
        };
        commands.cmd_iter().map(|command| command.args_iter().next().map(word).unwrap()).collect()
    }

    #[test]
    fn every_command_of_a_script_is_tried() {
        let tried = tried();
        // What set_record.lua can do without, and what only a list of rooms needs.
        let is_needed = |command: &&str| !["INFO", "ZRANGEBYLEX"].contains(command);
        for script in Scripts::new().all() {
            let calls = ["call('", "try('"].map(|call| script.text().split(call).skip(1));
            for call in calls.into_iter().flatten() {
                let command = call.split('\'').next().unwrap();
                let is_tried = tried.contains(command) || !is_needed(&command);
                assert!(is_tried, "{command} of {}", script.file());
            }
        }
    }

    #[test]
    fn every_command_that_is_tried_is_documented() {
        let page = include_str!("../../../../docs/redis.md");
        let (_, line) = page.split_once("\nACL SETUSER ").unwrap();
        let documented: BTreeSet<&str> = line.lines().next().unwrap().split(" +").skip(1).collect();
        for command in tried() {
            let name = match &*command {
                "SCRIPT" => "script|load".to_owned(),
                name => name.to_ascii_lowercase(),
            };
            assert!(documented.contains(&*name), "{name}");
        }
    }
}
