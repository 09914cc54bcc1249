//! A wall clock that jumps, at one of two servers or at Redis.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs, process};

use chat_broker::testing::{RedisServer, free_port};
use chat_core::UserId;
use chat_server::{JwtSigner, TokenClaims};
use chat_transport::testing::WsClient;
use serde_json::json;
use tokio::time::sleep;

use super::clients::ClientFleet;
use crate::support::verdict::Verdict;
use crate::support::{Chat, alone, ask, command, join, next_of, say};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// How exactly the clocks of two processes agree, on a busy machine.
const AGREED: i64 = 60;

/// The wall clock of one process, by libfaketime.
struct WallClock {
    file: PathBuf,
}

impl WallClock {
    fn new(name: &str) -> Self {
        let file = env::temp_dir().join(format!("chat-clock-{name}-{}", process::id()));
        let clock = Self { file };
        clock.jump(0);
        clock
    }

    /// It is so many seconds fast from now on.
    fn jump(&self, seconds: i64) {
        // In one step: the process reads it at any time.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{seconds:+}")).unwrap();
        fs::rename(next, &self.file).unwrap();
    }

    /// A process that goes by this clock, and by the machine's where it measures time.
    fn worn_by<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// A Redis that goes by a clock of its own.
struct Redis {
    process: Child,
    url: String,
}

impl Redis {
    fn start(clock: &WallClock) -> Self {
        let port = free_port();
        let mut command = Command::new("redis-server");
        let command = clock.worn_by(&mut command).args(["--port", &port.to_string()]);
        // The allocator of Debian's Redis asks for the time before libfaketime can tell it.
        let preload = "/usr/$LIB/faketime/libfaketimeMT.so.1 libc.so.6";
        let command =
            command.env("LD_PRELOAD", preload).args(["--save", "", "--bind", "127.0.0.1"]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { process, url: format!("redis://127.0.0.1:{port}") }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The users of a dead server leave though its lease seems to last for an hour, and those of
/// servers that are alive stay when the clock is right again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_dead_server_leave_though_the_clock_of_redis_was_set_back() {
    let _alone = alone().await;
    let clock = WallClock::new("redis");
    let redis = Redis::start(&clock);
    let args = ["--port", "0", "--redis-url", &redis.url, "--presence-lease", "1s"];
    let start = || Chat::start(command().args(args));
    let (dying, living, other) = (start(), start(), start());
    let (mut ann, mut bob, mut cid) = {
        for server in [&dying, &living, &other] {
            server.until_ready().await;
        }
        (dying.native().await, living.native().await, other.native().await)
    };
    for client in [&mut ann, &mut bob, &mut cid] {
        join(client, "r").await;
    }
    // Until the servers may judge each other.
    sleep(Duration::from_secs(3)).await;
    clock.jump(-HOUR);
    drop(dying);
    let died = Instant::now();
    let list = async |client: &mut WsClient| {
        ask(client, "members", json!({"type": "members", "room": "r"})).await["count"].clone()
    };
    while list(&mut bob).await != 2 {
        assert!(died.elapsed() < Duration::from_secs(30), "the user of the dead server is left");
        sleep(Duration::from_millis(200)).await;
    }
    say(&format!("a clock of Redis that is set back: the dead left after {:?}", died.elapsed()));
    for jump in [0, HOUR, 0] {
        clock.jump(jump);
        for _ in 0..20 {
            sleep(Duration::from_millis(200)).await;
            assert_eq!(
                (list(&mut bob).await, list(&mut cid).await),
                (json!(2), json!(2)),
                "{jump}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_moves_nobody() {
    let _alone = alone().await;
    let redis = RedisServer::start();
    let clock = WallClock::new("fleet");
    let url = redis.url();
    let args =
        ["--port", "0", "--redis-url", &url, "--ping-interval", "1s", "--pong-timeout", "5s"];
    let odd = Chat::start(clock.worn_by(command().args(args)));
    let even = Chat::start(command().args(args));
    odd.until_ready().await;
    even.until_ready().await;
    let fleet =
        ClientFleet::spread(40, 4, &Arc::new(Mutex::new(vec![odd.port(), even.port()]))).await;
    fleet.talk();
    for jump in [HOUR, -HOUR, DAY, -DAY] {
        clock.jump(jump);
        let fast = fast(&odd, &even).await;
        assert!((fast - jump).abs() < AGREED, "{fast} s fast: is Debian's package faketime here?");
        // As long as several heartbeats, probes of Redis, and renewals of the lease take.
        sleep(Duration::from_secs(3)).await;
        for server in [&odd, &even] {
            let (status, _, page) = server.http("GET", "/readyz").await;
            assert_eq!(status, 200, "{jump} s: {page}");
        }
    }
    let records = fleet.finish().await;
    let verdict = Verdict::of(records.iter().map(|record| &record.talk));
    say(&format!("a clock that is an hour, and a day, fast and slow: {verdict}"));
    assert!(verdict.acknowledged > 100, "hardly anything was said");
    assert_eq!((verdict.lost, verdict.doubled, verdict.reordered, verdict.gaps), (0, 0, 0, 0));
    assert!(records.iter().all(|record| record.stays.len() == 1), "somebody was cut");
    let mut guest = even.native().await;
    join(&mut guest, "room-0").await;
    let members = ask(&mut guest, "members", json!({"type": "members", "room": "room-0"})).await;
    assert_eq!(members["count"], 11, "{members}");
}

/// By how many seconds this server is ahead, as those at the other one see it.
async fn fast(server: &Chat, other: &Chat) -> i64 {
    let (mut speaker, mut listener) = (server.native().await, other.native().await);
    join(&mut listener, "time").await;
    join(&mut speaker, "time").await;
    ask(&mut speaker, "ok", json!({"type": "send", "room": "time", "message": "now"})).await;
    let at = next_of(&mut listener, "message").await["at"].as_i64().expect("a time");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    (at - now) / 1000
}

/// A token is judged in the moment in which it is shown. What is left of it is measured, and so
/// is what is left of a ban.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_ends_no_session_and_no_ban() {
    let _alone = alone().await;
    let clock = WallClock::new("tokens");
    let mut program = command();
    let program = program.args(["--port", "0", "--token-grace", "0s"]).env("JWT_SECRET", SECRET);
    let server = Chat::start(clock.worn_by(program));
    let (ann, bob) = (token("ann"), token("bob"));
    let mut member = client(&server, &ann).await.expect("a good token");
    join(&mut member, "r").await;
    ask(&mut member, "ok", json!({"type": "ban", "room": "r", "user": "bob", "seconds": 600}))
        .await;

    clock.jump(DAY);
    assert_eq!(client(&server, &ann).await.err(), Some(401), "it has run out by this clock");
    ask(&mut member, "ok", json!({"type": "send", "room": "r", "message": "still here"})).await;

    clock.jump(0);
    let mut banned = client(&server, &bob).await.expect("a good token");
    let refused = ask(&mut banned, "error", json!({"type": "join", "room": "r"})).await;
    assert_eq!(refused["code"], "banned");
    ask(&mut member, "ok", json!({"type": "send", "room": "r", "message": "and now"})).await;
}

/// Allows all, for ten minutes.
fn token(user: &str) -> String {
    let mut claims = TokenClaims::new(&UserId::new(user).unwrap(), Duration::from_secs(600));
    claims.rooms = Some([("*".to_owned(), vec!["*".to_owned()])].into());
    JwtSigner::with_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap()
}

async fn client(server: &Chat, token: &str) -> Result<WsClient, u16> {
    let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
    let client = WsClient::try_connect(&server.ws(&format!("/ws?token={token}")), &protocol).await;
    client.map_err(|status| status.as_u16())
}
