//! Kicks: a user is evicted and may join again.

use std::time::Instant;

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::json;

use super::{KEY, member, order, pair, post, user};
use crate::support::{Chat, ask, command, next_of};

#[tokio::test]
async fn who_is_kicked_leaves_on_every_server_and_may_come_back() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let (mut here, mut there) = (user(&first, "bob").await, user(&second, "bob").await);
    let mut ann = member(&second, "ann").await;
    for client in [&mut here, &mut there] {
        ask(client, "joined", json!({"type": "join", "room": "r"})).await;
        ask(client, "joined", json!({"type": "join", "room": "other"})).await;
    }
    next_of(&mut ann, "presence").await;
    let mut old = WsClient::connect(&first.ws("/join-room/r?userId=bob")).await;
    next_of(&mut old, "system").await;

    let asked = Instant::now();
    order(&first, "/api/rooms/r/kick", json!({"user": "bob", "reason": "calm down"})).await;
    for client in [&mut here, &mut there] {
        let left = next_of(client, "left").await;
        assert_eq!(
            left,
            json!({"type": "left", "room": "r", "reason": "kicked", "message": "calm down"})
        );
        let error =
            ask(client, "error", json!({"type": "send", "room": "r", "message": "x"})).await;
        assert_eq!(error["code"], "not_in_room");
        ask(client, "ok", json!({"type": "send", "room": "other", "message": "x"})).await;
    }
    assert_eq!(old.recv_until_close().await.1.0, 4002, "it has no word for it");
    eprintln!("moderation: a kick took {:?} on both servers", asked.elapsed());
    let gone = next_of(&mut ann, "presence").await;
    assert_eq!((&gone["event"], &gone["user"]["id"]), (&json!("left"), &json!("bob")));
    let joined = ask(&mut here, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(joined["count"], 2);
    ask(&mut here, "ok", json!({"type": "send", "room": "r", "message": "back"})).await;
}

/// Wherever the user is: the answer says that it is done.
#[tokio::test]
async fn kicked_user_is_not_listed_after_the_answer() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let mut ann = member(&first, "ann").await;
    for (round, server) in [&first, &second].into_iter().cycle().take(10).enumerate() {
        // Another user each time: a server that learns of a kick late applies it to a user who has
        // reconnected to it before.
        let bob = format!("bob-{round}");
        let mut client = member(server, &bob).await;
        while next_of(&mut ann, "presence").await["event"] != "joined" {}
        match round % 4 {
            0 | 1 => order(&first, "/api/rooms/r/kick", json!({"user": bob})).await,
            _ => order(&first, &format!("/api/users/{bob}/disconnect"), json!({})).await,
        }
        let members = ask(&mut ann, "members", json!({"type": "members", "room": "r"})).await;
        assert_eq!(members["count"], 1, "{round}: {members}");
        let (told, reason) =
            if round % 4 < 2 { ("left", "kicked") } else { ("goodbye", "disconnected") };
        assert_eq!(next_of(&mut client, told).await["reason"], reason);
    }
}

/// The user has no connection that could be told, and is in the lists all the same.
#[tokio::test]
async fn sanction_ends_the_grace_of_a_lost_connection() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let mut ann = member(&first, "ann").await;
    for (at, server) in [&first, &second].into_iter().enumerate() {
        let others = server.metric("chat_connections").await;
        for (sanction, path) in
            ["rooms/r/kick", "users/{}/disconnect", "rooms/r/ban"].iter().enumerate()
        {
            // Another user each time: a server may learn of a sanction, or of its end, after the
            // user has reconnected.
            let bob = format!("bob-{at}-{sanction}");
            drop(member(server, &bob).await);
            while next_of(&mut ann, "presence").await["event"] != "joined" {}
            server.until_metric("chat_connections", |count| count == others).await;
            let body = match sanction {
                0 => json!({"user": bob}),
                1 => json!({}),
                _ => json!({"user": bob, "seconds": 60}),
            };
            order(&first, &format!("/api/{}", path.replace("{}", &bob)), body).await;
            let members = ask(&mut ann, "members", json!({"type": "members", "room": "r"})).await;
            assert_eq!(members["count"], 1, "{path}: {members}");
        }
    }
}

#[tokio::test]
async fn a_sanction_is_stored_before_it_is_acted_on_and_survives_a_lost_word() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let mut bob = member(&second, "bob").await;
    for round in 0..10 {
        // Whatever is announced meanwhile is lost.
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        order(&first, "/api/rooms/r/kick", json!({"user": "bob"})).await;
        assert_eq!(next_of(&mut bob, "left").await["reason"], "kicked", "round {round}");
        ask(&mut bob, "joined", json!({"type": "join", "room": "r"})).await;
    }
    // Without Redis nothing is promised.
    redis.pause();
    let body = r#"{"user":"bob"}"#;
    let (status, answer) = post(&first, KEY, "/api/rooms/r/ban", body).await;
    redis.resume();
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("broker_unavailable"), "{answer}");
}

/// A kick before a connection has a user does not concern that connection.
#[tokio::test]
async fn a_kick_is_not_for_those_who_come_later() {
    let redis = RedisServer::start();
    let (server, _other) = pair(&redis).await;
    let (mut early, mut witness) = (server.native().await, user(&server, "eve").await);
    order(&server, "/api/users/eve/disconnect", json!({})).await;
    assert_eq!(witness.recv_until_close().await.1.0, 4002, "the server has acted on it");
    let mut eve = user(&server, "eve").await;
    let resume = ask(&mut eve, "welcome", json!({"type": "hello"})).await["resume"].clone();
    ask(&mut early, "welcome", json!({"type": "hello", "resume": resume})).await;
    let joined = ask(&mut early, "joined", json!({"type": "join", "room": "r"})).await;
    assert_eq!(joined["members"][0]["id"], "eve");
    ask(&mut early, "ok", json!({"type": "send", "room": "r", "message": "here"})).await;
    // Nor is one that a server has learned of by starting later.
    let third = Chat::start(command().env("REDIS_URL", redis.url()).args(["--port", "0"]));
    third.until_ready().await;
    let mut late = user(&third, "eve").await;
    ask(&mut late, "joined", json!({"type": "join", "room": "r"})).await;
    ask(&mut late, "ok", json!({"type": "send", "room": "r", "message": "here"})).await;
}
