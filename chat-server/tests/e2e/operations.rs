//! What an operator sees: settings, health, limits, and a clean end.

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::json;

use crate::support::{Chat, command, run};

#[test]
fn a_bad_setting_is_one_line_and_exit_code_2() {
    let file = std::env::temp_dir().join(format!("chat-settings-{}.toml", std::process::id()));
    std::fs::write(&file, "port = 8080\nmax-rooms = \"many\"\n").unwrap();
    let file = file.to_str().unwrap();
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let table: [Case<'_>; 32] = [
        (&["--allow-host", "chat.example:port"], &[], "allow-host"),
        (&["--allow-host", "chat.*.example"], &[], "allow-host"),
        (&["--allow-origin", "*"], &[], "allow-origin"),
        (&["--allow-origin", "https://*.app.example"], &[], "list each"),
        (&["--allow-origin", "https://app.example/path"], &[], "no path"),
        (&["--allow-origin", "https://app.example:99999"], &[], "allow-origin"),
        (&["--keep-alive-timeout", "10ms"], &[], "keep-alive-timeout"),
        (&[], &[("PUBLIC_URL", "https://user@chat.example")], "public-url: a link"),
        (&["--public-url", "https://chat.example?room=x"], &[], "public-url"),
        (&["--log", "nonsense"], &[], "nonsense"),
        (&["--drain-timeout", "0s"], &[], "drain-timeout"),
        (&["--api-key", "short"], &[], "api-key"),
        (&[], &[("API_KEY", "ein Schlüssel für alle")], "api-key"),
        (&["--allow-host", "https://chat.example"], &[], "allow-host"),
        (&["--allow-origin", "app.example"], &[], "allow-origin"),
        (&["--trusted-proxies", "10.0.0.0/33"], &[], "trusted-proxies"),
        (&["--rate", "0"], &[], "--rate"),
        (&["--socket-buffer-bytes", "4096"], &[], "socket-buffer-bytes"),
        (&["--max-rooms", "0"], &[], "max-rooms"),
        (&["--max-message-bytes", "1000000"], &[], "max-message-bytes"),
        (&["--pong-timeout", "0s"], &[], "pong-timeout"),
        (&["--public-url", "chat.example"], &[], "public-url"),
        (&["--threads", "0"], &[], "--threads"),
        (&["--threads", "257"], &[], "threads"),
        (&["--port", "eight"], &[], "--port"),
        (&["--port", "70000"], &[], "--port"),
        (&[], &[("PORT", "x")], "--port"),
        (&["--prot", "1"], &[], "--prot"),
        (&["--drain-timeout", "10"], &[], "10s"),
        (&["--config", "/nonexistent.toml"], &[], "/nonexistent.toml"),
        (&["--config", file], &[], "line 2"),
        (&["--port", "0", "--redis-url", "http://x"], &[], "redis-url"),
    ];
    for (flags, environment, named) in table {
        let (code, out, err) = run(command().args(flags).envs(environment.iter().copied()));
        assert_eq!(code, 2, "{flags:?}: {out}{err}");
        assert_eq!(err.trim_end().lines().count(), 1, "one line: {err}");
        assert!(err.contains(named), "{named} in {err}");
    }
    let (_, _, err) = run(command().env("PUBLIC_URL", "https://user:secret@chat.example"));
    assert!(err.contains("public-url") && !err.contains("secret"), "{err}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn help_names_every_setting_and_its_default() {
    let (code, help, _) = run(command().arg("--help"));
    assert_eq!(code, 0);
    let settings = [
        "--config",
        "--port",
        "--host",
        "--redis-url",
        "--redis-prefix",
        "--threads",
        "--log-format",
    ];
    for setting in settings {
        assert!(help.contains(setting), "{setting}");
        let variable = setting.trim_start_matches('-').replace('-', "_").to_uppercase();
        assert!(help.contains(&format!("[env: {variable}")), "{variable}");
    }
    assert!(help.matches("[default: ").count() >= 10, "{help}");
}

#[tokio::test]
async fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = std::env::temp_dir().join(format!("chat-order-{}.toml", std::process::id()));
    std::fs::write(&file, "port = 1\nmax-rooms = 3\nping-interval = \"7s\"\n").unwrap();
    let server = Chat::start(
        command().arg("--config").arg(&file).args(["--port", "0", "--log-format", "json"]).envs([
            ("PORT", "2"),
            ("MAX_ROOMS", "5"),
            ("LIMITS", "on"),
            ("REDIS_URL", ""),
        ]),
    );
    let mut client = server.native().await;
    client.send(r#"{"type":"hello"}"#).await;
    let welcome = client.recv_json().await;
    assert_eq!(welcome["limits"]["rooms"], 5);
    assert_eq!(welcome["heartbeat_ms"], 7_000);
    let line: serde_json::Value =
        serde_json::from_str(&server.until_logged("listening")).expect("a line of JSON");
    assert_eq!(line["level"], "INFO");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn health_and_metrics() {
    let server = Chat::alone();
    assert_eq!(server.http("GET", "/healthz").await.0, 200);
    assert_eq!(server.http("GET", "/readyz").await.0, 200);
    assert_eq!(server.http("GET", "/nowhere").await.0, 404);
    assert_eq!(server.http("GET", "/").await.0, 200);

    let mut client = server.native().await;
    client.send_json(&json!({"type": "join", "room": "r"})).await;
    client.recv().await;
    client.recv().await;
    client.send_json(&json!({"type": "send", "room": "r", "message": "x"})).await;
    client.recv().await;
    client.recv().await;
    client.send("?").await;
    client.recv().await;
    let (status, _, page) = server.http("GET", "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "chat_connections 1",
        "chat_published_total 1",
        "chat_received_frames_total 3",
        "chat_rejected_total{code=\"bad_json\"} 1",
        "chat_broker_up 1",
        "chat_topics 2",
        "chat_rooms 1",
        "chat_publish_seconds_count 1",
        "chat_publish_seconds_bucket{le=\"+Inf\"} 1",
        "chat_outbox_bytes 0",
        "chat_panics_total 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in:\n{page}");
    }
}

#[tokio::test]
async fn redis_away_at_the_start_is_said_and_waited_for() {
    let mut redis = RedisServer::start();
    redis.kill();
    let server = Chat::on(&redis);
    server.until_logged("WARN");
    assert_eq!(server.http("GET", "/readyz").await.0, 503);
    assert_eq!(server.http("GET", "/healthz").await.0, 200);
    redis.restart();
    server.until_ready().await;
}

#[tokio::test]
async fn sigterm_says_goodbye_and_exits_0() {
    for signal in ["TERM", "INT"] {
        let redis = RedisServer::start();
        let mut server = Chat::on(&redis);
        server.until_ready().await;
        let (mut native, mut rooms) = (server.native().await, server.client().await);
        native.send(r#"{"type":"join","room":"r"}"#).await;
        native.recv().await;
        native.recv().await;
        rooms.send(r#"{"type":"join_room","room":"other"}"#).await;
        rooms.recv().await;
        rooms.recv().await;

        server.signal(signal);
        let goodbye = native.recv_json().await;
        assert_eq!((&goodbye["type"], &goodbye["reconnect"]), (&json!("goodbye"), &json!(true)));
        assert_eq!(native.recv_close().await.0, 1001);
        assert_eq!(rooms.recv_close().await.0, 1001);
        assert_eq!(server.exit().code(), Some(0));
    }
}

#[tokio::test]
async fn a_client_that_will_not_go_does_not_hold_the_end_up() {
    let mut server = Chat::start(command().args(["--port", "0", "--drain-timeout", "300ms"]));
    let address = format!("127.0.0.1:{}", server.port());
    let stuck = chat_transport::testing::raw_handshake(&address, "/").await;
    server.signal("TERM");
    assert_eq!(server.exit().code(), Some(0));
    drop(stuck);
}

/// Whoever read the log went away, as with `chat-server 2>&1 | head -1`.
#[tokio::test]
async fn a_log_that_nobody_reads_is_no_harm() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = command()
        .args(["--port", "0"])
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
    let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
        line.split("http://127.0.0.1:").nth(1).map(|port| format!("ws://127.0.0.1:{port}/"))
    });
    drop(lines);
    let mut client = WsClient::connect(&address.unwrap()).await;
    client.send(r#"{"type":"join","room":"r"}"#).await;
    assert_eq!(client.recv_json().await["type"], "joined");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn handshakes_that_are_none() {
    let server = Chat::alone();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let table = [
        ("GET /ws HTTP/1.1\r\n".to_owned(), 426),
        (format!("GET /ws HTTP/1.1\r\n{upgrade}{key}Sec-WebSocket-Version: 8\r\n"), 426),
        (format!("GET /ws HTTP/1.1\r\n{upgrade}Sec-WebSocket-Version: 13\r\n"), 400),
        (format!("POST /ws HTTP/1.1\r\n{upgrade}{key}Sec-WebSocket-Version: 13\r\n"), 405),
        (
            format!("GET /join-room/a%00b HTTP/1.1\r\n{upgrade}{key}Sec-WebSocket-Version: 13\r\n"),
            400,
        ),
        (format!("GET /?userId= HTTP/1.1\r\n{upgrade}{key}Sec-WebSocket-Version: 13\r\n"), 400),
        ("NONSENSE\r\n".to_owned(), 400),
    ];
    for (head, expected) in table {
        let request = format!("{head}Host: localhost\r\nConnection: close\r\n\r\n");
        let (status, answer, _) = server.raw(&request).await;
        assert_eq!(status, expected, "{head}{answer}");
    }
    assert!(server.http("GET", "/ws").await.1.contains("upgrade: websocket"));
}

/// The largest frame that a server takes by default.
const FRAME_BYTES: usize = 233_472;

#[tokio::test]
async fn close_codes() {
    let server = Chat::alone();
    let mut binary = server.native().await;
    binary.send_binary(vec![1, 2, 3]).await;
    assert_eq!(binary.recv_close().await.0, 1003);

    let mut large = server.native().await;
    large.send(&"x".repeat(FRAME_BYTES + 1)).await;
    assert_eq!(large.recv_close().await.0, 1009);

    let mut fits = server.native().await;
    let padding = " ".repeat(FRAME_BYTES - r#"{"type":"ping"}"#.len());
    fits.send(&format!(r#"{{"type":"ping"}}{padding}"#)).await;
    fits.expect(r#"{"type":"pong"}"#).await;
}

#[tokio::test]
async fn both_loopback_addresses() {
    let server = Chat::alone();
    let url = format!("ws://[::1]:{}/", server.port());
    if tokio::net::TcpListener::bind("[::1]:0").await.is_ok() {
        let mut client = WsClient::connect(&url).await;
        client.send(r#"{"type":"ping"}"#).await;
        client.expect(r#"{"type":"pong"}"#).await;
    }
}
