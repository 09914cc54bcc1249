//! A backup of Redis that is restored, as docs/backup.md says.

use std::fs;
use std::process::Command;

use chat_broker::testing::RedisServer;
use serde_json::{Value, json};

use crate::support::{Chat, ask};

const PAGE: &str = include_str!("../../../docs/backup.md");

/// Messages after the backup have offsets that the restored Redis assigns again: a client that had
/// received them must not take the new ones for those.
#[tokio::test]
async fn clients_notice_a_restored_backup() {
    let mut redis = RedisServer::start_with(&["--save", "3600 1"]);
    let server = Chat::on(&redis);
    server.until_ready().await;
    let before = say("one", &server).await;
    assert_eq!(redis.command(&["SAVE"]).await, "OK");
    let dump = redis.directory().join("dump.rdb");
    let backup = fs::read(&dump).unwrap();
    let lost = say("two", &server).await;
    drop(server);

    redis.kill();
    fs::write(&dump, backup).unwrap();
    redis.restart();
    give_new_epochs(&redis);

    let server = Chat::on(&redis);
    server.until_ready().await;
    let again = say("three", &server).await;
    assert_eq!(again["offset"], lost["offset"]);
    assert_eq!(before["epoch"], lost["epoch"]);
    assert_ne!(again["epoch"], lost["epoch"]);
    let mut client = server.native().await;
    let since = json!({"epoch": lost["epoch"], "offset": lost["offset"]});
    let join = json!({"type": "join", "room": "r", "since": since});
    let joined = ask(&mut client, "joined", join).await;
    assert_eq!(joined["recovered"], false, "{joined}");
    let page = json!({"type": "history", "room": "r", "limit": 10});
    let page = ask(&mut client, "history", page).await;
    let texts: Vec<_> =
        page["messages"].as_array().unwrap().iter().map(|one| &one["message"]).collect();
    assert_eq!(texts, ["one", "three"]);
}

/// Runs the commands of the page for this Redis.
fn give_new_epochs(redis: &RedisServer) {
    let mut blocks = PAGE.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let commands = blocks.find(|block| block.contains("tr -dc")).unwrap();
    assert!(commands.contains("-h redis.example"), "{commands}");
    let here = format!("-h 127.0.0.1 -p {}", redis.port());
    let output = Command::new("bash")
        .args(["-euc", &commands.replace("-h redis.example", &here)])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    // The log of the one room, and that of the publishing connection's probe if it has not expired.
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(["1", "2"].contains(&text.trim()), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// The answer, with the position of the message.
async fn say(text: &str, server: &Chat) -> Value {
    let mut client = server.native().await;
    ask(&mut client, "joined", json!({"type": "join", "room": "r"})).await;
    ask(&mut client, "ok", json!({"type": "send", "id": 1, "room": "r", "message": text})).await
}
