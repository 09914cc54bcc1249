//! The page that Prometheus reads.

use std::collections::BTreeSet;

use chat_broker::testing::RedisServer;
use chat_transport::testing::{WsClient, raw_frame, raw_handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Chat, DEADLINE, command, exchange, next_of};

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
    // One of each of those that appear when they are counted.
    say(&mut ann, "?", "error").await;
    assert_eq!(server.http("POST", "/api/users/bob/unban").await.0, 401);
    let bans = "GET /api/bans HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: a key for backends\r\nConnection: close";
    assert_eq!(server.raw(&format!("{bans}\r\n\r\n")).await.0, 200);
    assert_eq!(server.http("GET", "/ws").await.0, 426);
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
    let name = |line: &str| {
        let (name, kind) = line.split_once(' ').unwrap();
        format!("{name}{}", if kind == "counter" { "_total" } else { "" })
    };
    types.map(name).collect()
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
    assert_eq!(page.matches("chat_closed_total{").count(), 1, "{page}");
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
