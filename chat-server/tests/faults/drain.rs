//! Servers that are told to stop, or are killed, under thousands of clients.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::testing::{WsClient, raw_handshake};
use serde_json::json;
use tokio::task::block_in_place;

use super::clients::{ClientFleet, ClientRecord, Ports};
use super::long;
use crate::support::raw::Raw;
use crate::support::verdict::Verdict;
use crate::support::{Chat, alone, assert_within, asserts_times, command, eventually, join, say};

/// How long a server takes to drain at most, by default.
const DRAIN: Duration = Duration::from_secs(10);

/// How much longer anything may take on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

const KEY: &str = "0123456789abcdefghijkl";

/// Rooms tell numbers instead of names, which here would be most of the work.
const QUIET: &[&str] = &["--presence-limit", "10"];

fn ports(servers: &[Chat]) -> Ports {
    Arc::new(Mutex::new(servers.iter().map(Chat::port).collect()))
}

/// What was acknowledged has reached everybody, once and in order, and each client that
/// returned was told that nothing was missing.
fn nothing_is_lost(what: &str, records: &[ClientRecord]) {
    let verdict = Verdict::of(records.iter().map(|record| &record.talk));
    let back = || records.iter().flat_map(|record| &record.stays[1..]);
    let longest = back().map(|stay| stay.away).max().unwrap_or_default();
    say(&format!("{what}: {verdict}; nobody was away for more than {longest:.1?}"));
    assert!(verdict.acknowledged > 100, "hardly anything was said");
    assert_eq!((verdict.lost, verdict.doubled, verdict.reordered, verdict.gaps), (0, 0, 0, 0));
    let unrecovered = back().filter(|stay| !stay.recovered).count();
    assert_eq!(unrecovered, 0, "clients that could not go on where they were");
    let longest_allowed = Duration::from_secs(if long() { 60 } else { 15 });
    assert_within("being away", longest, longest_allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_server_that_drains_go_on_at_another_one_by_one() {
    let _alone = alone().await;
    let redis = RedisServer::start();
    let clients = if long() { 10_000 } else { 2_000 };
    let mut servers = Chat::several::<2>(&redis, QUIET).await;
    let fleet = ClientFleet::join(clients, 100, &ports(&servers)).await;
    fleet.talk();
    fleet.until_acknowledged(2).await;

    servers[0].signal("TERM");
    let began = Instant::now();
    // Balancers are told before clients are: a client that was told is refused here.
    fleet.until_told().await;
    let (status, _, body) = servers[0].http("GET", "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "draining\n"));
    assert_eq!(WsClient::try_connect(&servers[0].ws("/ws"), &[]).await.err().unwrap(), 503);
    assert_eq!(block_in_place(|| servers[0].exit()).code(), Some(0));
    let drained = began.elapsed();
    assert_within("to drain", drained, DRAIN + SLACK);
    fleet.until_stays(2).await;
    let records = fleet.finish().await;

    for record in &records {
        let [first, second] = record.stays.as_slice() else { panic!("{:?}", record.stays) };
        assert_eq!((first.code, second.code), (Some(1001), None));
        assert!(first.after.is_some(), "no goodbye");
    }
    nothing_is_lost(
        &format!("{clients} clients moved; the server ended after {drained:.1?}"),
        &records,
    );
    is_spread(&records, began);
}

/// A server was added: its part of the clients goes there by one call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_clients_goes_to_a_server_that_was_added() {
    let _alone = alone().await;
    let redis = RedisServer::start();
    let clients = 1_000;
    let args = [QUIET, &["--api-key", KEY]].concat();
    let servers = Chat::several::<2>(&redis, &args).await;
    let fleet = ClientFleet::join(clients, 100, &ports(&servers)).await;
    fleet.talk();
    fleet.until_acknowledged(2).await;

    let call = async |body: &str| {
        let length = body.len();
        let head = format!(
            "POST /api/connections/rebalance HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let (status, _, answer) = servers[0].raw(&format!("{head}{body}")).await;
        (status, answer)
    };
    for wrong in ["{}", "{\"percent\":101}", "{\"percent\":1,\"seconds\":3601}"] {
        assert_eq!(call(wrong).await.0, 400, "{wrong}");
    }
    let began = Instant::now();
    let (status, answer) = call("{\"percent\":40,\"seconds\":2}").await;
    assert!(status == 200 && answer.contains("\"connections\":400"), "{answer}");
    servers[0].until_logged(
        "key=\"api\" call=\"rebalance\" seconds=2 percent=40 connections=400 status=200",
    );
    servers[1].until_metric("chat_connections", |moved| moved == 400).await;
    assert!(began.elapsed() > Duration::from_millis(1_500), "all at once: {:?}", began.elapsed());
    fleet.until_acknowledged(2).await;
    servers[0].until_metric("chat_connections", |left| left == 600).await;
    let records = fleet.finish().await;
    let moved = records.iter().filter(|record| record.stays.len() == 2);
    assert_eq!(moved.filter(|record| record.stays[0].code == Some(1001)).count(), 400);
    nothing_is_lost("400 of 1,000 clients moved", &records);
}

/// Nobody comes with the whole crowd.
fn is_spread(records: &[ClientRecord], began: Instant) {
    let after = records.iter().map(|record| record.stays[0].after.unwrap().as_secs_f64());
    let [told, came] = [
        fullest_tenth(after.collect()),
        fullest_tenth(
            records
                .iter()
                .map(|record| (record.stays[1].came.unwrap() - began).as_secs_f64())
                .collect(),
        ),
    ];
    say(&format!(
        "they were told to come back within {:.1} s, at most {:.0} % in a tenth of it; \
         they came within {:.1} s, at most {:.0} % in a tenth of it",
        told.0,
        told.1 * 100.0,
        came.0,
        came.1 * 100.0,
    ));
    assert!(told.0 >= 0.4 * records.len() as f64 / 2_000.0, "all within {} s", told.0);
    assert!(told.1 < 0.15, "told to come at once: {}", told.1);
    assert!(!asserts_times() || came.1 < 0.4, "came at once: {}", came.1);
}

/// How long it is from the first to the last, and which part of all is in the fullest tenth of
/// that.
fn fullest_tenth(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let whole = times[times.len() - 1] - times[0];
    let within =
        |from: usize| times.partition_point(|time| *time <= times[from] + whole / 10.0) - from;
    let most = (0..times.len()).map(within).max().unwrap();
    (whole, most as f64 / times.len() as f64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_server_that_is_killed_go_on_at_another() {
    let _alone = alone().await;
    let redis = RedisServer::start();
    let clients = if long() { 5_000 } else { 1_000 };
    let [first, second] = Chat::several::<2>(&redis, QUIET).await;
    let there = Arc::new(Mutex::new(vec![first.port(), second.port()]));
    let fleet = ClientFleet::join(clients, 50, &there).await;
    fleet.talk();
    fleet.until_acknowledged(2).await;
    first.signal("KILL");
    let began = Instant::now();
    fleet.until_stays(2).await;
    let back = began.elapsed();
    let records = fleet.finish().await;
    nothing_is_lost(
        &format!("a server was killed, {clients} clients were back after {back:.1?}"),
        &records,
    );
    assert_eq!(second.metric("chat_connections").await, clients as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_are_replaced_one_after_the_other() {
    let _alone = alone().await;
    let redis = RedisServer::start();
    let mut servers = Chat::several::<3>(&redis, QUIET).await;
    let ports = ports(&servers);
    let fleet = ClientFleet::join(300, 30, &ports).await;
    fleet.talk();
    for (n, server) in servers.iter_mut().enumerate() {
        fleet.until_acknowledged(5 * (n + 1)).await;
        server.signal("TERM");
        assert_eq!(block_in_place(|| server.exit()).code(), Some(0));
        let mut command = command();
        command.args(["--port", "0", "--redis-url", &redis.url()]).args(QUIET);
        *server = Chat::start(&mut command);
        server.until_ready().await;
        ports.lock().unwrap()[n] = server.port();
        fleet.until_stays(n + 2).await;
    }
    nothing_is_lost("three servers were replaced under 300 clients", &fleet.finish().await);
}

/// A client that takes nothing, and a Redis that says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_client_nor_redis_holds_up_the_end() {
    let redis = RedisServer::start();
    let args = ["--drain-timeout", "2s", "--outbox-bytes", "16777216"];
    let [mut server] = Chat::several::<1>(&redis, &args).await;
    let mut stalled = Raw::connect_narrow(server.port()).await;
    stalled.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
    let mut writer = server.native().await;
    join(&mut writer, "r").await;
    let text = "x".repeat(30_000);
    eventually("something that waits for the stalled client", async || {
        let mut writer = Raw::connect(server.port()).await.unwrap();
        writer.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
        for _ in 0..20 {
            writer.ask("ok", &json!({"type": "send", "room": "r", "message": text})).await.unwrap();
        }
        server.metric("chat_outbox_bytes").await > 0
    })
    .await;
    redis.pause();
    server.signal("TERM");
    let began = Instant::now();
    assert_eq!(block_in_place(|| server.exit()).code(), Some(0));
    let took = began.elapsed();
    redis.resume();
    say(&format!(
        "a stalled client and a frozen Redis: the end took {took:.1?}, 2 s of it to drain"
    ));
    assert!(took >= Duration::from_secs(2), "the client was not waited for: {took:?}");
    assert_within("the end", took, Duration::from_secs(2) + SLACK);
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    for second in ["TERM", "INT"] {
        let redis = RedisServer::start();
        let [mut server] = Chat::several::<1>(&redis, &["--drain-timeout", "60s"]).await;
        let stuck = raw_handshake(&format!("127.0.0.1:{}", server.port()), "/").await;
        redis.pause();
        server.signal("TERM");
        server.until_logged("SIGTERM: shutting down");
        server.signal(second);
        assert_eq!(block_in_place(|| server.exit()).code(), Some(1));
        // Its last word is not lost.
        server.until_logged("again: stopping at once");
        redis.resume();
        drop(stuck);
    }
}

/// What comes after a goodbye, of either side, is not carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_after_the_end_is_not_said() {
    let redis = RedisServer::start();
    let [server, other] = Chat::several::<2>(&redis, &[]).await;
    let mut listener = other.native().await;
    join(&mut listener, "r").await;
    let late = |text: &str| json!({"type": "send", "room": "r", "message": text});
    let enter = json!({"type": "join", "room": "r"});

    let mut leaving = Raw::connect(server.port()).await.unwrap();
    leaving.ask("joined", &enter).await.unwrap();
    leaving.send_close(Some(1000)).await;
    leaving.send(&late("after its own goodbye")).await;
    assert!(leaving.next_of("ok").await.is_none(), "answered after the end");

    let mut told = Raw::connect(server.port()).await.unwrap();
    told.ask("joined", &enter).await.unwrap();
    server.signal("TERM");
    told.next_of("goodbye").await.expect("a goodbye");
    told.send(&late("after the server's goodbye")).await;
    assert!(told.next_of("ok").await.is_none(), "answered after the end");

    let page = json!({"type": "history", "room": "r", "limit": 10});
    let page = crate::support::ask(&mut listener, "history", page).await;
    assert_eq!(page["messages"], json!([]));
}
