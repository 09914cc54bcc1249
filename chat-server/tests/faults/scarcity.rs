//! Servers that lack files, memory or CPU.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::aside;
use super::clients::ClientFleet;
use super::storms::{prepare, storm};
use crate::support::control_clients::ControlClients;
use crate::support::process::Process;
use crate::support::raw::Raw;
use crate::support::verdict::Verdict;
use crate::support::{Chat, alone, ask, command, eventually, join, say};

/// The program under a limit of the shell's `ulimit`.
fn limited(limit: &str) -> Command {
    let program = command();
    let mut limited = Command::new("/bin/sh");
    limited
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")])
        .arg(program.get_program())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in program.get_envs() {
        limited.env(name, value.unwrap());
    }
    limited
}

const FILES: usize = 256;

const CLIENTS: usize = 1_000;

const SILENT: usize = 100;

/// There are more clients than files: with limits, which leave some over, and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_files_waits_and_is_well_again() {
    let _alone = alone().await;
    for limits in ["on", "off"] {
        let redis = RedisServer::start();
        let mut command = limited(&format!("-n {FILES}"));
        command.args(["--port", "0", "--redis-url", &redis.url(), "--limits", limits]);
        // Nobody who is there makes room by a deadline.
        command.args(["--handshake-timeout", "10m", "--ping-interval", "0s"]);
        let server = Chat::start(&mut command);
        server.until_ready().await;
        let process = Process(server.pid());
        let before = process.files();

        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            // Those who wait longer are with the kernel: the server does not have them.
            clients.spawn(timeout(Duration::from_secs(3), Raw::connect(server.port())));
        }
        let answers = clients.join_all().await.into_iter().flatten();
        let (mut taken, mut refused) = (Vec::new(), 0);
        for answer in answers {
            match answer {
                Ok(raw) => taken.push(raw),
                Err(status) => {
                    assert!(status == 503 || status == 0, "status {status}");
                    refused += 1;
                }
            }
        }
        // Some say nothing: they hold a file for as long as a handshake may take.
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.push(TcpStream::connect(("127.0.0.1", server.port())).await.unwrap());
        }
        let (full, cpu, lines) = (process.files(), process.cpu(), server.log().len());
        assert!(taken.len() > FILES / 3, "too few are connected: {}", taken.len());
        assert!(taken.len() < FILES, "more than there are files");
        sleep(Duration::from_secs(2)).await;
        let (cpu, lines) = (process.cpu() - cpu, server.log().len() - lines);
        if limits == "on" {
            // Redis gets a file although the clients would take them all.
            for kind in ["normal", "pubsub"] {
                redis.command(&["CLIENT", "KILL", "TYPE", kind]).await;
            }
            eventually("Redis to be back", async || {
                redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.lines().count() > 0
            })
            .await;
            let join = json!({"type": "join", "room": "r"});
            taken[0].ask("joined", &join).await.expect("Redis is back");
            let send = json!({"type": "send", "room": "r", "message": "through Redis"});
            taken[0].ask("ok", &send).await.expect("Redis is back");
        }
        let count = taken.len();
        drop((taken, silent));
        let began = Instant::now();
        eventually("room for new clients", async || {
            process.files() < before + 20 && Raw::connect(server.port()).await.is_ok()
        })
        .await;
        say(&format!(
            "{FILES} files, limits {limits}: {count} clients in, {refused} refused, {full} files \
             open; full, it took {cpu:?} of CPU and wrote {lines} lines in 2 s; well again {:.1?} \
             after they had left",
            began.elapsed()
        ));
        assert!(cpu < Duration::from_secs(1), "{cpu:?} of CPU while it is full");
        assert!(lines < 50, "{lines} lines while it is full");
    }
}

/// What the server may have allocated, in KiB.
const MEMORY_KIB: u64 = 128 * 1024;

/// A limit of memory that would end the process if it needed more: a storm, and many who do not
/// read, stay below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_slow_readers_stays_within_the_memory() {
    const SLOW: usize = 50;
    let _alone = alone().await;
    let redis = RedisServer::start();
    let mut command = limited(&format!("-d {MEMORY_KIB}"));
    command.args(["--port", "0", "--redis-url", &redis.url()]);
    let server = Chat::start(&mut command);
    server.until_ready().await;
    prepare(&server).await;
    let (crowd, _) = storm(server.port(), 1_000).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut raw = Raw::connect_narrow(server.port()).await;
        raw.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
        slow.push(raw);
    }
    let mut writer = Raw::connect(server.port()).await.unwrap();
    writer.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
    let send = json!({"type": "send", "room": "r", "message": "x".repeat(30_000)});
    let process = Process(server.pid());
    let mut most = 0;
    let mut said = 0;
    while server.metric("chat_slow_consumers_total").await < SLOW as u64 {
        assert!(said < 3_000, "not cut after {said} messages");
        said += 10;
        for _ in 0..10 {
            writer.ask("ok", &send).await.expect("the server lives");
        }
        most = most.max(process.rss_kib());
    }
    say(&format!(
        "{} clients and {SLOW} slow ones within {MEMORY_KIB} KiB: RSS {most} KiB at most",
        crowd.len()
    ));
    assert!(most < MEMORY_KIB * 9 / 10, "{most} KiB");
}

/// Processes that do nothing, as fast as they can.
struct Busy(Vec<Child>);

impl Busy {
    fn start(count: usize) -> Self {
        let start =
            |_| Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..count).map(start).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_starved_of_cpu_loses_nobody() {
    let _alone = alone().await;
    let redis = RedisServer::start();
    let args = ["--ping-interval", "1s", "--pong-timeout", "5s"];
    let [server, other] = Chat::several::<2>(&redis, &args).await;
    let fleet = ClientFleet::join(100, 10, &Arc::new(Mutex::new(vec![server.port()]))).await;
    let watcher = watch(&other).await;
    let control_clients = aside(ControlClients::at(server.port()));
    let quiet = control_clients.quiet().await;
    fleet.talk();
    let cores = std::thread::available_parallelism().unwrap().get();
    let busy = Busy::start(2 * cores);
    sleep(Duration::from_secs(5)).await;
    drop(busy);
    let served = control_clients.were_served().await;
    let records = fleet.finish().await;
    let verdict = Verdict::of(records.iter().map(|record| &record.talk));
    // The cores themselves are taken: that others wait for them is no fault of the server's.
    say(&format!(
        "{} busy processes: {verdict}; control clients: {served}; before: {quiet}",
        2 * cores
    ));
    assert_eq!((verdict.lost, verdict.doubled, verdict.reordered, verdict.gaps), (0, 0, 0, 0));
    assert!(records.iter().all(|record| record.stays.len() == 1), "somebody was cut");
    // Nor did the other server take this one for dead.
    let mut last = other.native().await;
    join(&mut last, "room-0").await;
    ask(&mut last, "ok", json!({"type": "send", "room": "room-0", "message": "end"})).await;
    let _watcher = watcher.await.unwrap();
    let members = ask(&mut last, "members", json!({"type": "members", "room": "room-0"})).await;
    assert_eq!(members["count"], 12);
}

/// Hears "end" in the end, and until then of nobody who left.
async fn watch(server: &Chat) -> JoinHandle<WsClient> {
    let mut watcher = server.native().await;
    join(&mut watcher, "room-0").await;
    tokio::spawn(async move {
        loop {
            let frame = watcher.recv_json().await;
            assert!(frame["event"] != "left", "{frame}");
            if frame["message"] == "end" {
                return watcher;
            }
        }
    })
}
