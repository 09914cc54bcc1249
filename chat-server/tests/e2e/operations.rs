//! What an operator sees: settings, health, limits, and a clean end.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use chat_broker::testing::{RedisServer, free_port};
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
    let table: [Case<'_>; 70] = [
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
        (&[], &[("CHAT_ALLOW_ORIGIN", "https://app.example:99999")], "CHAT_ALLOW_ORIGIN"),
        (&["--keep-alive-timeout", "10ms"], &[], "'10ms' for --keep-alive-timeout: 1s to"),
        (&["--log", "nonsense"], &[], "'nonsense' for --log: nonsense is not off, error"),
        (&[], &[("CHAT_LOG", "info,nonsense")], "'info,nonsense' for CHAT_LOG: nonsense is not"),
        (&[], &[("CHAT_LOG", "a=b")], "for CHAT_LOG"),
        (&["--drain-timeout", "0s"], &[], "'0s' for --drain-timeout: 1ms to 1year"),
        (&["--api-key", "short"], &[], "for --api-key: at least 16"),
        (&[], &[("API_KEY", "ein Schlüssel für alle")], "for API_KEY: at least 16"),
        (&["--allow-host", "https://chat.example"], &[], "--allow-host"),
        (&["--allow-origin", "app.example"], &[], "--allow-origin"),
        (&["--trusted-proxies", "10.0.0.0/33"], &[], "--trusted-proxies: '10.0.0.0/33'"),
        (&["--rate", "0"], &[], "'0' for --rate: expected a rate such as 50"),
        (&[], &[("CHAT_BYTE_RATE", "1G")], "'1G' for CHAT_BYTE_RATE: expected a rate"),
        (&["--socket-buffer-bytes", "4096"], &[], "--socket-buffer-bytes: at least 16384"),
        (&["--max-rooms", "0"], &[], "--max-rooms: at least 1"),
        (&[], &[("CHAT_MAX_ROOMS", "0")], "for CHAT_MAX_ROOMS: at least 1"),
        (&[], &[("CHAT_MAX_ROOMS", "-1")], "'-1' for CHAT_MAX_ROOMS: expected a whole number"),
        (&[], &[("CHAT_MAX_ROOMS", "1e3")], "'1e3' for CHAT_MAX_ROOMS: expected a whole number"),
        (
            &[],
            &[("CHAT_MAX_ROOMS", "18446744073709551615")],
            "for CHAT_MAX_ROOMS: at most 4294967295",
        ),
        (
            &[],
            &[("CHAT_MAX_ROOMS", "99999999999999999999")],
            "for CHAT_MAX_ROOMS: at most 4294967295",
        ),
        (&["--max-message-bytes", "1000000"], &[], "for --outbox-bytes: a frame may have 7004096"),
        (
            &[],
            &[("CHAT_MAX_MESSAGE_BYTES", "64K")],
            "CHAT_MAX_MESSAGE_BYTES: expected a whole number",
        ),
        (&[], &[("CHAT_OUTBOX_BYTES", "9999999999999")], "CHAT_OUTBOX_BYTES: at most 1073741824"),
        (&["--outbox-bytes", "100000"], &[], "--outbox-bytes: a frame may have 233472"),
        (&["--pong-timeout", "0s"], &[], "--pong-timeout: 1ms to"),
        (&["--public-url", "chat.example"], &[], "--public-url: it is not a URL"),
        (&[], &[("CHAT_PUBLIC_URL", "https://")], "CHAT_PUBLIC_URL: it is not a URL"),
        (
            &[],
            &[("CHAT_PUBLIC_URL", "https://a.example/?x")],
            "CHAT_PUBLIC_URL: it must not have a query",
        ),
        (
            &[],
            &[("CHAT_PUBLIC_URL", "https://user@chat.example")],
            "for CHAT_PUBLIC_URL: it must not have a user",
        ),
        (&["--threads", "0"], &[], "--threads: at least 1"),
        (&["--threads", "257"], &[], "--threads: at most 256"),
        (&["--port", "eight"], &[], "'eight' for --port: expected a whole number"),
        (&["--port", "70000"], &[], "for --port: at most 65535"),
        (&[], &[("PORT", "x")], "'x' for PORT: expected a whole number"),
        (&["--prot", "1"], &[], "--prot"),
        (&["--port", "-1"], &[], "'-1' for --port: expected a whole number"),
        (&["-1"], &[], "unexpected argument '-1'"),
        (&["chekc"], &[], "unrecognized subcommand 'chekc'; did you mean check?"),
        (&["Tail", "r"], &[], "'Tail'; did you mean tail?"),
        (&["xyzzy"], &[], "'xyzzy'; chat-server help lists the commands"),
        (&["--json", "tail", "r"], &[], "--json found; it stands after the command"),
        (&["tail", "r", "--jsno"], &[], "--jsno found; did you mean --json?"),
        (&["--drain-timeout", "10"], &[], "'10' for --drain-timeout: expected a time such as"),
        (&[], &[("CHAT_PRESENCE_LEASE", "2h")], "'2h' for CHAT_PRESENCE_LEASE: 1s to 1h"),
        (&[], &[("CHAT_HISTORY_TTL", "2years")], "'2years' for CHAT_HISTORY_TTL: 1s to 1year"),
        (&[], &[("CHAT_LIMITS", "maybe")], "'maybe' for CHAT_LIMITS [possible values: on, off]"),
        (&[], &[("CHAT_REDIS_PREFIX", "a b")], "'a b' for CHAT_REDIS_PREFIX: 1 to 64 letters"),
        (
            &["--host", "127.0.0.1:8080"],
            &[],
            "for --host: expected an address or a name of this machine, without a port",
        ),
        (
            &[],
            &[("CHAT_METRICS_ADDR", "9100")],
            "'9100' for CHAT_METRICS_ADDR: expected an address and a port",
        ),
        (&["--config", "/nonexistent.toml"], &[], "'/nonexistent.toml' for --config: cannot read"),
        (
            &[],
            &[("CHAT_CONFIG", "/nonexistent.toml")],
            "'/nonexistent.toml' for CHAT_CONFIG: cannot read",
        ),
        (&["--config", file], &[], "line 2): expected a whole number"),
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
            &[("CHAT_REDIS_CA", "/nonexistent.pem")],
            "'/nonexistent.pem' for CHAT_REDIS_CA: cannot read it",
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
            &[("CHAT_REDIS_KEY", file)],
            "for CHAT_REDIS_KEY: it needs redis-cert",
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
    let (_, _, err) = run(command().env("CHAT_PUBLIC_URL", "https://user:secret@chat.example"));
    assert!(err.contains("CHAT_PUBLIC_URL") && !err.contains("secret"), "{err}");
    std::fs::remove_file(file).unwrap();
    std::fs::remove_file(wrong).unwrap();
}

/// As Compose gives them with `${CHAT_MAX_ROOMS:-}`.
#[tokio::test]
async fn empty_variables_and_texts_are_no_settings() {
    let file = std::env::temp_dir().join(format!("chat-empty-{}.toml", std::process::id()));
    std::fs::write(&file, "port = 0\nmax-rooms = 3\nping-interval = \"\"\n").unwrap();
    let empty = ["PORT", "CHAT_MAX_ROOMS", "CHAT_METRICS_ADDR", "CHAT_JWT_SECRET", "CHAT_REDIS_CA"];
    let empty = empty.map(|name| (name, ""));
    let server = Chat::start(command().arg("--config").arg(&file).envs(empty));
    let mut client = server.native().await;
    client.send(r#"{"type":"hello"}"#).await;
    let welcome = client.recv_json().await;
    assert_eq!(
        (&welcome["limits"]["rooms"], &welcome["heartbeat_ms"]),
        (&json!(3), &json!(25_000))
    );
    std::fs::remove_file(&file).unwrap();
}

/// A service manager starts the program again: the port becomes free, the address and the name
/// server appear.
#[test]
fn what_the_machine_lacks_now_is_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let port = taken.port().to_string();
    let address = taken.to_string();
    let table: [(&[&str], &str); 4] = [
        (&["--host", "127.0.0.1", "--port", &port], "for --port: cannot listen on 127.0.0.1"),
        (&["--port", "0", "--metrics-addr", &address], "for --metrics-addr: cannot listen there"),
        (&["--host", "192.0.2.1"], "for --host: cannot listen on 192.0.2.1:8080"),
        (&["--host", "x86_64-conda-linux-gnu"], "for --host: expected an address"),
    ];
    for (flags, named) in table {
        let (code, _, err) = run(command().args(flags));
        assert_eq!(code, 1, "{flags:?}: {err}");
        assert!(err.contains(named) && err.trim_end().lines().count() == 1, "{named} in {err}");
    }
}

/// Exit code 1 would have a service manager start it again and again.
#[test]
fn wrong_setting_is_exit_code_2_where_the_port_is_taken_as_well() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flags, named) in [
        (["--jwt-secret", "short"], "--jwt-secret"),
        (["--jwt-secret", "<openssl rand -hex 32>"], "for --jwt-secret: it is an example that"),
        (["--api-key", "<openssl rand -hex 32>"], "for --api-key: it is an example that"),
        (["--redis-url", "redis://a:PASSWORD@b"], "for --redis-url: its password is an example"),
        (["--jwt-public-key", "/nonexistent"], "--jwt-public-key"),
        (["--redis-url", "http://a.example"], "--redis-url"),
        (["--log", "chat_server=debgu"], "--log"),
        (["--metrics-addr", &format!("0.0.0.0:{port}")], "--metrics-addr"),
        (["--metrics-addr", &format!("[::]:{port}")], "is for clients, by host and port"),
    ] {
        let (code, _, err) =
            run(command().args(["--host", "127.0.0.1", "--port", &port]).args(flags));
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(named), "{named} in {err}");
    }
}

/// Without this line an operator would look for others in vain: the filter shows none of the server.
#[test]
fn module_of_the_log_that_does_not_exist_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let args = ["--host", "127.0.0.1", "--port", &port, "--log", "chat_servr=debug"];
    let (_, _, err) = run(command().args(args));
    let line = "log: no line of the log is of the module chat_servr; did you mean chat_server?";
    assert!(err.contains(line), "{err}");
    let (_, out, _) = run(command().args(args).arg("check"));
    assert!(out.contains(line), "{out}");
}

/// As a file of variables with the line ends of Windows gives them.
#[tokio::test]
async fn white_space_around_variables_is_not_part_of_them() {
    let server = Chat::start(command().envs([
        ("PORT", "0\r"),
        ("HOST", " localhost "),
        ("CHAT_THREADS", "1\r"),
        ("CHAT_MAX_ROOMS", "\u{feff}5\n"),
        ("CHAT_LIMITS", "on\r"),
        ("CHAT_PING_INTERVAL", "7s\r"),
        ("CHAT_RATE", " 50/100\r"),
        ("REDIS_URL", "\r"),
        ("CHAT_TRUSTED_PROXIES", "\r"),
        ("CHAT_PUBLIC_URL", "https://chat.example\r"),
        ("CHAT_LOG", "info\r"),
        ("CHAT_LOG_FORMAT", "json\r"),
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
fn page_of_settings_says_what_the_help_says() {
    let page = include_str!("../../../docs/settings.md");
    let (code, help, _) = run(command().arg("--help"));
    assert_eq!(code, 0);
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `--"));
    for row in rows.clone() {
        let mut cells = row.split(" | ");
        let (flag, variable) = cells.next().unwrap().split_once("` <br> `").unwrap();
        let (_, block) = help.split_once(&format!("\n      --{flag} <")).expect(flag);
        let block = block.split("\n      -").next().unwrap();
        let variable = format!("[env: {}", variable.trim_end_matches('`'));
        // The value of a secret is not shown.
        let after = block.split_once(&variable).and_then(|(_, after)| after.chars().next());
        assert!(matches!(after, Some('=' | ']')), "{variable} in {block}");
        let default = cells.next().unwrap().replace('`', "");
        let block = block.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(block.contains(&format!("[default: {default}]")), "{default} in {block}");
    }
    assert_eq!(rows.count(), help.matches("[env: ").count(), "each setting has a row");
}

#[tokio::test]
async fn prefixed_variable_wins_over_its_alias_and_an_old_name_is_warned_about() {
    let server =
        Chat::start(command().envs([("CHAT_PORT", "0"), ("PORT", "nonsense"), ("MAX_ROOMS", "5")]));
    server.until_logged("MAX_ROOMS is not read: set CHAT_MAX_ROOMS instead");
    let mut client = server.native().await;
    client.send(r#"{"type":"hello"}"#).await;
    assert_eq!(client.recv_json().await["limits"]["rooms"], 128);
}

#[test]
fn unknown_variable_refuses_the_start() {
    let (code, out, error) = run(command().env("CHAT_JWT_SECERT", "x").args(["--port", "0"]));
    let expected = "chat-server: CHAT_JWT_SECERT: no such setting; did you mean CHAT_JWT_SECRET?\n";
    assert_eq!((code, &*out, &*error), (2, "", expected));
    let (_, _, error) = run(command().arg("--prot=1"));
    assert!(error.ends_with("; did you mean --port?\n"), "{error}");
}

/// As in a pod beside a service that is named `chat`.
#[test]
fn variables_of_a_service_are_no_settings() {
    let server = Chat::start(command().env("PORT", "0").env("JWT_SECERT", "x").envs([
        ("CHAT_PORT", "tcp://10.0.0.1:8080"),
        ("CHAT_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("CHAT_SERVICE_HOST", "10.0.0.1"),
        ("CHAT_SERVICE_PORT", "8080"),
    ]));
    let line = server.until_logged("has set them for a service");
    assert!(line.contains("CHAT_PORT, CHAT_PORT_8080_TCP_ADDR, CHAT_SERVICE_HOST"), "{line}");
    assert!(line.contains("WARN") && line.contains("enableServiceLinks: false"), "{line}");
    server.until_logged("JWT_SECERT is not read; did you mean JWT_SECRET?");
}

#[test]
fn start_is_one_line_with_what_runs() {
    let redis = RedisServer::start();
    let url = redis.url().replace("redis://", "redis://:secret@");
    let server = Chat::start(command().args([
        "--port",
        "0",
        "--metrics-addr",
        "127.0.0.1:0",
        "--redis-url",
        &url,
    ]));
    let line = server.until_logged("listening on http://127.0.0.1:");
    for part in [
        ", metrics on http://127.0.0.1:",
        &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")),
        &format!("engine=\"{}", redis.url().trim_end_matches('/')),
        "settings=\"",
        "node=\"",
        "commit=\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("secret"), "{line}");
    let open = server.until_logged("every client has access under any name");
    assert!(open.contains("WARN"), "{open}");
    let (one, other) = (Chat::alone(), Chat::alone());
    let digest = |server: &Chat| {
        server.until_logged("listening").split("settings=").nth(1).unwrap().to_owned()
    };
    assert_eq!(digest(&one), digest(&other));
    assert_ne!(digest(&one), digest(&server), "one has a Redis");
}

/// The commit is that of the log; an operator also needs to know whether the program is optimized.
#[test]
fn version_names_the_commit_and_the_profile() {
    let line = Chat::alone().until_logged("listening");
    let commit = line.split("commit=\"").nth(1).unwrap().split('"').next().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let expected = format!("chat-server {version} (commit {commit}, {profile})\n");
    assert_eq!(run(command().arg("--version")), (0, expected, String::new()));
    assert_eq!(run(command().arg("-V")).1, format!("chat-server {version}\n"));
}

#[test]
fn written_file_starts_the_server() {
    let (code, file, error) = run(command().arg("config"));
    assert_eq!((code, &*error), (0, ""));
    let path = std::env::temp_dir().join(format!("chat-config-{}.toml", std::process::id()));
    std::fs::write(&path, file).unwrap();
    let server = Chat::start(command().args(["--port", "0", "--config"]).arg(&path));
    server.until_logged("listening on");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn completions_and_man_page_name_the_settings() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, script, error) =
            run(command().args(["completions", shell]).env("CHAT_JWT_SECERT", "x"));
        assert_eq!((code, &*error), (0, ""));
        assert!(script.contains("redis-url") && script.contains("completions"), "{script}");
    }
    let (code, page, error) = run(command().arg("man"));
    assert_eq!((code, &*error), (0, ""));
    assert!(page.contains(".TH chat-server") && page.contains("CHAT_REDIS_URL"), "{page}");
}

#[tokio::test]
async fn balancer_that_is_not_trusted_is_logged() {
    let server = Chat::alone();
    let forwarded = [("X-Forwarded-For", "203.0.113.9")];
    let connect = async |server: &Chat| {
        WsClient::connect_with(&server.ws("/ws"), &forwarded).await;
    };
    server.native().await;
    assert_eq!(server.logged("not trusted"), 0);
    connect(&server).await;
    let line = server.until_logged("handshake forwarded by an address that is not trusted");
    assert!(line.contains("WARN") && line.contains("address=127.0.0.1"), "{line}");
    assert!(line.contains("--trusted-proxies (CHAT_TRUSTED_PROXIES)"), "{line}");
    connect(&server).await;
    assert_eq!(server.logged("handshake forwarded"), 1, "once a minute");
    let trusting = Chat::start(command().args(["--port", "0", "--trusted-proxies", "127.0.0.1"]));
    connect(&trusting).await;
    assert_eq!(trusting.logged("not trusted"), 0);
}

#[tokio::test]
async fn private_address_with_too_many_connections_is_logged() {
    let server = Chat::start(command().args(["--port", "0", "--max-connections-per-address", "1"]));
    let _first = server.native().await;
    WsClient::try_connect(&server.ws("/ws"), &[]).await.unwrap_err();
    let line = server.until_logged("connections of this address are refused");
    assert!(line.contains("WARN") && line.contains("address=127.0.0.1"), "{line}");
    for setting in ["--trusted-proxies", "--forwarded-header", "--max-connections-per-address"] {
        assert!(line.contains(setting), "{line}");
    }
}

/// Its clients have no address of their own: the advice is another one.
#[tokio::test]
async fn trusted_proxy_with_too_many_connections_is_told_of_the_header() {
    let most = ["--max-connections-per-address", "1", "--trusted-proxies", "127.0.0.1"];
    let server = Chat::start(command().args(["--port", "0"]).args(most));
    let local = [("X-Forwarded-For", "127.0.0.1")];
    let _first = WsClient::connect_with(&server.ws("/ws"), &local).await;
    let refused = WsClient::try_connect(&server.ws("/ws"), &local).await;
    assert_eq!(refused.err().unwrap(), 429);
    let line = server.until_logged("connections of this trusted proxy are refused");
    assert!(line.contains("WARN") && line.contains("address=127.0.0.1"), "{line}");
    assert!(line.contains("--forwarded-header") && !line.contains("--trusted-proxies"), "{line}");
}

#[tokio::test]
async fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = std::env::temp_dir().join(format!("chat-order-{}.toml", std::process::id()));
    std::fs::write(&file, "port = 1\nmax-rooms = 3\nping-interval = \"7s\"\n").unwrap();
    let server = Chat::start(
        command().arg("--config").arg(&file).args(["--port", "0", "--log-format", "json"]).envs([
            ("PORT", "2"),
            ("CHAT_MAX_ROOMS", "5"),
            ("CHAT_LIMITS", "on"),
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
    for signal in ["USR1", "USR2"] {
        server.signal(signal);
        server.until_logged(&format!("SIG{signal}: ignored"));
    }
    for times in 1..=2 {
        server.signal("HUP");
        server.until_logged_times("SIGHUP: settings reloaded", times);
    }
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
        let port = free_port();
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
        let port = line.split("http://127.0.0.1:").nth(1)?.split(' ').next()?;
        Some(format!("ws://127.0.0.1:{port}/"))
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
