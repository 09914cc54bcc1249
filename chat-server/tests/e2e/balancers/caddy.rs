//! Caddy.

use std::fs;
use std::path::Path;
use std::process::Command;

use chat_transport::client::{Event, State};
use serde_json::Value;
use tokio::time::timeout;

use super::instance::{Place, Program, command, file};
use super::websockets::{self, Crowd};
use super::{Site, native};
use crate::support::{Chat, DEADLINE, eventually};

pub(super) static CADDY: Program = Program {
    name: "Caddy",
    package: "caddy",
    documented: include_str!("../../../../docs/caddy/Caddyfile"),
    replacements,
    run: |directory| caddy(directory, "run"),
    is_up,
    reload: |directory, _| caddy(directory, "reload --force"),
    third_server,
    is_error,
    websockets_alone: ("\n\treverse_proxy {", "\n\treverse_proxy /ws {"),
    // Caddy ends no WebSocket for its silence.
    timeouts: &[],
};

/// Other names than those of the file are not redirected from port 80.
const NO_PORT_80: &str = "auto_https disable_redirects";

fn replacements(place: &Place) -> Vec<(&'static str, String)> {
    let at = place.directory.display();
    vec![
        ("admin localhost:2019", format!("admin unix/{at}/admin.sock\n\t{NO_PORT_80}")),
        ("http://chat.example", format!("http://:{}", place.plain)),
        ("https://chat.example", format!("https://:{}", place.tls)),
        ("/etc/ssl/chat/", format!("{at}/")),
        ("/var/log/caddy/", format!("{at}/")),
        ("127.0.0.1:8080", format!("127.0.0.1:{}", place.servers[0])),
        ("127.0.0.1:8081", format!("127.0.0.1:{}", place.servers[1])),
    ]
}

fn third_server(place: &Place, port: u16) -> Vec<(String, String)> {
    let second = format!(" 127.0.0.1:{}\n", place.servers[1]);
    let third = second.replace('\n', &format!(" 127.0.0.1:{port}\n"));
    vec![(second, third)]
}

fn caddy(directory: &Path, arguments: &str) -> Command {
    let mut command = command("caddy");
    command.args(arguments.split(' ')).args(["--adapter", "caddyfile", "--config"]);
    // It keeps its state in a home.
    command.arg(file(directory)).env("HOME", directory);
    command
}

fn is_up(directory: &Path, _: u32) -> bool {
    fs::read_to_string(directory.join("stderr.log"))
        .unwrap()
        .contains("serving initial configuration")
}

fn is_error(line: &str) -> bool {
    let line: Value = serde_json::from_str(line).unwrap();
    line["status"].as_u64().unwrap() >= 500
}

/// Caddy 2.6 closes all WebSockets, and refuses no attempt to connect. Its close frame to the server has no
/// mask: with 1002 as the answer some clients would not reconnect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_refuses_no_client() {
    let site = Site::start(&CADDY).await;
    let mut before = Crowd::connect(site.balancer.port());
    before.online("").await;
    site.balancer.reload();
    for (client, events) in &mut before.0 {
        let mut was_closed = false;
        loop {
            match timeout(DEADLINE, events.recv()).await.expect("the connection ends") {
                Some(Event::State(State::Waiting { .. })) => was_closed = true,
                Some(Event::State(State::Online)) if was_closed => break,
                Some(_) => {}
                None => panic!("the client has ended: {:?}", client.state()),
            }
        }
    }
    assert_eq!(site.balancer.errors_answered(), Vec::<String>::new());
}

/// As clients do that leave by themselves: `ChatConnectionsFell` takes these for such clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_closes_with_1001() {
    let site = Site::start(&CADDY).await;
    let (client, _) = native(site.balancer.port()).await;
    let Site { balancer, first, second, redis: _redis } = site;
    // By SIGTERM.
    drop(balancer);
    eventually("the end of the connection, with 1001", async || {
        let of = async |server: &Chat| server.metric("chat_closed_total{code=\"1001\"}").await;
        of(&first).await + of(&second).await == 1
    })
    .await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_server_is_passed_over() {
    websockets::frozen_server_is_passed_over(&CADDY).await;
}
