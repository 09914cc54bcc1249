//! A backup of Redis that is restored, as docs/backup.md says.

use std::fs;

use chat_broker::testing::RedisServer;
use serde_json::{Value, json};

use crate::support::{Chat, ask};

/// Makes the epochs of all rooms new.
const NEW_EPOCHS: &str = include_str!("../../../deploy/new-epochs.lua");

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
    for key in redis.command(&["KEYS", "chat:{*}*"]).await.lines() {
        redis.command(&["EVAL", NEW_EPOCHS, "1", key, "restored"]).await;
    }

    let server = Chat::on(&redis);
    server.until_ready().await;
    let again = say("three", &server).await;
    assert_eq!(again["offset"], lost["offset"]);
    assert_eq!((&before["epoch"], &again["epoch"]), (&lost["epoch"], &json!("restored")));
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

/// The answer, with the position of the message.
async fn say(text: &str, server: &Chat) -> Value {
    let mut client = server.native().await;
    ask(&mut client, "joined", json!({"type": "join", "room": "r"})).await;
    ask(&mut client, "ok", json!({"type": "send", "id": 1, "room": "r", "message": text})).await
}
