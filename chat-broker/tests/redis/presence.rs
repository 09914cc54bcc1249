//! Presence without faults.

use std::collections::HashSet;

use bytes::Bytes;
use chat_broker::testing::RedisServer;
use chat_broker::{Broker, BrokerEvent, PresenceTracker, PublishOptions};
use chat_core::{Occupancy, Occupant, PresenceChange, Topic};

use crate::support::{Node, eventually, keys, persistent, room, user};

#[tokio::test]
async fn user_at_two_nodes_is_one_occupant() {
    let server = RedisServer::start();
    let (mut a, b) = (Node::start(&server).await, Node::start(&server).await);
    let topic = room("r");
    a.subscribe(&topic).await.unwrap();
    assert_eq!(a.occupancy(&topic, 9).await, Occupancy::default());
    for node in [&a, &b, &a] {
        node.enter(&topic, "anna");
    }
    let (change, first, count) = a.change().await;
    assert_eq!((change.as_str(), count), ("+anna", 1));
    b.enter(&topic, "ben");
    assert_eq!(a.change().await, ("+ben".to_owned(), first + 1, 2));
    for node in [&a, &b] {
        assert_eq!(node.occupants(&topic).await, ["anna", "ben"]);
        assert_eq!(node.occupancy(&topic, 2).await.version, first + 1);
    }
    a.leave(&topic, "anna");
    a.leave(&topic, "nobody");
    assert_eq!(b.occupants(&topic).await, ["anna", "ben"]);
    b.leave(&topic, "anna");
    assert_eq!(a.change().await, ("-anna".to_owned(), first + 2, 1));
    b.leave(&topic, "ben");
    assert_eq!(a.change().await, ("-ben".to_owned(), first + 3, 0));
    assert_eq!(a.occupancy(&topic, 9).await, Occupancy::default());
    assert_eq!(a.arrived().await, []);

    b.enter(&topic, "anna");
    assert!(a.change().await.1 > first + 3, "versions only rise");
}

/// Any number of users, on any nodes, with any ids.
#[tokio::test]
async fn reading_a_room_takes_one_command_for_each_node() {
    const READ: &str = include_str!("../../src/redis/scripts/occupancy.lua");
    let server = RedisServer::start();
    let fill = "for n = 0, 19 do redis.call('ZADD', 'nodes', 1, n) end
        redis.call('HSET', 'members', '', '7', 'ghost', '1:')
        for n = 1, 200 do
          local user = ARGV[1] .. n
          redis.call('HSET', 'members', user, '1:' .. user)
          redis.call('SADD', 'c:on:' .. n % ARGV[2] + 20 - ARGV[2], user)
        end";
    let count = format!(
        "local read = (function() {READ}\nend)()
        return read[1] .. ' ' .. read[2] .. ' ' .. #read[3] / 2"
    );
    let read = ["EVAL", &count, "2", "members", "nodes", "300", "c", "1"];
    for (prefix, holders) in [("", "1"), ("user ", "1"), ("user ", "20")] {
        server.command(&["FLUSHALL"]).await;
        server.command(&["EVAL", fill, "0", prefix, holders]).await;
        server.command(&["CONFIG", "RESETSTAT"]).await;
        assert_eq!(server.command(&read).await, "7 200 200");
        let stats = server.command(&["INFO", "commandstats"]).await;
        let calls = |line: &str| {
            let (_, calls) = line.split_once(":calls=")?;
            calls.split(',').next()?.parse::<u32>().ok()
        };
        let calls: u32 = stats.lines().filter_map(calls).sum();
        assert!(calls < 30, "{prefix:?}, {holders}: {calls} calls\n{stats}");
    }
    // What a node holds, or may not be asked, is no reason to leave anybody out.
    server.command(&["SET", "c:on:3", "x"]).await;
    assert_eq!(server.command(&read).await, "7 201 202");
    server.command(&["DEL", "c:on:3"]).await;
    assert_eq!(server.command(&read).await, "7 190 190");
    let more = "for n = 1, 300 do redis.call('SADD', 'c:on:3', 'lost ' .. n) end";
    server.command(&["EVAL", more, "0"]).await;
    assert_eq!(server.command(&read).await, "7 201 202");
}

#[tokio::test]
async fn long_member_list_is_only_counted() {
    let server = RedisServer::start();
    let node = Node::start(&server).await;
    let topic = room("r");
    for n in 0..1000 {
        node.enter(&topic, &n.to_string());
    }
    eventually("all", async || node.occupancy(&topic, 0).await.count == 1000).await;
    let occupancy = node.occupancy(&topic, 999).await;
    assert_eq!((occupancy.count, occupancy.occupants.len()), (1000, 0));
    assert_eq!(node.occupants(&topic).await.len(), 1000);
    let topics: Vec<Topic> = (0..50).map(|n| room(if n % 2 == 0 { "r" } else { "s" })).collect();
    let counts = node.broker.occupancy(&topics, 9).await.unwrap();
    assert!(
        counts.iter().zip(0..50).all(|(one, n)| one.count == if n % 2 == 0 { 1000 } else { 0 })
    );
    assert_eq!(counts.len(), 50);
}

/// A join is announced before what is published after it, a leave after what was published
/// before it.
#[tokio::test]
async fn presence_keeps_its_place_among_publications() {
    const ROUNDS: usize = 20;
    const EACH: usize = 300;
    let server = RedisServer::start();
    let (mut listener, node) = (Node::start(&server).await, Node::start(&server).await);
    let topic = room("r");
    listener.subscribe(&topic).await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..ROUNDS {
        let who = n.to_string();
        node.enter(&topic, &who);
        node.publish(&topic, &who).await.unwrap();
        for n in 1..EACH {
            let delivery = if n % 2 == 0 { persistent() } else { PublishOptions::default() };
            let place = node.broker.publish(&topic, Bytes::from(who.clone()), delivery);
            receipts.push(place.await.unwrap());
        }
        node.leave(&topic, &who);
    }
    let (mut here, mut heard) = (HashSet::new(), vec![0; ROUNDS]);
    while heard.iter().sum::<usize>() < EACH * ROUNDS || !here.is_empty() {
        match listener.next().await {
            BrokerEvent::Presence { change: PresenceChange::Joined, occupant, .. } => {
                assert!(here.insert(occupant.user));
            }
            BrokerEvent::Presence { occupant, .. } => {
                let who: usize = occupant.user.as_str().parse().unwrap();
                assert!(here.remove(&occupant.user));
                assert_eq!(heard[who], EACH, "{who} left before what was published");
            }
            BrokerEvent::Publication { payload, .. } => {
                let who = std::str::from_utf8(&payload).unwrap();
                assert!(here.contains(&user(who)), "{who} came after what was published");
                heard[who.parse::<usize>().unwrap()] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A publication does not wait for joins that follow it, however many.
#[tokio::test]
async fn publication_does_not_wait_for_later_joins() {
    const EACH: usize = 2_000;
    /// What is sent in one pipeline with it.
    const AT_ONCE: usize = 256;
    let server = RedisServer::start();
    let mut node = Node::with(Node::config(&server).publish_connections(1)).await;
    let (crowded, elsewhere) = (room("crowded"), room("elsewhere"));
    node.subscribe(&crowded).await.unwrap();
    node.subscribe(&elsewhere).await.unwrap();
    let come = |from: usize| {
        (from..from + EACH).for_each(|n| node.enter(&crowded, &n.to_string()));
    };
    come(0);
    let place = node.broker.publish(&elsewhere, Bytes::from("x"), persistent()).await.unwrap();
    come(EACH);
    place.await.unwrap();
    let mut came = 0;
    while let BrokerEvent::Presence { .. } = node.next().await {
        came += 1;
    }
    assert!((EACH..EACH + AT_ONCE).contains(&came), "{came} of {EACH} came before");
}

#[tokio::test]
async fn user_who_has_left_leaves_no_keys() {
    let server = RedisServer::start();
    let keys = async || keys(&server).await.len();
    let node = Node::with(Node::config(&server).publish_connections(3)).await;
    let topics: Vec<Topic> = (0..50).map(|n| room(&n.to_string())).collect();
    eventually("a lease", async || keys().await == 1).await;
    for topic in &topics {
        for name in ["anna", "ben"] {
            node.enter(topic, name);
        }
    }
    node.broker.enter(&Topic::User(user("anna")), Occupant::new(user("ben"), Bytes::new()));
    // Of each topic who is there and whom the node holds; the node's topics, all rooms, and the lease.
    eventually("all", async || keys().await == 51 * 2 + 3).await;
    for topic in &topics {
        for name in ["anna", "ben"] {
            node.leave(topic, name);
        }
    }
    node.broker.leave(&Topic::User(user("anna")), &user("ben"));
    eventually("nothing but the lease", async || keys().await == 1).await;
    node.broker.close().await;
    assert_eq!(keys().await, 0);
}

#[tokio::test]
async fn script_flush_loses_no_user() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    for n in 0..20 {
        server.command(&["SCRIPT", "FLUSH"]).await;
        node.enter(&topic, &n.to_string());
        assert_eq!(node.change().await.0, format!("+{n}"));
        server.command(&["SCRIPT", "FLUSH"]).await;
        node.leave(&topic, &n.to_string());
        assert_eq!(node.change().await.0, format!("-{n}"));
    }
}

/// A join that Redis refuses is retried until Redis takes it, however busy the connection is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_join_is_retried() {
    let server = RedisServer::start();
    let (mut watcher, node) = (Node::start(&server).await, Node::start(&server).await);
    let topic = room("r");
    watcher.subscribe(&topic).await.unwrap();
    node.enter(&topic, "anna");
    assert_eq!(watcher.change().await.0, "+anna");
    server.command(&["ACL", "SETUSER", "default", "-sadd"]).await;
    node.enter(&topic, "ben");
    node.leave(&topic, "anna");
    assert_eq!(watcher.change().await.0, "-anna");
    assert_eq!(watcher.occupants(&topic).await, [""; 0]);
    server.command(&["ACL", "SETUSER", "default", "+sadd"]).await;
    let busy = async {
        let elsewhere = room("elsewhere");
        loop {
            let place = node.broker.publish(&elsewhere, Bytes::new(), PublishOptions::default());
            drop(place.await.unwrap());
        }
    };
    tokio::select! {
        () = busy => {}
        (change, ..) = watcher.change() => assert_eq!(change, "+ben"),
    }
}

/// The user has not left, and has another name from then on.
#[tokio::test]
async fn quick_return_under_another_name_shows_the_new_name() {
    let server = RedisServer::start();
    let mut node = Node::start(&server).await;
    let topic = room("r");
    node.subscribe(&topic).await.unwrap();
    node.enter(&topic, "anna");
    node.change().await;
    let renamed = |info: &'static [u8]| Occupant::new(user("anna"), info.into());
    for _ in 0..2 {
        node.leave(&topic, "anna");
        node.broker.enter(&topic, renamed(b"another"));
    }
    eventually("the other name", async || {
        node.occupancy(&topic, 9).await.occupants == [renamed(b"another")]
    })
    .await;
    let told: Vec<_> = node
        .arrived()
        .await
        .into_iter()
        .map(|event| match event {
            BrokerEvent::Presence { change, occupant, .. } => (change, occupant),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(PresenceChange::Renamed, renamed(b"another"))]);
    node.leave(&topic, "anna");
    node.wait_for_occupants(&topic, &[]).await;
}
