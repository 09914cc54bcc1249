//! The log answers why a client was disconnected.

use std::process::Command;
use std::time::{Duration, SystemTime};

use chat_broker::testing::RedisServer;
use chat_transport::testing::{WsClient, raw_frame, raw_handshake};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::auth::{SECRET, native, signed};
use crate::support::{Chat, FAST, ask, command, eventually, join, next_of};

const KEY: &str = "a key for backends";

fn program(format: &str) -> Command {
    let mut command = command();
    command.env("JWT_SECRET", SECRET).env("API_KEY", KEY).env("CHAT_LOG_FORMAT", format);
    command.args(["--port", "0", "--token-grace", "0s"]).args(FAST);
    command
}

/// A server whose limits on time are a second each.
fn server(format: &str) -> Chat {
    let mut command = program(format);
    for limit in ["auth-timeout", "message-timeout", "write-timeout", "ping-interval"] {
        command.arg(format!("--{limit}=1s"));
    }
    Chat::start(command.arg("--pong-timeout=1s"))
}

fn token(user: &str, lifetime: Duration) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    signed(&json!({"sub": user, "exp": (now + lifetime).as_secs_f64()}))
}

async fn client(server: &Chat, user: &str) -> WsClient {
    native(server, &token(user, Duration::from_secs(600))).await
}

/// A client that sends bytes of its own, and reads nothing.
async fn raw(server: &Chat, user: &str, bytes: &[u8]) -> TcpStream {
    let path = format!("/ws?token={}", token(user, Duration::from_secs(600)));
    let mut stream = raw_handshake(&format!("127.0.0.1:{}", server.port()), &path).await;
    stream.write_all(bytes).await.unwrap();
    stream
}

/// A client that joins a room of which it reads nothing.
async fn unread(server: &Chat, user: &str, messages: usize) -> WsClient {
    let token = token(user, Duration::from_secs(600));
    let url = server.ws(&format!("/ws?token={token}"));
    let mut reader = WsClient::connect_narrow(&url).await;
    reader.send_json(&json!({"type": "join", "room": user})).await;
    server.until_logged(&format!("subscribing on the pub sub to room: {user}"));
    let mut writer = client(server, "writer").await;
    join(&mut writer, user).await;
    for _ in 0..messages {
        let send = json!({"type": "send", "room": user, "message": "x".repeat(16 * 1024)});
        ask(&mut writer, "ok", send).await;
    }
    reader
}

async fn post(server: &Chat, path: &str, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close",
        body.len()
    );
    assert_eq!(server.raw(&format!("{head}\r\n\r\n{body}")).await.0, 200);
}

/// The line of the end of a user's connection.
fn ended(server: &Chat, user: &str) -> Value {
    // Its user is named after its cause.
    let of_user = format!(r#""user":"{user}","address":"127.0.0.1","cause":"{user}","code""#);
    serde_json::from_str(&server.until_logged(&of_user)).unwrap()
}

/// Each cause is the name of a user who is disconnected for it.
#[tokio::test]
async fn end_of_a_connection_is_logged_with_its_cause() {
    let mut server = server("json");
    let mut fragments = raw_frame(0x01, b"x");
    fragments.extend(raw_frame(0x00, b"x").repeat(1100));
    let _streams = [
        raw(&server, "heartbeat", b"").await,
        raw(&server, "message_time", &raw_frame(0x81, b"{}")[..6]).await,
        raw(&server, "frame_size", &raw_frame(0x81, &[b' '; 300_000])).await,
        raw(&server, "fragments", &fragments).await,
        raw(&server, "control_frames", &raw_frame(0x89, b"").repeat(1100)).await,
        raw(&server, "protocol_error", &raw_frame(0x82, b"binary")).await,
    ];
    drop(raw(&server, "lost", b"").await);
    let _expiring = native(&server, &token("token_expired", Duration::from_secs(1))).await;
    let _unread = unread(&server, "write_time", 40).await;
    // On a busy machine an outbox takes longer to fill than the other server waits for a write.
    let patient = Chat::start(&mut program("json"));
    let _unread_too = unread(&patient, "slow_consumer", 200).await;
    let mut closing = client(&server, "client_closed").await;
    ask(&mut closing, "pong", json!({"type": "ping"})).await;
    closing.close().await;
    let mut disconnected = client(&server, "disconnected").await;
    post(&server, "/api/users/disconnected/disconnect", &json!({"reason": "enough"})).await;
    assert_eq!(disconnected.recv_until_close().await.1.0, 4002);
    // In this dialect a kick from the room ends the connection.
    let token = token("kicked", Duration::from_secs(600));
    let in_url = server.ws(&format!("/join-room/r?token={token}"));
    let mut kicked = WsClient::connect(&in_url).await;
    next_of(&mut kicked, "system").await;
    post(&server, "/api/rooms/r/kick", &json!({"user": "kicked"})).await;
    assert_eq!(kicked.recv_until_close().await.1.0, 4002);
    let mut banned = client(&server, "banned").await;
    let ban = json!({"reason": "\"spam\"\n", "seconds": 90});
    post(&server, "/api/users/banned/disconnect", &ban).await;
    assert_eq!(banned.recv_until_close().await.1.0, 4003);
    for (user, code) in [
        ("client_closed", 1000),
        ("lost", 1006),
        ("disconnected", 4002),
        ("kicked", 4002),
        ("banned", 4003),
        ("token_expired", 4004),
        ("write_time", 4000),
        ("slow_consumer", 4000),
        ("heartbeat", 4001),
        ("message_time", 1008),
        ("frame_size", 1009),
        ("fragments", 1008),
        ("control_frames", 1008),
        ("protocol_error", 1003),
    ] {
        let line = ended(if user == "slow_consumer" { &patient } else { &server }, user);
        assert_eq!((&line["cause"], &line["code"]), (&json!(user), &json!(code)), "{line}");
        assert_eq!((&line["level"], &line["address"]), (&json!("INFO"), &json!("127.0.0.1")));
        assert!(
            line["connection"].as_str().unwrap().contains('-') && line["milliseconds"].is_u64()
        );
    }
    let closed = ended(&server, "client_closed");
    assert_eq!((&closed["frames_in"], &closed["bytes_in"]), (&json!(1), &json!(15)), "{closed}");
    assert_eq!(closed["frames_out"], 1, "{closed}");
    for (kind, user) in [("disconnect", "disconnected"), ("kick", "kicked")] {
        let line = server.until_logged(&format!(r#""kind":"{kind}""#));
        assert!(line.contains(&format!(r#""user":"{user}""#)), "{line}");
    }
    let ban: Value = serde_json::from_str(&server.until_logged(r#""kind":"ban""#)).unwrap();
    for (field, value) in [
        ("by", json!("key")),
        ("key", json!("api")),
        ("scope", json!("server")),
        ("user", json!("banned")),
        ("seconds", json!(90.0)),
        ("reason", json!("\"spam\"\\n")),
        ("ok", json!(true)),
    ] {
        assert_eq!(ban[field], value, "{ban}");
    }

    let mut pending = server.native().await;
    pending.recv_until_close().await;
    let line: Value = serde_json::from_str(&server.until_logged("auth_timeout")).unwrap();
    assert_eq!((&line["cause"], &line["code"]), (&json!("auth_timeout"), &json!(1008)), "{line}");
    let mut draining = client(&server, "drain").await;
    ask(&mut draining, "pong", json!({"type": "ping"})).await;
    server.signal("TERM");
    draining.recv_until_close().await;
    drop(draining);
    assert_eq!(ended(&server, "drain")["cause"], "drain");
    server.exit();
}

/// A client that guesses is found by its address, and its guesses do not fill the log.
#[tokio::test]
async fn source_of_rejected_secrets_is_logged() {
    let server = server("human");
    for _ in 0..30 {
        assert_eq!(server.http("GET", "/ws?token=guess").await.0, 426, "no handshake");
        assert_eq!(server.http("POST", "/create-room?token=guess").await.0, 401);
        assert_eq!(server.http("GET", "/api/nodes").await.0, 401);
    }
    let mut guessing = server.native().await;
    ask(&mut guessing, "error", json!({"type": "hello", "token": "guess"})).await;
    for rejected in ["credentials rejected", "API key rejected"] {
        let line = server.until_logged_times(rejected, 10);
        assert!(line.contains("WARN") && line.contains("address=127.0.0.1"), "{line}");
        // A minute may end in between.
        assert!((10..=20).contains(&server.logged(rejected)), "{rejected}");
    }
}

#[tokio::test]
async fn rejected_hello_is_logged_with_its_connection() {
    let server = server("human");
    let mut guessing = server.native().await;
    ask(&mut guessing, "error", json!({"type": "hello", "token": "guess"})).await;
    let token = token("ann", Duration::from_secs(600));
    let welcome = ask(&mut guessing, "welcome", json!({"type": "hello", "token": token})).await;
    let session = welcome["session"].as_str().unwrap();
    let line = server.until_logged("credentials rejected");
    assert!(line.contains(&format!("connection=\"{session}\"")), "{line}");
    guessing.close().await;
    let line = server.until_logged("connection ended");
    assert!(line.contains(&format!("connection=\"{session}\" user=\"ann\"")), "{line}");
}

/// The users of a server that has ended in order have a grace, after which other servers remove them: that
/// is no failure. A crash is one.
#[tokio::test]
async fn only_a_crashed_server_is_logged_as_expired() {
    let redis = RedisServer::start();
    let start = || {
        let mut command = command();
        command.env("REDIS_URL", redis.url()).env("CHAT_LOG", "info,chat_broker=debug");
        Chat::start(command.args(["--port=0", "--presence-lease=1s", "--presence-grace=2s"]))
    };
    let (watching, mut ending) = (start(), start());
    watching.until_ready().await;
    ending.until_ready().await;
    let mut ann = ending.native().await;
    join(&mut ann, "r").await;
    ending.signal("TERM");
    // The server ends at once, and the grace of the client goes on.
    ann.recv_until_close().await;
    drop(ann);
    ending.exit();
    watching.until_logged("lease of a closed node, or of its former name, ended");
    assert_eq!(watching.logged("node lease expired"), 0);

    let crashing = start();
    crashing.until_ready().await;
    let mut bob = crashing.native().await;
    let welcome = ask(&mut bob, "welcome", json!({"type": "hello"})).await;
    join(&mut bob, "r").await;
    drop(crashing);
    let line = watching.until_logged("node lease expired, removing its occupants");
    let node = welcome["node"].as_str().unwrap();
    assert!(line.contains(&format!("node=\"{node}\"")), "{node} in: {line}");
}

/// After an outage of Redis, servers have other names in it; so they have after a move. The former ones are
/// no crashed servers.
#[tokio::test]
async fn outage_of_redis_is_logged_as_no_crash() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes"]);
    let start = || {
        let mut command = command();
        command.env("REDIS_URL", redis.url()).env("CHAT_LOG", "info,chat_broker=debug");
        Chat::start(command.args(["--port=0", "--presence-lease=1s", "--presence-grace=1s"]))
    };
    let servers = [start(), start()];
    let mut clients = Vec::new();
    for server in &servers {
        server.until_ready().await;
        let mut client = server.native().await;
        join(&mut client, "r").await;
        clients.push(client);
    }
    redis.stop();
    for server in &servers {
        server.until_logged("redis unavailable");
    }
    // Longer than the leases.
    tokio::time::sleep(Duration::from_secs(2)).await;
    redis.restart();
    let removed = "lease of a closed node, or of its former name, ended";
    eventually("both former names to end", async || {
        servers.iter().map(|server| server.logged(removed)).sum::<usize>() >= 2
    })
    .await;
    for server in &servers {
        assert_eq!(server.logged("node lease expired"), 0);
    }
}

/// One line names a room, whether Redis was emptied or has restarted without its data.
#[tokio::test]
async fn lost_messages_are_logged_with_a_room() {
    let mut redis = RedisServer::start_with(&["--save", "", "--appendonly", "no"]);
    let server = Chat::on(&redis);
    server.until_ready().await;
    let mut client = server.native().await;
    let send = async |client: &mut WsClient, room: &str| {
        let message = json!({"type": "send", "room": room, "message": "x"});
        ask(client, "ok", message).await
    };
    for room in ["a", "b"] {
        join(&mut client, room).await;
        send(&mut client, room).await;
    }
    let lost = "the broker lost the messages of rooms, which begin new epochs";
    redis.command(&["FLUSHALL"]).await;
    for room in ["a", "b"] {
        send(&mut client, room).await;
        next_of(&mut client, "gap").await;
    }
    let line = server.until_logged(lost);
    assert!(line.contains("WARN") && line.contains(" rooms=2 room=\"a\""), "{line}");
    assert_eq!(server.logged(lost), 1);

    let other = Chat::on(&redis);
    other.until_ready().await;
    let mut client = other.native().await;
    join(&mut client, "a").await;
    redis.kill();
    redis.restart();
    next_of(&mut client, "gap").await;
    let line = other.until_logged(lost);
    assert!(line.contains(" rooms=1 room=\"a\""), "{line}");
}
