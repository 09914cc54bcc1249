//! HAProxy.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chat_broker::testing::RedisServer;

use super::instance::{Balancer, Place, Program, command, file, on_ipv6, replaced};
use super::websockets::Crowd;
use super::{Site, native, next, request, websockets};
use crate::support::{Chat, assert_within, say};

pub(super) static HAPROXY: Program = Program {
    name: "HAProxy",
    package: "haproxy",
    documented: include_str!("../../../../docs/haproxy/haproxy.cfg"),
    replacements,
    run,
    is_up,
    reload,
    third_server,
    is_error: |line| line.contains("\" 5"),
    websockets_alone: ("default_backend chat", "use_backend chat if { path /ws }"),
    timeouts: &["timeout tunnel", "timeout client "],
};

fn replacements(place: &Place) -> Vec<(&'static str, String)> {
    let at = place.directory.display();
    vec![
        ("log /dev/log local0", "log stdout format raw local0".to_owned()),
        // Only root may change its root, or its user.
        ("    chroot /var/lib/haproxy\n    user haproxy\n    group haproxy\n", no_sharing()),
        // It does not start with fewer files than two for each.
        ("maxconn 16000", "maxconn 1000".to_owned()),
        ("/run/haproxy/", format!("{at}/")),
        ("/etc/ssl/chat/", format!("{at}/")),
        ("bind :80", format!("bind 127.0.0.1:{}", place.plain)),
        ("bind :443", format!("bind 127.0.0.1:{}", place.tls)),
        ("bind [::]:80 v6only", on_ipv6(format!("bind [::1]:{} v6only", place.plain))),
        ("bind [::]:443 v6only ssl", on_ipv6(format!("bind [::1]:{} v6only ssl", place.tls))),
        ("127.0.0.1:8080", format!("127.0.0.1:{}", place.servers[0])),
        ("127.0.0.1:8081", format!("127.0.0.1:{}", place.servers[1])),
    ]
}

fn third_server(place: &Place, port: u16) -> Vec<(String, String)> {
    let second = format!("    server second 127.0.0.1:{}\n", place.servers[1]);
    let third = format!("{second}    server third 127.0.0.1:{port}\n");
    vec![(second, third)]
}

/// How long a request waits for a server.
const TIMEOUT: &str = "timeout server 12s";

/// Without this two instances could listen on the same port.
fn no_sharing() -> String {
    "    noreuseport\n".to_owned()
}

/// As Debian's unit does, with a master, which a reload needs.
fn run(directory: &Path) -> Command {
    let mut command = command("haproxy");
    command.args(["-W", "-f"]).arg(file(directory));
    command
}

fn is_up(directory: &Path, _: u32) -> bool {
    fs::read_to_string(directory.join("stderr.log")).unwrap().contains("Loading success")
}

fn reload(_: &Path, master: u32) -> Command {
    let mut command = Command::new("kill");
    command.args(["-s", "USR2", &master.to_string()]);
    command
}

/// By the socket for administrators, as docs/haproxy.md says.
pub(super) fn tell(haproxy: &Balancer, command: &str) -> String {
    let mut socket = UnixStream::connect(haproxy.directory().join("admin.sock")).unwrap();
    socket.write_all(format!("{command}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_is_taken_out_and_no_client_is_refused() {
    let mut site = Site::start(&HAPROXY).await;
    let (on_first, on_second, second) = site.one_on_each().await;
    assert_eq!(tell(&site.balancer, "set server chat/first state drain").trim(), "");
    site.until_all_reach(&second).await;

    site.first_ends_in_order(on_first, on_second, &second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_disconnects_no_client() {
    websockets::reload_disconnects_no_client(&HAPROXY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_server_is_passed_over() {
    websockets::frozen_server_is_passed_over(&HAPROXY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_survive_a_frozen_server() {
    websockets::messages_survive_a_frozen_server(&HAPROXY).await;
}

/// The lines without a check are used, which include a server that is frozen: a client is answered
/// nevertheless. `timeout server` ends no WebSocket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_does_not_wait_for_a_frozen_server() {
    let [dead, frozen] = [Chat::alone(), Chat::alone()];
    let balancer = Balancer::start_with(&HAPROXY, [dead.port(), frozen.port()], |text| {
        replaced(text, TIMEOUT, "timeout server 1s")
    });
    let (mut client, _) = native(balancer.port()).await;
    let silence = tokio::time::timeout(Duration::from_secs(2), client.recv_json()).await;
    assert!(silence.is_err(), "a WebSocket that is silent stays: {silence:?}");
    client.send(r#"{"type":"ping"}"#).await;
    next(&mut client, "pong").await;

    dead.signal("KILL");
    frozen.signal("STOP");
    balancer.until_logged("Running on backup").await;
    for line in ["POST /create-room", "GET /ws"] {
        let begin = Instant::now();
        let (status, head, body) = request(balancer.port(), line, "").await;
        say(&format!("{line}: {status} after {:.1?}", begin.elapsed()));
        assert!([503, 504].contains(&status), "{head}{body}");
        assert!(head.to_ascii_lowercase().contains("retry-after: 1"), "{head}");
        assert!(body.contains(r#""code":"no_server""#), "{body}");
        assert_within("to be answered", begin.elapsed(), Duration::from_secs(6));
    }
    frozen.signal("CONT");
}

/// A request that a frozen server has not answered is sent to the other one, where no check says which that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_server_is_passed_over_while_redis_is_away() {
    let redis = RedisServer::start();
    let [first, second] = Chat::several(&redis, &[]).await;
    let balancer = Balancer::start_with(&HAPROXY, [first.port(), second.port()], |text| {
        replaced(text, TIMEOUT, "timeout server 1s")
    });
    let (_, second_node) = native(second.port()).await;
    redis.pause();
    first.signal("STOP");
    balancer.until_logged("Running on backup").await;
    for _ in 0..4 {
        let begin = Instant::now();
        let (_client, node) = native(balancer.port()).await;
        assert_eq!(node, second_node);
        assert_within("to be connected", begin.elapsed(), Duration::from_secs(6));
    }
    first.signal("CONT");
    redis.resume();
}

/// No server is ready, and HAProxy has seen it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_outage_excludes_no_client() {
    let site = Site::start(&HAPROXY).await;
    site.redis.pause();
    site.balancer.until_logged("Running on backup").await;
    Crowd::connect(site.balancer.port()).online("").await;
    assert_eq!(site.balancer.errors_answered(), Vec::<String>::new());
    site.redis.resume();
}
