//! Redis answers and refuses writes: the node is unavailable, keeps its state, and recovers.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_broker::{Broker, Status};
use tokio::time::sleep;

use crate::support::{Node, TIMEOUT, assert_unavailable, assert_within, eventually, room};

/// Within two probes, of one second each, and a busy machine.
const NOTICED: Duration = Duration::from_secs(4);

/// For how long commands are counted: for longer than any pause between attempts to connect.
const COUNTED: Duration = Duration::from_secs(3);

/// How often a busy machine may have broken a connection while it was counted.
const ATTEMPTS: usize = 4;

/// A script that does not end.
const ENDLESS: [&str; 3] = ["EVAL", "while true do end", "0"];

/// What makes Redis refuse, and what ends that.
struct Refusal<'a> {
    name: &'a str,
    begin: &'a [&'a [&'a str]],
    end: &'a [&'a [&'a str]],
    /// Another server may be found at the address: it is connected to again and again.
    reconnects: bool,
}

impl Refusal<'_> {
    async fn run(&self, server: &RedisServer) {
        let node = Node::start(server).await;
        self.run_with(server, &node).await;
    }

    async fn run_with(&self, server: &RedisServer, node: &Node) {
        let topic = room("r");
        node.subscribe(&topic).await.unwrap();
        node.publish(&topic, "before").await.unwrap();
        let idle = Rate::over(server, COUNTED).await;
        commands(server, self.begin).await;
        let unavailable = node.becomes(Status::Unavailable).await;
        node.publish(&topic, "refused").await.expect_err("nothing can be kept");
        if self.reconnects {
            // Until the pauses between attempts have grown.
            sleep(COUNTED).await;
        }
        let refused = self.rate(server).await;
        assert_eq!(node.broker.status(), Status::Unavailable);
        commands(server, self.end).await;
        let ready = node.becomes(Status::Ready).await;
        node.publish(&topic, "after").await.expect("all works again");
        let name = self.name;
        println!(
            "{name}: unavailable after {unavailable:.1?}, ready after {ready:.1?}; {idle:?}, {refused:?}"
        );
        assert_within(name, unavailable.max(ready), NOTICED);
        assert!(refused.commands <= 10.0 * idle.commands, "{name}: {refused:?}, idle {idle:?}");
        // Of three connections each tries again after a second on average.
        let most = if self.reconnects { 10.0 } else { 0.1 };
        assert!(refused.connections < most, "{name}: {refused:?}");
    }

    /// While it lasts. A node that drops its connections opens one in each of these times.
    async fn rate(&self, server: &RedisServer) -> Rate {
        let mut rate = Rate::over(server, COUNTED).await;
        for _ in 1..ATTEMPTS {
            if !self.reconnects && rate.connections > 0.0 {
                rate = Rate::over(server, COUNTED).await;
            }
        }
        rate
    }
}

impl Node {
    /// How long it takes until it has this status.
    async fn becomes(&self, status: Status) -> Duration {
        let began = Instant::now();
        self.wait_for(status).await;
        began.elapsed()
    }
}

async fn commands(server: &RedisServer, commands: &[&[&str]]) {
    for command in commands {
        server.command(command).await;
    }
}

/// What a server has to do, each second.
#[derive(Debug)]
struct Rate {
    commands: f64,
    connections: f64,
}

impl Rate {
    async fn over(server: &RedisServer, time: Duration) -> Self {
        let (began, before) = (Instant::now(), count(server).await);
        sleep(time).await;
        let (after, seconds) = (count(server).await, began.elapsed().as_secs_f64());
        // One of each is ours.
        let rate = |n: usize| (after[n] - before[n] - 1.0) / seconds;
        Self { commands: rate(0), connections: rate(1) }
    }
}

async fn count(server: &RedisServer) -> [f64; 2] {
    let info = server.command(&["INFO", "stats"]).await;
    ["total_commands_processed:", "total_connections_received:"].map(|name| {
        info.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()).expect("a number")
    })
}

/// Side by side: mostly they wait.
#[tokio::test]
async fn redis_that_refuses_writes_is_not_ready() {
    tokio::join!(
        simple("no replicas", &[], [&["CONFIG", "SET", "min-replicas-to-write"], &["1"], &["0"]]),
        simple("no RPUSH", &[], [&["ACL", "SETUSER", "default"], &["-rpush"], &["+rpush"]]),
        simple("no EVALSHA", &[], [&["ACL", "SETUSER", "default"], &["-evalsha"], &["+evalsha"]]),
        simple("no keys", &[], [&["ACL", "SETUSER", "default"], &["resetkeys"], &["~*"]]),
        full_disk(),
    );
}

/// Another server may be found at the address.
#[tokio::test]
async fn replica_is_not_ready() {
    let own = ["127.0.0.1", "1"];
    let none = ["NO", "ONE"];
    let stale = ["--replica-serve-stale-data", "no"];
    tokio::join!(
        simple("a replica", &[], [&["REPLICAOF"], &own, &none]),
        simple("a replica without its primary", &stale, [&["REPLICAOF"], &own, &none]),
        replica_that_was_written_to(),
        other_password(),
    );
}

/// One command with two endings.
async fn simple(name: &str, arguments: &[&str], [head, begin, end]: [&[&str]; 3]) {
    let (begin, end) = ([head, begin].concat(), [head, end].concat());
    let reconnects = head == ["REPLICAOF"];
    let refusal = Refusal { name, begin: &[&begin], end: &[&end], reconnects };
    refusal.run(&RedisServer::start_with(arguments)).await;
}

async fn full_disk() {
    let server = RedisServer::start_with(&["--save", "3600 1"]);
    let node = Node::start(&server).await;
    std::fs::remove_dir_all(server.directory()).unwrap();
    let end = ["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"];
    let refusal =
        Refusal { name: "a full disk", begin: &[&["BGSAVE"]], end: &[&end], reconnects: false };
    refusal.run_with(&server, &node).await;
}

async fn replica_that_was_written_to() {
    let server = RedisServer::start_with(&["--replica-read-only", "no"]);
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let refusal = Refusal {
        name: "a replica that was written to",
        begin: &[&["CONFIG", "SET", "replica-read-only", "yes"]],
        end: &[&["CONFIG", "SET", "replica-read-only", "no"]],
        reconnects: true,
    };
    refusal.run(&server).await;
}

async fn other_password() {
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "chat", "on", ">old", "~*", "&*", "+@all"]).await;
    let url = format!("redis://chat:old@127.0.0.1:{}", server.port());
    let node = Node::with(Node::config(&server).url(url)).await;
    let change = ["ACL", "SETUSER", "chat", "resetpass", ">new"];
    let refusal = Refusal {
        name: "another password",
        begin: &[&change, &["CLIENT", "KILL", "USER", "chat"]],
        end: &[&["ACL", "SETUSER", "chat", ">old"]],
        reconnects: true,
    };
    refusal.run_with(&server, &node).await;
}

/// Another's script runs and runs, and Redis says so.
#[tokio::test]
async fn slow_script_is_unavailable() {
    let server = RedisServer::start_with(&["--lua-time-limit", "50"]);
    let node = Node::start(&server).await;
    node.publish(&room("r"), "before").await.unwrap();
    let (began, before) = (Instant::now(), count(&server).await[1]);
    let endless = server.command(&ENDLESS);
    let watched = async {
        let unavailable = node.becomes(Status::Unavailable).await;
        let refused = node.publish(&room("r"), "").await;
        assert_unavailable("publish", refused);
        sleep(COUNTED).await;
        assert_eq!(node.broker.status(), Status::Unavailable);
        server.command(&["SCRIPT", "KILL"]).await;
        (unavailable, node.becomes(Status::Ready).await)
    };
    let (_, (unavailable, ready)) = tokio::join!(endless, watched);
    println!("unavailable after {unavailable:.1?}, ready after {ready:.1?}");
    assert_within("to notice", unavailable.max(ready), NOTICED);
    node.publish(&room("r"), "after").await.unwrap();
    assert_eq!(node.broker.stats().reconnects, 0, "connections are kept");
    // Of the two scripts, of this count, and each two seconds of a node that receives nothing.
    let new = count(&server).await[1] - before;
    assert!(new <= 4.0 + began.elapsed().as_secs_f64() / 2.0, "{new} connections are new");
}

/// A subscribe fails at once, and what was refused is sent again on the
/// same connection.
#[tokio::test]
async fn refused_subscription_keeps_the_connection() {
    let server = RedisServer::start_with(&["--lua-time-limit", "50"]);
    let mut node = Node::with(Node::config(&server).deadline(TIMEOUT)).await;
    let (kept, left, late) = (room("kept"), room("left"), room("late"));
    node.broker.subscribe(&[kept.clone(), left.clone()]).await.unwrap();
    let watched = async {
        node.wait_for(Status::Unavailable).await;
        let began = Instant::now();
        assert_unavailable("subscribe", node.subscribe(&late).await);
        node.broker.unsubscribe(std::slice::from_ref(&left)).await.expect("it is sent again");
        let told = began.elapsed();
        server.command(&["SCRIPT", "KILL"]).await;
        told
    };
    let (_, told) = tokio::join!(server.command(&ENDLESS), watched);
    println!("told after {told:.1?}");
    assert_within("to be told", told, TIMEOUT / 2);
    node.wait_for(Status::Ready).await;
    assert_eq!(node.broker.stats().reconnects, 0, "connections are kept");
    eventually("the end of a subscription", async || {
        node.publish(&left, "").await.is_ok_and(|published| published.nodes == 0)
    })
    .await;
    node.subscribe(&late).await.unwrap();
    for topic in [&kept, &late] {
        assert_eq!(node.publish(topic, "after").await.unwrap().nodes, 1);
        assert_eq!(node.message().await.0, "after", "nothing was interrupted");
    }
}

/// A probe that Redis did not run for the lack of a script has shown nothing.
#[tokio::test]
async fn script_flush_does_not_end_a_refusal() {
    let server = RedisServer::start();
    // Each renewal of a lease stores the scripts again: here there is none.
    let node = Node::with(Node::config(&server).lease(20 * COUNTED)).await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    node.wait_for(Status::Unavailable).await;
    let refused = Instant::now();
    while refused.elapsed() < COUNTED {
        assert_eq!(server.command(&["SCRIPT", "FLUSH"]).await, "OK");
        assert_eq!(node.broker.status(), Status::Unavailable);
        sleep(Duration::from_millis(10)).await;
    }
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    node.wait_for(Status::Ready).await;
}

/// Another's script runs for longer than any answer may take, and Redis says nothing for as
/// long as it does by default.
#[tokio::test]
async fn silent_script_is_refused() {
    let server = RedisServer::start_with(&["--lua-time-limit", "5000"]);
    let node = Node::start(&server).await;
    let watched = async {
        let unavailable = node.becomes(Status::Unavailable).await;
        assert_unavailable("publish", node.publish(&room("r"), "").await);
        assert_eq!(server.command(&["SCRIPT", "KILL"]).await, "OK");
        (unavailable, node.becomes(Status::Ready).await)
    };
    let (_, (unavailable, ready)) = tokio::join!(server.command(&ENDLESS), watched);
    println!("unavailable after {unavailable:.1?}, ready after {ready:.1?}");
    // A probe, and the time for its answer.
    assert_within("to notice", unavailable, NOTICED + Duration::from_secs(1));
    assert_within("to notice the end", ready, NOTICED);
    node.publish(&room("r"), "after").await.unwrap();
}

/// Redis reads a large file before it serves anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loading_redis_is_unavailable() {
    let mut server = RedisServer::start_with(&["--key-load-delay", "2000"]);
    let node = Node::start(&server).await;
    server.command(&["EVAL", "for n = 1, 1500 do redis.call('SET', n, n) end", "0"]).await;
    assert_eq!(server.command(&["SAVE"]).await, "OK");
    let loading = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    node.wait_for(Status::Unavailable).await;
    let _server = loading.await.unwrap();
    let ready = node.becomes(Status::Ready).await;
    println!("ready {ready:.1?} after the data was there");
    assert_within("to notice", ready, NOTICED);
    node.publish(&room("r"), "after").await.unwrap();
}

/// Users whose joins were refused are announced when the refusal ends, without a storm before.
#[tokio::test]
async fn joins_wait_for_the_end_of_a_refusal() {
    const USERS: usize = 500;
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    node.wait_for(Status::Unavailable).await;
    for n in 0..USERS {
        node.enter(&topic, &format!("user-{n}"));
    }
    let refused = Rate::over(&server, COUNTED).await;
    let refused = refused.commands * COUNTED.as_secs_f64();
    assert!(refused < 3.0 * USERS as f64, "each is tried once: {refused} commands");
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    eventually("everybody", async || node.occupancy(&topic, 0).await.count == USERS as u32).await;
}
