//! Redis refuses, in every way that it has: each client receives an error, and no other client is affected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use serde_json::json;

use super::crowd::Crowd;
use super::{ANSWERED, pause, until_told};
use crate::support::{Chat, ask, assert_within, command, counted, join, next_of, say};

/// How long a refusal lasts at least.
const REFUSED: Duration = Duration::from_secs(2);

const SECRET: &str = "hunter2";

struct Refusal<'a> {
    name: &'a str,
    redis: Arc<RedisServer>,
    begin: &'a [&'a [&'a str]],
    end: &'a [&'a [&'a str]],
    /// What the log says once.
    said: &'a str,
}

impl Refusal<'_> {
    /// What happens to two servers full of people.
    async fn run(&self) {
        let Self { name, redis, said, .. } = self;
        let user = ["ACL", "SETUSER", "chat", "on", &format!(">{SECRET}"), "~*", "&*", "+@all"];
        redis.command(&user).await;
        let servers = [self.server().await, self.server().await];
        let both = [&servers[0], &servers[1]];
        let crowd = Crowd::on(&both).await;
        crowd.until_all_said_since(Instant::now()).await;

        self.commands(self.begin).await;
        let away = until_told(&both, 503).await;
        let (_, _, page) = servers[0].http("GET", "/metrics").await;
        assert!(page.contains("chat_broker_up 0"), "{name}: {page}");
        let come = newcomer(&servers[0]).await;
        pause(REFUSED).await;
        self.commands(self.end).await;
        let ended = Instant::now();
        let ready = until_told(&both, 200).await;
        crowd.until_all_said_since(ended).await;

        let verdict = crowd.finish(ended).await;
        say(&format!(
            "{name}: 503 after {away:.1?}, a newcomer was answered after {come:.1?}, 200 after \
             {ready:.1?}; {verdict}"
        ));
        verdict.is_whole();
        assert!(verdict.refused > 0, "{name}: nobody was told");
        for server in &servers {
            let lines = [said, "redis available again"].map(|line| server.logged(line));
            assert_eq!(lines, [1, 1], "{name}: said once each");
            assert_eq!(server.logged(SECRET), 0, "{name}: a secret");
        }
    }

    async fn server(&self) -> Chat {
        let url = format!("redis://chat:{SECRET}@127.0.0.1:{}", self.redis.port());
        let server = Chat::start(command().args(["--port", "0", "--redis-url", &url]));
        server.until_ready().await;
        server
    }

    async fn commands(&self, commands: &[&[&str]]) {
        for command in commands {
            if *command == ENDLESS {
                let redis = Arc::clone(&self.redis);
                tokio::spawn(async move { redis.command(ENDLESS).await });
            } else {
                self.redis.command(command).await;
            }
        }
    }
}

/// Somebody comes to a server whose Redis refuses: in, or told that it cannot be.
async fn newcomer(server: &Chat) -> Duration {
    let began = Instant::now();
    let mut client = server.native().await;
    client.send_json(&json!({"type": "join", "room": "other"})).await;
    let answer = client.recv_json().await;
    let is_told = answer["type"] == "joined" || answer["code"] == "broker_unavailable";
    assert!(is_told, "{answer}");
    let took = began.elapsed();
    assert_within("an answer", took, ANSWERED);
    took
}

const REFUSES: &str = "redis refuses writes";
const AWAY: &str = "redis unavailable";

/// A script that does not end.
const ENDLESS: &[&str] = &["EVAL", "while true do end", "0"];

async fn refusal(name: &str, arguments: &[&str], [head, begin, end]: [&[&str]; 3], said: &str) {
    let redis = Arc::new(RedisServer::start_with(arguments));
    let (begin, end) = ([head, begin].concat(), [head, end].concat());
    Refusal { name, redis, begin: &[&begin], end: &[&end], said }.run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_takes_no_writes() {
    tokio::join!(
        refusal(
            "NOREPLICAS",
            &[],
            [&["CONFIG", "SET", "min-replicas-to-write"], &["1"], &["0"]],
            REFUSES
        ),
        refusal(
            "NOPERM",
            &[],
            [&["ACL", "SETUSER", "chat"], &["-xadd", "-evalsha"], &["+xadd", "+evalsha"]],
            REFUSES
        ),
        full_disk(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_another_one() {
    let (own, none) = (["127.0.0.1", "1"], ["NO", "ONE"]);
    let stale = ["--replica-serve-stale-data", "no"];
    tokio::join!(
        refusal("READONLY", &[], [&["REPLICAOF"], &own, &none], REFUSES),
        refusal("MASTERDOWN", &stale, [&["REPLICAOF"], &own, &none], AWAY),
        other_password(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_runs_a_script() {
    let script = |name, limit, said| async move {
        let redis = Arc::new(RedisServer::start_with(&["--lua-time-limit", limit]));
        let kill = &[&["SCRIPT", "KILL"][..]];
        Refusal { name, redis, begin: &[ENDLESS], end: kill, said }.run().await;
    };
    tokio::join!(script("BUSY", "50", REFUSES), script("silence", "5000", AWAY));
}

async fn full_disk() {
    let redis = Arc::new(RedisServer::start_with(&["--save", "3600 1"]));
    std::fs::remove_dir_all(redis.directory()).unwrap();
    let end: &[&[&str]] = &[&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]];
    Refusal { name: "MISCONF", redis, begin: &[&["BGSAVE"]], end, said: REFUSES }.run().await;
}

async fn other_password() {
    let redis = Arc::new(RedisServer::start());
    let password = format!(">{SECRET}");
    let change: &[&str] = &["ACL", "SETUSER", "chat", "resetpass", ">new"];
    let back: &[&str] = &["ACL", "SETUSER", "chat", &password];
    let begin: &[&[&str]] = &[change, &["CLIENT", "KILL", "USER", "chat"]];
    Refusal { name: "WRONGPASS", redis, begin, end: &[back], said: AWAY }.run().await;
}

/// `redis://chat:…@…`, with the rights that docs/redis.md gives, and another password: servers refuse that
/// of the page.
async fn url_with_documented_rights(redis: &RedisServer, database: u8) -> String {
    let page = include_str!("../../../../docs/redis.md");
    let (_, after) = page.split_once("\nACL SETUSER ").expect("the line");
    let line = after.lines().next().unwrap();
    let prefix = if database == 0 { "chat:".to_owned() } else { format!("chat@{database}:") };
    let line = line.replace("chat:", &prefix).replace(">PASSWORD", ">hunter2");
    let command: Vec<_> = ["ACL", "SETUSER"].into_iter().chain(line.split(' ')).collect();
    assert_eq!(redis.command(&command).await, "OK", "{line}");
    format!("redis://chat:hunter2@127.0.0.1:{}/{database}", redis.port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_rights_are_enough() {
    tokio::join!(documented_rights(0), documented_rights(5));
}

async fn documented_rights(database: u8) {
    let redis = RedisServer::start();
    let url = url_with_documented_rights(&redis, database).await;
    let [first, second] =
        [(); 2].map(|()| Chat::start(command().args(["--port", "0", "--redis-url", &url])));
    first.until_ready().await;
    second.until_ready().await;
    let (mut ann, mut bob) = (first.native().await, second.native().await);
    let welcome = ask(&mut ann, "welcome", json!({"type": "hello", "name": "Ann"})).await;
    assert!(welcome["resume"].is_string(), "{welcome}");
    join(&mut bob, "r").await;
    join(&mut ann, "r").await;
    let joined = next_of(&mut bob, "presence").await;
    assert_eq!((&joined["event"], &joined["user"]["name"]), (&json!("joined"), &json!("Ann")));
    let send = json!({"type": "send", "room": "r", "message": "hello", "key": "k"});
    for _ in 0..2 {
        assert_eq!(ask(&mut ann, "ok", send.clone()).await["offset"], 1, "its key is known");
    }
    assert_eq!(next_of(&mut bob, "message").await["message"], "hello");
    let history = ask(&mut bob, "history", json!({"type": "history", "room": "r"})).await;
    assert_eq!(history["messages"][0]["message"], "hello");
    let members = ask(&mut bob, "members", json!({"type": "members", "room": "r"})).await;
    assert_eq!(members["count"], 2, "{members}");
    ask(&mut ann, "left", json!({"type": "leave", "room": "r"})).await;
    assert_eq!(next_of(&mut bob, "presence").await["event"], "left");
    for server in [&first, &second] {
        let (_, _, page) = server.http("GET", "/metrics").await;
        assert_eq!(counted(&page, "chat_broker_refused_total{"), [""; 0], "{page}");
    }
    assert_eq!(redis.command(&["ACL", "LOG"]).await.trim(), "");
}

/// The right to one of the commands that only a leave needs.
#[tokio::test]
async fn missing_right_is_logged_and_counted_and_the_server_not_ready() {
    let redis = RedisServer::start();
    let url = url_with_documented_rights(&redis, 0).await;
    let server = Chat::start(command().args(["--port", "0", "--redis-url", &url]));
    server.until_ready().await;
    let (mut ann, mut bob) = (server.native().await, server.native().await);
    join(&mut bob, "r").await;
    join(&mut ann, "r").await;
    next_of(&mut bob, "presence").await;

    redis.command(&["ACL", "SETUSER", "chat", "-hdel"]).await;
    until_told(&[&server], 503).await;
    ask(&mut ann, "left", json!({"type": "leave", "room": "r"})).await;
    for command in ["HDEL", "leave.lua"] {
        let metric = refused(command, "NOPERM");
        server.until_metric(&metric, |count| count > 0).await;
        let line = server.until_logged(&format!("command=\"{command}\""));
        assert!(line.contains("redis refused a command") && line.contains("NOPERM"), "{line}");
    }
    let times = server.metric(&refused("HDEL", "NOPERM")).await;
    server.until_metric(&refused("HDEL", "NOPERM"), |count| count > times + 1).await;
    assert_eq!(server.logged("command=\"HDEL\""), 1, "once a minute");
    assert_eq!(server.logged(REFUSES), 1);

    redis.command(&["ACL", "SETUSER", "chat", "+hdel"]).await;
    until_told(&[&server], 200).await;
}

/// Of one room, which is no reason to be away.
#[tokio::test]
async fn refusal_of_one_room_is_logged_and_counted() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    let mut ann = server.native().await;
    join(&mut ann, "broken").await;
    redis.command(&["SET", "chat:{r.broken}", "x"]).await;
    let send = json!({"type": "send", "room": "broken", "message": "x"});
    ask(&mut ann, "error", send).await;
    let metric = refused("publish.lua", "WRONGTYPE");
    server.until_metric(&metric, |count| count == 1).await;
    let line = server.until_logged("redis refused a command");
    assert!(line.contains("publish.lua") && line.contains("WRONGTYPE"), "{line}");
    assert_eq!(server.http("GET", "/readyz").await.0, 200);
}

fn refused(command: &str, cause: &str) -> String {
    format!("chat_broker_refused_total{{command=\"{command}\",cause=\"{cause}\"}}")
}

#[tokio::test]
async fn a_wrong_password_at_the_start_is_said_and_not_shown() {
    let redis = RedisServer::start_with(&["--requirepass", "right"]);
    for url in [
        format!("redis://:{SECRET}@127.0.0.1:{}", redis.port()),
        format!("redis://127.0.0.1:{}", redis.port()),
    ] {
        let server =
            Chat::start(command().args(["--port", "0", "--log", "trace", "--redis-url", &url]));
        server.until_logged(AWAY);
        assert_eq!(server.http("GET", "/readyz").await.0, 503);
        newcomer(&server).await;
        assert_eq!((server.logged(AWAY), server.logged(SECRET)), (1, 0));
    }
}
