//! What one process of Redis holds: data, channels, clients. All that a script can reach.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::keyspace::{Arguments, Keyspace, Outcome, number};
use super::resp::Reply;

/// The clock at the beginning, in microseconds: in the year 2023.
const EPOCH: u64 = 1_700_000_000_000_000;

#[derive(Debug)]
pub(super) struct State {
    pub(super) keyspace: Keyspace,
    /// The number of the process.
    pub(super) run: u64,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) connections: u64,
    began: Instant,
    /// By how much the clock was set forward, in microseconds.
    pub(super) shift: i64,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) answers: UnboundedSender<Vec<u8>>,
    pub(super) channels: BTreeSet<Vec<u8>>,
    pub(super) reader: AbortHandle,
}

impl Client {
    pub(super) fn send(&self, reply: &Reply) {
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        // A client that has disconnected needs none.
        let _ = self.answers.send(bytes);
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            keyspace: Keyspace::default(),
            run: 1,
            clients: BTreeMap::new(),
            connections: 0,
            began: Instant::now(),
            shift: 0,
        }
    }

    /// Sets the clock of the data, which stands still within a script.
    pub(super) fn tick(&mut self) {
        let elapsed = self.began.elapsed().as_micros() as u64;
        self.keyspace.now = (EPOCH + elapsed).saturating_add_signed(self.shift);
    }

    /// Ends a connection.
    pub(super) fn disconnect(&mut self, client: u64) -> bool {
        let client = self.clients.remove(&client);
        client.map(|client| client.reader.abort()).is_some()
    }

    /// Carries out a command that scripts may use, too.
    pub(super) fn execute(&mut self, arguments: Arguments<'_>) -> Reply {
        self.try_execute(arguments).unwrap_or_else(|error| error)
    }

    fn try_execute(&mut self, arguments: Arguments<'_>) -> Outcome {
        let name = String::from_utf8_lossy(&arguments[0]).to_ascii_uppercase();
        let keys = &mut self.keyspace;
        let a = |n: usize| {
            let wrong =
                || format!("ERR wrong number of arguments for '{}' command", name.to_lowercase());
            arguments.get(n).map(Vec::as_slice).ok_or_else(|| Reply::Error(wrong()))
        };
        let rest = |n: usize| a(n).map(|_| &arguments[n..]);
        match &*name {
            "PUBLISH" => Ok(self.publish(a(1)?, a(2)?)),
            "INFO" => Ok(self.info()),
            "TIME" => Ok(Reply::bulks(
                [keys.now / 1_000_000, keys.now % 1_000_000].map(|n| n.to_string()),
            )),
            "DEL" => Ok(keys.del(rest(1)?)),
            "EXISTS" => Ok(keys.exists(rest(1)?)),
            "KEYS" => Ok(keys.keys()),
            "FLUSHALL" => {
                keys.clear();
                Ok(Reply::ok())
            }
            "EXPIRE" => Ok(keys.expire_in(a(1)?, number(a(2)?)?.saturating_mul(1000))),
            "PEXPIRE" => Ok(keys.expire_in(a(1)?, number(a(2)?)?)),
            "PERSIST" => Ok(keys.persist(a(1)?)),
            "PTTL" => Ok(Reply::Int(keys.lifetime(a(1)?))),
            "TTL" => {
                let left = keys.lifetime(a(1)?);
                Ok(Reply::Int(if left < 0 { left } else { (left + 500) / 1000 }))
            }
            "GET" => keys.get_text(a(1)?),
            "SET" => a(2).and_then(|_| keys.set_text(arguments)),
            "HGET" => keys.hget(a(1)?, a(2)?),
            "HMGET" => keys.hmget(a(1)?, rest(2)?),
            "HGETALL" => keys.hgetall(a(1)?),
            "HEXISTS" => keys.hexists(a(1)?, a(2)?),
            "HLEN" => keys.hlen(a(1)?),
            "HSET" => a(3).and_then(|_| keys.hset(a(1)?, rest(2)?)),
            "HDEL" => keys.hdel(a(1)?, rest(2)?),
            "HSCAN" => a(2).and_then(|_| keys.hscan(arguments)),
            "SADD" => keys.sadd(a(1)?, rest(2)?),
            "SREM" => keys.srem(a(1)?, rest(2)?),
            "SISMEMBER" => keys.sismember(a(1)?, a(2)?),
            "SMEMBERS" => keys.smembers(a(1)?),
            "SRANDMEMBER" => keys.srandmember(a(1)?, arguments.get(2)),
            "ZADD" => a(3).and_then(|_| keys.zadd(arguments)),
            "ZCARD" => keys.zcard(a(1)?),
            "ZSCORE" => keys.zscore(a(1)?, a(2)?),
            "ZREM" => keys.zrem(a(1)?, rest(2)?),
            "ZRANGE" => keys.zrange(a(1)?),
            "ZRANGEBYSCORE" => a(3).and_then(|_| keys.zrangebyscore(arguments)),
            "XADD" => a(4).and_then(|_| keys.xadd(arguments)),
            "XLEN" => keys.xlen(a(1)?),
            "XRANGE" => a(3).and_then(|_| keys.xrange(arguments, false)),
            "XREVRANGE" => a(3).and_then(|_| keys.xrange(arguments, true)),
            _ => Err(Reply::Error(format!("ERR unknown command '{name}'"))),
        }
    }

    fn publish(&self, channel: &[u8], payload: &[u8]) -> Reply {
        let message = [&b"message"[..], channel, payload].map(Reply::bulk);
        let message = Reply::Push(message.to_vec());
        let subscribed = self.clients.values().filter(|client| client.channels.contains(channel));
        Reply::Int(subscribed.map(|client| client.send(&message)).count() as i64)
    }

    /// `INFO`: what the broker reads of it, and the sections in one.
    fn info(&self) -> Reply {
        Reply::bulk(format!(
            "redis_version:7.2.0\r\nredis_mode:standalone\r\nrun_id:{:040x}\r\nused_memory:1\r\n\
             maxmemory:0\r\nmaxmemory_policy:noeviction\r\n",
            self.run
        ))
    }
}
