//! How many frames, of whom, in what time.
//!
//! All rates are one a second, and the bursts so large that what a slow machine adds to them is
//! little; it is reckoned with.

use std::time::{Duration, Instant};

use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use super::{NATIVE, at_once, is_one_a_second, limited, pings, server};
use crate::auth;
use crate::support::{Chat, ask, join, next_of};

#[tokio::test]
async fn too_many_frames_are_refused_and_the_client_is_told_when_to_go_on() {
    let server = server(&["--rate", "1/300"]);
    let mut client = server.native().await;
    let began = Instant::now();
    let outcome = pings(&mut client, 350).await;
    is_one_a_second(outcome.done, 300, began);
    assert_eq!(limited(&server, "connection_rate").await, outcome.refused.len() as u64);
    for refused in &outcome.refused {
        assert!(refused["id"].is_u64(), "{refused}");
        pause_of(refused);
    }
    // Whoever waits as long as it is told to is heard.
    let refused = loop {
        client.send_json(&json!({"type": "ping", "id": "again"})).await;
        let answer = client.recv_json().await;
        if answer["type"] == "error" {
            break answer;
        }
    };
    tokio::time::sleep(pause_of(&refused)).await;
    client.send_json(&json!({"type": "ping"})).await;
    assert_eq!(client.recv_json().await["type"], "pong");
    // Each connection has its own.
    assert_eq!(pings(&mut server.native().await, 300).await.done, 300);
}

/// For which a client is told to wait.
fn pause_of(refused: &Value) -> Duration {
    let pause = refused["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1001).contains(&pause), "{refused}");
    Duration::from_millis(pause)
}

#[tokio::test]
async fn whoever_goes_on_and_on_is_closed_and_nobody_else_notices() {
    let server = server(&["--rate", "1/100", "--error-rate", "1/50"]);
    let (mut ann, mut bob) = (server.native().await, server.native().await);
    join(&mut ann, "r").await;
    join(&mut bob, "r").await;
    next_of(&mut ann, "presence").await;
    let (mut flood, began) = (server.native().await, Instant::now());
    until_deaf(&mut flood, r#"{"type":"ping"}"#).await;
    let (frames, (code, _)) = flood.recv_until_close().await;
    assert_eq!(code, 1008);
    let pongs = frames.iter().filter(|frame| frame.contains("pong")).count();
    is_one_a_second(pongs as u64, 100, began);
    is_one_a_second((frames.len() - pongs) as u64, 50, began);
    for n in 0..20 {
        ask(&mut ann, "ok", json!({"type": "send", "room": "r", "message": n.to_string()})).await;
        assert_eq!(next_of(&mut bob, "message").await["message"], n.to_string());
    }
    assert_eq!(limited(&server, "errors").await, 1);
    // Bad frames are as bad as too many, and so is what may not be done.
    for text in ["{", r#"{"type":"send","room":"r","message":"not there"}"#] {
        let (mut broken, began) = (server.native().await, Instant::now());
        until_deaf(&mut broken, text).await;
        let (frames, (code, _)) = broken.recv_until_close().await;
        assert_eq!(code, 1008, "{text}");
        // What is wrong with the one that is too many is said, too.
        is_one_a_second(frames.len() as u64 - 1, 50, began);
    }
    assert_eq!(limited(&server, "errors").await, 3);
}

/// Says the same until the server, which has closed by then, takes nothing more; 2,000 times at
/// most.
async fn until_deaf(client: &mut WsClient, text: &str) {
    for _ in 0..2_000 {
        if !client.try_send(text).await {
            break;
        }
    }
}

#[tokio::test]
async fn the_connections_of_a_user_share_an_allowance() {
    let server = server(&["--rate", "off", "--rate-per-user", "1/300"]);
    let connect = async |user: &str| {
        WsClient::connect_with(&server.ws(&format!("/ws?userId={user}")), &[NATIVE]).await
    };
    share(&server, async || connect("ann").await, "user_rate").await;
    assert_eq!(pings(&mut connect("bob").await, 300).await.done, 300);
    // Nobody is told apart who has no name.
    assert_eq!(pings(&mut server.native().await, 500).await.done, 500);
}

#[tokio::test]
async fn the_connections_of_an_address_share_an_allowance() {
    let rates = ["--rate", "off", "--rate-per-user", "off", "--rate-per-address", "1/300"];
    let direct = server(&rates);
    share(&direct, async || direct.native().await, "address_rate").await;

    let proxied = server(&[&rates[..], &["--trusted-proxies", "127.0.0.1,::1"]].concat());
    let connect = async |address: &str| {
        let headers = [NATIVE, ("X-Forwarded-For", address)];
        WsClient::connect_with(&proxied.ws("/ws"), &headers).await
    };
    share(&proxied, async || connect("1.2.3.4").await, "address_rate").await;
    assert_eq!(pings(&mut connect("1.2.3.5").await, 300).await.done, 300);
}

/// These connections have 300 frames among them, and one a second.
async fn share(server: &Chat, connect: impl AsyncFn() -> WsClient, limit: &str) {
    let (mut one, mut two) = (connect().await, connect().await);
    let began = Instant::now();
    assert_eq!(pings(&mut one, 250).await.done, 250);
    let second = pings(&mut two, 100).await;
    is_one_a_second(250 + second.done, 300, began);
    // To come back helps nothing.
    drop((one, two));
    let third = pings(&mut connect().await, 50).await;
    is_one_a_second(250 + second.done + third.done, 300, began);
    let refused = [second.refused, third.refused].concat();
    assert!(refused.iter().all(|refused| refused["retry_after_ms"].is_u64()), "{refused:?}");
    assert_eq!(limited(server, limit).await, refused.len() as u64);
}

#[tokio::test]
async fn joins_have_a_rate_of_their_own() {
    let server = server(&["--join-rate", "1/100", "--max-rooms", "1000"]);
    let mut client = server.native().await;
    let joins = |verb: &'static str| {
        (0..150).map(move |n| json!({"type": verb, "room": n.to_string(), "id": n}))
    };
    let began = Instant::now();
    let outcome = at_once(&mut client, "joined", joins("join")).await;
    is_one_a_second(outcome.done, 100, began);
    assert!(outcome.refused.iter().all(|refused| refused["id"].is_u64()), "{outcome:?}");
    ask(&mut client, "ok", json!({"type": "send", "room": "0", "message": "x"})).await;
    let refused = outcome.refused.len() as u64;
    assert_eq!(limited(&server, "join_rate").await, refused);
    let mut topics = server.client().await;
    for frame in joins("SUBSCRIBE") {
        topics.send_json(&frame).await;
    }
    assert_eq!(topics.recv_json().await["code"], "rate_limited");
    assert!(limited(&server, "join_rate").await > refused);
}

#[tokio::test]
async fn moderators_have_a_rate() {
    for (args, burst) in [(&[][..], 30), (&["--sanction-rate", "1/2"], 2)] {
        let args = [&["--limits", "on"], args].concat();
        let server = auth::server(&args);
        let token = auth::granting("mo", &[("r", &["*"])]);
        let (mut moderator, began) = (auth::native(&server, &token).await, Instant::now());
        let bans = (0..burst + 50).map(|n| {
            let user = format!("user-{n}");
            json!({"type": "ban", "room": "r", "user": user, "seconds": 60})
        });
        let outcome = at_once(&mut moderator, "ok", bans).await;
        is_one_a_second(outcome.done, burst, began);
        assert_eq!(limited(&server, "sanction_rate").await, outcome.refused.len() as u64);
        // That of its user, whatever connection it uses.
        let again = json!({"type": "kick", "room": "r", "user": "user-0"});
        let other = &mut auth::native(&server, &token).await;
        let more = at_once(other, "ok", std::iter::repeat_n(again, 20)).await;
        is_one_a_second(outcome.done + more.done, burst, began);
    }
}
