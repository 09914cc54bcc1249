//! What one process of Redis holds: data, channels, clients. All that a script can reach.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::keyspace::{Arguments, Keyspace, List, Outcome, number};
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
        let wrong_number = || {
            let name = name.to_lowercase();
            Reply::Error(format!("ERR wrong number of arguments for '{name}' command"))
        };
        let a = |n: usize| arguments.get(n).map(Vec::as_slice).ok_or_else(wrong_number);
        let rest = |n: usize| a(n).map(|_| &arguments[n..]);
        // The last argument that a command takes.
        let last_or_none = |n: usize| match arguments.get(n + 1) {
            Some(_) => Err(wrong_number()),
            None => Ok(arguments.get(n).map(Vec::as_slice)),
        };
        let last = |n: usize| last_or_none(n)?.ok_or_else(wrong_number);
        match &*name {
            "PUBLISH" => Ok(self.publish(a(1)?, last(2)?)),
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
            "PERSIST" => Ok(keys.persist(last(1)?)),
            "PTTL" => Ok(Reply::Int(keys.lifetime(last(1)?))),
            "TTL" => {
                let left = keys.lifetime(last(1)?);
                Ok(Reply::Int(if left < 0 { left } else { (left + 500) / 1000 }))
            }
            "GET" => keys.get_text(last(1)?),
            "SET" => a(2).and_then(|_| keys.set_text(arguments)),
            "HGET" => keys.hget(a(1)?, last(2)?),
            "HMGET" => keys.hmget(a(1)?, rest(2)?),
            "HGETALL" => keys.hgetall(last(1)?),
            "HEXISTS" => keys.hexists(a(1)?, last(2)?),
            "HLEN" => keys.hlen(last(1)?),
            "HSET" => a(3).and_then(|_| keys.hset(a(1)?, rest(2)?)),
            "HDEL" => keys.hdel(a(1)?, rest(2)?),
            "HSCAN" => a(2).and_then(|_| keys.hscan(arguments)),
            "SADD" => keys.sadd(a(1)?, rest(2)?),
            "SREM" => keys.srem(a(1)?, rest(2)?),
            "SISMEMBER" => keys.sismember(a(1)?, last(2)?),
            "SMEMBERS" => keys.smembers(last(1)?),
            "SRANDMEMBER" => keys.srandmember(a(1)?, arguments.get(2)),
            "ZADD" => a(3).and_then(|_| keys.zadd(arguments)),
            "ZCARD" => keys.zcard(last(1)?),
            "ZSCORE" => keys.zscore(a(1)?, last(2)?),
            "ZREM" => keys.zrem(a(1)?, rest(2)?),
            "ZRANGE" => keys.zrange(a(1)?),
            "ZRANGEBYLEX" => a(3).and_then(|_| keys.zrangebylex(arguments)),
            "ZRANGEBYSCORE" => a(3).and_then(|_| keys.zrangebyscore(arguments)),
            "LPUSH" => keys.push(a(1)?, rest(2)?, List::push_front),
            "RPUSH" => keys.push(a(1)?, rest(2)?, List::push_back),
            "LPOP" => keys.pop(a(1)?, last_or_none(2)?, List::pop_front),
            "RPOP" => keys.pop(a(1)?, last_or_none(2)?, List::pop_back),
            "LLEN" => keys.llen(last(1)?),
            "LINDEX" => keys.lindex(a(1)?, last(2)?),
            "LSET" => keys.lset(a(1)?, a(2)?, last(3)?),
            "LRANGE" => keys.lrange(a(1)?, a(2)?, last(3)?),
            "LTRIM" => keys.ltrim(a(1)?, a(2)?, last(3)?),
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
