use std::path::{Path, PathBuf};
use std::process::Command;

use chat_broker::testing::RedisServer;
use serde_json::Value;

use crate::support::{command, command_of, eventually, run};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// A configuration file that is removed with this.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> Self {
        let file = std::env::temp_dir().join(format!("{name}-{}.toml", std::process::id()));
        std::fs::write(&file, text).unwrap();
        Self(file)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The exit code, and what `check --json` found.
fn check(command: &mut Command) -> (i32, Value) {
    let (code, out, error) = run(command.args(["check", "--json"]));
    assert_eq!(error, "");
    (code, serde_json::from_str(&out).unwrap())
}

/// The status and the detail of a check.
fn found<'a>(report: &'a Value, check: &str) -> (&'a str, &'a str) {
    let mut checks = report["checks"].as_array().unwrap().iter();
    let found = checks.find(|found| found["check"] == check).unwrap_or_else(|| panic!("{report}"));
    (found["status"].as_str().unwrap(), found["detail"].as_str().unwrap())
}

fn assert_found(report: &Value, check: &str, status: &str, detail: &str) {
    let found = found(report, check);
    assert!(found.0 == status && found.1.contains(detail), "{check}: {found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn settings_are_listed_with_their_sources_and_without_secrets() {
    let file = ConfigFile::new("check-settings", "port = 1\n\nmax-rooms = 9\n");
    let mut program = command();
    program.env("JWT_SECRET", SECRET).arg("--config").arg(file.path()).args(["--port", "2"]);
    let (code, out, error) = run(program.arg("check"));
    assert_eq!((code, &*error), (0, ""));
    assert!(!out.contains(SECRET), "{out}");
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split("  ").filter(|part| !part.is_empty()).collect())
        .collect();
    let place = format!("max-rooms ({}, line 3)", file.path().display());
    for (name, source, value) in [
        ("port", "--port", "2"),
        ("max-rooms", &*place, "9"),
        ("jwt-secret", "JWT_SECRET", "(hidden)"),
        ("threads", "CHAT_THREADS", "2"),
        ("history", "default", "256"),
        ("redis-url", "default", "none; rooms live in this process alone"),
    ] {
        let line = lines.iter().find(|line| line.first().is_some_and(|word| word.trim() == name));
        let line: Vec<_> = line.expect(name).iter().map(|part| part.trim()).collect();
        assert_eq!(line, [name, source, value]);
    }
}

/// A default that follows from others, or from the machine, is listed with its value.
#[test]
fn computed_defaults_are_listed_with_their_values() {
    let listed = |args: &[&str]| {
        let (_, report) = check(command().env_remove("CHAT_THREADS").args(args));
        let settings = report["settings"].as_array().unwrap().clone();
        move |name: &str| {
            let setting = settings.iter().find(|setting| setting["name"] == name).unwrap();
            [&setting["value"], &setting["source"]].map(|text| text.as_str().unwrap().to_owned())
        }
    };
    let computed = |value: &str| [value.to_owned(), "computed".to_owned()];
    let alone = listed(&["--max-message-bytes=1000", "--port=2"]);
    assert_eq!(alone("max-frame-bytes"), computed("11096"));
    assert_eq!(alone("metrics-addr"), computed("port 2"));
    assert_eq!(alone("max-connections-per-address"), computed("none"));
    assert_eq!(alone("byte-rate-per-address"), computed("off"));
    for of_machine in ["threads", "max-connections"] {
        let [value, source] = alone(of_machine);
        assert!(value.parse::<u32>().is_ok_and(|count| count > 0), "{of_machine}: {value}");
        assert_eq!(source, "computed", "{of_machine}");
    }
    let behind = listed(&["--trusted-proxies=10.0.0.0/8", "--rate-per-address=7", "--threads=1"]);
    assert_eq!(behind("max-connections-per-address"), computed("100"));
    assert_eq!(behind("byte-rate-per-address"), computed("2M/8M"));
    assert_eq!(behind("http-rate-per-address"), computed("100/500"));
    assert_eq!(behind("rate-per-address"), ["7", "--rate-per-address"]);
    assert_eq!(behind("threads"), ["1", "--threads"]);
    let off = listed(&["--limits=off", "--trusted-proxies=10.0.0.0/8"]);
    assert_eq!(off("max-connections"), computed("none"));
    assert_eq!(off("byte-rate-per-address"), computed("off"));
    let off = listed(&["--limits=off", "--byte-rate=1M", "--max-rooms=9"]);
    for (name, value) in [("rate", "off"), ("byte-rate", "off"), ("sanction-rate", "off")] {
        assert_eq!(off(name), [value, "--limits"], "{name}");
    }
    assert_eq!(off("max-rooms"), ["none", "--limits"]);
    assert_eq!(off("max-connections"), computed("none"));
    assert_eq!(off("max-message-bytes"), ["32768", "default"], "it bounds frames in any case");
}

#[test]
fn file_is_named_and_its_secrets_are_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;

    let (_, out, _) = run(command().arg("check"));
    assert!(out.starts_with("file: none was read"), "{out}");
    let file = ConfigFile::new("check-mode", &format!("jwt-secret = {SECRET:?}\n"));
    let mode = |mode| {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        check(command().arg("--config").arg(file.path())).1
    };
    let report = mode(0o644);
    assert_eq!(report["file"], file.path().to_str().unwrap());
    assert_found(&report, "file", "warn", "every user can read it");
    assert_found(&mode(0o640), "file", "ok", "mode 640");

    let secret = ConfigFile::new("check-mode-secret", SECRET);
    let path = secret.path().display();
    for (text, name) in [
        (format!("[[jwt_keys]]\nsecret = {SECRET:?}\n"), file.path()),
        (format!("jwt-secret-file = \"{path}\"\n"), secret.path()),
        (format!("[[jwt_keys]]\nsecret-file = \"{path}\"\n"), secret.path()),
    ] {
        std::fs::write(file.path(), &text).unwrap();
        let report = mode(0o644);
        let checks = report["checks"].as_array().unwrap().iter();
        let warned = checks.filter(|check| check["status"] == "warn");
        let warned: Vec<_> = warned.filter_map(|check| check["detail"].as_str()).collect();
        let wanted = format!("{} has secrets, and every user can read it", name.display());
        assert!(warned.iter().any(|detail| detail.starts_with(&wanted)), "{text}: {report}");
    }
}

#[test]
fn connections_that_need_more_files_than_there_are_is_a_warning() {
    let mut program = command_of("prlimit", 2);
    program.args(["--nofile=2000", env!("CARGO_BIN_EXE_chat-server"), "--max-connections", "5000"]);
    let (_, report) = check(&mut program);
    assert_found(&report, "files", "warn", "max-connections is 5000, which needs 9160 open files");
}

#[test]
fn ended_key_of_the_api_is_a_warning() {
    let key = |name: &str, until: &str| {
        let hash = format!("sha256:{:064}", name.len());
        format!(
            "[[api_keys]]\nname = \"{name}\"\nhash = \"{hash}\"\nscopes = [\"read\"]\nuntil = \"{until}\"\n"
        )
    };
    let check = |file: &str| {
        let file = ConfigFile::new("check-api", file);
        check(command().arg("--config").arg(file.path())).1
    };
    let (ended, lasting) = (key("zoe", "2020-01-01"), key("shop", "2999-01-01"));
    assert_found(&check(&lasting), "api", "ok", "1 key, 1 of them in [[api_keys]]");
    let report = check(&format!("{ended}{lasting}"));
    assert_found(&report, "api", "warn", "2 keys, 2 of them in [[api_keys]]; ended: zoe");
    assert_found(&check(&ended), "api", "warn", "every key has ended");
}

#[test]
fn url_that_is_not_of_redis_is_exit_code_2() {
    let (code, out, error) = run(command().args(["--redis-url", "http://127.0.0.1", "check"]));
    assert_eq!((code, &*out), (2, ""), "{error}");
    assert!(error.contains("--redis-url"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn redis_that_keeps_nothing_is_a_warning() {
    let redis = RedisServer::start_with(&["--save", "", "--appendonly", "no"]);
    let (_, report) = check(command().args(["--redis-url", &redis.url()]));
    assert_found(&report, "redis persistence", "warn", "has written no snapshot");
}

#[test]
fn invalid_setting_is_exit_code_2() {
    let (code, out, error) = run(command().args(["--max-rooms", "0", "check"]));
    assert_eq!((code, &*out), (2, ""));
    assert!(error.contains("for --max-rooms: at least 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn good_redis_passes_every_check() {
    let redis = RedisServer::start_with(&["--maxmemory", "100mb", "--appendonly", "yes"]);
    let mut program = command();
    program.env("JWT_SECRET", SECRET).env("REDIS_URL", redis.url());
    let (code, report) = check(&mut program);
    assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)), "{report}");
    for name in
        ["writes", "rights", "eviction", "memory", "persistence", "latency", "clock", "pub/sub"]
    {
        assert_eq!(found(&report, &format!("redis {name}")).0, "ok", "{name}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn redis_with_wrong_settings_is_described() {
    let redis =
        RedisServer::start_with(&["--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru"]);
    let acl =
        "ACL SETUSER weak on >password resetchannels &chat:* ~chat:* +@all -sadd -client|kill";
    redis.command(&acl.split(' ').collect::<Vec<_>>()).await;
    let url = redis.url().replace("//", "//weak:password@");
    let (code, report) = check(command().args(["--redis-url", &url]));
    assert_eq!(code, 1);
    assert_found(&report, "redis rights", "fail", "missing: SADD;");
    assert_found(&report, "redis eviction", "warn", "allkeys-lru");
    assert!(!report.to_string().contains("password@"), "{report}");

    redis.command(&["ACL", "SETUSER", "weak", "+sadd", "-subscribe"]).await;
    let (code, report) = check(command().args(["--redis-url", &url]));
    assert_eq!(code, 1);
    assert_found(&report, "redis rights", "warn", "not needed to serve: CLIENT KILL");
    assert_found(&report, "redis pub/sub", "fail", "subscribe");

    redis.command(&["ACL", "SETUSER", "weak", "+subscribe", "resetkeys", "~other:*"]).await;
    let (code, report) = check(command().args(["--redis-url", &url]));
    assert_eq!(code, 1);
    assert_found(&report, "redis rights", "fail", "keys: this user may use others");

    let wrong = redis.url().replace("//", "//weak:wrong@");
    let (code, report) = check(command().args(["--redis-url", &wrong]));
    assert_eq!(code, 1);
    assert_found(&report, "redis", "fail", "WRONGPASS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn replica_and_full_redis_fail() {
    let primary = RedisServer::start();
    let replica =
        RedisServer::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    eventually("the replica is in sync", async || {
        replica.command(&["INFO", "replication"]).await.contains("master_link_status:up")
    })
    .await;
    let (code, report) = check(command().args(["--redis-url", &replica.url()]));
    assert_eq!(code, 1);
    assert_found(&report, "redis writes", "fail", "this is a replica");

    primary.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let (code, report) = check(command().args(["--redis-url", &primary.url()]));
    assert_eq!(code, 1);
    assert_found(&report, "redis writes", "fail", "Redis is full");
}

#[test]
fn settings_that_contradict_each_other_are_named() {
    let (code, _, error) =
        run(command().args(["--metrics-addr", "0.0.0.0:8080", "--port", "8080", "check"]));
    assert_eq!(code, 2);
    assert!(error.contains("--metrics-addr: 127.0.0.1:8080 is for clients"), "{error}");
    let args = ["--host", "127.1", "--port", "8080", "--metrics-addr", "[::]:8080"];
    let (code, report) = check(command().args(args));
    assert_eq!(code, 1, "a name that is looked up");
    assert_found(&report, "host", "fail", "is for clients, by host and port");
    let (code, report) = check(command().args(["--drain-spread=20s"]));
    assert_eq!(code, 0);
    let lines = report["checks"].to_string();
    assert!(lines.contains("drain-spread and drain-timeout: the first is more"), "{lines}");
}

#[test]
fn tls_without_authorities_is_named() {
    let url = ["--redis-url", "rediss://127.0.0.1:1"];
    let mut program = command();
    program.args(url).env("SSL_CERT_FILE", "/dev/null");
    let (code, report) = check(&mut program);
    assert_eq!(code, 1);
    assert_found(&report, "redis", "fail", "this machine has no certificates of authorities");

    let (code, _, error) =
        run(command().args(url).args(["--port", "0"]).env("SSL_CERT_FILE", "/dev/null"));
    assert_eq!(code, 2, "a server does not wait for what cannot happen");
    assert!(error.contains("this machine has no certificates of authorities"), "{error}");
}

#[test]
fn missing_files_and_keys_at_a_url_fail() {
    let (code, report) = check(command().args([
        "--jwt-jwks-url",
        "http://127.0.0.1:1/jwks.json?token=hidden-token",
        "--jwt-public-key",
        "/nonexistent/key.pem",
        "--redis-url",
        "rediss://127.0.0.1:1",
        "--redis-ca",
        "/nonexistent/ca.pem",
        "--host",
        "x86_64-conda-linux-gnu",
    ]));
    assert_eq!(code, 1);
    assert_found(&report, "host", "fail", "x86_64-conda-linux-gnu has no address");
    assert_found(&report, "jwks", "fail", "http://127.0.0.1:1/jwks.json: cannot connect");
    assert!(!report.to_string().contains("hidden-token"), "{report}");
    let file = "'/nonexistent/key.pem' for --jwt-public-key: cannot read";
    assert_found(&report, "tokens", "fail", file);
    assert_found(&report, "redis", "fail", "'/nonexistent/ca.pem' for --redis-ca: cannot read");
}
