//! Users who are put out, of rooms and of servers.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use crate::support::{Chat, DEADLINE, ask, command, exchange, join, next_of};

const KEY: &str = "a key for backends";

async fn pair(redis: &RedisServer) -> (Chat, Chat) {
    let start = || {
        let mut command = command();
        command.env("REDIS_URL", redis.url()).env("API_KEY", KEY).args(["--port", "0"]);
        Chat::start(&mut command)
    };
    let (first, second) = (start(), start());
    first.until_ready().await;
    second.until_ready().await;
    (first, second)
}

/// A client of the native protocol that is known by an id.
async fn user(server: &Chat, id: &str) -> WsClient {
    let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
    WsClient::connect_with(&server.ws(&format!("/ws?userId={id}")), &protocol).await
}

async fn post(server: &Chat, key: &str, path: &str, body: &str) -> (u16, String) {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let (status, _, body) = exchange(server.port(), &request).await;
    (status, body)
}

async fn order(server: &Chat, path: &str, body: Value) {
    let (status, answer) = post(server, KEY, path, &body.to_string()).await;
    assert_eq!((status, &*answer), (200, r#"{"ok":true}"#), "{path}");
}

async fn is_forbidden(client: &mut WsClient, frame: Value) -> String {
    let error = ask(client, "error", frame).await;
    assert_eq!(error["code"], "forbidden", "{error}");
    error["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_is_kicked_leaves_on_every_server_and_may_come_back() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let (mut here, mut there) = (user(&first, "bob").await, user(&second, "bob").await);
    let mut ann = user(&second, "ann").await;
    join(&mut ann, "r").await;
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

#[tokio::test]
async fn who_is_banned_may_neither_join_nor_send_until_the_time_is_over() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let (mut here, mut there) = (user(&first, "bob").await, user(&second, "bob").await);
    ask(&mut here, "joined", json!({"type": "join", "room": "r"})).await;
    // A client that sends without being in the room.
    let mut outside = WsClient::connect(&first.ws("/?userId=bob")).await;
    outside.send_json(&json!({"type": "sendMessage", "roomId": "r", "message": "before"})).await;
    next_of(&mut here, "message").await;

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let ban = json!({"user": "bob", "reason": "spam", "until": now + 600_000});
    order(&second, "/api/rooms/r/ban", ban).await;
    assert_eq!(next_of(&mut here, "left").await["reason"], "banned");
    let send = json!({"type": "sendMessage", "roomId": "r", "message": "x"});
    for client in [&mut here, &mut there] {
        // The server on the other side may have yet to hear of it.
        let deadline = Instant::now() + DEADLINE;
        loop {
            client.send_json(&json!({"type": "join", "room": "r"})).await;
            let answer = client.recv_json().await;
            match answer["type"].as_str() {
                Some("error") => {
                    assert_eq!(answer["code"], "forbidden");
                    assert!(answer["message"].as_str().unwrap().ends_with("spam"), "{answer}");
                    break;
                }
                _ => assert!(Instant::now() < deadline, "{answer}"),
            }
        }
        ask(client, "joined", json!({"type": "join", "room": "elsewhere"})).await;
    }
    is_forbidden(&mut outside, send.clone()).await;
    let by_url = WsClient::try_connect(&first.ws("/join-room/r?userId=bob&history=9"), &[]).await;
    assert_eq!(by_url.err().map(|status| status.as_u16()), Some(403));
    // A server that starts later knows of it, too.
    let third = Chat::start(command().env("REDIS_URL", redis.url()).args(["--port", "0"]));
    third.until_ready().await;
    let mut late = user(&third, "bob").await;
    is_forbidden(&mut late, json!({"type": "join", "room": "r"})).await;

    order(&first, "/api/rooms/r/unban", json!({"user": "bob"})).await;
    let deadline = Instant::now() + DEADLINE;
    for client in [&mut here, &mut there, &mut late] {
        loop {
            client.send_json(&json!({"type": "join", "room": "r"})).await;
            let answer = loop {
                let answer = client.recv_json().await;
                if answer["type"] == "joined" || answer["type"] == "error" {
                    break answer;
                }
            };
            if answer["type"] == "joined" {
                break;
            }
            assert!(Instant::now() < deadline, "{answer}");
        }
    }
    // A ban ends by itself.
    order(&first, "/api/rooms/r/ban", json!({"user": "bob", "seconds": 1})).await;
    next_of(&mut here, "left").await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        here.send_json(&json!({"type": "join", "room": "r"})).await;
        let answer = here.recv_json().await;
        if answer["type"] == "joined" {
            break;
        }
        assert!(Instant::now() < deadline, "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_user_is_disconnected_everywhere_and_kept_out_if_a_time_is_given() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let mut native = user(&first, "bob").await;
    ask(&mut native, "joined", json!({"type": "join", "room": "r"})).await;
    let mut topics = WsClient::connect(&second.ws("/?userId=bob")).await;
    topics.send_json(&json!({"type": "SUBSCRIBE", "room": "r"})).await;
    second.until_logged("subscribing on the pub sub to room: r");
    let mut ann = user(&second, "ann").await;
    order(&second, "/api/users/bob/disconnect", json!({})).await;
    let goodbye = next_of(&mut native, "goodbye").await;
    assert_eq!((&goodbye["reason"], &goodbye["reconnect"]), (&json!("kicked"), &json!(false)));
    assert_eq!(native.recv_close().await.0, 4002);
    assert_eq!(topics.recv_until_close().await.1.0, 4002);
    ask(&mut ann, "pong", json!({"type": "ping"})).await;

    let mut native = user(&first, "bob").await;
    ask(&mut native, "pong", json!({"type": "ping"})).await;
    order(&second, "/api/users/bob/disconnect", json!({"seconds": 600, "reason": "spam"})).await;
    let goodbye = next_of(&mut native, "goodbye").await;
    assert_eq!((&goodbye["reason"], &goodbye["message"]), (&json!("banned"), &json!("spam")));
    assert_eq!(native.recv_close().await.0, 4003);
    for server in [&first, &second] {
        // Whoever comes before a server has heard of it is let in, and put out.
        until(server, Some(403)).await;
    }
    order(&first, "/api/users/bob/unban", json!({})).await;
    until(&first, None).await;
}

/// Connects as bob until that is answered in this way.
async fn until(server: &Chat, refused: Option<u16>) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let again = WsClient::try_connect(&server.ws("/ws?userId=bob"), &[]).await;
        if again.err().map(|status| status.as_u16()) == refused {
            return;
        }
        assert!(Instant::now() < deadline, "never {refused:?}");
    }
}

#[tokio::test]
async fn a_sanction_is_stored_before_it_is_acted_on_and_survives_a_lost_word() {
    let redis = RedisServer::start();
    let (first, second) = pair(&redis).await;
    let mut bob = user(&second, "bob").await;
    ask(&mut bob, "joined", json!({"type": "join", "room": "r"})).await;
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
            let (status, answer) = post(&server, wrong, path, r#"{"user":"bob"}"#).await;
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
        ("/api/rooms/r/kick", r#"{"user":7}"#, 422, "bad_json"),
        ("/api/rooms/r/kick", r#"{"usr":"bob"}"#, 422, "bad_json"),
        ("/api/rooms/%00/kick", r#"{"user":"bob"}"#, 400, "room_name_invalid"),
        ("/api/rooms/r/ban", r#"{"user":"bob","until":1}"#, 400, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","seconds":0}"#, 400, "bad_field"),
        ("/api/rooms/r/ban", r#"{"user":"bob","until":1,"seconds":1}"#, 400, "bad_field"),
        ("/api/users/bob/disconnect", "{", 400, "bad_json"),
        ("/api/nothing", "{}", 404, "not_found"),
    ] {
        let (got, answer) = post(&server, KEY, path, body).await;
        assert_eq!(got, status, "{path} {body}: {answer}");
        assert!(answer.contains(code), "{path} {body}: {answer}");
    }
    let long = json!({"user": "bob", "reason": "x".repeat(513)}).to_string();
    assert_eq!(post(&server, KEY, "/api/rooms/r/kick", &long).await.0, 400);
    let huge = format!("{{\"user\":\"{}\"}}", "x".repeat(20_000));
    assert_eq!(post(&server, KEY, "/api/rooms/r/kick", &huge).await.0, 413);
    assert_eq!(server.http("GET", "/api/rooms/r/kick").await.0, 405);
    assert_eq!(server.logged(KEY), 0);
}

#[tokio::test]
async fn moderators_use_frames() {
    use std::collections::BTreeMap;

    use chat_core::UserId;
    use chat_server::{JwtSigner, TokenClaims};

    let secret = "0123456789abcdef0123456789abcdef";
    let redis = RedisServer::start();
    let start = || {
        let mut command = command();
        command.env("REDIS_URL", redis.url()).env("JWT_SECRET", secret).args(["--port", "0"]);
        Chat::start(&mut command)
    };
    let (first, second) = (start(), start());
    first.until_ready().await;
    second.until_ready().await;
    let token = |user: &str, capabilities: &[&str]| {
        let mut claims = TokenClaims::new(&UserId::new(user).unwrap(), Duration::from_secs(600));
        let names: Vec<_> = capabilities.iter().map(ToString::to_string).collect();
        claims.rooms = Some(BTreeMap::from([("r".to_owned(), names)]));
        JwtSigner::with_secret(secret.as_bytes()).unwrap().sign(&claims).unwrap()
    };
    let connect = async |server: &Chat, token: String| {
        let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
        WsClient::connect_with(&server.ws(&format!("/ws?token={token}")), &protocol).await
    };
    let mut moderator = connect(&first, token("mo", &["*"])).await;
    let mut bob = connect(&second, token("bob", &["join", "send"])).await;
    ask(&mut bob, "joined", json!({"type": "join", "room": "r"})).await;
    let kick = json!({"type": "kick", "id": 1, "room": "r", "user": "bob", "reason": "calm"});
    is_forbidden(&mut bob, kick.clone()).await;
    assert_eq!(ask(&mut moderator, "ok", kick).await, json!({"type": "ok", "id": 1}));
    assert_eq!(next_of(&mut bob, "left").await["message"], "calm");
    ask(&mut bob, "joined", json!({"type": "join", "room": "r"})).await;
    let ban = json!({"type": "ban", "room": "r", "user": "bob"});
    ask(&mut moderator, "ok", ban).await;
    assert_eq!(next_of(&mut bob, "left").await["reason"], "banned");
    is_forbidden(&mut bob, json!({"type": "join", "room": "r"})).await;
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

/// A client that reads nothing has its frames wait; what is done to it does not.
#[tokio::test]
async fn who_reads_nothing_is_put_out_all_the_same() {
    // Nor is it the stalled client that ends here.
    let patience = ["--port", "0", "--write-timeout", "2m", "--message-timeout", "2m"];
    let server = Chat::start(command().env("API_KEY", KEY).args(patience));
    let mut bob = WsClient::connect_narrow(&server.ws("/?userId=bob")).await;
    for room in ["r", "noise"] {
        bob.send_json(&json!({"type": "join", "room": room, "id": room})).await;
    }
    let mut ann = user(&server, "ann").await;
    for room in ["r", "noise"] {
        ask(&mut ann, "joined", json!({"type": "join", "room": room})).await;
    }
    let text = "x".repeat(30_000);
    let waiting = async || {
        let (_, _, page) = server.http("GET", "/metrics").await;
        let line = page.lines().find(|line| line.starts_with("chat_outbox_bytes_max ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    while waiting().await < 300_000 {
        ask(&mut ann, "ok", json!({"type": "send", "room": "noise", "message": text})).await;
    }
    bob.send_json(&json!({"type": "join", "room": "r"})).await;
    order(&server, "/api/rooms/r/ban", json!({"user": "bob", "seconds": 600})).await;
    let deadline = Instant::now() + DEADLINE;
    while ask(&mut ann, "members", json!({"type": "members", "room": "r"})).await["count"] != 1 {
        assert!(Instant::now() < deadline, "bob is still there");
    }
    order(&server, "/api/users/bob/disconnect", json!({})).await;
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (_, _, page) = server.http("GET", "/metrics").await;
        if page.contains("chat_connections 1\n") {
            break;
        }
        assert!(Instant::now() < deadline, "bob is still connected");
    }
}

/// Who was put out before a connection said whose it is was another connection.
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
