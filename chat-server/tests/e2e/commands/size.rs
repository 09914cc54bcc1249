use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::{Chat, alone, command, eventually, join, run, say};

const USERS: usize = 200;
const ROOMS: usize = 40;
const MEMBERS: usize = 10;
const TEXT: usize = 120;
const HISTORY: usize = 256;
/// As many as a room holds before it is trimmed.
const MESSAGES_IN_ROOM: usize = 288;

fn size(history: usize, arguments: &[&str]) -> Value {
    let history = format!("--history={history}");
    let (code, out, error) = run(command().args([&*history, "size", "--json"]).args(arguments));
    assert_eq!((code, &*error), (0, ""));
    serde_json::from_str(&out).unwrap()
}

fn room(index: usize) -> String {
    format!("a room of twenty {index:03}")
}

async fn until(client: &mut WsClient, kind: &str) {
    while client.recv_json().await["type"] != kind {}
}

async fn used_memory(redis: &RedisServer) -> f64 {
    let info = redis.command(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    used.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn size_of_redis_is_that_of_a_real_one() {
    let redis = RedisServer::start();
    let server = Chat::start(command().args([
        "--port",
        "0",
        "--limits",
        "off",
        "--redis-url",
        &redis.url(),
    ]));
    server.until_ready().await;
    let before = used_memory(&redis).await;
    let mut clients = Vec::new();
    for index in 0..USERS {
        let mut client = server.native().await;
        client.send_json(&json!({"type": "hello", "name": format!("user {index}")})).await;
        until(&mut client, "welcome").await;
        clients.push(client);
    }
    for index in 0..ROOMS * MEMBERS {
        let client = &mut clients[index % USERS];
        client.send_json(&json!({"type": "join", "id": 1, "room": room(index / MEMBERS)})).await;
        until(client, "joined").await;
    }
    for message in 0..MESSAGES_IN_ROOM {
        for index in 0..ROOMS {
            let frame = json!({
                "type": "send",
                "id": 2,
                "room": room(index),
                "message": "x".repeat(TEXT),
                "key": format!("{message:016}{index:016}"),
            });
            clients[index * MEMBERS % USERS].send_json(&frame).await;
        }
        for index in 0..ROOMS {
            until(&mut clients[index * MEMBERS % USERS], "ok").await;
        }
    }
    let sent = ROOMS * MESSAGES_IN_ROOM;
    // A rate with which as many keys are recorded at any time.
    let rate = sent / 300;
    let found = size(
        HISTORY,
        &[
            &format!("--users={USERS}"),
            &format!("--rooms={ROOMS}"),
            &format!("--members={MEMBERS}"),
            &format!("--messages={rate}"),
            &format!("--text={TEXT}"),
        ],
    );
    let bytes = |name: &str| found["redis"][name].as_f64().unwrap();
    let expected = bytes("memory_bytes") - bytes("base_bytes");
    let close = async || {
        let ratio = (used_memory(&redis).await - before) / expected;
        (0.85..1.15).contains(&ratio)
    };
    // Buffers of connections are freed a moment later.
    eventually("the memory of Redis is within 15 % of the formula", close).await;
    let base = before / bytes("base_bytes");
    assert!((0.5..1.15).contains(&base), "{before} bytes of an idle Redis");

    let files = Process(server.pid()).files() as u64;
    assert!(files <= USERS as u64 + 64, "{files}");
    assert!(found["server"]["open_files"].as_u64().unwrap() >= files);
}

/// By the growth of its resident memory: what the process itself takes depends on the build.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn size_of_server_is_that_of_a_real_one() {
    const USERS: usize = 2_000;
    const MEMBERS: usize = 5;
    const MESSAGES: usize = 40;

    let _alone = alone().await;
    let server = Chat::start(command().args(["--port", "0", "--limits", "off"]));
    server.until_ready().await;
    let process = Process(server.pid());
    let before = process.rss_kib();
    let mut clients = Vec::new();
    for index in 0..USERS {
        let mut client = server.native().await;
        client.send_json(&json!({"type": "hello", "name": format!("user {index}")})).await;
        until(&mut client, "welcome").await;
        join(&mut client, &room(index / MEMBERS)).await;
        clients.push(client);
    }
    for (index, sender) in clients.iter_mut().step_by(MEMBERS).enumerate() {
        for _ in 0..MESSAGES {
            let text = "x".repeat(TEXT);
            let frame = json!({"type": "send", "id": 1, "room": room(index), "message": text});
            sender.send_json(&frame).await;
        }
        for _ in 0..MESSAGES {
            until(sender, "ok").await;
        }
    }
    let grown = (process.rss_kib() - before) as f64 * 1024.0;
    let found = |users: usize, rooms: usize, members: usize| {
        let arguments = [
            &*format!("--users={users}"),
            &format!("--rooms={rooms}"),
            &format!("--members={members}"),
            &format!("--text={TEXT}"),
            "--messages=1000000",
        ];
        size(MESSAGES, &arguments)["server"]["memory_bytes"].as_f64().unwrap()
    };
    let expected = found(USERS, USERS / MEMBERS, MEMBERS) - found(1, 1, 1);
    // An upper end: less is right, too, if it is not much less.
    let ratio = grown / expected;
    say(&format!("{grown} bytes, {ratio:.2} of the formula"));
    assert!((0.7..1.1).contains(&ratio), "{grown} bytes, {ratio:.2} of the formula");
}

#[test]
fn room_has_no_more_members_than_there_are_users() {
    let arguments = ["size", "--users=100", "--rooms=1", "--members=1000", "--messages=1"];
    let (code, _, error) = run(command().args(arguments));
    assert_eq!(code, 2);
    assert!(error.contains("--members: at most as many as --users, 100"), "{error}");
}

#[test]
fn size_is_printed_for_people() {
    let arguments = ["size", "--users=1000000", "--rooms=200000", "--members=5", "--messages=1000"];
    let (code, out, error) = run(command().args(arguments).arg("--servers=11"));
    assert_eq!((code, &*error), (0, ""));
    for line in [
        "Redis: memory",
        "  keys of messages",
        "each server of         11, while one is away, with 100000 ",
    ] {
        assert!(out.lines().any(|found| found.starts_with(line)), "{line}: {out}");
    }
}

#[test]
fn page_shows_what_the_command_prints() {
    let page = include_str!("../../../../docs/sizing.md");
    let examples: Vec<_> = page.split("```\n$ chat-server size ").skip(1).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let (arguments, shown) = example.split_once('\n').unwrap();
        let shown = shown.split_once("```").unwrap().0;
        let (_, out, _) = run(command().arg("size").args(arguments.split(' ')));
        assert_eq!(out, shown, "{arguments}");
    }
}
