//! The simulated Redis answers as the real one does.

use std::time::Duration;

use chat_broker::testing::RedisServer;

use crate::simulation::redis::Redis;
use crate::simulation::rng::Rng;

const SEQUENCES: u64 = 6;
const COMMANDS: usize = 150;

/// Random commands, on few keys and of few values, so that they meet; all kinds of values, so that
/// some are refused. What has no order in Redis is sorted.
#[tokio::test]
async fn simulated_redis_answers_as_redis() {
    let server = RedisServer::start();
    for seed in 0..SEQUENCES {
        let (mut rng, simulated) = (Rng::new(seed), Redis::start());
        server.command(&["FLUSHALL"]).await;
        for nth in 0..COMMANDS {
            let command = command(&mut rng);
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let told = |answer: String| in_order(&command[0], answer);
            let (expected, answer) =
                (told(server.command(&words).await), told(simulated.command(&words)));
            assert_eq!(answer, expected, "seed {seed}, the {nth}th: {command:?}");
        }
    }
}

#[tokio::test]
async fn scripts_answer_as_in_redis() {
    let (server, simulated) = (RedisServer::start(), Redis::start());
    for script in [
        "return { 1, 2.9, 'x', true, false, 3 }",
        "return { 1, nil, 3 }",
        "return { ok = 'fine' }",
        "return { err = 'NO thanks' }",
        "return redis.call('SET', KEYS[1], ARGV[1])",
        "return redis.call('GET', KEYS[1])",
        "return redis.call('GET', 'none') == false",
        "return redis.pcall('SADD', KEYS[1], 'x').err",
        "return redis.call('HSET', 'h', 'n', 1700000000000001, 'm', 0.5, 'x', 2 ^ 53)",
        "return redis.call('HMGET', 'h', 'n', 'm', 'x', 'none')",
        "return #redis.call('HGETALL', 'h')",
        "redis.call('ZADD', 'z', 1, 'a', '+inf', 'b') return redis.call('ZSCORE', 'z', 'b')",
        "return redis.call('ZRANGEBYSCORE', 'z', '-inf', '+inf', 'WITHSCORES')",
        "redis.call('XADD', 's', '5', 'd', 'x') return redis.call('XRANGE', 's', '5', '5')",
        "return type(redis.call('TIME')[1])",
        "return struct.pack('>I8I4I2', 1700000000000001, 70000, 513)",
        "return string.format('%d', 2 ^ 53) .. ':' .. 7",
    ] {
        let command = ["EVAL", script, "1", "key", "value"];
        assert_eq!(simulated.command(&command), server.command(&command).await, "{script}");
    }
}

#[tokio::test(start_paused = true)]
async fn keys_expire_by_the_clock_of_the_runtime() {
    let redis = Redis::start();
    redis.command(&["SET", "k", "v", "PX", "1000"]);
    tokio::time::sleep(Duration::from_millis(999)).await;
    assert_eq!(redis.command(&["PTTL", "k"]), "1");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(redis.command(&["EXISTS", "k"]), "0");
}

fn command(rng: &mut Rng) -> Vec<String> {
    let kind = rng.choose(&["t", "h", "s", "z", "x"]);
    // Now and then a key of another kind.
    let key = |rng: &mut Rng| format!("{}{}", if rng.chance(5) { "h" } else { kind }, rng.below(2));
    let key = key(rng);
    let name = |rng: &mut Rng| rng.choose(&["", "a", "b", "c", "d"]).to_owned();
    let number =
        |rng: &mut Rng| rng.choose(&["-inf", "-1", "0", "1", "2", "(1", "+inf"]).to_owned();
    let id = |rng: &mut Rng| rng.below(12).to_string();
    let count = |rng: &mut Rng| (1 + rng.below(3)).to_string();
    let fixed = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut words = match (kind, rng.below(8)) {
        (_, 0) => fixed(&[rng.choose(&["DEL", "EXISTS", "TTL", "PERSIST"]), &key]),
        (_, 1) => fixed(&["EXPIRE", &key, rng.choose(&["100", "-1"])]),
        ("t", 2 | 3) => fixed(&["GET", &key]),
        ("t", _) => fixed(&["SET", &key, &name(rng)]),
        ("h", 2) => fixed(&["HGET", &key, &name(rng)]),
        ("h", 3) => fixed(&["HMGET", &key, &name(rng), &name(rng)]),
        ("h", 4) => fixed(&[rng.choose(&["HLEN", "HGETALL"]), &key]),
        ("h", 5) => fixed(&[rng.choose(&["HDEL", "HEXISTS"]), &key, &name(rng)]),
        ("h", _) => fixed(&["HSET", &key, &name(rng), &name(rng), &name(rng), "x"]),
        ("s", 2) => fixed(&["SISMEMBER", &key, &name(rng)]),
        ("s", 3) => fixed(&["SMEMBERS", &key]),
        ("s", 4) => fixed(&["SRANDMEMBER", &key, "9"]),
        ("s", 5) => fixed(&["SREM", &key, &name(rng), &name(rng)]),
        ("s", _) => fixed(&["SADD", &key, &name(rng), &name(rng)]),
        ("z", 2) => fixed(&["ZSCORE", &key, &name(rng)]),
        ("z", 3) => fixed(&[rng.choose(&["ZCARD", "ZRANGE"]), &key]),
        ("z", 4) => {
            let range = fixed(&["ZRANGEBYSCORE", &key, &number(rng), &number(rng)]);
            [range, fixed(rng.choose(&[&[], &["WITHSCORES"], &["LIMIT", "1", "2"]]))].concat()
        }
        ("z", 5) => fixed(&["ZREM", &key, &name(rng)]),
        ("z", 6) => fixed(&["ZADD", &key, rng.choose(&["NX", "XX"]), "2", &name(rng)]),
        ("z", _) => fixed(&["ZADD", &key, rng.choose(&["-1", "0", "1.5", "+inf"]), &name(rng)]),
        (_, 2) => fixed(&["XLEN", &key]),
        (_, 3) => fixed(&["XRANGE", &key, &id(rng), &id(rng), "COUNT", &count(rng)]),
        (_, 4) => fixed(&["XREVRANGE", &key, "+", &id(rng)]),
        (_, 5) => fixed(&["XADD", &key, "NOMKSTREAM", &id(rng), "d", &name(rng)]),
        _ => fixed(&["XADD", &key, "MAXLEN", &count(rng), &id(rng), "d", &name(rng)]),
    };
    if words[0] == "ZRANGE" {
        words.extend(fixed(&["0", "-1"]));
    }
    words
}

/// Sets and hashes have no order.
fn in_order(command: &str, answer: String) -> String {
    let mut lines: Vec<&str> = answer.split('\n').collect();
    match command {
        "SMEMBERS" | "SRANDMEMBER" => lines.sort_unstable(),
        "HGETALL" => {
            let mut pairs: Vec<_> = lines.chunks(2).collect();
            pairs.sort_unstable();
            lines = pairs.concat();
        }
        _ => {}
    }
    lines.join("\n")
}
