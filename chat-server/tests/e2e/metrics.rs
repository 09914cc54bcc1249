//! The page that Prometheus reads.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use chat_broker::testing::RedisServer;
use chat_transport::testing::{WsClient, raw_frame, raw_handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Chat, DEADLINE, command, counted, exchange, next_of, value_of};

/// All that is counted is described, and what is described is counted.
#[tokio::test]
async fn the_page_is_what_its_description_says() {
    let redis = RedisServer::start();
    let mut program = command();
    program.env("REDIS_URL", redis.url()).env("API_KEY", "a key for backends");
    let server = Chat::start(program.args(["--port", "0"]));
    server.until_ready().await;
    let (mut ann, mut bob) = (server.native().await, server.native().await);
    let mut bytes = 0;
    let mut say = async |client: &mut WsClient, text: &str, answer: &str| {
        bytes += text.len() as u64;
        client.send(text).await;
        next_of(client, answer).await;
    };
    say(&mut ann, r#"{"type":"join","room":"r"}"#, "joined").await;
    say(&mut bob, r#"{"type":"join","room":"r"}"#, "joined").await;
    say(&mut ann, r#"{"type":"send","room":"r","message":"x"}"#, "ok").await;
    next_of(&mut bob, "message").await;
    bob.close().await;
    server.until_metric("chat_closed_total{code=\"1000\"}", |closed| closed == 1).await;

    let (_, _, page) = server.http("GET", "/metrics").await;
    let (found, described) = (names(&page), described());
    assert!(found.len() > 25, "{found:?}");
    assert_eq!(found, described);
    assert_eq!(server.metric("chat_received_bytes_total").await, bytes);
    for moved in [
        "chat_sent_bytes_total",
        "chat_fan_out_seconds_count",
        "chat_publish_seconds_count",
        "chat_broker_round_trip_seconds_count",
        "chat_broker_received_total",
        "chat_deliveries_total",
        "chat_recent_bytes",
    ] {
        assert!(server.metric(moved).await > 0, "{moved} in {page}");
    }
}

/// Those of a page, as queries name them.
fn names(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Those of the table in the documentation that every server has, without their labels.
fn described() -> BTreeSet<String> {
    let page = include_str!("../../../docs/operating.md");
    let section = page.split("\n## Metrics\n").nth(1).unwrap().split("\n#").next().unwrap();
    let rows =
        section.lines().filter(|line| line.starts_with("| `") && !line.contains("; only with"));
    let cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    quoted.map(|name| name.split('{').next().unwrap().to_owned()).collect()
}

/// What clients make up makes no labels.
#[tokio::test]
async fn codes_of_a_clients_own_count_as_one() {
    let server = Chat::alone();
    // The last would read as if the server had ended the connections for them.
    for code in (3000..3016_u16).chain([1002, 1009, 1011, 1014]) {
        let mut client = raw_handshake(&format!("127.0.0.1:{}", server.port()), "/ws").await;
        client.write_all(&raw_frame(0x88, &code.to_be_bytes())).await.unwrap();
        let mut answer = Vec::new();
        let answer = client.read_to_end(&mut answer);
        tokio::time::timeout(DEADLINE, answer).await.expect("an end").unwrap();
    }
    server.until_metric("chat_closed_total{code=\"0\"}", |closed| closed == 20).await;
    let (_, _, page) = server.http("GET", "/metrics").await;
    assert_eq!(counted(&page, "chat_closed_total{").len(), 1, "{page}");
}

/// A series that appears with its first burst has no increase: Prometheus needs a value before.
#[tokio::test]
async fn labelled_counters_begin_at_zero() {
    let server = Chat::start(command().env("API_KEY", "a key for backends").env("PORT", "0"));
    let (_, _, page) = server.http("GET", "/metrics").await;
    for counter in [
        r#"chat_rejected_total{code="rate_limited"}"#,
        r#"chat_limited_total{limit="user_frames"}"#,
        r#"chat_limited_total{limit="token"}"#,
        r#"chat_limited_total{limit="heartbeat"}"#,
        r#"chat_limited_total{limit="outbox"}"#,
        r#"chat_refused_handshakes_total{status="503",reason="draining"}"#,
        r#"chat_closed_total{code="4003"}"#,
        r#"chat_closed_total{code="1006"}"#,
        r#"chat_api_requests_total{key="api",call="send",status="200"}"#,
        r#"chat_api_requests_total{key="api",call="send",status="429"}"#,
    ] {
        assert!(page.contains(&format!("{counter} 0\n")), "{counter} in {page}");
    }
}

#[tokio::test]
async fn page_describes_the_build_and_the_process() {
    let server = Chat::alone();
    let (_, _, page) = server.http("GET", "/metrics").await;
    let version = format!("chat_build_info{{version=\"{}\",", env!("CARGO_PKG_VERSION"));
    assert!(page.contains(&version), "{page}");
    let value = |name| value_of::<f64>(&page, name).unwrap_or_else(|| panic!("{name} in {page}"));
    let resident = value("process_resident_memory_bytes");
    assert!((1e6..1e9).contains(&resident) && value("process_virtual_memory_bytes") >= resident);
    assert!((5.0..100.0).contains(&value("process_open_fds")));
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert!((0.0..60.0).contains(&value("process_cpu_seconds_total")));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((0.0..300.0).contains(&(now - value("process_start_time_seconds"))));
}

/// What Prometheus itself asks for, and what other programs do.
#[tokio::test]
async fn format_of_the_page_is_that_which_is_asked_for() {
    let redis = RedisServer::start();
    let mut command = command();
    command.env("API_KEY", "a key for backends").env("PORT", "0").env("REDIS_URL", redis.url());
    let server = Chat::start(&mut command);
    server.until_ready().await;
    let page = async |accept: &str| {
        let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        server.raw(&format!("{head}{accept}\r\n")).await
    };
    let prometheus = "Accept: application/openmetrics-text;version=1.0.0,\
        application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let (_, head, open) = page(prometheus).await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(
        open.ends_with("# EOF\n") && open.contains("# TYPE chat_published counter\n"),
        "{open}"
    );
    for accept in ["", "Accept: text/plain\r\n"] {
        let (_, head, plain) = page(accept).await;
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(plain.contains("# TYPE chat_published_total counter\n"), "{plain}");
        assert_eq!(complaints(&plain), "", "of promtool");
    }
}

/// What `promtool check metrics` says of a page.
fn complaints(page: &str) -> String {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    promtool.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool, of Debian's package prometheus");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn metrics_may_have_an_address_of_their_own() {
    let redis = RedisServer::start();
    let mut command = command();
    command.env("REDIS_URL", redis.url()).args(["--port", "0", "--metrics-addr", "127.0.0.1:0"]);
    let server = Chat::start(&mut command);
    server.until_ready().await;
    assert_eq!(server.http("GET", "/metrics").await.0, 404);
    assert_eq!(server.http("GET", "/healthz").await.0, 200);
    let port = server.metrics_port();
    let ask = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        exchange(port, &request).await
    };
    assert_eq!(ask("/readyz").await.0, 200);
    let (status, _, page) = ask("/metrics").await;
    assert_eq!(status, 200);
    assert!(page.contains("chat_ready 1"), "{page}");
    assert_eq!(ask("/ws").await.0, 404, "clients go elsewhere");
}

/// So that an alarm tells a server that shuts down from one that is not well.
#[tokio::test]
async fn server_that_shuts_down_is_draining() {
    let server = Chat::start(command().args(["--port", "0", "--drain-timeout", "20s"]));
    // It does not answer the close frame, and so it stays.
    let mut staying = server.native().await;
    assert_eq!(server.metric("chat_draining").await, 0);
    server.signal("TERM");
    next_of(&mut staying, "goodbye").await;
    assert_eq!(server.metric("chat_draining").await, 1);
}

/// Of tokens the key that ends next, and the last if each has an end; of backends each by its name.
#[tokio::test]
async fn ends_of_keys_follow_reloads() {
    let file = std::env::temp_dir().join(format!("chat-key-ends-{}.toml", std::process::id()));
    let token_key =
        |number: u32, until: &str| format!("[[jwt_keys]]\nsecret = \"{number:032}\"\n{until}\n");
    let api_key = |name: &str, until: &str| {
        let hash = format!("sha256:{:064}", name.len());
        format!(
            "[[api_keys]]\nname = \"{name}\"\nhash = \"{hash}\"\nscopes = [\"send\"]\n{until}\n"
        )
    };
    let (past, next) = ("until = \"2020-01-01\"", "until = \"2100-01-01\"");
    let last = "until = \"2200-01-01\"";
    let tables = [
        token_key(1, past),
        token_key(2, last),
        token_key(3, next),
        api_key("shop", next),
        api_key("endless", ""),
    ];
    std::fs::write(&file, tables.concat()).unwrap();
    let server = Chat::start(command().args(["--port", "0", "--config"]).arg(&file));
    let ends = async || {
        let (_, _, page) = server.http("GET", "/metrics").await;
        let counted = counted(&page, "chat_key_end_timestamp_seconds{");
        counted.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let end = |kind: &str, key: &str, at: &str| {
        format!("chat_key_end_timestamp_seconds{{kind=\"{kind}\",key=\"{key}\"}} {at}.0")
    };
    let (at_next, at_last) = ("4102444800", "7258118400");
    let of_shop = end("api", "shop", at_next);
    let expected =
        [end("tokens", "next", at_next), end("tokens", "last", at_last), of_shop.clone()];
    assert_eq!(ends().await, expected);

    let tables = [token_key(1, past), token_key(2, ""), api_key("shop", next)];
    std::fs::write(&file, tables.concat()).unwrap();
    server.signal("HUP");
    server.until_logged("settings reloaded");
    assert_eq!(ends().await, [of_shop]);

    std::fs::write(&file, token_key(1, past)).unwrap();
    server.signal("HUP");
    server.until_logged_times("settings reloaded", 2);
    assert_eq!(ends().await, [end("tokens", "last", "1577836800")]);
    std::fs::remove_file(&file).unwrap();
}
