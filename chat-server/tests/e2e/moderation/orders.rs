//! Who may put users out: backends with a key, moderators with a token.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use serde_json::json;

use super::{KEY, is_refused, pair, post, request};
use crate::e2e::auth::{SECRET, granting, native};
use crate::support::{Chat, DEADLINE, ask, command, join, next_of};

#[tokio::test]
async fn the_api_is_for_those_with_the_key() {
    let redis = RedisServer::start();
    let (server, _) = pair(&redis).await;
    let without = Chat::alone();
    let paths = ["/api/users/bob/disconnect", "/api/rooms/r/kick", "/api/rooms/r/ban"];
    for path in paths {
        assert_eq!(post(&without, KEY, path, "{}").await.0, 404, "{path}");
        assert_eq!(post(&without, "", path, "{}").await.0, 404, "{path}");
        for wrong in ["", "x", "a key for backend", "a key for backends "] {
            let body = if path.ends_with("disconnect") { "{}" } else { r#"{"user":"bob"}"# };
            let (status, answer) = post(&server, wrong, path, body).await;
            // Blanks around a header's value are not part of it.
            let is_right = wrong.trim() == KEY;
            assert_eq!(status, if is_right { 200 } else { 401 }, "{path} {wrong}: {answer}");
        }
    }
    for (path, body, status, code) in [
        ("/api/rooms/r/kick", "", 400, "bad_json"),
        ("/api/rooms/r/kick", "{", 400, "bad_json"),
        ("/api/rooms/r/kick", "{}", 400, "missing_field"),
        ("/api/rooms/r/kick", r#"{"user":""}"#, 400, "bad_field"),
        ("/api/rooms/r/kick", r#"{"user":7}"#, 422, "bad_field"),
        ("/api/rooms/r/kick", r#"["bob"]"#, 422, "bad_field"),
        ("/api/users/bob/disconnect", "[]", 422, "bad_field"),
        ("/api/rooms/r/kick", r#"{"usr":"bob"}"#, 422, "bad_field"),
        ("/api/rooms/%ff/kick", r#"{"user":"bob"}"#, 400, "bad_field"),
        ("/api/users/bob/disconnect", r#"{"reason":7}"#, 422, "bad_field"),
        ("/api/rooms/%00/kick", r#"{"user":"bob"}"#, 400, "room_name_invalid"),
        ("/api/rooms/r/ban", r#"{"user":"bob","until":1}"#, 400, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","seconds":0}"#, 400, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","until":1,"seconds":1}"#, 400, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","seconds":1.5}"#, 422, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","seconds":-1}"#, 422, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","seconds":1e400}"#, 422, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","seconds":"60"}"#, 422, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","reason":"\u0000"}"#, 400, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","until":null,"seconds":60.0}"#, 200, "ok"),
        ("/api/rooms/r/ban", r#"{"user":"bob","until":4.1e12}"#, 200, "ok"),
        ("/api/users/bob/disconnect", r#"{"seconds":6e1}"#, 200, "ok"),
        ("/api/users/bob/disconnect", "{", 400, "bad_json"),
        ("/api/nothing", "{}", 404, "not_found"),
    ] {
        let (got, answer) = post(&server, KEY, path, body).await;
        assert_eq!(got, status, "{path} {body}: {answer}");
        assert!(answer.contains(code), "{path} {body}: {answer}");
    }
    let long = json!({"user": "bob", "reason": "x".repeat(513)}).to_string();
    assert_eq!(post(&server, KEY, "/api/rooms/r/kick", &long).await.0, 400);
    let huge = format!("{{\"user\":\"{}\"}}", "x".repeat(1_048_577));
    assert_eq!(post(&server, KEY, "/api/rooms/r/kick", &huge).await.0, 413);
    assert_eq!(server.http("GET", "/api/rooms/r/kick").await.0, 405);
    assert_eq!(server.logged(KEY), 0);
}

/// The answer cannot wait until the room is without the moderator, whose connection leaves after it.
#[tokio::test]
async fn moderator_who_kicks_itself_is_answered_at_once() {
    let server = Chat::start(command().args(["--port", "0", "--jwt-secret", SECRET]));
    let mut moderator = native(&server, &granting("mo", &[("r", &["*"])])).await;
    join(&mut moderator, "r").await;
    let began = Instant::now();
    let kick = json!({"type": "kick", "room": "r", "user": "mo"});
    ask(&mut moderator, "ok", kick).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(next_of(&mut moderator, "left").await["reason"], "kicked");
}

#[tokio::test]
async fn moderators_use_frames() {
    let redis = RedisServer::start();
    let secrets = ["--jwt-secret", SECRET, "--api-key", KEY];
    let [first, second] = Chat::several::<2>(&redis, &secrets).await;
    let token = |user: &str, capabilities: &[&str]| granting(user, &[("r", capabilities)]);
    let mut moderator = native(&first, &token("mo", &["*"])).await;
    let mut bob = native(&second, &token("bob", &["join", "send"])).await;
    ask(&mut bob, "joined", json!({"type": "join", "room": "r"})).await;
    let kick = json!({"type": "kick", "id": 1, "room": "r", "user": "bob", "reason": "calm"});
    is_refused(&mut bob, kick.clone(), "forbidden").await;
    assert_eq!(ask(&mut moderator, "ok", kick).await, json!({"type": "ok", "id": 1}));
    assert_eq!(next_of(&mut bob, "left").await["message"], "calm");
    ask(&mut bob, "joined", json!({"type": "join", "room": "r"})).await;
    let ban = json!({"type": "ban", "room": "r", "user": "bob"});
    ask(&mut moderator, "ok", ban).await;
    assert_eq!(next_of(&mut bob, "left").await["reason"], "banned");
    is_refused(&mut bob, json!({"type": "join", "room": "r"}), "banned").await;
    let (_, _, bans) = request(second.port(), KEY, "", "GET /api/bans", "").await;
    let by = r#""by":"moderator","moderator":"mo""#;
    assert!(bans.contains(by), "{bans}");
    ask(&mut moderator, "ok", json!({"type": "unban", "room": "r", "user": "bob"})).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        bob.send_json(&json!({"type": "join", "room": "r"})).await;
        if bob.recv_json().await["type"] == "joined" {
            break;
        }
        assert!(Instant::now() < deadline);
    }
    let long = json!({"type": "kick", "room": "r", "user": "bob", "reason": "x".repeat(513)});
    assert_eq!(ask(&mut moderator, "error", long).await["code"], "bad_field");
    let no_time = json!({"type": "ban", "room": "r", "user": "bob", "seconds": 0});
    assert_eq!(ask(&mut moderator, "error", no_time).await["code"], "bad_field");
}
