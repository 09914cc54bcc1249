//! Keys of presence are lost, Redis refuses parts of a change, its clock is shifted: in the end
//! members and living nodes agree.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_broker::{Broker, BrokerEvent, PresenceTracker, RedisConfig};
use chat_core::{Occupant, Roster, Topic};
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::support::{Node, TIMEOUT, asserts_times, eventually, keys, room, user};

const LEASE: Duration = Duration::from_secs(1);

/// What is lost, in the names of Redis: `<members>` and the like stand for keys.
const LOSSES: [&[&str]; 15] = [
    &["DEL", "<members>"],
    &["DEL", "<on a>"],
    &["DEL", "<on b>"],
    &["DEL", "<rooms a>"],
    &["DEL", "<rooms b>"],
    &["DEL", "<nodes>"],
    &["DEL", "<members>", "<on a>", "<on b>", "<rooms a>", "<rooms b>", "<nodes>"],
    &["DEL", "<on a>", "<rooms a>", "<nodes>"],
    &["HDEL", "<members>", ""],
    &["HDEL", "<members>", "both"],
    &["HDEL", "<members>", "ann"],
    &["HDEL", "<members>", "ann", "both"],
    &["HDEL", "<members>", "", "ann", "both"],
    &["HSET", "<members>", "ghost", "1:info: of ghost", "ann", "7:info: of ann", "junk", "junk"],
    &["ZREM", "<nodes>", "<a>"],
];

/// What happens next, before anything can have been mended.
#[derive(Debug, Clone, Copy)]
enum Then {
    Nothing,
    UsersLeave,
    NodeDies,
}

/// Each key alone, all together, and what follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_keys_are_written_again_and_users_who_left_are_removed() {
    let server = RedisServer::start();
    let cases = LOSSES.iter().flat_map(|loss| {
        [Then::Nothing, Then::UsersLeave, Then::NodeDies].map(|then| (*loss, then))
    });
    join_all(cases.enumerate().map(|(n, (loss, then))| heal(&server, n, loss, then))).await;
}

async fn heal(server: &RedisServer, n: usize, loss: &[&str], then: Then) {
    let prefix = format!("chat-{n}");
    let node = || Node::with(config(server).prefix(&prefix));
    let nodes = async || {
        let names = server.command(&["ZRANGE", &format!("{prefix}:nodes"), "0", "-1"]).await;
        names.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (a, topic) = (node().await, room("r"));
    eventually("a lease", async || nodes().await.len() == 1).await;
    let name_of_a = nodes().await.pop_first().unwrap();
    let b = node().await;
    eventually("another lease", async || nodes().await.len() == 2).await;
    let name_of_b = nodes().await.into_iter().find(|name| *name != name_of_a).unwrap();
    for name in ["ann", "both"] {
        a.enter(&topic, name);
    }
    for name in ["ben", "both"] {
        b.enter(&topic, name);
    }
    let mut follower = Follower::new(b, &topic).await;
    follower.until(&["ann", "ben", "both"], "at the beginning").await;
    for (node, name) in [(&a, &name_of_a), (&follower.node, &name_of_b)] {
        until_it_judges(server, &prefix, node, name).await;
    }

    let key = |name: &str| match name {
        "<members>" => format!("{prefix}:{{r.r}}:members"),
        "<on a>" => format!("{prefix}:{{r.r}}:on:{name_of_a}"),
        "<on b>" => format!("{prefix}:{{r.r}}:on:{name_of_b}"),
        "<rooms a>" => format!("{prefix}:rooms:{name_of_a}"),
        "<rooms b>" => format!("{prefix}:rooms:{name_of_b}"),
        "<nodes>" => format!("{prefix}:nodes"),
        "<a>" => name_of_a.clone(),
        other => other.to_owned(),
    };
    let command: Vec<String> = loss.iter().copied().map(key).collect();
    server.command(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let what = format!("{loss:?}, then {then:?}");
    match then {
        Then::Nothing => follower.until(&["ann", "ben", "both"], &what).await,
        Then::UsersLeave => {
            a.leave(&topic, "ann");
            a.leave(&topic, "both");
            follower.until(&["ben", "both"], &what).await;
        }
        Then::NodeDies => {
            drop(a.broker);
            follower.until(&["ben", "both"], &what).await;
        }
    }
    // What Redis says is complete again, too: users leave as ever.
    follower.node.leave(&topic, "ben");
    follower.node.leave(&topic, "both");
    let rest: &[&str] = if matches!(then, Then::Nothing) { &["ann", "both"] } else { &[] };
    follower.until(rest, &what).await;
}

/// Waits until a node may judge others: then it removes a member whom no node holds.
async fn until_it_judges(server: &RedisServer, prefix: &str, node: &Node, name: &str) {
    let topic = room(name);
    let members = format!("{prefix}:{{r.{name}}}:members");
    node.enter(&topic, "own");
    eventually("a member", async || server.command(&["EXISTS", &members]).await == "1").await;
    server.command(&["HSET", &members, "ghost", "1:info: of ghost"]).await;
    eventually("a node that judges", async || {
        server.command(&["HEXISTS", &members, "ghost"]).await == "0"
    })
    .await;
    node.leave(&topic, "own");
    eventually("no member", async || server.command(&["EXISTS", &members]).await == "0").await;
}

fn config(server: &RedisServer) -> RedisConfig {
    Node::config(server).lease(LEASE).grace(Duration::from_millis(500)).deadline(TIMEOUT)
}

/// Follows who is in a topic as a hub does: by events, and by reading where they leave a hole.
struct Follower {
    node: Node,
    topic: Topic,
    roster: Roster,
}

impl Follower {
    async fn new(node: Node, topic: &Topic) -> Self {
        node.subscribe(topic).await.unwrap();
        Self { node, topic: topic.clone(), roster: Roster::new(100) }
    }

    /// Waits until it knows of these, and Redis too.
    async fn until(&mut self, expected: &[&str], what: &str) {
        let deadline = Instant::now() + 3 * TIMEOUT;
        loop {
            for event in self.node.arrived().await {
                if let BrokerEvent::Presence { change, occupant, version, count, .. } = event {
                    self.roster.change(version, count, change, occupant, &mut Vec::new());
                }
            }
            if self.roster.wants_snapshot() {
                self.roster.begin_snapshot();
                let snapshot = self.node.occupancy(&self.topic, 100).await;
                self.roster.set(snapshot, &mut Vec::new());
            }
            let listed: Vec<&str> =
                self.roster.listed().into_iter().flatten().map(|(user, _)| user.as_str()).collect();
            let read = self.node.occupancy(&self.topic, 100).await;
            let mut stored: Vec<&str> =
                read.occupants.iter().map(|one| one.user.as_str()).collect();
            stored.sort_unstable();
            let count = self.roster.count() as usize;
            if (&*listed, &*stored, count) == (expected, expected, expected.len()) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {listed:?} of {count}, in Redis {stored:?}, expected {expected:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A key is of another kind: its room cannot be mended, and all others are.
#[tokio::test]
async fn unreadable_room_does_not_stop_repair_of_others() {
    let server = RedisServer::start();
    let node = Node::with(config(&server)).await;
    for name in ["a", "b", "c"] {
        node.enter(&room(name), "ann");
        node.wait_for_occupants(&room(name), &["ann"]).await;
    }
    server.command(&["SET", "chat:{r.b}:members", "x"]).await;
    for _ in 0..2 {
        server.command(&["DEL", "chat:{r.a}:members", "chat:{r.c}:members"]).await;
        for name in ["a", "c"] {
            node.wait_for_occupants(&room(name), &["ann"]).await;
        }
    }
    // The same for what a node leaves behind as it dies.
    let next = Node::with(config(&server)).await;
    until_it_judges(&server, "chat", &next, "next").await;
    drop(node.broker);
    for name in ["a", "c"] {
        next.wait_for_occupants(&room(name), &[]).await;
    }
    server.command(&["DEL", "chat:{r.b}:members"]).await;
    eventually("every trace is removed", async || {
        keys(&server).await == ["chat:nodes"]
            && server.command(&["ZCARD", "chat:nodes"]).await == "1"
    })
    .await;
}

/// The node with the earlier name writes it first after the loss, and the latest name still wins.
#[tokio::test]
async fn latest_name_outlives_the_data_of_redis() {
    let server = RedisServer::start();
    let (mut a, b) = (Node::with(config(&server)).await, Node::with(config(&server)).await);
    let topic = room("r");
    a.subscribe(&topic).await.unwrap();
    let named = |name: &'static str| Occupant::new(user("u"), name.into());
    a.broker.enter(&topic, named("before"));
    eventually("the first name", async || a.occupancy(&topic, 9).await.count == 1).await;
    b.broker.enter(&topic, named("latest"));
    let latest = [named("latest")];
    eventually("the latest name", async || a.occupancy(&topic, 9).await.occupants == latest).await;
    a.arrived().await;
    // Of the two only one has anything to say.
    drop(b);
    for lost in [&["DEL", "chat:{r.r}:members"][..], &["FLUSHALL"]] {
        server.command(lost).await;
        eventually("the name is back", async || a.occupancy(&topic, 9).await.count == 1).await;
        assert_eq!(a.occupancy(&topic, 9).await.occupants, latest, "{lost:?}");
    }
}

/// Without a right, a change that needs it is not made in part, and is made when Redis allows it.
///
/// In the room `r`, ann leaves, ben stays and carl joins; eve leaves the room `last` empty; dora is the
/// first in the room `new`. Each command has the users of these rooms while it is not allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_change_leaves_nothing_behind_and_is_made_later() {
    const UNCHANGED: [&[&str]; 3] = [&["ann", "ben"], &["eve"], &[]];
    let commands: [(&str, [&[&str]; 3]); 9] = [
        ("hmget", UNCHANGED),
        ("hlen", [&["ann", "ben"], &["eve"], &["dora"]]),
        ("srem", UNCHANGED),
        ("publish", UNCHANGED),
        ("sadd", [&["ben"], &[], &[]]),
        ("hset", [&["ann", "ben"], &[], &[]]),
        ("hdel", [&["ann", "ben", "carl"], &["eve"], &["dora"]]),
        // The leave of the last user does not need it.
        ("exists", [&["ann", "ben", "carl"], &[], &["dora"]]),
        ("time", [&["ben", "carl"], &[], &[]]),
    ];
    join_all(commands.map(|(command, without)| refuse(command, without))).await;
}

async fn refuse(command: &str, without: [&[&str]; 3]) {
    let server = RedisServer::start();
    let (mut watcher, node) = (Node::start(&server).await, Node::start(&server).await);
    let [r, last, new] = ["r", "last", "new"].map(room);
    watcher.subscribe(&r).await.unwrap();
    node.enter(&last, "eve");
    watcher.wait_for_occupants(&last, &["eve"]).await;
    node.enter(&r, "ann");
    node.enter(&r, "ben");
    watcher.wait_for_occupants(&r, &["ann", "ben"]).await;
    watcher.change().await;
    let (_, version, _) = watcher.change().await;

    server.command(&["ACL", "SETUSER", "default", &format!("-{command}")]).await;
    node.leave(&r, "ann");
    node.leave(&last, "eve");
    node.enter(&r, "carl");
    node.enter(&new, "dora");
    // What was refused is tried again some times.
    let refusals = || node.broker.stats().refusals.iter().map(|each| each.count).sum::<u64>();
    let before = refusals();
    eventually("further attempts", async || refusals() >= before + 3).await;
    assert_holds(&server, ["r", "last", "new"], without, command).await;

    server.command(&["ACL", "SETUSER", "default", &format!("+{command}")]).await;
    watcher.wait_for_occupants(&r, &["ben", "carl"]).await;
    watcher.wait_for_occupants(&last, &[]).await;
    watcher.wait_for_occupants(&new, &["dora"]).await;
    let (first, second) = (watcher.change().await, watcher.change().await);
    let mut told = [&*first.0, &*second.0];
    told.sort_unstable();
    assert_eq!(told, ["+carl", "-ann"], "without {command}");
    assert_eq!((first.1, second.1), (version + 1, version + 2), "without {command}");
    assert_eq!(watcher.arrived().await, []);
}

/// Asserts that Redis has these users of rooms in all keys that should have them, and in no other.
async fn assert_holds(server: &RedisServer, rooms: [&str; 3], users: [&[&str]; 3], what: &str) {
    let read = async |command: &str, key: &str| {
        let reply = server.command(&[command, key]).await;
        let mut found: Vec<_> = reply.lines().filter(|user| !user.is_empty()).collect();
        found.sort_unstable();
        found.join(" ")
    };
    let keys = keys(server).await;
    let occupied = rooms.iter().zip(users).filter(|(_, users)| !users.is_empty());
    let mut expected: Vec<_> =
        occupied.clone().map(|(room, _)| format!("chat:{{r.{room}}}")).collect();
    expected.sort_unstable();
    for (room, users) in occupied {
        let users = users.join(" ");
        let channel = format!("chat:{{r.{room}}}");
        assert_eq!(read("HKEYS", &format!("{channel}:members")).await, users, "{what}");
        let held = keys.iter().find(|key| key.starts_with(&format!("{channel}:on:"))).unwrap();
        assert_eq!(read("SMEMBERS", held).await, users, "{what}");
    }
    let topics = keys.iter().find(|key| key.starts_with("chat:rooms:")).unwrap();
    assert_eq!(read("SMEMBERS", topics).await, expected.join(" "), "{what}");
    let listed = server.command(&["ZRANGE", "chat:occupied", "0", "-1"]).await;
    let listed: Vec<_> = listed.lines().map(|room| format!("chat:{{{room}}}")).collect();
    assert_eq!(listed, expected, "{what}");
    let of_rooms = keys.iter().filter(|key| key.contains(":members") || key.contains(":on:"));
    assert_eq!(of_rooms.count(), 2 * expected.len(), "{what}: {keys:?}");
}

/// The clock of Redis is set back as a node dies: its lease would last for an hour more.
#[tokio::test]
async fn lease_further_ahead_than_leases_last_is_cut() {
    let server = RedisServer::start();
    let (watcher, dying) = (Node::with(config(&server)).await, Node::with(config(&server)).await);
    let topic = room("r");
    watcher.enter(&topic, "stays");
    dying.enter(&topic, "ann");
    watcher.wait_for_occupants(&topic, &["ann", "stays"]).await;
    drop(dying.broker);
    let ahead = async |seconds: &str| {
        // As leases look when the clock was set back by so much.
        let shift = "for _, node in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do \
                     redis.call('ZINCRBY', KEYS[1], ARGV[1] * 1000, node) end";
        server.command(&["EVAL", shift, "1", "chat:nodes", seconds]).await;
    };
    ahead("3600").await;
    let began = Instant::now();
    watcher.wait_for_occupants(&topic, &["stays"]).await;
    println!("the users of the dead node left after {:?}", began.elapsed());
    eventually("the dead node is forgotten", async || {
        server.command(&["ZCARD", "chat:nodes"]).await == "1"
    })
    .await;
}

/// Keys that their node could not remove expire.
#[tokio::test]
async fn keys_of_presence_have_a_lifetime() {
    let server = RedisServer::start();
    let node = Node::with(config(&server)).await;
    node.enter(&room("r"), "ann");
    node.wait_for_occupants(&room("r"), &["ann"]).await;
    let presence = async || {
        let mut keys = keys(&server).await;
        keys.retain(|key| key != "chat:nodes");
        keys
    };
    assert_eq!(presence().await.len(), 4);
    let all_live_for_a_day = async || {
        for key in presence().await {
            let left: i64 = server.command(&["TTL", &key]).await.parse().unwrap();
            if !(86_000..=86_400).contains(&left) {
                return false;
            }
        }
        true
    };
    eventually("a lifetime", all_live_for_a_day).await;
    for key in presence().await {
        server.command(&["EXPIRE", &key, "60"]).await;
    }
    eventually("another lifetime", all_live_for_a_day).await;
}

/// Of the list of rooms, the missing ones are written again, and those that nobody is in are removed when
/// it is read.
#[tokio::test]
async fn list_of_rooms_is_repaired() {
    let server = RedisServer::start();
    let node = Node::with(config(&server)).await;
    let listed = async || {
        let page = node.broker.rooms("", None, 9).await.unwrap();
        page.rooms.into_iter().map(|one| (one.room.to_string(), one.count)).collect::<Vec<_>>()
    };
    for (name, user) in [("a", "ann"), ("b", "ann"), ("b", "ben")] {
        node.enter(&room(name), user);
    }
    let all = [("a".to_owned(), 1), ("b".to_owned(), 2)];
    eventually("both", async || listed().await == all).await;
    server.command(&["DEL", "chat:occupied"]).await;
    eventually("a round", async || listed().await == all).await;

    server.command(&["ZADD", "chat:occupied", "0", "r.aa", "0", "r.not%ffa%20name"]).await;
    server.command(&["SET", "chat:{r.aa}:members", "x"]).await;
    assert_eq!(listed().await, all);
    server.command(&["DEL", "chat:{r.aa}:members"]).await;
    assert_eq!(listed().await, all);
    assert_eq!(server.command(&["ZCARD", "chat:occupied"]).await, "2");
}

/// What comparing costs a Redis while nothing happens, spread over a round of three leases.
#[tokio::test]
async fn idle_rooms_cost_a_few_commands_each_round() {
    const ROOMS: usize = 300;
    const LEASE: Duration = Duration::from_secs(2);
    const MEASURED: Duration = Duration::from_secs(3);
    let server = RedisServer::start();
    let node = Node::with(config(&server).lease(LEASE)).await;
    node.enter(&room("0"), "ann");
    node.wait_for_occupants(&room("0"), &["ann"]).await;
    let idle = commands(&server, MEASURED).await;
    for n in 1..ROOMS {
        node.enter(&room(&n.to_string()), "ann");
    }
    node.wait_for_occupants(&room(&(ROOMS - 1).to_string()), &["ann"]).await;
    until_it_judges(&server, "chat", &node, "own").await;
    let busy = commands(&server, MEASURED).await;
    let each = (busy - idle) * (3 * LEASE).as_secs_f64() / ROOMS as f64;
    println!("{ROOMS} rooms: {busy:.0} commands a second, {idle:.0} without, {each:.1} for a room");
    assert!(each < 20.0, "{each} commands for each room in a round");
    // The call, and what it reads of one user; on a busy machine a round takes longer.
    assert!(each >= 5.0 || !asserts_times(), "{each} commands for each room in a round");
}

/// A room of 60,000 users is compared over some 20 ticks, of which a round of three leases has 30.
#[tokio::test]
async fn large_room_is_compared_in_a_few_parts_each_tick() {
    const USERS: usize = 60_000;
    const GHOSTS: usize = 600;
    const TICK: Duration = Duration::from_millis(100);
    /// Of a room in a tick, and the probes of all connections.
    const MAX_PARTS: usize = 32 + 8;
    let server = RedisServer::start();
    let node = Node::with(config(&server)).await;
    node.enter(&room("r"), "ann");
    node.wait_for_occupants(&room("r"), &["ann"]).await;
    let name = server.command(&["ZRANGE", "chat:nodes", "0", "0"]).await;
    let (members, held) = ("chat:{r.r}:members", format!("chat:{{r.r}}:on:{name}"));
    let fill = "for n = 1, ARGV[1] do
          redis.call('HSET', KEYS[1], 'user ' .. n, '1:')
          if n > ARGV[2] + 0 then redis.call('SADD', KEYS[2], 'user ' .. n) end
        end";
    let (users, ghosts) = (USERS.to_string(), GHOSTS.to_string());
    server.command(&["EVAL", fill, "2", members, &held, &users, &ghosts]).await;
    let scanned = async || {
        let stats = server.command(&["INFO", "commandstats"]).await;
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hscan:calls="));
        calls.map_or(0, |calls| calls.split(',').next().unwrap().parse::<usize>().unwrap())
    };
    // Each with the times before and after it.
    let sample = async || {
        let asked = Instant::now();
        (asked, scanned().await, Instant::now())
    };
    let mut samples = vec![sample().await];
    // The version and ann are among them.
    let left = (USERS - GHOSTS + 2).to_string();
    let began = Instant::now();
    while server.command(&["HLEN", members]).await != left {
        assert!(began.elapsed() < 2 * TIMEOUT, "the ghosts are still there");
        sleep(TICK / 5).await;
        samples.push(sample().await);
    }
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    println!("{USERS} users: {} parts within {:?}", last.1 - first.1, last.2 - first.0);
    for (n, (before, first, _)) in samples.iter().enumerate() {
        for (_, last, after) in &samples[n..] {
            let (time, parts) = (*after - *before, last - first);
            // Those at the beginning and end are in it in part.
            let ticks = time.div_duration_f64(TICK) as usize + 2;
            assert!(parts <= ticks * MAX_PARTS, "{parts} parts within {time:?}");
        }
    }
}

/// How many commands Redis has run, each second, those in scripts counted.
async fn commands(server: &RedisServer, time: Duration) -> f64 {
    let count = async || {
        let info = server.command(&["INFO", "stats"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.unwrap().trim().parse::<f64>().unwrap()
    };
    let (began, before) = (Instant::now(), count().await);
    sleep(time).await;
    (count().await - before) / began.elapsed().as_secs_f64()
}
