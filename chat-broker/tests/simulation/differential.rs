//! The simulated Redis answers as the real one does.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use chat_broker::testing::RedisServer;
use redis::{Cmd, Parser, ToRedisArgs, Value};

use crate::simulation::redis::Redis;
use crate::simulation::rng::Rng;

const SEQUENCES: u64 = 6;
const COMMANDS: usize = 200;

/// Random commands, on few keys and of few values, so that they meet; all kinds of values, so that
/// some are refused. What has no order in Redis is sorted.
#[tokio::test]
async fn simulated_redis_answers_as_redis() {
    let mut pair = Pair::start();
    for seed in 0..SEQUENCES {
        let mut rng = Rng::new(seed);
        pair.clear();
        for nth in 0..COMMANDS {
            let command = command(&mut rng);
            pair.compare(&by_client_or_script(&mut rng, command), &format!("seed {seed}, {nth}"));
        }
    }
}

#[tokio::test]
async fn commands_are_refused_as_in_redis() {
    let mut pair = Pair::start();
    for line in [
        "RPUSH l a b",
        "RPUSH l",
        "LPUSH",
        "LLEN",
        "LLEN l x",
        "LINDEX l",
        "LINDEX l 0 x",
        "LINDEX none x",
        "LINDEX l +1",
        "LINDEX l 01",
        "LPOP l 1 2",
        "LPOP none -1",
        "LPOP l x",
        "LPOP none 0",
        "LSET l 0",
        "LSET l 2 x",
        "LSET l -3 x",
        "LSET none x x",
        "LRANGE l 0",
        "LRANGE none 0 x",
        "LTRIM l 0",
        "LTRIM none x 0",
        "GET",
        "GET k x",
        "PUBLISH c",
        "PUBLISH c x x",
        "SET k",
        "SET k v NX XX",
        "SET k v EX",
        "SET k v EX 1 PX 1",
        "SET k v EX 0",
        "SET k v PX -1",
        "SET k v EX x",
        "SET k v EX 9223372036854775807",
        "SET k v PX 9223372036854775807",
        "SET l v NX EX 0",
        "SET l v NX",
        "GET k",
        "SET l v XX EX 100",
        "GET l",
    ] {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        pair.compare(&words, line);
    }
}

#[tokio::test]
async fn scripts_answer_as_in_redis() {
    let mut pair = Pair::start();
    for script in [
        "return { 1, 2.9, 'x', true, false, 3 }",
        "return { 1, nil, 3 }",
        "return { ok = 'fine' }",
        "return { err = 'NO thanks' }",
        "return { 'x', { err = 'WRONGTYPE no list' }, { ok = 'fine' }, { { err = 'NO' } }, 'y' }",
        "return { err = 'NO line\\r\\nbreaks' }",
        "return redis.call('SET', KEYS[1], ARGV[1])",
        "return redis.call('GET', KEYS[1])",
        "return redis.call('GET', 'none') == false",
        "return redis.pcall('SADD', KEYS[1], 'x').err",
        "return { 'x', redis.pcall('RPUSH', KEYS[1], 'x'), redis.pcall('LRANGE', KEYS[1], 0, -1) }",
        "return redis.pcall('RPUSH', 'l', {})",
        "return redis.call('HSET', 'h', 'n', 1700000000000001, 'm', 0.5, 'x', 2 ^ 53)",
        "return redis.call('HMGET', 'h', 'n', 'm', 'x', 'none')",
        "return #redis.call('HGETALL', 'h')",
        "redis.call('ZADD', 'z', 1, 'a', '+inf', 'b') return redis.call('ZSCORE', 'z', 'b')",
        "return redis.call('ZRANGEBYSCORE', 'z', '-inf', '+inf', 'WITHSCORES')",
        "redis.call('ZADD', 'lex', 0, 'a', 0, 'ab', 0, 'b', 0, 'c') \
         return redis.call('ZRANGEBYLEX', 'lex', '[a', '(b', 'LIMIT', 0, 5)",
        "return redis.call('ZRANGEBYLEX', 'lex', '(a', '[b', 'LIMIT', 1, 1)",
        "return redis.call('ZRANGEBYLEX', 'lex', '(ab', '(c')",
        "return redis.pcall('ZRANGEBYLEX', 'lex', 'a', '(c')",
        "return { redis.call('RPUSH', 'l', 1, 'b', '\\0\\r\\n\\255'), redis.call('LINDEX', 'l', -1) }",
        "return { redis.call('LPOP', 'l', 2), redis.call('LPOP', 'none', 2), redis.call('LPOP', 'x') }",
        "return { redis.call('LSET', 'l', 0, 'x'), redis.call('LTRIM', 'l', 1, 0) }",
        "return { redis.call('EXISTS', 'l', KEYS[1]), redis.pcall('GET', 'l'), redis.call('GET', KEYS[1]) }",
        "return redis.call('SET', 'new', 'v', 'NX', 'EX', 100)",
        "return { redis.call('SET', 'new', 'v', 'NX', 'EX', 100), redis.call('TTL', 'new') }",
        "return { redis.call('SET', 'new', 'w', 'XX'), redis.call('PTTL', 'new') }",
        "return { redis.call('SET', 'none', 'w', 'XX'), redis.call('PTTL', 'none') }",
        "redis.call('SET', 'p', 'v', 'PX', 50000) \
         local left = redis.call('PTTL', 'p') return left > 40000 and left <= 50000",
        "return { redis.call('PEXPIRE', 'p', 0), redis.call('DEL', 'p', 'new'), \
         redis.call('PEXPIRE', 'p', 9) }",
        "return redis.call('PUBLISH', 'c', 'x')",
        "return type(redis.call('TIME')[1])",
        "return struct.pack('>I8I4I2', 1700000000000001, 70000, 513)",
        "return struct.pack('>I4', -1)",
        "return { struct.unpack('>I4I8I8', string.rep('x', 24), 5) }",
        "return { pcall(struct.unpack, '>I8', string.rep('x', 15), 9) == true }",
        "return { pcall(struct.unpack, '>I8', string.rep('x', 15), 0) == true }",
        "return { pcall(struct.pack, '>c8', 'short') == true }",
        "return { string.find('.\\0a.\\0a', '.\\0', 2, true), string.byte('a\\0\\255b', 2, -2) }",
        "return table.concat({ 'a\\0', 1, 'b' }, ',') .. math.floor(2.9)",
        "return string.format('%d', 2 ^ 53) .. ':' .. 7",
    ] {
        pair.compare(&words(&["EVAL", script, "1", "key", "value"]), script);
    }
}

#[tokio::test]
async fn scripts_pack_and_unpack_as_in_redis() {
    const SCRIPT: &str = "local packed = struct.pack(ARGV[1], unpack(ARGV, 2)) \
                          return { packed, struct.unpack(ARGV[1], 'xx' .. packed, 3) }";
    let texts = [
        "12345678901234567890",
        "\0\u{ff}\r\n\0\u{80}\0\0\r\n\0\0\0\0\0\0\0\0\0\0",
        "longer than twenty bytes",
    ];
    let numbers = ["0", "1", "255", "256", "65536", "4294967295", "9007199254740991"];
    let (mut pair, mut rng) = (Pair::start(), Rng::new(1));
    for format in [">I8", ">c8I8", ">BI8c8", ">c8I8c20I8", ">I4I8I8", ">I1I2I4"] {
        for nth in 0..20 {
            let mut command = words(&["EVAL", SCRIPT, "0", format]);
            for kind in format.matches(['c', 'I', 'B']) {
                let value = if kind == "c" { rng.choose(&texts) } else { rng.choose(&numbers) };
                command.push(value.to_owned());
            }
            pair.compare(&command, &format!("{format}, {nth}"));
        }
    }
}

/// The real Redis adds the script and the line.
#[tokio::test]
async fn refused_commands_end_scripts_as_in_redis() {
    let (server, simulated) = (RedisServer::start(), Redis::start());
    for script in [
        "redis.call('SET', 't', 'x') return redis.call('RPUSH', 't', 'x')",
        "return redis.call('LSET', 'none', 0, 'x')",
        "return redis.call('GET', true)",
    ] {
        let command = ["EVAL", script, "0"];
        let (answer, expected) = (simulated.command(&command), server.command(&command).await);
        assert!(expected.starts_with(&format!("{answer} script: ")), "{answer}; {expected}");
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
    let kind = rng.choose(&["t", "h", "s", "z", "l", "l"]);
    // Now and then a key of another kind.
    let key = |rng: &mut Rng| format!("{}{}", if rng.chance(5) { "h" } else { kind }, rng.below(2));
    let key = key(rng);
    let name = |rng: &mut Rng| rng.choose(&["", "a", "b", "c", "d"]).to_owned();
    let number =
        |rng: &mut Rng| rng.choose(&["-inf", "-1", "0", "1", "2", "(1", "+inf"]).to_owned();
    let mut command = match (kind, rng.below(8)) {
        (_, 0) => words(&[rng.choose(&["DEL", "EXISTS", "TTL", "PERSIST"]), &key]),
        (_, 1) => words(&["EXPIRE", &key, rng.choose(&["100", "-1"])]),
        ("t", 2 | 3) => words(&["GET", &key]),
        ("t", 4) => {
            let rule = rng.choose(&[&[][..], &["NX"], &["XX"], &["NX", "EX", "100"]]);
            let end = rng.choose(&[&[][..], &["PX", "100000"], &["EX", "100"], &["EX", "0"]]);
            [words(&["SET", &key, &name(rng)]), words(rule), words(end)].concat()
        }
        ("t", _) => words(&["SET", &key, &name(rng)]),
        ("h", 2) => words(&["HGET", &key, &name(rng)]),
        ("h", 3) => words(&["HMGET", &key, &name(rng), &name(rng)]),
        ("h", 4) => words(&[rng.choose(&["HLEN", "HGETALL"]), &key]),
        ("h", 5) => words(&[rng.choose(&["HDEL", "HEXISTS"]), &key, &name(rng)]),
        ("h", _) => words(&["HSET", &key, &name(rng), &name(rng), &name(rng), "x"]),
        ("s", 2) => words(&["SISMEMBER", &key, &name(rng)]),
        ("s", 3) => words(&["SMEMBERS", &key]),
        ("s", 4) => words(&["SRANDMEMBER", &key, "9"]),
        ("s", 5) => words(&["SREM", &key, &name(rng), &name(rng)]),
        ("s", _) => words(&["SADD", &key, &name(rng), &name(rng)]),
        ("z", 2) => words(&["ZSCORE", &key, &name(rng)]),
        ("z", 3) => words(&[rng.choose(&["ZCARD", "ZRANGE"]), &key]),
        ("z", 4) => {
            let range = words(&["ZRANGEBYSCORE", &key, &number(rng), &number(rng)]);
            [range, words(rng.choose(&[&[], &["WITHSCORES"], &["LIMIT", "1", "2"]]))].concat()
        }
        ("z", 5) => words(&["ZREM", &key, &name(rng)]),
        ("z", 6) => words(&["ZADD", &key, rng.choose(&["NX", "XX"]), "2", &name(rng)]),
        ("z", _) => words(&["ZADD", &key, rng.choose(&["-1", "0", "1.5", "+inf"]), &name(rng)]),
        _ => list_command(rng, &key),
    };
    if command[0] == "ZRANGE" {
        command.extend(words(&["0", "-1"]));
    }
    command
}

fn list_command(rng: &mut Rng, key: &str) -> Vec<String> {
    let value = |rng: &mut Rng| rng.choose(&["", "a", "b", "12", "\0\r\n\u{ff}"]);
    let index = |rng: &mut Rng| {
        let far = "-9223372036854775808";
        rng.choose(&["-3", "-2", "-1", "0", "1", "2", "5", far, "9223372036854775807", "x"])
    };
    match rng.below(12) {
        0 => words(&["LPUSH", key, value(rng), value(rng)]),
        1..4 => words(&["RPUSH", key, value(rng), value(rng), value(rng)]),
        4 => words(&[rng.choose(&["LPOP", "RPOP", "LLEN"]), key]),
        5 => words(&[rng.choose(&["LPOP", "RPOP"]), key, rng.choose(&["-1", "0", "1", "2", "9"])]),
        6 => words(&["LINDEX", key, index(rng)]),
        7 => words(&["LSET", key, index(rng), value(rng)]),
        8 => words(&["LRANGE", key, index(rng), index(rng)]),
        9 => words(&["LTRIM", key, index(rng), index(rng)]),
        _ => words(&["EVAL", rng.choose(LIST_SCRIPTS), "1", key, value(rng), value(rng)]),
    }
}

/// Scripts that use a list as a log. None ends with an error, which differs as to where it happened.
const LIST_SCRIPTS: &[&str] = &[
    "local length = redis.pcall('RPUSH', KEYS[1], unpack(ARGV)) \
     if type(length) == 'table' then return length end \
     if length > 5 then redis.call('LTRIM', KEYS[1], length - 3, -1) end \
     return { length, redis.call('LRANGE', KEYS[1], 0, -1) }",
    "local last = redis.pcall('LINDEX', KEYS[1], -1) \
     if type(last) == 'table' then return { 'refused', last } end \
     if last then return redis.call('LSET', KEYS[1], -1, last .. ARGV[1]) end \
     return { last, redis.call('EXISTS', KEYS[1]), ARGV }",
    "local entries = redis.pcall('LRANGE', KEYS[1], -4, -1) \
     if entries.err then return { entries, redis.call('DEL', KEYS[1]) } end \
     redis.call('LPOP', KEYS[1]) \
     return { #entries, table.concat(entries, '|'), redis.call('LLEN', KEYS[1]) }",
];

/// A script sends some commands, so that their answers and errors become values of Lua, alone and
/// within an array. A client sends those whose answers are sorted, and only scripts
/// `ZRANGEBYSCORE`: the simulated Redis answers `WITHSCORES` as in RESP2.
fn by_client_or_script(rng: &mut Rng, command: Vec<String>) -> Vec<String> {
    const PLAIN: &str = "return redis.pcall(unpack(ARGV))";
    const NESTED: &str = "return { 'x', redis.pcall(unpack(ARGV)), 'y' }";
    let script = match (&*command[0], rng.below(4)) {
        ("EVAL" | "SMEMBERS" | "SRANDMEMBER" | "HGETALL", _) => return command,
        (_, 0) => PLAIN,
        (_, 1) => NESTED,
        ("ZRANGEBYSCORE", _) => PLAIN,
        _ => return command,
    };
    [words(&["EVAL", script, "0"]), command].concat()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The simulated Redis and the real one.
struct Pair {
    simulated: Redis,
    _server: RedisServer,
    /// A connection to the real one, in RESP3.
    stream: TcpStream,
    parser: Parser,
}

impl Pair {
    fn start() -> Self {
        let server = RedisServer::start();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
        let (simulated, parser) = (Redis::start(), Parser::new());
        let mut pair = Self { simulated, _server: server, stream, parser };
        pair.real(&["HELLO", "3"]);
        pair
    }

    fn clear(&mut self) {
        self.simulated = Redis::start();
        self.real("FLUSHALL");
    }

    /// Sends a command to both. Each `char` of it is one byte, so that values can have any bytes.
    fn compare(&mut self, command: &[String], what: &str) {
        let bytes = |word: &String| word.chars().map(|letter| letter as u8).collect::<Vec<_>>();
        let words: Vec<_> = command.iter().map(bytes).collect();
        let mut answer = Vec::new();
        self.simulated.request(&words).encode(&mut answer);
        let answer = redis::parse_redis_value(&answer).unwrap();
        let (answer, expected) = (sort(&command[0], answer), sort(&command[0], self.real(words)));
        assert_eq!(answer, expected, "{what}: {command:?}");
    }

    fn real(&mut self, words: impl ToRedisArgs) -> Value {
        let request = Cmd::new().arg(words).get_packed_command();
        self.stream.write_all(&request).unwrap();
        self.parser.parse_value(&mut self.stream).unwrap()
    }
}

/// Sets and hashes have no order.
fn sort(command: &str, answer: Value) -> Value {
    match (command, answer) {
        ("SMEMBERS" | "SRANDMEMBER", Value::Array(mut members) | Value::Set(mut members)) => {
            members.sort_by_key(|member| format!("{member:?}"));
            Value::Array(members)
        }
        ("HGETALL", Value::Map(mut pairs)) => {
            pairs.sort_by_key(|pair| format!("{pair:?}"));
            Value::Map(pairs)
        }
        (_, answer) => answer,
    }
}
