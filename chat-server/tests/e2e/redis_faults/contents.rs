//! Redis holds something else than what was put there.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use serde_json::json;

use super::crowd::Crowd;
use super::pause;
use crate::support::{Chat, DEADLINE, ask, join, say};

/// Redis evicts any key: a client that returns is not told that nothing is missing.
#[tokio::test]
async fn an_evicted_history_is_never_a_hole() {
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let (first, second) = Chat::pair(&redis).await;
    for server in [&first, &second] {
        assert_eq!(server.logged("set maxmemory-policy to noeviction"), 1, "a warning");
        let line = server.until_logged("redis may delete");
        for lost in ["histories", "who is in which room", "leases", "bans", "secret"] {
            assert!(line.contains(lost), "{lost} in {line}");
        }
    }
    let (mut a, mut b) = (first.native().await, second.native().await);
    join(&mut a, "r").await;
    let said = async |client: &mut _, text: &str| {
        ask(client, "ok", json!({"type": "send", "room": "r", "message": text})).await
    };
    let seen = said(&mut a, "1").await;
    for n in 2..=20 {
        said(&mut a, &n.to_string()).await;
    }
    evict(&redis, "chat:{r.r}").await;
    let since = json!({"epoch": seen["epoch"], "offset": seen["offset"]});
    let back = json!({"type": "join", "room": "r", "since": since});
    let joined = ask(&mut b, "joined", back.clone()).await;
    assert_eq!(joined["recovered"], false, "{joined}");
    assert_eq!(joined["messages"], json!([]), "{joined}");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let ok = said(&mut a, "after").await;
    let (mut received, mut is_told) = (b.recv_json().await, false);
    while received["type"] != "message" {
        is_told |= received["type"] == "gap";
        received = b.recv_json().await;
    }
    assert_eq!((&received["message"], &received["offset"]), (&json!("after"), &ok["offset"]));
    // The counter may have gone with the history, before the join or after it.
    let place = joined["offset"].as_u64().unwrap();
    assert_eq!(is_told, received["offset"] != place + 1, "{received} after {joined}");
    // The server on which they were said may have them in its memory.
    let mut late = first.native().await;
    let joined = ask(&mut late, "joined", back).await;
    let offsets = joined["messages"].as_array().unwrap().iter().map(|m| m["offset"].as_u64());
    let is_whole = joined["epoch"] == seen["epoch"]
        && offsets.eq((2..=joined["offset"].as_u64().unwrap()).map(Some));
    assert_eq!(joined["recovered"], is_whole, "{joined}");
}

/// Fills Redis until it has deleted this key.
async fn evict(redis: &RedisServer, key: &str) {
    let info = redis.command(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    let most = used.unwrap().parse::<u64>().unwrap() + 512 * 1024;
    redis.command(&["CONFIG", "SET", "maxmemory", &most.to_string()]).await;
    let fill = "for n = 1, 200 do redis.call('SET', ARGV[1] .. n, string.rep('x', 1000)) end";
    let began = Instant::now();
    let mut round = 0;
    while redis.command(&["EXISTS", key]).await == "1" {
        assert!(began.elapsed() < DEADLINE, "{key} is still there");
        round += 1;
        redis.command(&["EVAL", fill, "0", &format!("junk-{round}-")]).await;
    }
}

/// Whatever other programs write into our channels and keys, clients receive only what was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_nobodys_message() {
    let redis = RedisServer::start();
    let [first, second] = Chat::several(&redis, &["--presence-grace", "500ms"]).await;
    let crowd = Crowd::on(&[&first, &second]).await;
    crowd.until_all_said_since(Instant::now()).await;
    let forged = [
        "",
        "hello",
        "\u{0}",
        "\u{0}not json",
        "\u{0}{\"type\":\"message\",\"room\":\"r\",\"message\":\"m0 999999 forged\"}",
        "\u{1}12345678",
        "\u{2}",
        "\u{2}1234567812345678",
        "\u{2}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}abcdefgh12345678{}",
        "\u{3}",
        "\u{3}12345678\u{0}\u{0}\u{0}\u{1}\u{0}\u{9}x",
        "\u{7f}\u{0}",
    ];
    let channels = redis.command(&["PUBSUB", "CHANNELS"]).await;
    for channel in channels.lines() {
        for payload in forged {
            redis.command(&["PUBLISH", channel, payload]).await;
        }
    }
    // All that there is becomes something else, also what the servers need themselves.
    let keys = redis.command(&["KEYS", "*"]).await;
    for key in keys.lines() {
        redis.command(&["DEL", key]).await;
        let other = if key.ends_with("secret") { "LPUSH" } else { "SET" };
        redis.command(&[other, key, "garbage"]).await;
    }
    pause(Duration::from_secs(1)).await;
    redis.command(&["FLUSHALL"]).await;
    let ended = Instant::now();
    first.until_ready().await;
    second.until_ready().await;
    crowd.until_all_said_since(ended).await;
    let verdict = crowd.finish(ended).await;
    let unreadable = "chat_broker_unreadable_total";
    let counted = [first.metric(unreadable).await, second.metric(unreadable).await];
    let kinds = keys.lines().count();
    say(&format!("garbage ({counted:?} counted), {kinds} kinds of keys, FLUSHALL: {verdict}"));
    verdict.is_told();
    assert!(counted.iter().all(|count| *count > 0), "{counted:?}");
    // All are members again.
    let mut last = first.native().await;
    join(&mut last, "r").await;
    let deadline = Instant::now() + DEADLINE;
    let members = json!({"type": "members", "room": "r"});
    while ask(&mut last, "members", members.clone()).await["count"] != 1 {
        assert!(Instant::now() < deadline, "those who left are still there");
        pause(Duration::from_millis(50)).await;
    }
}
