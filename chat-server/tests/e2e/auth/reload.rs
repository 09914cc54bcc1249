//! SIGHUP: keys and other settings are replaced while clients stay connected.

use std::fs;
use std::process::Command;

use chat_broker::testing::{RedisServer, free_port};
use chat_server::{JwtSigner, TokenClaims};
use chat_transport::testing::WsClient;
use serde_json::json;

use super::issuer::{Issuer, IssuerKey, publish};
use super::jwks::status;
use super::keys::Keys;
use super::{NATIVE, SECRET, claims, native};
use crate::support::{Chat, ask, command, next_of, run, value_of};

const NEXT_SECRET: &str = "fedcba9876543210fedcba9876543210";

fn signed_with(secret: &str, claims: &TokenClaims) -> String {
    JwtSigner::with_secret(secret.as_bytes()).unwrap().sign(claims).unwrap()
}

/// Reads the settings again for the `times`th time.
fn reload(server: &Chat, times: usize) {
    server.signal("HUP");
    server.until_logged_times("SIGHUP: settings reloaded", times);
}

async fn reload_time(server: &Chat) -> f64 {
    let (_, _, page) = server.http("GET", "/metrics").await;
    value_of(&page, "chat_settings_reload_timestamp_seconds").unwrap()
}

#[tokio::test]
async fn reload_replaces_secrets_origins_rules_and_log_level() {
    let keys = Keys::new("reload");
    let file = keys.write("chat.toml", format!("jwt-secret = {SECRET:?}\nlog = \"info\"\n"));
    let server = Chat::start(command().args(["--port", "0", "--config", &file]));
    let (old, new) =
        (signed_with(SECRET, &claims("ann")), signed_with(NEXT_SECRET, &claims("bob")));
    let mut connected = native(&server, &old).await;
    assert_eq!(status(&server, &new).await, Some(401));
    let origin = async || {
        let headers = [NATIVE, ("Origin", "https://app.example")];
        let url = server.ws(&format!("/ws?token={old}"));
        WsClient::try_connect(&url, &headers).await.err().map(|status| status.as_u16())
    };
    assert_eq!(origin().await, Some(403));

    let by_name = "GET / HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\r\n";
    assert_eq!(server.raw(by_name).await.0, 403);

    let both = format!("jwt-secret = [{SECRET:?}, {NEXT_SECRET:?}]\n");
    let rest = "allow-origin = \"https://app.example\"\nallow-host = \"chat.example\"\nlog = \"debug\"\nhistory = 7\n\
                [[rooms]]\nname = \"x\"\nhistory = 0\n";
    fs::write(&file, format!("{both}{rest}")).unwrap();
    reload(&server, 1);
    assert_eq!(status(&server, &new).await, None);
    assert_eq!(origin().await, None);
    assert_eq!(server.raw(by_name).await.0, 200);
    server.raw("NONSENSE\r\n\r\n").await;
    assert!(server.until_logged("HTTP connection ended with an error").contains("DEBUG"));
    let line = server.until_logged("changed settings that need a restart");
    assert!(line.ends_with("need a restart: history, rooms"), "{line}");
    server.until_metric("chat_settings_need_restart", |needed| needed == 1).await;

    let mut audience = claims("bob");
    audience.aud = vec!["chat".to_owned()];
    fs::write(&file, format!("jwt-secret = {NEXT_SECRET:?}\njwt-audience = \"chat\"\n")).unwrap();
    reload(&server, 2);
    assert_eq!(status(&server, &old).await, Some(401));
    assert_eq!(status(&server, &new).await, Some(401));
    assert_eq!(status(&server, &signed_with(NEXT_SECRET, &audience)).await, None);
    // Its token is valid until it expires, as the server has accepted it.
    ask(&mut connected, "joined", json!({"type": "join", "room": "r"})).await;
    let renewal = json!({"type": "hello", "token": old});
    assert_eq!(ask(&mut connected, "error", renewal).await["code"], "unauthorized");
    ask(&mut connected, "pong", json!({"type": "ping"})).await;
    assert_eq!(server.logged("settings not reloaded"), 0);
}

#[tokio::test]
async fn failed_reload_changes_nothing_and_says_what_the_start_would() {
    let keys = Keys::new("bad-reload");
    let secret = keys.write("secret", format!("{SECRET}\n"));
    let good = format!("jwt-secret-file = {secret:?}\n");
    let file = keys.write("chat.toml", &good);
    let server = Chat::start(command().args(["--port", "0", "--config", &file]));
    let token = signed_with(SECRET, &claims("ann"));
    let mut connected = native(&server, &token).await;
    let start = || {
        let (code, _, error) = run(command().args(["--port", "0", "--config", &file]));
        assert_eq!(code, 2, "{error}");
        error.trim().strip_prefix("chat-server: ").unwrap().to_owned()
    };
    let origin = "allow-origin = \"https://app.example\"\n";
    for (times, bad) in [
        "port = ".to_owned(),
        "prot = 1".to_owned(),
        "max-rooms = \"x\"".to_owned(),
        format!("{good}allow-origin = \"app.example\""),
        format!("{origin}jwt-secret = \"short\""),
        format!("{origin}jwt-public-key = \"/nonexistent\""),
        format!("{origin}jwt-audience = \"chat\""),
        format!("{good}{origin}jwt-jwks-url = \"http://192.0.2.1/\""),
    ]
    .iter()
    .enumerate()
    {
        fs::write(&file, bad).unwrap();
        server.signal("HUP");
        let line = server.until_logged_times("SIGHUP: settings not reloaded", times + 1);
        assert!(line.contains("ERROR") && line.ends_with(&start()), "{bad}: {line}");
        assert_eq!(status(&server, &token).await, None, "{bad}");
    }
    fs::write(&file, origin).unwrap();
    server.signal("HUP");
    server.until_logged("no key of tokens is set any longer: that needs a restart");
    assert_eq!(status(&server, "").await, Some(401), "not open to all");
    let foreign = [NATIVE, ("Origin", "https://app.example")];
    let url = server.ws(&format!("/ws?token={token}"));
    assert!(WsClient::try_connect(&url, &foreign).await.is_err(), "the origin is not allowed");
    ask(&mut connected, "pong", json!({"type": "ping"})).await;

    // The name stays, the secret in the file is another.
    fs::write(&file, good).unwrap();
    fs::write(&secret, NEXT_SECRET).unwrap();
    reload(&server, 1);
    assert_eq!(status(&server, &token).await, Some(401));
    assert_eq!(status(&server, &signed_with(NEXT_SECRET, &claims("ann"))).await, None);
}

/// A file that became a pipe or a directory must not stop all later reloads.
#[tokio::test]
async fn reload_from_a_pipe_without_a_writer_fails_and_the_next_one_works() {
    let keys = Keys::new("pipe-reload");
    let secret = keys.write("secret", format!("{SECRET}\n"));
    let good = format!("jwt-secret-file = {secret:?}\n");
    let file = keys.write("chat.toml", &good);
    let server = Chat::start(command().args(["--port", "0", "--config", &file]));
    let mut failures = 0;
    for (path, text) in [(&file, &good), (&secret, &NEXT_SECRET.to_owned())] {
        for make in ["mkfifo", "mkdir"] {
            fs::remove_file(path).unwrap();
            assert!(Command::new(make).arg(path).status().unwrap().success());
            failures += 1;
            server.signal("HUP");
            let line = server.until_logged_times("SIGHUP: settings not reloaded", failures);
            assert!(line.contains("cannot read it") && line.contains(&**path), "{make}: {line}");
            if make == "mkdir" { fs::remove_dir(path) } else { fs::remove_file(path) }.unwrap();
            fs::write(path, text).unwrap();
        }
        reload(&server, failures / 2);
    }
    assert_eq!(status(&server, &signed_with(NEXT_SECRET, &claims("ann"))).await, None);
}

#[tokio::test]
async fn open_server_stays_open_until_it_is_restarted() {
    let keys = Keys::new("open-reload");
    let file = keys.write("chat.toml", "");
    let server = Chat::start(command().args(["--port", "0", "--config", &file]));
    fs::write(&file, format!("jwt-secret = {SECRET:?}\n")).unwrap();
    server.signal("HUP");
    server.until_logged("keys of tokens are set, and were not at the start: that needs a restart");
    server.native().await;
}

/// A key of the issuer is replaced by the next, on one server after the other: at any time both
/// accept what the issuer signs, and no connection ends, not even one whose key is withdrawn.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rotation_on_one_server_after_the_other_closes_no_connection() {
    let keys = Keys::new("rotation");
    let [a, b, c] = ["a", "b", "c"].map(|id| IssuerKey::new(&keys, id));
    let issuer = Issuer::start(publish(&[&a])).await;
    let redis = RedisServer::start();
    let url = issuer.url("http");
    let servers = Chat::several::<2>(&redis, &["--jwt-jwks-url", &url]).await;
    let mut members = Vec::new();
    for (server, user) in servers.iter().zip(["ann", "bob"]) {
        members.push(native(server, &a.token(user)).await);
    }
    for member in &mut members {
        ask(member, "joined", json!({"type": "join", "room": "r"})).await;
    }
    let steps: [(&[&IssuerKey], &IssuerKey); 4] =
        [(&[&a, &b], &a), (&[&b], &b), (&[&b, &c], &b), (&[&c], &c)];
    for (step, (published, signing)) in steps.into_iter().enumerate() {
        issuer.set_answer(publish(published));
        for reloaded in &servers {
            reload(reloaded, step + 1);
            for server in &servers {
                assert_eq!(status(server, &signing.token("eve")).await, None, "step {step}");
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let text = format!("{from} to {to} after step {step}");
            ask(&mut members[from], "ok", json!({"type": "send", "room": "r", "message": text}))
                .await;
            while next_of(&mut members[to], "message").await["message"] != text {}
        }
    }
    for server in &servers {
        let withdrawn = status(server, &a.token("eve")).await;
        assert_eq!(withdrawn, Some(401), "that of the connections above");
    }
}

/// The file keeps its name, so that no value of a setting says that its key is another.
#[tokio::test]
async fn reload_names_what_has_changed_also_in_files() {
    let keys = Keys::new("names-of-changes");
    let secret = keys.write("secret", SECRET);
    let table = |secret: &str| format!("[[jwt_keys]]\nsecret = \"{secret}\"\n");
    let file = keys.write("chat.toml", table(SECRET));
    let args = ["--port", "0", "--jwt-secret-file", &secret, "--config", &file];
    let server = Chat::start(command().args(args));
    let token_keys = async || {
        let (_, _, page) = server.http("GET", "/metrics").await;
        value_of(&page, "chat_token_keys")
    };
    assert_eq!(token_keys().await, Some(1.0), "one key, in two places");

    let changed = |times: usize| {
        reload(&server, times);
        let log = server.log();
        assert!(!log.iter().any(|line| line.contains(NEXT_SECRET)));
        let mut lines = log.iter().rev();
        let line = lines.find(|line| line.contains("SIGHUP: settings reloaded")).unwrap();
        line.split("changed=").nth(1).unwrap().split(" settings=").next().unwrap().to_owned()
    };
    assert_eq!(changed(1), "\"none\"");
    fs::write(&secret, NEXT_SECRET).unwrap();
    assert_eq!(changed(2), "\"jwt-secret-file\"");
    assert_eq!(token_keys().await, Some(2.0));
    fs::write(&file, format!("log = \"debug\"\n{}", table(NEXT_SECRET))).unwrap();
    assert_eq!(changed(3), "\"jwt_keys, log\"");
    assert_eq!(changed(4), "\"none\"", "since the latest, not since the start");
    assert_eq!(token_keys().await, Some(1.0));
}

#[tokio::test]
async fn reload_replaces_limits_of_open_connections_too() {
    let keys = Keys::new("limits-reload");
    let file = keys.write("chat.toml", "max-rooms = 1\n");
    let server = Chat::start(command().args(["--port", "0", "--config", &file]));
    let digest = |line: String| line.split("settings=\"").nth(1).unwrap()[..16].to_owned();
    let at_start = digest(server.until_logged("listening on"));
    let mut client = server.native().await;
    ask(&mut client, "joined", json!({"type": "join", "room": "a"})).await;
    let second = json!({"type": "join", "room": "b"});
    assert_eq!(ask(&mut client, "error", second.clone()).await["code"], "too_many_rooms");

    fs::write(&file, "max-rooms = 2\nmax-connections = 1\n").unwrap();
    reload(&server, 1);
    assert_ne!(digest(server.until_logged("SIGHUP: settings reloaded")), at_start);
    ask(&mut client, "joined", second).await;
    assert_eq!(status(&server, "").await, Some(503), "the open connection is the only one");

    fs::write(&file, "kept-rate = \"1/1\"\nmax-wait = \"0s\"\nmax-rooms = 1\n").unwrap();
    reload(&server, 2);
    let frame = json!({"type": "send", "room": "b", "message": "hi"});
    for _ in 0..3 {
        client.send_json(&frame).await;
    }
    assert_eq!(next_of(&mut client, "error").await["code"], "rate_limited");
    let welcome = ask(&mut server.native().await, "welcome", json!({"type": "hello"})).await;
    assert_eq!(welcome["limits"]["rooms"], 1, "of a new connection");

    fs::write(&file, "max-rooms = \"many\"\n").unwrap();
    server.signal("HUP");
    server.until_logged("settings not reloaded");
    let welcome = ask(&mut server.native().await, "welcome", json!({"type": "hello"})).await;
    assert_eq!(welcome["limits"]["rooms"], 1, "as before");
    assert_eq!(server.logged("need a restart"), 0);
}

/// As the test above, with secrets in files of settings, of which the former one ends by itself.
#[tokio::test]
async fn former_secret_ends_by_itself_and_closes_no_connection() {
    let keys = Keys::new("secrets");
    let table = |secret: &str, until: &str| format!("[[jwt_keys]]\nsecret = {secret:?}\n{until}");
    let old = table(SECRET, "");
    let files = ["one", "other"].map(|name| keys.write(name, &old));
    let servers =
        files.each_ref().map(|file| Chat::start(command().args(["--port", "0", "--config", file])));
    let token = |secret: &str| signed_with(secret, &claims("ann"));
    let mut connected = Vec::new();
    for server in &servers {
        connected.push(native(server, &token(SECRET)).await);
    }
    let both = format!("{}{}", table(SECRET, "until = \"2099-01-01\"\n"), table(NEXT_SECRET, ""));
    let ended = format!("{}{}", table(SECRET, "until = \"2020-01-01\"\n"), table(NEXT_SECRET, ""));
    for (step, (settings, signing)) in [(&both, SECRET), (&ended, NEXT_SECRET)].iter().enumerate() {
        for (file, reloaded) in files.iter().zip(&servers) {
            fs::write(file, settings).unwrap();
            reload(reloaded, step + 1);
            for server in &servers {
                assert_eq!(status(server, &token(signing)).await, None, "step {step}");
            }
        }
    }
    for (server, client) in servers.iter().zip(&mut connected) {
        assert_eq!(status(server, &token(SECRET)).await, Some(401), "the former one has ended");
        ask(client, "pong", json!({"type": "ping"})).await;
    }
}

/// A rollout that waits for `/readyz` must not go on with servers that nobody can enter.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn server_whose_last_key_has_ended_is_not_ready() {
    let keys = Keys::new("ended");
    let table = |until: &str| format!("[[jwt_keys]]\nsecret = {SECRET:?}\nuntil = {until:?}\n");
    let file = keys.write("chat.toml", table("2020-01-01"));
    let server = Chat::start(command().args(["--port", "0", "--config", &file]));
    server.until_logged("every key of tokens has ended");
    let (code, _, text) = server.http("GET", "/readyz").await;
    assert_eq!((code, &*text), (503, "the keys of tokens are not known yet, or all have ended\n"));
    fs::write(&file, table("2099-01-01")).unwrap();
    reload(&server, 1);
    server.until_ready().await;
}

#[tokio::test]
async fn certificates_of_redis_are_read_again() {
    let keys = Keys::new("redis-ca");
    let ca = keys.write("ca.pem", "no certificate");
    let url = "redis-url = \"rediss://localhost:1\"\n";
    let file = keys.write("chat.toml", url);
    let server = Chat::start(command().args(["--port", "0", "--config", &file]));
    fs::write(&file, format!("{url}redis-ca = {ca:?}\n")).unwrap();
    server.signal("HUP");
    let line = server.until_logged("SIGHUP: settings not reloaded");
    assert!(line.contains("redis-ca") && line.contains("line 2"), "{line}");
    server.until_metric("chat_settings_reload_successful", |successful| successful == 0).await;
    fs::write(&file, url).unwrap();
    let before = reload_time(&server).await;
    reload(&server, 1);
    assert_eq!(server.metric("chat_settings_reload_successful").await, 1);
    assert!(reload_time(&server).await > before);
}

/// A private authority is replaced on a running server.
#[tokio::test]
async fn reloaded_certificates_of_redis_are_those_of_the_next_connection() {
    if !RedisServer::has_tls() {
        eprintln!("skipped: the Redis of these tests was built without TLS");
        return;
    }
    let keys = Keys::new("redis-tls");
    let [(right, key), (foreign, _)] = ["right", "foreign"].map(|name| certificate(&keys, name));
    let port = free_port().to_string();
    let redis = RedisServer::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &right,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &right,
        "--tls-auth-clients",
        "no",
    ]);
    let trusted = keys.write("ca.pem", fs::read(&right).unwrap());
    let url = format!("rediss://localhost:{port}");
    let server =
        Chat::start(command().args(["--port", "0", "--redis-ca", &trusted, "--redis-url", &url]));
    server.until_ready().await;
    for (times, file) in [&foreign, &right].into_iter().enumerate() {
        fs::write(&trusted, fs::read(file).unwrap()).unwrap();
        reload(&server, times + 1);
        for kind in ["normal", "pubsub"] {
            redis.command(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
        if file == &foreign {
            server.until_logged("invalid peer certificate");
        }
    }
    server.until_metric("chat_broker_up", |up| up == 1).await;
}

/// A certificate of its own authority, and its key.
fn certificate(keys: &Keys, name: &str) -> (String, String) {
    let (certificate, key) = (keys.path(&format!("{name}.pem")), keys.path(&format!("{name}.key")));
    keys.openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ]);
    (certificate, key)
}
