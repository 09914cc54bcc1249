//! The way to Redis is broken, in part or in one direction, slow, or too narrow.

use std::time::{Duration, Instant};

use chat_broker::testing::{ConnectionKind, Direction, RedisServer, TcpProxy};
use serde_json::json;

use super::crowd::Crowd;
use super::{pause, until_told};
use crate::support::process::Process;
use crate::support::{
    Chat, DEADLINE, assert_within, asserts_times, command, join, next_of, say, value_of,
};

/// How long it may take until a connection is known to be broken and replaced.
const RECOVERED: Duration = Duration::from_secs(10);

/// How long a command is under way while a connection is replaced.
const SLOW: Duration = Duration::from_millis(100);

/// Two servers; the way of the first leads through a proxy.
struct Setup {
    redis: RedisServer,
    proxy: TcpProxy,
    behind: Chat,
    other: Chat,
}

impl Setup {
    async fn start(args: &[&str]) -> Self {
        let redis = RedisServer::start();
        let proxy = TcpProxy::before(&redis);
        let server = |url: String| {
            Chat::start(command().args(["--port", "0", "--redis-url", &url]).args(args))
        };
        let (behind, other) = (server(proxy.redis_url()), server(redis.url()));
        behind.until_ready().await;
        other.until_ready().await;
        Self { redis, proxy, behind, other }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_replaced() {
    tokio::join!(half_open(ConnectionKind::PubSub), half_open(ConnectionKind::Commands));
}

async fn half_open(kind: ConnectionKind) {
    let setup = Setup::start(&[]).await;
    let crowd = Crowd::on(&[&setup.behind, &setup.other]).await;
    crowd.until_all_said_since(Instant::now()).await;
    // A new connection takes its time, so that somebody may see that there is none.
    setup.proxy.delay(SLOW);
    setup.proxy.half_open(kind);
    let began = Instant::now();
    let noticed = until_told(&[&setup.behind], 503).await;
    let back = noticed + until_told(&[&setup.behind], 200).await;
    setup.proxy.delay(Duration::ZERO);
    crowd.until_all_said_since(Instant::now()).await;
    let verdict = crowd.finish(began).await;
    say(&format!("half-open {kind:?}: 503 after {noticed:.1?}, 200 after {back:.1?}; {verdict}"));
    verdict.is_whole();
    assert_eq!(verdict.refused, 0, "{verdict}");
    assert_within("to be back", back, RECOVERED);
    let said = |server: &Chat| ["redis is away", "redis is back"].map(|line| server.logged(line));
    assert_eq!([said(&setup.behind), said(&setup.other)], [[1, 1], [0, 0]]);
}

/// How often connections are killed.
const KILLS: usize = 20;

/// In which time, where they are not waited for.
const KILLED_FOR: Duration = Duration::from_secs(7);

/// Of all together, each well below what one client may send.
const MESSAGES_PER_SECOND: u32 = 320;
const MEMBERS: u32 = 8;

/// Of both servers, as soon as they are there again: the pauses between attempts grow to seconds,
/// in which more is said than a room keeps by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_killed_under_load_lose_nothing() {
    let redis = RedisServer::start();
    let args = ["--history", "100000", "--history-bytes", "100000000"];
    let [first, second] = Chat::several(&redis, &args).await;
    // One that subscribes; one that publishes and one for the lease. The question has one, too.
    for (kind, connections) in [("pubsub", 2), ("normal", 2 * 2 + 1)] {
        let crowd = Crowd::in_a_hurry_on(&[&first, &second]).await;
        let began = Instant::now();
        for _ in 0..KILLS {
            pause(Duration::from_millis(100)).await;
            until_connected(&redis, kind, connections).await;
            redis.command(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
        let (ended, time) = (Instant::now(), began.elapsed().as_secs_f64());
        crowd.until_all_said_since(ended).await;
        let verdict = crowd.finish(ended).await;
        let rate = verdict.acked as f64 / time;
        let mut longest = 0.0_f64;
        for server in [&first, &second] {
            let (_, _, page) = server.http("GET", "/metrics").await;
            let repair = value_of(&page, "chat_longest_repair_seconds");
            longest = longest.max(repair.expect("the number"));
        }
        say(&format!(
            "{KILLS} times all {kind} connections in {time:.0} s, {rate:.0} messages/s: {verdict}; \
             the longest repair took {longest:.2} s"
        ));
        verdict.is_whole();
        let is_fast = rate > 4.0 / 0.1;
        assert!(is_fast || !asserts_times(), "no faster than with pauses: {rate:.0} messages/s");
    }
}

/// Each server is without its connections for less time than a room of 300 messages a second keeps
/// by default, however often they are killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_leave_no_gap_in_a_default_history() {
    let redis = RedisServer::start();
    let [first, second] = Chat::several(&redis, &[]).await;
    for kinds in [&["pubsub"][..], &["pubsub", "normal"]] {
        let mut crowd = Crowd::paced(MEMBERS, MESSAGES_PER_SECOND);
        for n in 0..MEMBERS {
            crowd.join([&first, &second][n as usize % 2], "r", n % 3 == 0).await;
        }
        crowd.begin();
        let began = Instant::now();
        for kill in 1..=KILLS as u32 {
            pause((KILLED_FOR * kill / KILLS as u32).saturating_sub(began.elapsed())).await;
            for kind in kinds {
                redis.command(&["CLIENT", "KILL", "TYPE", kind]).await;
            }
        }
        let (ended, time) = (Instant::now(), began.elapsed().as_secs_f64());
        crowd.until_all_said_since(ended).await;
        let verdict = crowd.finish(ended).await;
        let rate = verdict.acked as f64 / time;
        say(&format!("{kinds:?} {KILLS} times in {time:.1} s, {rate:.0} messages/s: {verdict}"));
        verdict.is_whole();
    }
}

/// One connection reads what many joins at once need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_succeed_while_redis_is_at_maxclients() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    redis.command(&["CONFIG", "SET", "maxclients", "1"]).await;
    let mut clients = Vec::new();
    for n in 0..30 {
        let mut client = server.native().await;
        client.send_json(&json!({"type": "join", "room": format!("room-{n}")})).await;
        clients.push(client);
    }
    for client in &mut clients {
        next_of(client, "joined").await;
        let history = json!({"type": "history", "room": "room-0", "id": "h"});
        client.send_json(&history).await;
    }
    assert_eq!(server.http("GET", "/readyz").await.0, 200);
    let refused = "chat_broker_refused_total{command=\"connect\",cause=\"MAXCLIENTS\"}";
    server.until_metric(refused, |count| count > 0).await;
    server.until_logged("cause=\"MAXCLIENTS\"");
}

/// Waits until Redis has so many connections of a kind.
async fn until_connected(redis: &RedisServer, kind: &str, connections: usize) {
    let deadline = Instant::now() + DEADLINE;
    while redis.command(&["CLIENT", "LIST", "TYPE", kind]).await.lines().count() < connections {
        assert!(Instant::now() < deadline, "there are no {connections} {kind} connections");
        pause(Duration::from_millis(10)).await;
    }
}

/// For as long as it lasts, new connections are no better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_only_speaks_or_only_hears_catches_up() {
    tokio::join!(
        one_way(ConnectionKind::PubSub, Direction::ToClient),
        one_way(ConnectionKind::Commands, Direction::ToServer)
    );
}

async fn one_way(kind: ConnectionKind, direction: Direction) {
    let setup = Setup::start(&[]).await;
    let crowd = Crowd::on(&[&setup.behind, &setup.other]).await;
    crowd.until_all_said_since(Instant::now()).await;
    setup.proxy.block(kind, direction);
    let away = until_told(&[&setup.behind], 503).await;
    pause(Duration::from_secs(2)).await;
    setup.proxy.release();
    let ended = Instant::now();
    let ready = until_told(&[&setup.behind], 200).await;
    crowd.until_all_said_since(ended).await;
    let verdict = crowd.finish(ended).await;
    say(&format!(
        "no {kind:?} {direction:?}: 503 after {away:.1?}, 200 after {ready:.1?}; {verdict}"
    ));
    verdict.is_whole();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thin_line_is_slow_and_nothing_else() {
    let setup = Setup::start(&[]).await;
    setup.proxy.slow_down(10_000);
    let before = Process(setup.behind.pid()).rss_kib();
    let crowd = Crowd::on(&[&setup.behind, &setup.other]).await;
    let began = Instant::now();
    pause(Duration::from_secs(4)).await;
    let grown = Process(setup.behind.pid()).rss_kib().saturating_sub(before);
    setup.proxy.slow_down(0);
    let verdict = crowd.finish(began).await;
    say(&format!("10 KB/s with stalls: {verdict}; memory grew by {grown} KiB"));
    verdict.is_whole();
    assert!(grown < 8 * 1024, "memory grew by {grown} KiB");
}

/// Redis cuts a server off that does not read what others say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_reads_too_slowly_is_cut_off_and_misses_nothing_untold() {
    let file = std::env::temp_dir().join(format!("chat-brief-{}.toml", std::process::id()));
    std::fs::write(&file, "[[rooms]]\nname = \"brief\"\nhistory = 0\n").unwrap();
    let setup = Setup::start(&["--config", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    let limit = "pubsub 1mb 512kb 5";
    setup.redis.command(&["CONFIG", "SET", "client-output-buffer-limit", limit]).await;
    let mut crowd = Crowd::new();
    for (room, keyed) in [("r", true), ("brief", false)] {
        crowd.join(&setup.behind, room, keyed).await;
        crowd.join(&setup.other, room, keyed).await;
    }
    // What comes here comes to the first server alone.
    let mut alone = setup.behind.native().await;
    join(&mut alone, "alone").await;
    crowd.begin();
    let began = Instant::now();
    let mut cut = 0;
    while cut == 0 {
        assert!(began.elapsed() < DEADLINE, "nobody is cut off");
        setup.proxy.block(ConnectionKind::PubSub, Direction::ToClient);
        // When the way is full of it, what is said waits behind it, and is lost with the rest.
        while buffered(&setup.redis).await < 100_000 && began.elapsed() < DEADLINE {
            flood(&setup.redis, 60).await;
            // For Redis, to pass on what it can.
            pause(Duration::from_millis(50)).await;
        }
        pause(Duration::from_millis(300)).await;
        flood(&setup.redis, 300).await;
        setup.proxy.release();
        cut = overflows(&setup.redis);
    }
    let ended = Instant::now();
    setup.behind.until_ready().await;
    crowd.until_all_said_since(ended).await;
    let (_, _, page) = setup.behind.http("GET", "/metrics").await;
    let rooms = crowd.finish_by_room(ended).await;
    for (room, verdict) in &rooms {
        say(&format!("cut off {cut} times, \"{room}\": {verdict}"));
    }
    rooms["r"].is_whole();
    rooms["brief"].is_told();
    assert!(rooms["brief"].gaps > 0, "a room without history is told: {}", rooms["brief"]);
    assert!(!page.contains("chat_repaired_total 0"), "it was repaired: {page}");
}

/// So many messages of 10 KB to those who are alone. Valkey 9 does not copy larger ones for each
/// subscriber, and hardly counts them in what it holds for one.
async fn flood(redis: &RedisServer, messages: u32) {
    let script = "for n = 1, ARGV[1] do
        redis.call('PUBLISH', 'chat:{r.alone}', string.rep('x', 10000)) end";
    redis.command(&["EVAL", script, "0", &messages.to_string()]).await;
}

/// The most that Redis holds for a subscriber, in bytes.
async fn buffered(redis: &RedisServer) -> u64 {
    let clients = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
    let held = clients.split(' ').filter_map(|field| field.strip_prefix("omem=")?.parse().ok());
    held.max().unwrap_or_default()
}

/// How often Redis has cut somebody off.
fn overflows(redis: &RedisServer) -> usize {
    let log = std::fs::read_to_string(redis.directory().join("redis.log")).unwrap();
    log.matches("output buffer limits").count()
}
