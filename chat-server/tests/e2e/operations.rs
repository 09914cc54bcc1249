//! What an operator sees: settings, health, limits, and a clean end.

use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;
use chat_transport::testing::WsClient;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::support::{Chat, DEADLINE, command, run};

#[test]
fn a_bad_setting_is_one_line_and_exit_code_2() {
    let file = std::env::temp_dir().join(format!("chat-settings-{}.toml", std::process::id()));
    std::fs::write(&file, "port = 8080\nmax-rooms = \"many\"\n").unwrap();
    let file = file.to_str().unwrap();
    let wrong = format!("{file}.wrong");
    std::fs::write(&wrong, "\u{feff}# A comment.\r\nport = 0\r\nhistory = 100001\r\n").unwrap();
    let wrong = wrong.as_str();
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let table: [Case<'_>; 67] = [
        (&["--allow-host", "chat.example:port"], &[], "'chat.example:port' for --allow-host"),
        (&["--allow-host", "chat.*.example"], &[], "'chat.*.example' for --allow-host"),
        (&["--allow-origin", "*"], &[], "'*' for --allow-origin"),
        (
            &["--allow-origin", "https://*.app.example"],
            &[],
            "--allow-origin: there are no patterns",
        ),
        (
            &["--allow-origin", "https://app.example/path"],
            &[],
            "--allow-origin: an origin has no path",
        ),
        (&[], &[("ALLOW_ORIGIN", "https://app.example:99999")], "ALLOW_ORIGIN"),
        (&["--keep-alive-timeout", "10ms"], &[], "'10ms' for --keep-alive-timeout: 1s to"),
        (&["--log", "nonsense"], &[], "'nonsense' for --log: a level is off, error"),
        (&[], &[("LOG", "info,nonsense")], "'nonsense' for LOG"),
        (&[], &[("LOG", "a=b")], "for LOG"),
        (&["--drain-timeout", "0s"], &[], "'0s' for --drain-timeout: 1ms to 8760h"),
        (&["--api-key", "short"], &[], "for --api-key: at least 16"),
        (&[], &[("API_KEY", "ein Schlüssel für alle")], "for API_KEY: at least 16"),
        (&["--allow-host", "https://chat.example"], &[], "--allow-host"),
        (&["--allow-origin", "app.example"], &[], "--allow-origin"),
        (&["--trusted-proxies", "10.0.0.0/33"], &[], "--trusted-proxies: '10.0.0.0/33'"),
        (&["--rate", "0"], &[], "'0' for --rate: expected a rate such as 50"),
        (&[], &[("BYTE_RATE", "1G")], "'1G' for BYTE_RATE: expected a rate"),
        (&["--socket-buffer-bytes", "4096"], &[], "--socket-buffer-bytes: at least 16384"),
        (&["--max-rooms", "0"], &[], "--max-rooms: at least 1"),
        (&[], &[("MAX_ROOMS", "0")], "for MAX_ROOMS: at least 1"),
        (&[], &[("MAX_ROOMS", "-1")], "'-1' for MAX_ROOMS: expected a whole number"),
        (&[], &[("MAX_ROOMS", "1e3")], "'1e3' for MAX_ROOMS: expected a whole number"),
        (&[], &[("MAX_ROOMS", "18446744073709551615")], "for MAX_ROOMS: at most 4294967295"),
        (&[], &[("MAX_ROOMS", "99999999999999999999")], "for MAX_ROOMS: the number is too large"),
        (&["--max-message-bytes", "1000000"], &[], "--max-message-bytes: a frame may have"),
        (&[], &[("MAX_MESSAGE_BYTES", "64K")], "MAX_MESSAGE_BYTES: expected a whole number"),
        (&[], &[("OUTBOX_BYTES", "9999999999999")], "OUTBOX_BYTES: at most 1073741824"),
        (&["--outbox-bytes", "100000"], &[], "--outbox-bytes: a frame may have 233472"),
        (&["--pong-timeout", "0s"], &[], "--pong-timeout: 1ms to"),
        (&["--public-url", "chat.example"], &[], "--public-url: it is not a URL"),
        (&[], &[("PUBLIC_URL", "https://")], "PUBLIC_URL: it is not a URL"),
        (&[], &[("PUBLIC_URL", "https://a.example/?x")], "PUBLIC_URL: it has no query"),
        (&[], &[("PUBLIC_URL", "https://user@chat.example")], "for PUBLIC_URL: a link to share"),
        (&["--threads", "0"], &[], "--threads: at least 1"),
        (&["--threads", "257"], &[], "--threads: at most 256"),
        (&["--port", "eight"], &[], "'eight' for --port: expected a whole number"),
        (&["--port", "70000"], &[], "--port: 70000 is not in 0..=65535"),
        (&[], &[("PORT", "x")], "'x' for PORT: expected a whole number"),
        (&[], &[("PORT", "")], "for PORT: expected a whole number"),
        (&["--prot", "1"], &[], "--prot"),
        (&["--port", "-1"], &[], "unexpected argument '-1'"),
        (&["--drain-timeout", "10"], &[], "'10' for --drain-timeout: expected a time such as"),
        (&[], &[("PRESENCE_LEASE", "2h")], "'2h' for PRESENCE_LEASE: 1s to 1h"),
        (&[], &[("HISTORY_TTL", "1d")], "'1d' for HISTORY_TTL: expected a time such as"),
        (&[], &[("LIMITS", "maybe")], "'maybe' for LIMITS [possible values: on, off]"),
        (&[], &[("REDIS_PREFIX", "a b")], "'a b' for REDIS_PREFIX: 1 to 64 letters"),
        (
            &[],
            &[("HOST", "x86_64-conda-linux-gnu")],
            "'x86_64-conda-linux-gnu' for HOST: expected an address",
        ),
        (
            &["--host", "127.0.0.1:8080"],
            &[],
            "for --host: expected an address or a name of this machine, without a port",
        ),
        (&[], &[("HOST", "192.0.2.1")], "for HOST: cannot listen on 192.0.2.1:8080"),
        (
            &[],
            &[("METRICS_ADDR", "9100")],
            "'9100' for METRICS_ADDR: expected an address and a port",
        ),
        (&["--config", "/nonexistent.toml"], &[], "'/nonexistent.toml' for --config: cannot read"),
        (&[], &[("CONFIG", "/nonexistent.toml")], "'/nonexistent.toml' for CONFIG: cannot read"),
        (&["--config", file], &[], "line 2, max-rooms: invalid type"),
        (&["--config", wrong], &[], "line 3): at most 100000"),
        (&["--config", wrong, "--history", "1", "--pong-timeout", "0s"], &[], "for --pong-timeout"),
        (&["--port", "0"], &[("JWT_SECRET", " \r\n")], "for JWT_SECRET: the secret has less than"),
        (&["--port", "0", "--redis-url", "http://x"], &[], "for --redis-url"),
        (&["--port", "0"], &[("REDIS_URL", "redis://user:pass word@")], "for REDIS_URL"),
        (&["--port", "0", "--redis-url", "rediss://x/#insecure"], &[], "redis-ca"),
        (&["--port", "0"], &[("REDIS_URL", "redis://x?db=1")], "for REDIS_URL: such as"),
        (&["--port", "0", "--redis-url", "redis://x", "--redis-ca", file], &[], "for --redis-ca"),
        (
            &["--port", "0", "--redis-url", "rediss://x"],
            &[("REDIS_CA", "/nonexistent.pem")],
            "'/nonexistent.pem' for REDIS_CA: cannot read it",
        ),
        (
            &["--port", "0", "--redis-url", "rediss://x", "--redis-ca", file],
            &[],
            "for --redis-ca: there is no certificate",
        ),
        (
            &["--port", "0", "--redis-url", "rediss://x", "--redis-cert", file],
            &[],
            "for --redis-cert: it needs redis-key",
        ),
        (
            &["--port", "0", "--redis-url", "rediss://x"],
            &[("REDIS_KEY", file)],
            "for REDIS_KEY: it needs redis-cert",
        ),
        (
            &[
                "--port",
                "0",
                "--redis-url",
                "rediss://x",
                "--redis-cert",
                file,
                "--redis-key",
                file,
            ],
            &[],
            "for --redis-cert: there is no client certificate in the PEM (redis-key is '",
        ),
    ];
    for (flags, environment, named) in table {
        let (code, out, err) = run(command().args(flags).envs(environment.iter().copied()));
        assert_eq!(code, 2, "{flags:?}: {out}{err}");
        assert_eq!(err.trim_end().lines().count(), 1, "one line: {err}");
        assert!(err.contains(named), "{named} in {err}");
    }
    let (_, _, err) = run(command().env("PUBLIC_URL", "https://user:secret@chat.example"));
    assert!(err.contains("PUBLIC_URL") && !err.contains("secret"), "{err}");
    std::fs::remove_file(file).unwrap();
    std::fs::remove_file(wrong).unwrap();
}

/// As a file of variables with the line ends of Windows gives them.
#[tokio::test]
async fn white_space_around_variables_is_not_part_of_them() {
    let server = Chat::start(command().envs([
        ("PORT", "0\r"),
        ("HOST", " localhost "),
        ("THREADS", "1\r"),
        ("MAX_ROOMS", "\u{feff}5\n"),
        ("LIMITS", "on\r"),
        ("PING_INTERVAL", "7s\r"),
        ("RATE", " 50/100\r"),
        ("REDIS_URL", "\r"),
        ("TRUSTED_PROXIES", "\r"),
        ("PUBLIC_URL", "https://chat.example\r"),
        ("LOG", "info\r"),
        ("LOG_FORMAT", "json\r"),
    ]));
    let mut client = server.native().await;
    client.send(r#"{"type":"hello"}"#).await;
    let welcome = client.recv_json().await;
    assert_eq!((&welcome["limits"]["rooms"], &welcome["heartbeat_ms"]), (&json!(5), &json!(7000)));
    let (status, _, body) = server.http("POST", "/create-room").await;
    assert!(status == 201 && body.contains("https://chat.example/join-room/"), "{body}");
    assert!(server.until_logged("listening").starts_with('{'));
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
        "--redis-ca",
        "--redis-cert",
        "--redis-key",
        "--redis-prefix",
        "--threads",
        "--log-format",
    ];
    for setting in settings {
        assert!(help.contains(setting), "{setting}");
        let variable = setting.trim_start_matches('-').replace('-', "_").to_uppercase();
        assert!(help.contains(&format!("[env: {variable}")), "{variable}");
    }
    assert!(help.contains("unix:///"), "a socket is an address of Redis");
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
    for signal in ["TERM", "INT", "QUIT"] {
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

#[tokio::test]
async fn second_signal_ends_the_program_at_once_whichever_it_is() {
    for (first, second) in [("TERM", "QUIT"), ("QUIT", "INT"), ("INT", "TERM"), ("QUIT", "QUIT")] {
        let mut server = Chat::start(command().args(["--port", "0", "--drain-timeout", "1h"]));
        let address = format!("127.0.0.1:{}", server.port());
        let _stuck = chat_transport::testing::raw_handshake(&address, "/").await;
        server.signal(first);
        server.until_logged(&format!("SIG{first}: shutting down"));
        server.signal(second);
        assert_eq!(server.exit().code(), Some(1), "{first}, {second}");
        assert_eq!(server.logged(&format!("SIG{second} again")), 1);
    }
}

#[tokio::test]
async fn other_signals_do_not_end_the_program() {
    let mut server = Chat::alone();
    let mut client = server.native().await;
    for signal in ["HUP", "USR1", "USR2", "HUP"] {
        server.signal(signal);
        server.until_logged(&format!("SIG{signal}: ignored"));
    }
    server.until_logged_times("SIGHUP: ignored", 2);
    for signal in ["PIPE", "WINCH", "CHLD", "URG", "CONT"] {
        server.signal(signal);
    }
    client.send(r#"{"type":"ping"}"#).await;
    client.expect(r#"{"type":"pong"}"#).await;
    drop(client);
    server.signal("TERM");
    assert_eq!(server.exit().code(), Some(0));
}

/// What is logged must not decide what is done.
#[tokio::test]
async fn program_serves_and_ends_well_at_every_level_of_the_log() {
    for level in ["off", "error", "warn", "chat_server=error", "trace"] {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server =
            Chat::start_on(command().args(["--port", &port.to_string(), "--log", level]), port);
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < deadline, "nobody listens with --log {level}");
            sleep(Duration::from_millis(10)).await;
        }
        let mut client = server.native().await;
        client.send(r#"{"type":"join","room":"r"}"#).await;
        assert_eq!(client.recv_json().await["type"], "joined", "{level}");
        server.signal("HUP");
        client.recv_json().await;
        client.send(r#"{"type":"ping"}"#).await;
        assert_eq!(client.recv_json().await["type"], "pong", "{level}");
        server.signal("TERM");
        assert_eq!(client.recv_json().await["type"], "goodbye", "{level}");
        drop(client);
        assert_eq!(server.exit().code(), Some(0), "{level}");
    }
}

/// The reader of the log has ended, as with `chat-server 2>&1 | head -1`.
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
