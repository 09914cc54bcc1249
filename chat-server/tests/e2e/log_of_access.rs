//! The log answers who was refused, and why, and who used the API for what.

use std::time::SystemTime;

use chat_broker::testing::RedisServer;
use chat_server::JwtSigner;
use chat_transport::testing::WsClient;
use serde_json::{Value, json};

use super::auth::{SECRET, granting, native, signed};
use super::backend::{KEY, request};
use crate::support::{Chat, ask, command, next_of};

const SHOP: &str = "ck_shop_0123456789abcdef";

fn server(format: &str, args: &[&str]) -> Chat {
    let mut command = command();
    command.env("JWT_SECRET", SECRET).env("API_KEY", KEY).env("CHAT_LOG_FORMAT", format);
    Chat::start(command.args(["--port", "0"]).args(args))
}

/// The line of the log, of a server that logs JSON.
fn line(server: &Chat, text: &str) -> Value {
    serde_json::from_str(&server.until_logged(text)).unwrap()
}

fn handshake(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

async fn post(server: &Chat, path: &str, body: &Value) -> u16 {
    request(server.port(), KEY, "", &format!("POST /api{path}"), &body.to_string()).await.0
}

#[tokio::test]
async fn refused_handshakes_are_logged_with_their_causes() {
    let server = server("json", &[]);
    let bob = granting("bob", &[("*", &["join"])]);
    let eve = granting("eve", &[("a", &["join"])]);
    assert_eq!(post(&server, "/users/bob/disconnect", &json!({"seconds": 600})).await, 200);
    let bearer = format!("Authorization: Bearer {bob}\r\n");
    let foreign = "Origin: https://page.example\r\n";
    for (request, status, cause) in [
        (handshake("/ws", &bearer), 403, "banned"),
        (handshake(&format!("/join-room/b?token={eve}"), ""), 403, "forbidden"),
        (handshake("/join-room/%00", ""), 400, "room_name_invalid"),
        (handshake("/ws", foreign), 403, "foreign_origin"),
        (handshake("/ws", "").replace("Version: 13", "Version: 8"), 426, "version"),
        (handshake("/ws", "").replace("Upgrade: websocket\r\n", ""), 426, "no_upgrade"),
        (handshake("/ws", "").replace("localhost", "other.example"), 403, "foreign_host"),
        (handshake("/join-room/b", ""), 401, "unauthorized"),
    ] {
        assert_eq!(server.raw(&request).await.0, status, "{cause}");
        let line = line(&server, &format!(r#""cause":"{cause}""#));
        assert_eq!(line["message"], "handshake refused", "{line}");
        let level = if cause.starts_with("foreign") { "WARN" } else { "INFO" };
        assert_eq!((&line["level"], &line["status"]), (&json!(level), &json!(status)), "{line}");
        assert_eq!(line["address"], "127.0.0.1", "{line}");
        assert!(line["code"].is_string() && line["detail"].is_string(), "{line}");
    }
    let of_page = line(&server, r#""cause":"foreign_origin""#);
    assert_eq!(
        (&of_page["origin"], &of_page["host"]),
        (&json!("https://page.example"), &json!("localhost"))
    );
    let of_bob = line(&server, r#""cause":"banned""#);
    assert_eq!((&of_bob["user"], &of_bob["code"]), (&json!("bob"), &json!("banned")), "{of_bob}");
    let of_eve = line(&server, r#""cause":"forbidden""#);
    assert_eq!((&of_eve["user"], &of_eve["room"]), (&json!("eve"), &json!("b")), "{of_eve}");
}

#[tokio::test]
async fn address_that_has_all_its_connections_is_logged() {
    let server =
        server("json", &["--max-connections-per-address=1", "--trusted-proxies=127.0.0.0/8,::1"]);
    let forwarded = ("X-Forwarded-For", "9.9.9.9");
    let _only = WsClient::connect_with(&server.ws("/ws"), &[forwarded]).await;
    let forwarded = format!("{}: {}\r\n", forwarded.0, forwarded.1);
    assert_eq!(server.raw(&handshake("/ws", &forwarded)).await.0, 429);
    let line = line(&server, r#""cause":"address_connections""#);
    assert_eq!((&line["status"], &line["address"]), (&json!(429), &json!("9.9.9.9")), "{line}");
}

#[tokio::test]
async fn refused_requests_of_a_busy_address_are_logged() {
    let server = server("human", &["--http-rate-per-address=1/1", "--max-wait=1ms"]);
    for _ in 0..50 {
        server.raw(&handshake("/join-room/%00", "")).await;
    }
    let line = server.until_logged("cause=\"http_rate\"");
    assert!(line.contains("status=429") && line.contains("address=127.0.0.1"), "{line}");
    // A minute may end in between.
    for cause in ["http_rate", "room_name_invalid"] {
        assert!(server.logged(&format!("cause=\"{cause}\"")) <= 20, "{cause}");
    }
}

#[tokio::test]
async fn rejected_token_names_its_user_if_it_is_genuine() {
    let server = server("json", &["--jwt-audience=chat"]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = |user: &str, from: u64, until: u64, audience: &str| {
        signed(&json!({"sub": user, "nbf": from, "exp": until, "aud": audience}))
    };
    let (day, hour) = (now + 86_400, now + 3600);
    for (user, token) in [
        ("expired", claims("expired", 0, now - 3600, "chat")),
        ("early", claims("early", hour, day, "chat")),
        ("elsewhere", claims("elsewhere", 0, day, "shop")),
    ] {
        assert_eq!(server.raw(&handshake(&format!("/ws?token={token}"), "")).await.0, 401);
        let line = line(&server, &format!(r#""user":"{user}""#));
        assert_eq!(line["message"], "credentials rejected", "{line}");
    }
    let mut client = server.native().await;
    let hello = json!({"type": "hello", "token": claims("in-hello", 0, now - 3600, "chat")});
    ask(&mut client, "error", hello).await;
    assert!(line(&server, r#""user":"in-hello""#)["connection"].is_string());

    let stranger = JwtSigner::with_secret(b"a secret that the server lacks, 32").unwrap();
    let forged = stranger.sign(&json!({"sub": "forged", "exp": day, "aud": "chat"})).unwrap();
    assert_eq!(server.raw(&handshake(&format!("/ws?token={forged}"), "")).await.0, 401);
    server.until_logged("signature");
    assert_eq!(server.logged("forged"), 0, "anyone can write a name into a token");
}

/// The name in a key is public, and finds the backend that has an old one. Nothing else of it is logged.
#[tokio::test]
async fn rejected_key_is_logged_with_the_name_in_it() {
    let server = server("human", &[]);
    let secret = "0123456789".repeat(4);
    for (key, fields) in [
        (format!("ck_shop_{secret}"), "API key rejected reason=\"unknown\" key=\"shop\" address="),
        (format!("ck_{secret}"), "API key rejected reason=\"unknown\" address="),
        ("".to_owned(), "API key rejected reason=\"missing\" address="),
    ] {
        assert_eq!(request(server.port(), &key, "", "GET /api/rooms", "").await.0, 401, "{key}");
        server.until_logged(fields);
    }
    assert_eq!(server.logged("0123456789"), 0);
}

/// As [`line`], of a refused join.
fn refused_join(server: &Chat, code: &str) -> Value {
    refused(server, "join refused", &format!(r#""code":"{code}","user""#))
}

/// As [`line`], of a refused message.
fn refused_send(server: &Chat, text: &str) -> Value {
    refused(server, "send refused", text)
}

fn refused(server: &Chat, what: &str, text: &str) -> Value {
    let line = line(server, text);
    assert_eq!(line["message"], what, "{line}");
    assert_eq!((&line["level"], &line["address"]), (&json!("INFO"), &json!("127.0.0.1")), "{line}");
    assert!(line["connection"].is_string() && line["detail"].is_string(), "{line}");
    line
}

#[tokio::test]
async fn refused_joins_are_logged_with_their_codes() {
    let server = server("json", &["--max-rooms=1", "--join-rate=1/8", "--max-wait=1ms"]);
    let join = |room: &str| json!({"type": "join", "room": room});
    let mut ann = native(&server, &granting("ann", &[("a*", &["join"])])).await;
    ask(&mut ann, "joined", join("a")).await;
    let invalid = format!("\u{1b}[31m\"x\" user=\"ceo\"\n{}", "x".repeat(10_000));
    assert_eq!(
        post(&server, "/rooms/a-closed/ban", &json!({"user": "ann", "reason": "spam"})).await,
        200
    );
    for (room, code) in [
        ("staff", "forbidden"),
        ("a-closed", "banned"),
        ("a2", "too_many_rooms"),
        (&invalid, "room_name_invalid"),
    ] {
        assert_eq!(ask(&mut ann, "error", join(room)).await["code"], code);
        let line = refused_join(&server, code);
        assert_eq!(line["user"], "ann", "{line}");
        let shown = line["room"].as_str().unwrap();
        assert!(shown == room || room == invalid && shown.len() < 400, "{line}");
        assert!(!shown.contains(['\n', '\u{1b}']), "{line}");
    }
    assert_eq!(refused_join(&server, "banned")["detail"], "You are banned from this room: spam");
    // In the name of a backend, which needs no permission, and is no way around a ban.
    assert_eq!(post(&server, "/rooms/a-closed/join", &json!({"user": "ann"})).await, 200);
    let by_backend = line(&server, r#""by":"backend""#);
    assert_eq!((&by_backend["code"], &by_backend["user"]), (&json!("banned"), &json!("ann")));
    for _ in 0..100 {
        ask(&mut ann, "error", join("a3")).await;
    }
    assert_eq!(refused_join(&server, "rate_limited")["room"], "a3");
    let at_info = server.logged("join refused");
    assert!(
        at_info <= 5 + 2 * 10,
        "{at_info} lines of 105 refusals, and a minute may end in between"
    );
    assert_eq!(server.logged("frame refused"), 0);
}

#[tokio::test]
async fn refused_sends_are_logged_with_their_codes() {
    let server = server("json", &["--rate-per-user=1/40", "--max-wait=1ms"]);
    let mut ann = native(&server, &granting("ann", &[("a*", &["join", "send"])])).await;
    ask(&mut ann, "joined", json!({"type": "join", "room": "a"})).await;
    let ban = json!({"user": "ann", "reason": "spam"});
    assert_eq!(post(&server, "/rooms/a-closed/ban", &ban).await, 200);
    let (secret, long) = ("a secret text", "a secret text".repeat(10_000));
    for (frame, code) in [
        (json!({"room": "staff", "message": secret}), "forbidden"),
        (json!({"room": "a-closed", "message": secret}), "banned"),
        (json!({"room": "a-other", "message": secret}), "not_in_room"),
        (json!({"room": "a", "message": long}), "message_too_long"),
        (json!({"room": "\u{1b}[31m", "message": secret}), "room_name_invalid"),
    ] {
        let mut send = frame.clone();
        send["type"] = json!("send");
        assert_eq!(ask(&mut ann, "error", send).await["code"], code);
        let line = refused_send(&server, &format!(r#""code":"{code}","user":"ann""#));
        let shown = line["room"].as_str().unwrap();
        assert!(shown == frame["room"] || code == "room_name_invalid", "{line}");
        assert!(!shown.contains('\u{1b}'), "{line}");
    }
    let send = json!({"type": "send", "message": secret});
    assert_eq!(ask(&mut ann, "error", send).await["code"], "missing_field");
    assert_eq!(refused_send(&server, r#""code":"missing_field""#)["room"], Value::Null);
    let direct = json!({"type": "direct", "to": "bob", "data": secret});
    ask(&mut ann, "error", direct).await;
    assert_eq!(refused_send(&server, r#""to":"bob""#)["room"], Value::Null);

    for _ in 0..70 {
        let send = json!({"type": "send", "room": "staff", "message": secret});
        ask(&mut ann, "error", send).await;
    }
    assert_eq!(refused_send(&server, r#""code":"rate_limited""#)["room"], "staff");
    let at_info = server.logged("send refused");
    assert!(
        at_info <= 7 + 2 * 10,
        "{at_info} lines of 77 refusals, and a minute may end in between"
    );
    assert_eq!((server.logged("frame refused"), server.logged(secret)), (0, 0));
}

#[tokio::test]
async fn refused_sends_of_other_dialects_are_logged() {
    let server = server("json", &[]);
    for (user, frame, field, value) in [
        ("topics", json!({"type": "sendMessage", "roomId": "staff"}), "room", json!("staff")),
        ("rooms", json!({"type": "chat_message", "message": "x"}), "room", Value::Null),
        ("direct", json!({"to": "zoe", "message": "x".repeat(100_000)}), "to", json!("zoe")),
    ] {
        let token = granting(user, &[("a", &["join"])]);
        let mut client = WsClient::connect(&server.ws(&format!("/ws?token={token}"))).await;
        client.send_json(&frame).await;
        let line = refused_send(&server, &format!(r#","user":"{user}""#));
        assert_eq!(line[field], value, "{line}");
    }
    // Messages of this dialect are to the room that the client is in.
    let token = granting("rob", &[("a", &["join"])]);
    let mut rob = WsClient::connect(&server.ws(&format!("/join-room/a?token={token}"))).await;
    next_of(&mut rob, "system").await;
    rob.send_json(&json!({"type": "chat_message", "message": "x"})).await;
    let line = refused_send(&server, r#","user":"rob""#);
    assert_eq!((&line["code"], &line["room"]), (&json!("forbidden"), &json!("a")), "{line}");
}

/// The room of the message, which is not the latest that the client has joined.
#[tokio::test]
async fn message_that_redis_refuses_is_logged_with_its_room() {
    let redis = RedisServer::start();
    let server = server("json", &["--redis-url", &redis.url()]);
    server.until_ready().await;
    let mut ann = native(&server, &granting("ann", &[("*", &["join", "send"])])).await;
    for room in ["full", "other"] {
        ask(&mut ann, "joined", json!({"type": "join", "room": room})).await;
    }
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let send = json!({"type": "send", "room": "full", "message": "x"});
    assert_eq!(ask(&mut ann, "error", send).await["code"], "broker_unavailable");
    let line = refused_send(&server, r#""code":"broker_unavailable""#);
    assert_eq!((&line["room"], &line["user"]), (&json!("full"), &json!("ann")), "{line}");
}

#[tokio::test]
async fn refused_frames_are_logged_at_debug() {
    let server = server("json", &["--log=info,chat_server::connection::report=debug"]);
    let mut ann = native(&server, &granting("ann", &[("a", &["join"])])).await;
    for frame in [
        json!({"type": "send", "room": "b", "message": "a secret text"}),
        json!({"type": "typing", "room": "b"}),
    ] {
        let error = ask(&mut ann, "error", frame.clone()).await;
        let (kind, code) = (&frame["type"], &error["code"]);
        let line = line(&server, &format!(r#""type":{kind}"#));
        assert_eq!((&line["message"], &line["level"]), (&json!("frame refused"), &json!("DEBUG")));
        assert_eq!((&line["code"], &line["user"]), (code, &json!("ann")), "{line}");
        assert!(line["room"] == "b" && line["connection"].is_string(), "{line}");
    }
    assert_eq!(server.logged("a secret text"), 0);
}

/// One line for each, however often.
#[tokio::test]
async fn users_who_are_throttled_are_logged() {
    let mut server = server("json", &["--rate=10/2", "--max-wait=1m"]);
    let mut ann = native(&server, &granting("ann", &[("*", &["join"])])).await;
    let mut bob = native(&server, &granting("bob", &[("*", &["join"])])).await;
    ask(&mut bob, "pong", json!({"type": "ping"})).await;
    for _ in 0..20 {
        ann.send_json(&json!({"type": "ping"})).await;
    }
    for _ in 0..20 {
        next_of(&mut ann, "pong").await;
    }
    server.signal("TERM");
    server.exit();
    let line = line(&server, "client throttled");
    assert_eq!((&line["level"], &line["user"]), (&json!("INFO"), &json!("ann")), "{line}");
    assert_eq!(line["limit"], "connection_frames", "{line}");
    assert!(line["connection"].is_string() && line["waits"].as_u64() > Some(1), "{line}");
    assert!(line["waited_ms"].as_u64() >= Some(1000) && line["refused"] == 0, "{line}");
    // A minute may end in between.
    assert!(server.logged("client throttled") <= 2);
    let of_bob = |line: &&String| line.contains("client throttled") && line.contains("\"bob\"");
    assert_eq!(server.log().iter().find(of_bob), None);
}

/// A user whose client tries again in a loop does not hide the others at the same address.
#[tokio::test]
async fn rejected_tokens_of_one_user_do_not_hide_those_of_others() {
    let server = server("human", &[]);
    let expired = |user: &str| signed(&json!({"sub": user, "exp": 1_000_000_000}));
    let attempt =
        async |token: &str| server.raw(&handshake(&format!("/ws?token={token}"), "")).await.0;
    for _ in 0..30 {
        assert_eq!(attempt(&expired("loops")).await, 401);
        assert_eq!(attempt("guess").await, 401);
    }
    assert_eq!(attempt(&expired("ann")).await, 401);
    server.until_logged("user=\"ann\"");
    // A minute may end in between.
    for hidden in ["user=\"loops\"", "reason=\"the token is not valid: it is not a JWT"] {
        assert!((10..=20).contains(&server.logged(hidden)), "{hidden}");
    }
}

/// Anyone can make up tokens, and send them from many addresses.
#[tokio::test]
async fn forged_tokens_do_not_hide_a_genuine_one() {
    let server = server("json", &["--trusted-proxies=127.0.0.0/8,::1"]);
    let expired = signed(&json!({"sub": "ann", "exp": 1_000_000_000}));
    let stranger = JwtSigner::with_secret(b"a secret that the server lacks, 32").unwrap();
    let forged = stranger.sign(&json!({"sub": "ann", "exp": 1_000_000_000})).unwrap();
    let attempt = async |token: &str, from: usize| {
        let forwarded = format!("X-Forwarded-For: 9.9.{from}.9\r\n");
        let request = handshake(&format!("/ws?token={token}"), &forwarded);
        assert_eq!(server.raw(&request).await.0, 401);
    };
    for n in 0..650 {
        attempt(&forged, n % 65).await;
    }
    assert!(server.logged("credentials rejected") < 650, "the lines of strangers are used up");
    attempt(&expired, 0).await;
    let line = line(&server, r#""user":"ann""#);
    assert_eq!((&line["level"], &line["address"]), (&json!("WARN"), &json!("9.9.0.9")), "{line}");
    assert_eq!(server.logged(r#""user":"ann""#), 1, "anyone can write a name into a token");
}

#[tokio::test]
async fn refused_moderation_is_logged() {
    let server = server("json", &[]);
    let mut ann = native(&server, &granting("ann", &[("a", &["join"])])).await;
    for kind in ["kick", "ban", "unban"] {
        let act = json!({"type": kind, "room": "a", "user": "bob", "reason": "a secret text"});
        assert_eq!(ask(&mut ann, "error", act).await["code"], "forbidden");
        let line = refused(&server, "moderation refused", &format!(r#""kind":"{kind}""#));
        for (field, value) in
            [("code", "forbidden"), ("user", "ann"), ("about", "bob"), ("room", "a")]
        {
            assert_eq!(line[field], value, "{field}: {line}");
        }
    }
    for _ in 0..50 {
        ask(&mut ann, "error", json!({"type": "kick", "room": "a", "user": "bob"})).await;
    }
    // A minute may end in between.
    let at_info = server.logged("moderation refused");
    assert!((10..=20).contains(&at_info), "{at_info}");
    assert_eq!(server.logged("a secret text"), 0);
}

const RUNBOOK: &str = include_str!("../../../docs/runbook.md");

/// The filters of the log that the runbook prints: all from the first `grep` of a command on.
fn printed_filters() -> Vec<String> {
    let text = RUNBOOK.replace("\\|", "|").replace("|\n    ", "| ");
    let lines = text.lines().filter(|line| line.contains("\"bob\""));
    let filters = lines.filter_map(|line| {
        let filter = &line[line.find("grep ")?..];
        Some(filter.split('`').next().unwrap().to_owned())
    });
    filters.collect()
}

/// The lines of `log` that the filter leaves.
fn filtered(filter: &str, log: &[String]) -> String {
    let mut shell = std::process::Command::new("sh");
    let piped = std::process::Stdio::piped;
    let mut shell = shell.args(["-c", filter]).stdin(piped()).stdout(piped()).spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, log.join("\n").as_bytes()).unwrap();
    drop(stdin);
    String::from_utf8(shell.wait_with_output().unwrap().stdout).unwrap()
}

#[tokio::test]
async fn commands_of_the_runbook_find_the_lines_in_both_formats() {
    let filters = printed_filters();
    assert_eq!(filters.len(), 5, "{filters:#?}");
    for format in ["human", "json"] {
        let server = server(format, &[]);
        for user in ["bob", "bobby"] {
            let mut client = native(&server, &granting(user, &[("a", &["join"])])).await;
            ask(&mut client, "error", json!({"type": "join", "room": "b"})).await;
            ask(&mut client, "error", json!({"type": "send", "room": "a", "message": "x"})).await;
            assert_eq!(post(&server, "/rooms/a/ban", &json!({"user": user})).await, 200);
        }
        let log = server.log();
        let by_address =
            RUNBOOK.split("address as well (`").nth(1).unwrap().split('`').next().unwrap();
        let found = filtered(&by_address.replace("203.0.113.9", "127.0.0.1"), &log);
        assert!(found.contains("join refused"), "{format}: {by_address}");
        for filter in &filters {
            let found = filtered(filter, &log);
            let is_found = ["join refused", "send refused", "user sanctioned"]
                .into_iter()
                .any(|what| found.lines().count() == 1 && found.contains(what));
            assert!(is_found && !found.contains("bobby"), "{format}: {filter}:\n{found}");
        }
    }
}

/// The kick, its moderator, and what became of the user's connection are found by one id.
#[tokio::test]
async fn sanction_and_what_it_ended_have_the_same_id() {
    let server = server("json", &[]);
    let moderator = granting("mod", &[("*", &["join", "moderate"])]);
    let mut moderator = native(&server, &moderator).await;
    let mut bob = native(&server, &granting("bob", &[("*", &["join"])])).await;
    ask(&mut bob, "joined", json!({"type": "join", "room": "r"})).await;
    ask(&mut moderator, "ok", json!({"type": "kick", "room": "r", "user": "bob"})).await;
    let kick = line(&server, r#""kind":"kick""#);
    assert_eq!((&kick["moderator"], &kick["by_address"]), (&json!("mod"), &json!("127.0.0.1")));
    assert!(kick["by_connection"].is_string(), "{kick}");
    let removed = line(&server, "client removed from a room");
    for (field, value) in [
        ("sanction", kick["sanction"].clone()),
        ("cause", json!("kicked")),
        ("user", json!("bob")),
        ("room", json!("r")),
        ("address", json!("127.0.0.1")),
    ] {
        assert!(value.is_string() && removed[field] == value, "{field}: {removed} {kick}");
    }
    assert_ne!(removed["connection"], kick["by_connection"]);

    assert_eq!(post(&server, "/users/bob/disconnect", &json!({"seconds": 60})).await, 200);
    bob.recv_until_close().await;
    let ban = line(&server, r#""kind":"ban""#);
    assert_eq!((&ban["key"], &ban["by_address"]), (&json!("api"), &json!("127.0.0.1")), "{ban}");
    let ended = line(&server, "connection ended");
    assert_eq!((&ended["cause"], &ended["sanction"]), (&json!("banned"), &ban["sanction"]));
    assert_eq!(ended["connection"], removed["connection"], "{ended}");
}

/// The bodies of calls that need one.
fn body_of(call: &str) -> Value {
    match call {
        "send" | "direct" => json!({"message": "a secret text", "user": {"id": "u"}}),
        "broadcast" => json!({"message": "a secret text", "user": {"id": "u"}, "rooms": ["r"]}),
        "status" => json!({"users": ["u"]}),
        "issue_token" => json!({"user": "u", "seconds": 60}),
        "batch" => json!({"calls": []}),
        "rebalance" => json!({"percent": 0}),
        _ => json!({"user": "u"}),
    }
}

/// Of all calls in the document: a new one has a line, or is known to need none.
#[tokio::test]
async fn calls_that_change_or_read_what_is_personal_are_logged() {
    const NEUTRAL: [&str; 7] = ["batch", "key", "nodes", "openapi", "room", "rooms", "samples"];
    const SANCTIONS: [&str; 5] = ["ban", "disconnect", "kick", "unban", "unban_user"];
    let server = server("json", &[]);
    let (_, _, document) = request(server.port(), KEY, "", "GET /api/openapi.json", "").await;
    let document: Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut calls = 0;
    let mut sanctions = 0;
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let call = operation["operationId"].as_str().unwrap();
            let query = if call == "users" { "?search=u" } else { "" };
            let url = path.replace("{room}", "r").replace("{user}", "u") + query;
            let body = match &operation["requestBody"] {
                Value::Null => String::new(),
                _ if call == "disconnect" => "{}".to_owned(),
                _ => body_of(call).to_string(),
            };
            let first_line = format!("{} {url}", method.to_uppercase());
            let (status, _, answer) = request(server.port(), KEY, "", &first_line, &body).await;
            assert_eq!(status, 200, "{call}: {answer}");
            calls += 1;
            if NEUTRAL.contains(&call) {
                continue;
            }
            if SANCTIONS.contains(&call) {
                sanctions += 1;
                server.until_logged_times(r#""by_address":"127.0.0.1""#, sanctions);
                continue;
            }
            let line = line(&server, &format!(r#""call":"{call}""#));
            assert_eq!((&line["key"], &line["address"]), (&json!("api"), &json!("127.0.0.1")));
            assert_eq!((&line["status"], &line["level"]), (&json!(200), &json!("INFO")), "{line}");
            for (parameter, field) in [("{room}", "room"), ("{user}", "user")] {
                let expected = path.contains(parameter).then_some(&field[..1]);
                assert!(expected.is_none() || line[field] == *expected.unwrap(), "{line}");
            }
        }
    }
    assert!(calls > 20, "{calls}");
    for (call, field, value) in [
        ("join", "user", json!("u")),
        ("status", "users", json!(1)),
        ("rebalance", "percent", json!(0)),
        ("rebalance", "connections", json!(0)),
    ] {
        assert_eq!(line(&server, &format!(r#""call":"{call}""#))[field], value, "{call}");
    }
    assert_eq!(server.logged("sanctioned") + server.logged("ban lifted"), SANCTIONS.len());
    for call in NEUTRAL {
        assert_eq!(server.logged(&format!(r#""call":"{call}""#)), 0, "{call}");
    }
    assert_eq!(server.logged("a secret text"), 0);
}

/// A page that shows figures polls them: each read has a line, and once a minute.
#[tokio::test]
async fn repeated_reads_of_the_api_are_logged_once() {
    let server = server("json", &[]);
    for _ in 0..100 {
        for user in ["ann", "bob"] {
            let call = format!("GET /api/users/{user}/connections");
            assert_eq!(request(server.port(), KEY, "", &call, "").await.0, 200);
        }
    }
    for user in ["ann", "bob"] {
        let lines = server.logged(&format!(r#""call":"user_connections","user":"{user}""#));
        // A minute may end in between.
        assert!((1..=2).contains(&lines), "{user}: {lines}");
    }
    // Not repeated, though they ask for as many users, or for none by name.
    for user in ["ann", "bob"] {
        let search = format!("GET /api/users?search={user}");
        assert_eq!(request(server.port(), KEY, "", &search, "").await.0, 200);
        assert_eq!(post(&server, "/users/status", &json!({"users": [user]})).await, 200);
        assert_eq!(line(&server, &format!(r#""search":"{user}""#))["call"], "users");
    }
    // A line may be written after the answer.
    server.until_logged_times(r#""call":"status""#, 2);
    assert_eq!(server.logged(r#""call":"status""#), 2);
}

#[tokio::test]
async fn powerful_calls_of_the_api_are_logged() {
    let started = super::api::server_with_key("scopes = [\"send\"]", &["--log-format=json"]);
    let server = &started.server;
    let message = json!({"message": "a secret text", "user": {"id": "ceo"}});
    let shop = |line: &'static str, body: Value| {
        let port = server.port();
        async move { request(port, SHOP, "", line, &body.to_string()).await.0 }
    };
    assert_eq!(shop("POST /api/rooms/r/messages", message.clone()).await, 200);
    let line = line(server, r#""call":"send""#);
    assert_eq!(line["message"], "API call", "{line}");
    for (field, value) in
        [("key", "shop"), ("address", "127.0.0.1"), ("as_user", "ceo"), ("room", "r")]
    {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(shop("POST /api/users/u/messages", message.clone()).await, 200);
    let direct = self::line(server, r#""call":"direct""#);
    assert_eq!((&direct["as_user"], &direct["user"]), (&json!("ceo"), &json!("u")), "{direct}");
    let broadcast = json!({"message": "a secret text", "user": {"id": "ceo"}, "rooms": ["a", "b"]});
    assert_eq!(shop("POST /api/broadcast", broadcast).await, 200);
    let broadcast = self::line(server, r#""call":"broadcast""#);
    assert_eq!((&broadcast["as_user"], &broadcast["rooms"]), (&json!("ceo"), &json!(2)));
    let own = json!({"message": "a secret text"});
    assert_eq!(shop("POST /api/rooms/own/messages", own).await, 200);

    // Also within a batch, with the address of the request.
    let calls =
        json!({"calls": [{"method": "POST", "path": "/rooms/batched/messages", "body": message}]});
    assert_eq!(shop("POST /api/batch", calls).await, 200);
    assert_eq!(self::line(server, r#""room":"batched""#)["address"], "127.0.0.1");

    assert_eq!(shop("POST /api/rooms/r/kick?x=a+secret", json!({"user": "bob"})).await, 403);
    let forbidden = self::line(server, r#""call":"kick""#);
    assert_eq!(forbidden["message"], "API call forbidden", "{forbidden}");
    assert_eq!(
        (&forbidden["key"], &forbidden["path"]),
        (&json!("shop"), &json!("/api/rooms/r/kick"))
    );

    assert_eq!(request(server.port(), KEY, "", "GET /api/rooms/r/export", "").await.0, 200);
    let export = self::line(server, r#""call":"export""#);
    assert_eq!((&export["key"], &export["room"]), (&json!("api"), &json!("r")), "{export}");
    assert_eq!(server.logged(r#""room":"own""#), 0, "what a key says in its own name");
    for said in ["a secret text", "a+secret"] {
        assert_eq!(server.logged(said), 0, "{said}");
    }
}

#[tokio::test]
async fn issued_tokens_are_logged() {
    let server = server("json", &[]);
    let (status, _, body) = request(
        server.port(),
        KEY,
        "",
        "POST /api/tokens",
        &json!({"user": "ann", "seconds": 60}).to_string(),
    )
    .await;
    assert_eq!(status, 200, "{body}");
    let line = line(&server, r#""call":"issue_token""#);
    assert_eq!((&line["key"], &line["user"]), (&json!("api"), &json!("ann")), "{line}");
    assert_eq!((&line["seconds"], &line["address"]), (&json!(60), &json!("127.0.0.1")), "{line}");
    let token = serde_json::from_str::<Value>(&body).unwrap()["token"].to_string();
    assert_eq!(server.logged(token.trim_matches('"')), 0);
}

/// A connection is found by its user while it is open, and has no user before it has authenticated.
#[tokio::test]
async fn connection_has_a_user_once_that_is_known() {
    let server = server("json", &["--log=debug"]);
    let mut pending = server.native().await;
    ask(&mut pending, "pong", json!({"type": "ping"})).await;
    pending.close().await;
    let ended = line(&server, r#""message":"connection ended""#);
    assert_eq!(ended["user"], Value::Null, "{ended}");
    assert_eq!(line(&server, r#""message":"connection opened""#)["user"], Value::Null);

    let mut ann = server.native().await;
    let token = granting("ann", &[("*", &["join"])]);
    let welcome = ask(&mut ann, "welcome", json!({"type": "hello", "token": token})).await;
    let welcomed = line(&server, r#""message":"client welcomed""#);
    assert_eq!(welcomed["level"], "DEBUG", "{welcomed}");
    assert_eq!((&welcomed["connection"], &welcomed["user"]), (&welcome["session"], &json!("ann")));
}

/// A name that looks like fields of a line is one value.
#[tokio::test]
async fn sanctions_have_fields_for_programs() {
    let room = "x user=\"ceo\" reason=\"fraud\"";
    let path = "/rooms/x%20user=%22ceo%22%20reason=%22fraud%22/ban";
    let human = server("human", &[]);
    let token = granting("ann", &[("*", &["join"])]);
    let mut ann = native(&human, &token).await;
    ask(&mut ann, "joined", json!({"type": "join", "room": room})).await;
    assert_eq!(post(&human, path, &json!({"user": "bob", "reason": "spam ham"})).await, 200);
    let escaped = r#""x user=\"ceo\" reason=\"fraud\"""#;
    let fields = format!(
        "user sanctioned by=\"key\" key=\"api\" kind=\"ban\" scope=\"room\" room={escaped} user=\"bob\""
    );
    let line = human.until_logged(&fields);
    assert!(line.contains("reason=\"spam ham\""), "{line}");
    human.until_logged(&format!("room={escaped} subscribing on the pub sub to room: {escaped}"));

    let server = server("json", &[]);
    assert_eq!(post(&server, path, &json!({"user": "bob"})).await, 200);
    assert_eq!(post(&server, "/users/eve/disconnect", &json!({})).await, 200);
    let of_room = self::line(&server, r#""kind":"ban""#);
    for (field, value) in [("by", "key"), ("key", "api"), ("scope", "room"), ("room", room)] {
        assert_eq!(of_room[field], value, "{of_room}");
    }
    let everywhere = self::line(&server, r#""kind":"disconnect""#);
    assert_eq!((&everywhere["scope"], &everywhere["room"]), (&json!("server"), &Value::Null));
    let moderator = granting("mod", &[("*", &["join", "moderate"])]);
    let mut moderator = native(&server, &moderator).await;
    let kick = json!({"type": "kick", "room": "busy", "user": "zoe"});
    ask(&mut moderator, "ok", kick).await;
    let by_moderator = self::line(&server, r#""user":"zoe""#);
    for (field, value) in [("by", "moderator"), ("moderator", "mod"), ("room", "busy")] {
        assert_eq!(by_moderator[field], value, "{by_moderator}");
    }
}

#[tokio::test]
async fn many_sanctions_are_few_lines() {
    const KICKS: usize = 900;
    let mut server = server("human", &[]);
    for calls in 0..KICKS / 100 {
        let call = |n| json!({"method": "POST", "path": format!("/rooms/r/kick"), "body": {"user": format!("u{calls}-{n}")}});
        let calls = json!({"calls": (0..100).map(call).collect::<Vec<_>>()});
        assert_eq!(post(&server, "/batch", &calls).await, 200);
    }
    // A minute may end meanwhile.
    let lines = server.logged("user sanctioned");
    assert!((200..=400).contains(&lines), "{lines} lines");
    server.signal("TERM");
    server.exit();
    let summary = server.until_logged("suppressed log lines of sanctions lines=");
    let number = summary.rsplit('=').next().unwrap().parse::<usize>().unwrap();
    assert_eq!(lines + number, KICKS);
}

/// What Redis answers is one value of a line, in the words that the runbook quotes.
#[tokio::test]
async fn errors_of_redis_are_quoted() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let line = server.until_logged("redis refuses writes cause=");
    let cause = "cause=\"READONLY You can't write against a read only replica.\"";
    assert!(line.contains(cause), "{line}");
}

/// One line has the advice, which names the setting as the file of settings has it.
#[tokio::test]
async fn refused_page_is_logged_once_with_the_client_and_the_setting() {
    let server = server("human", &[]);
    let answer = server.raw(&handshake("/ws", "Origin: https://app.example\r\n")).await;
    assert!(answer.2.contains("the setting allow-origin."), "{}", answer.2);
    let line = server.until_logged("app.example");
    let expected = "handshake refused cause=\"foreign_origin\" status=403 code=\"origin_not_allowed\" \
                    origin=\"https://app.example\" host=\"localhost\" address=127.0.0.1 detail=";
    assert!(line.contains("WARN") && line.contains(expected), "{line}");
    assert!(line.ends_with("the setting allow-origin.\""), "{line}");
    let answer = server.raw(&handshake("/ws", "").replace("localhost", "a.example")).await;
    assert!(answer.2.contains("the setting allow-host."), "{}", answer.2);
    let line = server.until_logged("a.example");
    let expected = "handshake refused cause=\"foreign_host\" status=403 code=\"host_not_allowed\" \
                    host=\"a.example\" address=127.0.0.1 detail=";
    assert!(line.contains("WARN") && line.contains(expected), "{line}");
    assert_eq!((server.logged("app.example"), server.logged("a.example")), (1, 1));
}
