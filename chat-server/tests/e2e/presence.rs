//! Who is in a room, on all servers.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::raw::{Frame, Raw};
use crate::support::{Chat, DEADLINE, ask, command, join, next_of};

fn names(frame: &Value) -> Vec<String> {
    let members = frame["members"].as_array().expect("members").iter();
    let mut names: Vec<String> =
        members.map(|user| user["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

async fn enter(server: &Chat, name: &str) -> (WsClient, Value) {
    let mut client = server.native().await;
    let welcome = ask(&mut client, "welcome", json!({"type": "hello", "name": name})).await;
    join(&mut client, "r").await;
    (client, welcome)
}

/// The next coming or going.
async fn presence(client: &mut WsClient) -> (String, String) {
    let frame = next_of(client, "presence").await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&frame["event"]), text(&frame["user"]["name"]))
}

fn told(event: &str, name: &str) -> (String, String) {
    (event.to_owned(), name.to_owned())
}

/// Only native sessions have a time to come back in.
#[tokio::test]
async fn who_speaks_an_earlier_dialect_has_left_at_once() {
    // A grace that nobody waits for here.
    let server = Chat::start(command().args(["--port", "0", "--presence-grace", "10m"]));
    let (mut watcher, _) = enter(&server, "Watcher").await;
    let subscribe = r#"{"type":"SUBSCRIBE","room":"r"}"#;
    let join = r#"{"type":"join_room","room":"r","username":"Bob"}"#;
    let unsubscribe = r#"{"type":"UNSUBSCRIBE","room":"r"}"#;
    let leave = r#"{"type":"leave_room"}"#;
    for (enter, leave) in
        [(subscribe, Some(unsubscribe)), (subscribe, None), (join, Some(leave)), (join, None)]
    {
        let mut client = server.client().await;
        client.send(enter).await;
        assert_eq!(presence(&mut watcher).await.0, "joined", "{enter}");
        match leave {
            Some(frame) => client.send(frame).await,
            None => drop(client),
        }
        assert_eq!(presence(&mut watcher).await.0, "left", "{enter}");
    }
    let (mut bob, _) = enter(&server, "Bob").await;
    assert_eq!(presence(&mut watcher).await, told("joined", "Bob"));
    ask(&mut bob, "left", json!({"type": "leave", "room": "r"})).await;
    assert_eq!(presence(&mut watcher).await, told("left", "Bob"));
}

/// A page that loads again closes with 1001, and `close()` of a browser without an argument sends no
/// code.
#[tokio::test]
async fn client_that_closes_with_1000_has_left_at_once_and_no_other_has() {
    let server = Chat::start(command().args(["--port", "0", "--presence-grace", "10m"]));
    let (mut watcher, _) = enter(&server, "Watcher").await;
    for (name, code) in
        [("Reload", Some(1001)), ("None", None), ("Other", Some(4005)), ("Bob", Some(1000))]
    {
        let mut client = Raw::connect(server.port()).await.unwrap();
        client.ask("welcome", &json!({"type": "hello", "name": name})).await.unwrap();
        client.ask("joined", &json!({"type": "join", "room": "r"})).await.unwrap();
        assert_eq!(presence(&mut watcher).await, told("joined", name));
        client.send_close(code).await;
        while !matches!(client.next().await.expect("an answer"), Frame::Close(_)) {}
    }
    assert_eq!(presence(&mut watcher).await, told("left", "Bob"));
    let members = ask(&mut watcher, "members", json!({"type": "members", "room": "r"})).await;
    assert_eq!(names(&members), ["None", "Other", "Reload", "Watcher"]);
}

/// Of two connections of a user one closes.
#[tokio::test]
async fn user_whose_other_connection_is_open_has_not_left() {
    let server = Chat::start(command().args(["--port", "0", "--presence-grace", "10m"]));
    let (mut watcher, _) = enter(&server, "Watcher").await;
    let (ann, welcome) = enter(&server, "Ann").await;
    assert_eq!(presence(&mut watcher).await, told("joined", "Ann"));
    let mut tab = server.native().await;
    let resume = &welcome["resume"];
    ask(&mut tab, "welcome", json!({"type": "hello", "name": "Ann", "resume": resume})).await;
    ask(&mut tab, "joined", json!({"type": "join", "room": "r"})).await;
    ann.close().await;
    server.until_metric("chat_connections", |open| open == 2).await;
    let members = ask(&mut watcher, "members", json!({"type": "members", "room": "r"})).await;
    assert_eq!(names(&members), ["Ann", "Watcher"]);
    tab.close().await;
    assert_eq!(presence(&mut watcher).await, told("left", "Ann"));
}

#[tokio::test]
async fn members_are_those_of_all_servers() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut ann, _) = enter(&first, "Ann").await;
    let (mut bob, _) = enter(&second, "Bob").await;
    assert_eq!(presence(&mut ann).await, told("joined", "Bob"));
    let (_cid, _) = enter(&second, "Cid").await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(presence(client).await, told("joined", "Cid"));
        let members = ask(client, "members", json!({"type": "members", "room": "r"})).await;
        assert_eq!(
            (names(&members), &members["count"]),
            (vec!["Ann".into(), "Bob".into(), "Cid".into()], &json!(3))
        );
    }
    let mut dan = first.native().await;
    ask(&mut dan, "welcome", json!({"type": "hello", "name": "Dan"})).await;
    let joined = ask(&mut dan, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(joined["members"][0]["name"], "Dan", "the newcomer first");
    assert_eq!((names(&joined).len(), &joined["count"]), (4, &json!(4)));
}

/// One user, several names: of a second connection, on this server or another, and of one that
/// returns within the grace.
#[tokio::test]
async fn latest_name_is_listed_and_told_everywhere() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    renames(&first, &second).await;
    let alone = Chat::alone();
    renames(&alone, &alone).await;
}

async fn renames(first: &Chat, second: &Chat) {
    let (mut watcher, _) = enter(second, "Watcher").await;
    let mut reader = first.client().await;
    reader.send(r#"{"type":"join_room","room":"r","username":"Reader"}"#).await;
    assert_eq!(presence(&mut watcher).await, told("joined", "Reader"));
    let (mut tab, welcome) = enter(first, "Ann").await;
    assert_eq!(presence(&mut watcher).await, told("joined", "Ann"));
    let mut tabs = Vec::new();
    for (server, name) in [(first, "Anna"), (second, "Annie"), (first, "Ann"), (second, "Nan")] {
        let mut client = server.native().await;
        let hello = json!({"type": "hello", "name": name, "resume": welcome["resume"]});
        ask(&mut client, "welcome", hello).await;
        let joined = ask(&mut client, "joined", json!({"type": "join", "room": "r"})).await;
        let expected = [name, "Reader", "Watcher"];
        assert_eq!(names(&joined), expected, "to who joins by it");
        // Each server lists it when its members have received the event.
        for member in [&mut watcher, &mut tab] {
            assert_eq!(presence(member).await, told("renamed", name));
        }
        for asker in [&mut watcher, &mut client, &mut tab] {
            let members = ask(asker, "members", json!({"type": "members", "room": "r"})).await;
            assert_eq!(names(&members), expected);
            assert_eq!(members["count"], 3);
        }
        let mut newcomer = second.native().await;
        let hello = json!({"type": "hello", "name": "New"});
        ask(&mut newcomer, "welcome", hello).await;
        let joined = ask(&mut newcomer, "joined", json!({"type": "join", "room": "r"})).await;
        assert_eq!(names(&joined), [name, "New", "Reader", "Watcher"], "to a newcomer");
        // A leave before the join was sent to Redis would cancel both, and announce nothing.
        for member in [&mut watcher, &mut tab] {
            assert_eq!(presence(member).await, told("joined", "New"));
        }
        ask(&mut newcomer, "left", json!({"type": "leave", "room": "r"})).await;
        for member in [&mut watcher, &mut tab] {
            assert_eq!(presence(member).await, told("left", "New"));
        }
        tabs.push(client);
    }
    // The connections are lost, and one comes back in time.
    drop((tab, tabs));
    let mut back = second.native().await;
    let hello = json!({"type": "hello", "name": "Back", "resume": welcome["resume"]});
    ask(&mut back, "welcome", hello).await;
    ask(&mut back, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(presence(&mut watcher).await, told("renamed", "Back"));
    drop(back);
    assert_eq!(presence(&mut watcher).await, told("left", "Back"));
    let lines = ["joined room: r ", "Reader joined", "Ann joined", "New joined", "New left"];
    let mut heard = Vec::new();
    while heard.last().is_none_or(|line: &String| !line.starts_with("Back")) {
        heard.push(reader.recv_json().await["message"].as_str().unwrap().to_owned());
    }
    for line in &heard[..heard.len() - 1] {
        assert!(lines.iter().any(|known| line.contains(known)), "{heard:?}");
    }
    assert_eq!(heard.last().unwrap(), "Back left the room");
}

/// A user is in the lists of a server from the moment in which it answers the join until it answers
/// the leave.
#[tokio::test]
async fn joins_and_leaves_are_listed_when_they_are_answered() {
    let redis = RedisServer::start();
    for server in [Chat::alone(), Chat::on(&redis)] {
        server.until_ready().await;
        let (mut ann, _) = enter(&server, "Ann").await;
        let (mut bob, _) = enter(&server, "Bob").await;
        let mut cid = server.native().await;
        ask(&mut cid, "welcome", json!({"type": "hello", "name": "Cid"})).await;
        let (join, leave) =
            (json!({"type": "join", "room": "r"}), json!({"type": "leave", "room": "r"}));
        for round in 0..20 {
            let members = ask(&mut ann, "members", json!({"type": "members", "room": "r"})).await;
            assert_eq!(names(&members), ["Ann", "Bob"], "{round}");
            assert_eq!(members["count"], 2, "{round}");
            ask(&mut bob, "left", leave.clone()).await;
            let members = ask(&mut ann, "members", json!({"type": "members", "room": "r"})).await;
            assert_eq!((names(&members), &members["count"]), (vec!["Ann".into()], &json!(1)));
            let joined = ask(&mut cid, "joined", join.clone()).await;
            assert_eq!(names(&joined), ["Ann", "Cid"], "{round}: to a newcomer");
            ask(&mut cid, "left", leave.clone()).await;
            ask(&mut bob, "joined", join.clone()).await;
        }
    }
}

/// The answer to `join_room` is the answer to the leave of the room before, too.
#[tokio::test]
async fn client_that_changes_rooms_is_listed_in_one() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    let (mut ann, _) = enter(&server, "Ann").await;
    // A room with a member is joined sooner than Redis answers to the leave.
    let mut cid = server.native().await;
    join(&mut cid, "other").await;
    let mut bob = server.client().await;
    for round in 0..20 {
        for (room, count) in [("r", 2), ("other", 1)] {
            bob.send(&format!(r#"{{"type":"join_room","room":"{room}","user":"Bob"}}"#)).await;
            let joined = format!("You successfully joined room: {room} ");
            while next_of(&mut bob, "system").await["message"] != joined.as_str() {}
            let members = ask(&mut ann, "members", json!({"type": "members", "room": "r"})).await;
            assert_eq!(members["count"], count, "{round}: {members}");
        }
    }
}

#[tokio::test]
async fn three_tabs_are_one_member() {
    let redis = RedisServer::start();
    let (first, second) = Chat::pair(&redis).await;
    let (mut watcher, _) = enter(&first, "Watcher").await;
    let (mut tab, welcome) = enter(&first, "Ann").await;
    assert_eq!(presence(&mut watcher).await, told("joined", "Ann"));
    let mut tabs = Vec::new();
    for server in [&first, &second] {
        let mut client = server.native().await;
        let hello = json!({"type": "hello", "name": "Ann", "resume": welcome["resume"]});
        ask(&mut client, "welcome", hello).await;
        let joined = ask(&mut client, "joined", json!({"type": "join", "room": "r"})).await;
        assert_eq!(
            (names(&joined), &joined["count"]),
            (vec!["Ann".into(), "Watcher".into()], &json!(2))
        );
        tabs.push(client);
    }
    for client in &mut tabs {
        ask(client, "left", json!({"type": "leave", "room": "r"})).await;
    }
    watcher.expect_silence().await;
    ask(&mut tab, "left", json!({"type": "leave", "room": "r"})).await;
    assert_eq!(presence(&mut watcher).await, told("left", "Ann"));
}

#[tokio::test]
async fn a_lost_connection_has_time_to_come_back_anywhere() {
    let redis = RedisServer::start();
    let [first, second] = Chat::several(&redis, &["--presence-grace", "1s"]).await;
    let (mut watcher, _) = enter(&second, "Watcher").await;
    let (mut ann, welcome) = enter(&first, "Ann").await;
    assert_eq!(presence(&mut watcher).await, told("joined", "Ann"));
    let hello = json!({"type": "hello", "name": "Ann", "resume": welcome["resume"]});
    for server in [&first, &second, &first] {
        drop(ann);
        ann = server.native().await;
        ask(&mut ann, "welcome", hello.clone()).await;
        ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;
    }
    // Users who are lost later, at each of the servers: their grace ends after Ann's would have.
    for (server, name) in [(&first, "Bob"), (&second, "Cid")] {
        drop(enter(server, name).await);
        assert_eq!(presence(&mut watcher).await, told("joined", name));
        assert_eq!(presence(&mut watcher).await, told("left", name), "and nothing before");
    }
    drop(ann);
    assert_eq!(presence(&mut watcher).await, told("left", "Ann"));
}

#[tokio::test]
async fn a_server_that_dies_takes_its_members_along() {
    let redis = RedisServer::start();
    let [first, second, third] = Chat::several(&redis, &["--presence-lease", "1s"]).await;
    let (mut watcher, _) = enter(&second, "Watcher").await;
    let (_on_third, _) = enter(&third, "Third").await;
    assert_eq!(presence(&mut watcher).await, told("joined", "Third"));
    let (_ann, welcome) = enter(&first, "Ann").await;
    let (_bob, _) = enter(&first, "Bob").await;
    for name in ["Ann", "Bob"] {
        assert_eq!(presence(&mut watcher).await, told("joined", name));
    }
    // Ann has another tab elsewhere.
    let mut tab = third.native().await;
    let hello = json!({"type": "hello", "name": "Ann", "resume": welcome["resume"]});
    ask(&mut tab, "welcome", hello).await;
    ask(&mut tab, "joined", json!({"type": "join", "room": "r"})).await;

    drop(first);
    assert_eq!(presence(&mut watcher).await, told("left", "Bob"), "Ann is still there");
    let members = ask(&mut watcher, "members", json!({"type": "members", "room": "r"})).await;
    assert_eq!(names(&members), ["Ann", "Third", "Watcher"]);
    watcher.expect_silence().await;
}

/// A server is frozen for longer than its lease and goes on: nothing is left of what it said
/// before, and clients that are still connected join once again.
#[tokio::test]
async fn a_frozen_server_loses_its_members_and_gets_them_back() {
    let redis = RedisServer::start();
    let args = ["--presence-lease", "1s", "--presence-grace", "1s"];
    let [frozen, other] = Chat::several(&redis, &args).await;
    let (mut watcher, _) = enter(&other, "Watcher").await;
    let (mut ann, _) = enter(&frozen, "Ann").await;
    let (bob, _) = enter(&frozen, "Bob").await;
    for name in ["Ann", "Bob"] {
        assert_eq!(presence(&mut watcher).await, told("joined", name));
    }
    frozen.signal("STOP");
    let mut left = [presence(&mut watcher).await, presence(&mut watcher).await];
    left.sort();
    assert_eq!(left, [told("left", "Ann"), told("left", "Bob")]);
    let members = ask(&mut watcher, "members", json!({"type": "members", "room": "r"})).await;
    assert_eq!(names(&members), ["Watcher"]);
    drop(bob);
    // Several leases, and longer than any connection to Redis may be silent.
    tokio::time::sleep(Duration::from_secs(5)).await;
    frozen.signal("CONT");

    // Bob may be back for the grace, since only now the server learns that he is lost.
    let mut changes = Vec::new();
    while !changes.contains(&told("joined", "Ann")) {
        changes.push(presence(&mut watcher).await);
    }
    // One who is lost later at the same server: Bob's grace ends before.
    drop(enter(&frozen, "Eve").await);
    while !changes.contains(&told("left", "Eve")) {
        changes.push(presence(&mut watcher).await);
    }
    watcher.send_json(&json!({"type": "members", "room": "r"})).await;
    let members = loop {
        match watcher.recv_json().await {
            frame if frame["type"] == "members" => break frame,
            frame => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                changes.push((text(&frame["event"]), text(&frame["user"]["name"])));
            }
        }
    };
    assert_eq!(names(&members), ["Ann", "Watcher"]);
    let changes = changes.into_iter().filter(|(_, name)| name != "Eve");
    let (of_ann, of_bob): (Vec<_>, Vec<_>) = changes.partition(|(_, name)| name == "Ann");
    assert_eq!(of_ann, [told("joined", "Ann")]);
    let back_and_gone = [told("joined", "Bob"), told("left", "Bob")];
    assert!(of_bob.is_empty() || of_bob == back_and_gone, "{of_bob:?}");
    let held = redis.command(&["KEYS", "chat:{r.r}:on:*"]).await;
    let nodes = redis.command(&["ZCARD", "chat:nodes"]).await;
    assert_eq!((held.lines().count(), nodes.as_str()), (2, "2"), "each under one name: {held}");
    ann.send_json(&json!({"type": "send", "room": "r", "message": "back"})).await;
    assert_eq!(next_of(&mut watcher, "message").await["message"], "back");
}

#[tokio::test]
async fn a_big_room_is_told_its_number() {
    let redis = RedisServer::start();
    let [first, second] = Chat::several(&redis, &["--presence-limit", "5"]).await;
    let (mut watcher, _) = enter(&first, "Watcher").await;
    let mut crowd = Vec::new();
    for n in 0..40 {
        let server = if n % 2 == 0 { &first } else { &second };
        let mut client = server.native().await;
        ask(&mut client, "joined", json!({"type": "join", "room": "r"})).await;
        crowd.push(client);
    }
    let (mut singles, mut counts) = (0, 0);
    loop {
        let frame = next_of(&mut watcher, "presence").await;
        if frame["event"] == "count" {
            counts += 1;
            if frame["count"] == 41 {
                break;
            }
        } else {
            singles += 1;
        }
    }
    assert!(singles <= 4 && counts <= 10, "{singles} single ones, {counts} counts");
    let members = ask(&mut watcher, "members", json!({"type": "members", "room": "r"})).await;
    assert_eq!(members["count"], 41);
    for client in &mut crowd {
        ask(client, "left", json!({"type": "leave", "room": "r"})).await;
    }
    // A small room is told of single ones again: the last may be either.
    let last = |frame: &Value| frame["count"] == 1 || frame["event"] == "left";
    while !last(&next_of(&mut watcher, "presence").await) {}
    let deadline = Instant::now() + DEADLINE;
    loop {
        let members = ask(&mut watcher, "members", json!({"type": "members", "room": "r"})).await;
        if members["count"] == 1 {
            assert_eq!(names(&members), ["Watcher"]);
            break;
        }
        assert!(Instant::now() < deadline, "{members}");
    }
}
