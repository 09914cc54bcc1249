//! Thousands who come at once, and one who says as much as thousands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use serde_json::json;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{sleep, timeout};

use super::{aside, long};
use crate::support::control_clients::ControlClients;
use crate::support::process::Process;
use crate::support::raw::Raw;
use crate::support::{Chat, alone, ask, asserts_times, command, join, say};

/// How long a storm may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// What one client in a large room may cost a server, in KiB, and what storms leave in its
/// allocator.
const EACH_KIB: u64 = 32;

/// Commands to Redis for each who comes, at most: a presence, and what the servers ask anyway.
const COMMANDS: u64 = 20;

/// Has so many clients come to one room at once; those who are refused try again. Returns them
/// when all are in, and how many were refused before.
pub(crate) async fn storm(port: u16, clients: usize) -> (Vec<Raw>, usize) {
    let refused = Arc::<AtomicUsize>::default();
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let refused = Arc::clone(&refused);
        all.spawn(async move {
            loop {
                let mut raw = match Raw::connect(port).await {
                    Ok(raw) => raw,
                    Err(status) => {
                        assert!(status == 503 || status == 0, "status {status}");
                        refused.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                };
                let join = json!({"type": "join", "room": "crowded", "history": 10});
                let joined = raw.ask("joined", &join).await.expect("nobody is cut");
                assert_eq!(joined["messages"].as_array().unwrap().len(), 10);
                return raw;
            }
        });
    }
    let all = timeout(PATIENCE, all.join_all()).await.expect("not all are in");
    (all, refused.load(Ordering::Relaxed))
}

/// A room with something to read in it.
pub(crate) async fn prepare(server: &Chat) {
    let mut writer = server.native().await;
    join(&mut writer, "crowded").await;
    for n in 0..50 {
        let send = json!({"type": "send", "room": "crowded", "message": n.to_string()});
        ask(&mut writer, "ok", send).await;
    }
    ask(&mut writer, "left", json!({"type": "leave", "room": "crowded"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_who_come_at_once_are_all_let_in() {
    let _alone = alone().await;
    let redis = RedisServer::start();
    let clients = if long() { 10_000 } else { 5_000 };
    let [server] = Chat::several::<1>(&redis, &[]).await;
    prepare(&server).await;
    let stop = Arc::<AtomicBool>::default();
    let talk = talk(server.port(), Arc::clone(&stop));
    let talk = std::thread::spawn(move || aside(talk));
    let process = Process(server.pid());
    let (rss, commands, began) = (process.rss_kib(), commands(&redis).await, Instant::now());
    let (crowd, refused) = storm(server.port(), clients).await;
    let took = began.elapsed();
    let grown = process.rss_kib().saturating_sub(rss);
    let asked = self::commands(&redis).await - commands;
    stop.store(true, Ordering::Relaxed);
    let slowest = block_in_place(|| talk.join()).expect("others are served meanwhile");
    say(&format!(
        "{clients} came at once: all in after {took:.1?}, {refused} refused before, RSS {grown} \
         KiB more, {:.1} commands to Redis for each; the slowest answer to others took {slowest:.1?}",
        asked as f64 / clients as f64
    ));
    assert!(grown < clients as u64 * EACH_KIB, "{grown} KiB more");
    assert!(asked < clients as u64 * COMMANDS, "{asked} commands");
    // All of them are there, and hear what is said.
    let mut crowd = crowd;
    let mut writer = server.native().await;
    ask(&mut writer, "joined", json!({"type": "join", "room": "crowded"})).await;
    // The number of a large room may be a second old.
    let deadline = Instant::now() + PATIENCE;
    let members = json!({"type": "members", "room": "crowded"});
    while ask(&mut writer, "members", members.clone()).await["count"] != clients + 1 {
        assert!(Instant::now() < deadline, "somebody is missing");
        sleep(Duration::from_millis(100)).await;
    }
    ask(&mut writer, "ok", json!({"type": "send", "room": "crowded", "message": "all"})).await;
    for raw in &mut crowd {
        assert_eq!(raw.next_of("message").await.expect("nobody is cut")["message"], "all");
    }
}

/// Says one thing after the other in another room; the longest time to an answer.
async fn talk(port: u16, stop: Arc<AtomicBool>) -> Duration {
    let mut raw = Raw::connect(port).await.expect("a connection");
    raw.ask("joined", &json!({"type": "join", "room": "elsewhere"})).await.expect("a joined frame");
    let mut slowest = Duration::ZERO;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        let (text, room) = (n.to_string(), "elsewhere");
        let send = json!({"type": "send", "room": room, "message": text, "key": text});
        raw.ask("ok", &send).await.expect("an answer");
        slowest = slowest.max(began.elapsed());
        sleep(Duration::from_millis(100)).await;
    }
    slowest
}

async fn commands(redis: &RedisServer) -> u64 {
    let info = redis.command(&["INFO", "stats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    line.expect("the statistic").trim().parse().unwrap()
}

/// One client sends as much as the server takes, and does not wait for answers: it is slowed to
/// its rate, and stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_costs_the_others_nothing() {
    const TIME: Duration = Duration::from_secs(3);
    /// The flood, the clients and the server have the same cores: a part of the messages may be
    /// missing, and in one of so many rounds it is no more than that.
    const ROUNDS: usize = 3;
    const PART: f64 = 0.8;
    let _alone = alone().await;
    let args = ["--port", "0", "--limits", "on", "--rate", "300/600", "--rate-per-user", "off"];
    let server = Chat::start(command().args(args));
    let frames = async || server.metric("chat_received_frames_total").await;
    let mut best = 0.0_f64;
    for _ in 0..ROUNDS {
        let control_clients = aside(ControlClients::at(server.port()));
        control_clients.quiet().await;
        sleep(TIME).await;
        let quiet = control_clients.were_served().await;

        let before = frames().await;
        let stop = Arc::<AtomicBool>::default();
        let loud = aside(ControlClients::at(server.port()));
        let flood = tokio::spawn(flood(server.port(), Arc::clone(&stop)));
        let began = Instant::now();
        sleep(TIME).await;
        let loud = loud.were_served().await;
        stop.store(true, Ordering::Relaxed);
        let sent = flood.await.unwrap();
        let taken = frames().await - before - loud.count() as u64;
        let time = began.elapsed().as_secs_f64();
        let part = loud.count() as f64 / quiet.count() as f64;
        say(&format!(
            "a flood of {sent} frames in {TIME:?}, of which {taken} were taken; control clients: {loud}; \
             before: {quiet}"
        ));
        assert!(sent > 10_000, "no flood: {sent} frames");
        // 600 at once and 300 a second, and a few that the control_clients began with.
        assert!(taken as f64 <= 610.0 + 300.0 * time, "{taken} frames were taken in {time:.1} s");
        assert_eq!(server.metric("chat_closed_total{code=\"1008\"}").await, 0);
        best = best.max(part);
        if part >= PART || !asserts_times() {
            return;
        }
    }
    panic!("the others had {:.0} % of their messages at best", best * 100.0);
}

/// How many frames it sent, to the kernel of the server for the most part.
async fn flood(port: u16, stop: Arc<AtomicBool>) -> usize {
    let mut raw = Raw::connect(port).await.expect("a connection");
    raw.ask("joined", &json!({"type": "join", "room": "flooded"})).await.expect("a joined frame");
    let mut sent = 0;
    let send = json!({"type": "send", "room": "flooded", "message": "x"});
    while !stop.load(Ordering::Relaxed) {
        match timeout(Duration::from_millis(100), raw.send(&send)).await {
            Ok(is_taken) => {
                assert!(is_taken, "the connection was ended");
                sent += 1;
            }
            // The kernel holds all that it can: the rest of the frame is sent later.
            Err(_) => break,
        }
    }
    while !stop.load(Ordering::Relaxed) {
        let _ = timeout(Duration::from_millis(100), raw.next()).await;
    }
    sent
}
