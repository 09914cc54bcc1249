//! A server of the version before the keys of the table had marks: its scripts, as they were.

use std::collections::HashMap;

use chat_broker::testing::RedisServer;

const CHANNEL: &str = "chat:{records}";

const SET: &str = concat!(include_str!("records.lua"), include_str!("set_record.lua"));

const READ: &str = concat!(include_str!("records.lua"), include_str!("read_records.lua"));

/// Sets a record for an hour.
pub(crate) async fn set(server: &RedisServer, key: &str, value: &str) {
    let set = run(server, SET, &[CHANNEL, key, "1", value, "3600000", "100000"]).await;
    assert_eq!(set, "1", "{key}");
}

/// Removes a record; the removal is remembered for ten minutes.
pub(crate) async fn remove(server: &RedisServer, key: &str) {
    let removed = run(server, SET, &[CHANNEL, key, "0", "", "600000", "100000"]).await;
    assert_eq!(removed, "1", "{key}");
}

/// The whole table: values by key.
pub(crate) async fn read(server: &RedisServer) -> HashMap<String, String> {
    let reply = run(server, READ, &["0", "512", "0", "0"]).await;
    let lines: Vec<&str> = reply.lines().collect();
    let [_version, _floor, _is_whole, page @ ..] = &lines[..] else { panic!("{reply}") };
    page.chunks(4)
        .filter(|row| !row[2].is_empty())
        .map(|row| (row[0].to_owned(), row[2].to_owned()))
        .collect()
}

async fn run(server: &RedisServer, script: &str, arguments: &[&str]) -> String {
    let keys = ["meta", "values", "versions", "ends"].map(|key| format!("{CHANNEL}:{key}"));
    let mut command = vec!["EVAL", script, "4"];
    command.extend(keys.iter().map(String::as_str));
    command.extend(arguments);
    server.command(&command).await
}
