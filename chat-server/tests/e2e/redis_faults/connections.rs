//! The way to Redis is broken, in part or in one direction, slow, or too narrow.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;

use super::crowd::Crowd;
use super::proxy::{Kind, Proxy, Way};
use super::{pause, say};
use crate::process::Process;
use crate::support::{Chat, DEADLINE, command, join};

/// How long it may take until a connection is known to be broken and made anew.
const RECOVERED: Duration = Duration::from_secs(10);

/// Two servers; the way of the first leads through a proxy.
struct Setup {
    redis: RedisServer,
    proxy: Proxy,
    behind: Chat,
    other: Chat,
}

impl Setup {
    async fn start(args: &[&str]) -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::start(redis.port()).await;
        let server = |url: String| {
            Chat::start(command().args(["--port", "0", "--redis-url", &url]).args(args))
        };
        let (behind, other) = (server(proxy.url()), server(redis.url()));
        behind.until_ready().await;
        other.until_ready().await;
        Self { redis, proxy, behind, other }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_replaced() {
    tokio::join!(half_open(Kind::PubSub), half_open(Kind::Commands));
}

async fn half_open(kind: Kind) {
    let setup = Setup::start(&[]).await;
    let crowd = Crowd::on(&[&setup.behind, &setup.other]).await;
    pause(Duration::from_millis(500)).await;
    setup.proxy.half_open(kind);
    let began = Instant::now();
    until_said(&setup.behind, "redis is away").await;
    let noticed = began.elapsed();
    until_said(&setup.behind, "redis is back").await;
    let back = began.elapsed();
    setup.behind.until_ready().await;
    pause(Duration::from_secs(1)).await;
    let verdict = crowd.finish(began).await;
    say(&format!(
        "half-open {kind:?}: noticed after {noticed:.1?}, back after {back:.1?}; {verdict}"
    ));
    verdict.is_whole();
    assert_eq!(verdict.refused, 0, "{verdict}");
    assert!(back < RECOVERED, "{back:?}");
    assert_eq!(setup.other.logged("redis is away"), 0);
}

/// For as long as it lasts, new connections are no better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_only_speaks_or_only_hears_catches_up() {
    tokio::join!(one_way(Kind::PubSub, Way::FromRedis), one_way(Kind::Commands, Way::ToRedis));
}

async fn one_way(kind: Kind, way: Way) {
    let setup = Setup::start(&[]).await;
    let crowd = Crowd::on(&[&setup.behind, &setup.other]).await;
    pause(Duration::from_millis(500)).await;
    setup.proxy.block(kind, way);
    let began = Instant::now();
    setup.behind.until_status("/readyz", 503).await;
    let away = began.elapsed();
    pause(Duration::from_secs(2)).await;
    setup.proxy.open();
    let ended = Instant::now();
    setup.behind.until_ready().await;
    let ready = ended.elapsed();
    pause(Duration::from_secs(1)).await;
    let verdict = crowd.finish(ended).await;
    say(&format!("no {kind:?} {way:?}: 503 after {away:.1?}, 200 after {ready:.1?}; {verdict}"));
    verdict.is_whole();
    assert!(away < RECOVERED && ready < RECOVERED, "{away:?}, {ready:?}");
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
        setup.proxy.block(Kind::PubSub, Way::FromRedis);
        // When the way is full of it, what is said waits behind it, and is lost with the rest.
        while buffered(&setup.redis).await < 100_000 && began.elapsed() < DEADLINE {
            flood(&setup.redis, 10).await;
            // For Redis, to pass on what it can.
            pause(Duration::from_millis(50)).await;
        }
        pause(Duration::from_millis(300)).await;
        flood(&setup.redis, 50).await;
        setup.proxy.open();
        cut = overflows(&setup.redis);
    }
    let ended = Instant::now();
    setup.behind.until_ready().await;
    pause(Duration::from_secs(2)).await;
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

/// So many messages of 60 KB to those who are alone.
async fn flood(redis: &RedisServer, messages: u32) {
    let script = "for n = 1, ARGV[1] do
        redis.call('PUBLISH', 'chat:{r.alone}', string.rep('x', 60000)) end";
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

/// As `Chat::until_logged`, without a thread that waits.
async fn until_said(server: &Chat, text: &str) {
    let began = Instant::now();
    while server.logged(text) == 0 {
        assert!(began.elapsed() < DEADLINE, "never said: {text}");
        pause(Duration::from_millis(10)).await;
    }
}
