//! Tokens that run out, and those that follow on them.

use std::time::{Duration, Instant};

use chat_core::UserId;
use chat_server::TokenClaims;
use chat_transport::testing::WsClient;
use serde_json::json;

use super::{claims, granting, native, refusal, server, sign, token, welcome};
use crate::support::{ask, join, next_of};

#[tokio::test]
async fn a_token_runs_out_and_may_be_renewed() {
    let server = server(&["--token-grace", "3s"]);
    let began = Instant::now();
    let (mut renewed, mut forgotten) =
        (native(&server, &short(2)).await, native(&server, &short(2)).await);
    let mut other = WsClient::connect(&server.ws(&format!("/?token={}", short(2)))).await;
    for client in [&mut renewed, &mut forgotten] {
        ask(client, "joined", json!({"type": "join", "room": "r"})).await;
    }
    let stranger = json!({"type": "hello", "token": token("bob")});
    assert_eq!(refusal(&mut renewed, stranger).await, "forbidden", "nobody becomes another");
    let hello = json!({"type": "hello", "token": granting("ann", &[("*", &["join", "send"])])});
    let again = welcome(&mut renewed, hello).await;
    assert!(again["expires_in_ms"].as_u64().unwrap() > 590_000);
    let goodbye = next_of(&mut forgotten, "goodbye").await;
    assert_eq!(
        (&goodbye["reason"], &goodbye["reconnect"]),
        (&json!("token_expired"), &json!(false))
    );
    // The grace, and at least one second of the token, which ends with a whole one.
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(forgotten.recv_close().await.0, 4004);
    assert_eq!(other.recv_until_close().await.1.0, 4004, "whatever it speaks");
    // What the new token allows counts; what it does not allow is left.
    ask(&mut renewed, "ok", json!({"type": "send", "room": "r", "message": "still here"})).await;
    assert_eq!(refusal(&mut renewed, json!({"type": "history", "room": "r"})).await, "forbidden");
    let narrow = json!({"type": "hello", "token": granting("ann", &[("other", &["*"])])});
    renewed.send_json(&narrow).await;
    let left = next_of(&mut renewed, "left").await;
    assert_eq!((&left["room"], &left["reason"]), (&json!("r"), &json!("forbidden")));
}

/// A user has changed the name meanwhile: the renewal goes through, and everybody sees the new one.
#[tokio::test]
async fn renewed_token_may_have_another_name() {
    let server = server(&[]);
    let named = |name: &str| {
        let mut claims = claims("ann");
        claims.name = Some(name.to_owned());
        sign(&claims)
    };
    let mut watcher = native(&server, &token("bob")).await;
    let mut ann = native(&server, &named("Ann")).await;
    for (client, rooms) in [(&mut watcher, &["r", "s"][..]), (&mut ann, &["r", "s"])] {
        for room in rooms {
            ask(client, "joined", json!({"type": "join", "room": room})).await;
        }
    }
    let hello = json!({"type": "hello", "token": named("Anna")});
    assert_eq!(welcome(&mut ann, hello.clone()).await["user"]["name"], "Anna");
    let mut renamed = Vec::new();
    while renamed.len() < 2 {
        let frame = next_of(&mut watcher, "presence").await;
        if frame["event"] == "renamed" {
            assert_eq!(
                (&frame["user"]["id"], &frame["user"]["name"]),
                (&json!("ann"), &json!("Anna"))
            );
            renamed.push(frame["room"].as_str().unwrap().to_owned());
        }
    }
    renamed.sort();
    assert_eq!(renamed, ["r", "s"], "in each room");
    ask(&mut ann, "ok", json!({"type": "send", "room": "r", "message": "hi"})).await;
    assert_eq!(next_of(&mut watcher, "message").await["user"]["name"], "Anna");
    // The same token again is no news.
    welcome(&mut ann, hello).await;
    ask(&mut ann, "left", json!({"type": "leave", "room": "r"})).await;
    let left = loop {
        // That the watcher joined may be told late.
        match next_of(&mut watcher, "presence").await {
            frame if frame["event"] == "joined" => {}
            frame => break frame,
        }
    };
    assert_eq!((&left["event"], &left["user"]["name"]), (&json!("left"), &json!("Anna")));
}

/// Of Ann, for so many seconds.
fn short(seconds: u64) -> String {
    sign(&TokenClaims::new(&UserId::new("ann").unwrap(), Duration::from_secs(seconds)))
}

#[tokio::test]
async fn within_the_grace_a_token_may_be_renewed_after_its_end() {
    let server = server(&["--token-grace", "60s"]);
    let mut ann = native(&server, &short(2)).await;
    let left = welcome(&mut ann, json!({"type": "hello"})).await["expires_in_ms"].clone();
    ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;
    tokio::time::sleep(Duration::from_millis(left.as_u64().unwrap() + 100)).await;
    let mut old = claims("ann");
    old.exp -= 660;
    let late = json!({"type": "hello", "token": sign(&old)});
    assert_eq!(refusal(&mut ann, late).await, "unauthorized", "it has run out as well");
    let again = welcome(&mut ann, json!({"type": "hello", "token": token("ann")})).await;
    assert!(again["expires_in_ms"].as_u64().unwrap() > 590_000, "{again}");
    ask(&mut ann, "ok", json!({"type": "send", "room": "r", "message": "still here"})).await;
}

/// What a new token allows counts for rooms that the client is in, too.
#[tokio::test]
async fn a_new_token_changes_what_is_seen() {
    let server = server(&[]);
    let token = |capabilities: &[&str]| granting("ann", &[("r", capabilities)]);
    let mut ann = native(&server, &token(&["join", "presence"])).await;
    ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;
    next_of(&mut ann, "presence").await;
    let mut guests = Vec::new();
    for (capabilities, sees) in
        [(&["join"][..], false), (&["join", "presence"], true), (&["join"], false)]
    {
        welcome(&mut ann, json!({"type": "hello", "token": token(capabilities)})).await;
        let mut guest = native(
            &server,
            &granting(&format!("guest-{}", guests.len()), &[("r", &["join", "send"])]),
        )
        .await;
        ask(&mut guest, "joined", json!({"type": "join", "room": "r"})).await;
        ask(&mut guest, "ok", json!({"type": "send", "room": "r", "message": "here"})).await;
        guests.push(guest);
        let first = ann.recv_json().await;
        assert_eq!(first["type"] == "presence", sees, "{first}");
        if sees {
            next_of(&mut ann, "message").await;
        }
    }
}

/// A client that waits for its budget is not read, and its token ends all the same.
#[tokio::test]
async fn token_that_ends_during_a_wait_for_the_budget_ends_the_connection() {
    let rate = ["--byte-rate", "1000/1000", "--max-wait", "5m", "--token-grace", "1s"];
    let server = server(&rate);
    let mut ann = native(&server, &short(3)).await;
    ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;
    // This overdraws the budget, and waits for a minute: longer than a client here waits for a frame.
    let long = "x".repeat(60_000);
    ann.send_json(&json!({"type": "send", "room": "r", "message": long})).await;
    let goodbye = next_of(&mut ann, "goodbye").await;
    assert_eq!(goodbye["reason"], "token_expired");
    assert_eq!(ann.recv_close().await.0, 4004);
}

/// A client that does not read its pages has 30 s for them, and its token ends before.
#[tokio::test]
async fn token_that_ends_while_pages_wait_ends_the_connection() {
    let args = ["--token-grace", "0s", "--write-timeout", "1m", "--limits", "off"];
    let server = server(&args);
    let mut writer = native(&server, &token("bob")).await;
    join(&mut writer, "r").await;
    let send = json!({"type": "send", "room": "r", "message": "x".repeat(16 * 1024)});
    for _ in 0..64 {
        ask(&mut writer, "ok", send.clone()).await;
    }
    let mut ann = native(&server, &short(3)).await;
    join(&mut ann, "r").await;
    for _ in 0..20 {
        ann.send_json(&json!({"type": "history", "room": "r"})).await;
    }
    server.until_metric("chat_closed_total{code=\"4004\"}", |closed| closed == 1).await;
}

/// The server sends what a new token lets the client do in each of its rooms, for those rooms alone
/// where that has changed.
#[tokio::test]
async fn new_token_with_other_capabilities_is_reported() {
    let server = server(&[]);
    let token = |rules: &[(&str, &[&str])]| granting("ann", rules);
    let member = &["join", "send", "history"][..];
    let mut ann = native(&server, &token(&[("a", member), ("b", member), ("c", member)])).await;
    for room in ["a", "b", "c"] {
        ask(&mut ann, "joined", json!({"type": "join", "room": room})).await;
    }
    let moderator = ["join", "send", "history", "presence", "moderate"];
    let rules = [("a", &moderator[..]), ("b", member), ("@bob", &["direct"])];
    ann.send_json(&json!({"type": "hello", "id": 9, "token": token(&rules)})).await;
    let mut frames = Vec::new();
    while frames.last().is_none_or(|frame: &serde_json::Value| frame["type"] != "welcome") {
        frames.push(ann.recv_json().await);
    }
    // That Ann herself has joined may be told after she sees it.
    frames.retain(|frame| frame["type"] != "presence");
    let kinds: Vec<_> = frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["capabilities", "left", "welcome"], "{frames:?}");
    assert_eq!(frames[0], json!({"type": "capabilities", "room": "a", "can": moderator}));
    assert_eq!(frames[1]["room"], "c");
    // What a further join says is what was reported, and the same token again is no change.
    let joined = ask(&mut ann, "joined", json!({"type": "join", "room": "a"})).await;
    assert_eq!(joined["can"], json!(moderator));
    ann.send_json(&json!({"type": "hello", "id": 10, "token": token(&rules)})).await;
    loop {
        match ann.recv_json().await["type"].as_str() {
            Some("presence") => {}
            next => break assert_eq!(next, Some("welcome")),
        }
    }
}
