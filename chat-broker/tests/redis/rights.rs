//! What a user of an ACL may do: the documented rights are enough, and each that is missing shows.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_broker::{Broker, PresenceTracker, RedisConfig, Status};
use futures_util::future::join_all;

use crate::support::{DEADLINE, Node, assert_refused, assert_within, eventually, room};

/// Two probes, and a busy machine.
const NOTICED: Duration = Duration::from_secs(6);

/// What a broker can do without, see docs/redis.md.
pub(crate) const OPTIONAL: [&str; 5] =
    ["info", "client|id", "client|kill", "pubsub|numsub", "zrangebylex"];

/// The arguments of `ACL SETUSER` that docs/redis.md gives, for this database.
pub(crate) fn documented(database: u8) -> Vec<String> {
    let page = include_str!("../../../docs/redis.md");
    let (_, after) = page.split_once("```\nACL SETUSER ").expect("the line");
    let (line, _) = after.split_once("```").expect("the end of the line");
    let prefix = if database == 0 { "chat:".to_owned() } else { format!("chat@{database}:") };
    line.split_whitespace().map(|word| word.replace("chat:", &prefix)).collect()
}

/// The user `name` with these rights, and the settings of a broker that is this user.
pub(crate) async fn config_of(
    server: &RedisServer,
    name: &str,
    rights: &[String],
    database: u8,
) -> RedisConfig {
    let mut command = vec!["ACL", "SETUSER", name];
    command.extend(rights.iter().skip(1).map(String::as_str));
    assert_eq!(server.command(&command).await, "OK", "{command:?}");
    let password = rights.iter().find_map(|word| word.strip_prefix('>')).expect("a password");
    RedisConfig::new(format!("redis://{name}:{password}@127.0.0.1:{}/{database}", server.port()))
}

pub(crate) fn commands(rights: &[String]) -> impl Iterator<Item = &str> {
    rights.iter().filter_map(|word| word.strip_prefix('+'))
}

/// The label of a command in the statistics.
pub(crate) fn label(command: &str) -> String {
    command.to_ascii_uppercase().replace('|', " ")
}

fn refusals(node: &Node, command: &str, cause: &str) -> u64 {
    let refusals = node.broker.stats().refusals;
    let of = refusals.iter().filter(|each| each.command == command && each.cause == cause);
    of.map(|each| each.count).sum()
}

/// Each right is taken from a user of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_missing_right_is_visible_within_two_probes() {
    let server = RedisServer::start();
    let rights = documented(5);
    // Redis 7 permits everybody to say HELLO.
    let is_needed = |command: &&str| !OPTIONAL.contains(command) && *command != "hello";
    let needed = commands(&rights).filter(is_needed);
    join_all(needed.map(|command| missing(&server, &rights, command))).await;
}

async fn missing(server: &RedisServer, rights: &[String], command: &str) {
    let name = format!("without-{}", command.replace('|', "-"));
    let config = config_of(server, &name, rights, 5).await.deadline(DEADLINE);
    let node = Node::with(config).await;
    node.wait_for(Status::Ready).await;
    let refused: u64 = node.broker.stats().refusals.iter().map(|each| each.count).sum();
    assert_eq!(refused, 0, "all is permitted");

    let removed = Instant::now();
    let without: Vec<_> = rights.iter().filter(|word| **word != format!("+{command}")).collect();
    let mut reset = vec!["ACL", "SETUSER", &name, "nocommands"];
    reset.extend(without.iter().filter(|word| word.starts_with('+')).map(|word| word.as_str()));
    assert_eq!(server.command(&reset).await, "OK");
    eventually(&format!("{command} is missed"), async || {
        node.broker.status() == Status::Unavailable
    })
    .await;
    let noticed = removed.elapsed();
    println!("{command}: unavailable after {noticed:.1?}");
    assert_within(command, noticed, NOTICED);
    // Each probe calls a script.
    let label = if command == "evalsha" { "publish.lua".to_owned() } else { label(command) };
    eventually(&format!("{command} is counted"), async || refusals(&node, &label, "NOPERM") > 0)
        .await;

    let given = server.command(&["ACL", "SETUSER", &name, &format!("+{command}")]).await;
    assert_eq!(given, "OK");
    node.wait_for(Status::Ready).await;
    println!("{command}: ready after {:.1?}", removed.elapsed() - noticed);
    assert_eq!(node.broker.stats().reconnects, 0, "{command}: connections are kept");
}

/// Without them it does less, and says so.
#[tokio::test]
async fn missing_optional_rights_are_counted_and_broker_is_ready() {
    let server = RedisServer::start();
    let mut rights = documented(0);
    rights.retain(|word| !OPTIONAL.iter().any(|optional| *word == format!("+{optional}")));
    let config = config_of(&server, "chat", &rights, 0).await.deadline(DEADLINE);
    let node = Node::with(config).await;
    assert_eq!(node.broker.status(), Status::Ready);
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    eventually("another connection", async || {
        node.publish(&room("r"), "").await.is_ok() && node.broker.stats().reconnects > 0
    })
    .await;
    assert_refused("subscribers", node.broker.subscribers(&[room("r")]).await);
    assert_refused("rooms", node.broker.rooms("", None, 9).await);
    for command in OPTIONAL {
        // It does not end a connection whose number it does not know.
        let expected = u64::from(command != "client|kill");
        let label = if command == "zrangebylex" { "rooms.lua".to_owned() } else { label(command) };
        assert!(refusals(&node, &label, "NOPERM") >= expected, "{command}");
    }
    // Probes write as well.
    let round_trips = || node.broker.stats().round_trips.count();
    let before = round_trips();
    eventually("some probes", async || round_trips() >= before + 2).await;
    assert_eq!(node.broker.status(), Status::Ready);
}

/// As some do with what they take for dangerous.
#[tokio::test]
async fn renamed_command_is_missing() {
    let server = RedisServer::start_with(&["--rename-command", "HGETALL", "OTHER"]);
    let node = Node::start(&server).await;
    assert_eq!(node.broker.status(), Status::Unavailable);
    assert!(refusals(&node, "HGETALL", "ERR") > 0, "{:?}", node.broker.stats().refusals);
}

/// Redis answers with `NOPERM` as well, and counts differ: no command is missing.
#[tokio::test]
async fn rights_to_other_keys_are_no_rights() {
    let server = RedisServer::start();
    for (keys, channels, cause) in
        [("~other:*", "&chat:*", "NOPERM_KEY"), ("~chat:*", "&other:*", "NOPERM_CHANNEL")]
    {
        let mut rights = documented(0);
        rights.retain(|word| !word.starts_with(['~', '&']));
        rights.extend([keys.to_owned(), channels.to_owned()]);
        let config = config_of(&server, "chat", &rights, 0).await.deadline(DEADLINE);
        let node = Node::with(config).await;
        assert_eq!(node.broker.status(), Status::Unavailable, "{keys} {channels}");
        let mut refusals = node.broker.stats().refusals;
        refusals.retain(|each| each.count > 0);
        assert!(!refusals.is_empty());
        assert!(refusals.iter().all(|each| each.cause == cause), "{refusals:?}");
        server.command(&["ACL", "DELUSER", "chat"]).await;
    }
}
