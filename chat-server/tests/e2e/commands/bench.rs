use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use chat_broker::testing::RedisServer;
use serde_json::Value;

use super::end;
use crate::support::{Chat, command, run};

fn assert_clean(report: &Value) {
    for count in ["not_arrived", "doubled", "reordered", "failed", "disconnects", "gaps"] {
        assert_eq!(report[count], 0, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bench_counts_every_delivery() {
    let redis = RedisServer::start();
    let server = Chat::on(&redis);
    server.until_ready().await;
    let port = server.port().to_string();
    // Rooms of 6, 6, 5 and 5 members.
    let load = ["--clients", "22", "--rooms", "4", "--rate", "40", "--for", "2s", "--json"];
    let (code, out, error) = run(command().args(["--port", &port, "bench"]).args(load));
    assert_eq!((code, &*error), (0, ""), "without a terminal there is no line of progress");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_clean(&report);
    assert_eq!((&report["sent"], &report["delivered"]), (&80.into(), &(20 * 22).into()));
    let latency = |share: &str| report["latency_ms"][share].as_f64().unwrap();
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p99"), "{report}");
    assert!(latency("p99") <= latency("p999") && latency("p999") <= latency("max"), "{report}");
    assert_eq!(server.metric("chat_published_total").await, 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn interrupted_bench_prints_its_figures() {
    let server = Chat::alone();
    let arguments = ["--clients", "4", "--rooms", "2", "--for", "1h", "--json"];
    let port = server.port().to_string();
    let mut bench = command().args(["--port", &port, "bench"]).args(arguments).spawn().unwrap();
    server.until_metric("chat_published_total", |count| count >= 20).await;
    let (code, out) = end(&mut bench, "INT");
    assert_eq!(code, 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_clean(&report);
    let sent = report["sent"].as_u64().unwrap();
    assert!(sent >= 20 && report["delivered"] == 2 * sent, "{report}");
}

/// A `bench` on a pseudo-terminal, with the keys and the screen of it.
struct OnTerminal(Child);

impl OnTerminal {
    fn start(arguments: &str) -> Self {
        let bench = format!("exec '{}' {arguments}", env!("CARGO_BIN_EXE_chat-server"));
        let mut script = Command::new("script");
        script.env_clear().args(["--quiet", "--return", "--command", &bench, "/dev/null"]);
        Self(script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until this is on the screen once more.
    fn until(&mut self, text: &str) {
        let (mut shown, mut next) = (String::new(), [0; 1024]);
        while !shown.contains(text) {
            let size = self.0.stdout.as_mut().unwrap().read(&mut next).unwrap();
            assert!(size > 0, "no {text:?} in {shown:?}");
            shown += &String::from_utf8_lossy(&next[..size]);
        }
    }

    fn press_ctrl_c(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    }

    /// Waits for the end: the exit code, and what was shown meanwhile.
    fn end(mut self) -> (Option<i32>, String) {
        let mut shown = String::new();
        self.0.stdout.as_mut().unwrap().read_to_string(&mut shown).unwrap();
        (self.0.wait().unwrap().code(), shown)
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn bench_shows_its_progress_on_a_terminal() {
    let server = Chat::alone();
    server.signal("STOP");
    let port = server.port();
    let mut bench =
        OnTerminal::start(&format!("--port {port} bench --clients 4 --rooms 2 --rate 20 --for 1m"));
    bench.until("joining: 0 of 4 clients");
    server.signal("CONT");
    bench.until(" sent, ");
    server.signal("STOP");
    // Between the two, messages are sent that the server does not answer.
    bench.until(" sent, ");
    bench.until(" sent, ");
    bench.press_ctrl_c();
    bench.until("waiting for ");
    server.signal("CONT");
    let (code, shown) = bench.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("\r\x1b[Kclients    4 in 2 rooms"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bench_counts_refused_messages_as_failed() {
    let server = Chat::start(command().args(["--port", "0", "--max-message-bytes", "100"]));
    let port = server.port().to_string();
    let load = ["--clients", "2", "--rooms", "1", "--rate", "10", "--for", "1s", "--json"];
    let (code, out, _) = run(command().args(["--port", &port, "bench"]).args(load));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["not_arrived"]), (1, &0.into()), "{report}");
    assert_eq!(report["failed"], 10);
    let refusal = "a message has at most 100 bytes, and so has its data";
    assert_eq!(report["failures"][refusal], 10, "{report}");
}

#[test]
fn bench_bounds_its_memory() {
    for (load, error) in [
        (["--rooms", "3", "--clients", "2"], "'2' for --clients: at least as many as --rooms, 3"),
        (["--rooms", "1", "--clients", "65535"], "'65535' for --clients: a room has so many"),
        (["--rate", "1000000", "--for", "1h"], "'1000000' for --rate: together with --for at most"),
    ] {
        let (code, _, message) = run(command().arg("bench").args(load));
        assert!(code == 2 && message.contains(error), "{message}");
    }
}

#[test]
fn bench_loads_other_machines_only_if_it_is_told_to() {
    let (code, _, error) = run(command().args(["bench", "--url", "ws://192.0.2.1/ws"]));
    assert!(code == 2 && error.contains("for --url: it is another machine"), "{error}");
    let (code, _, error) = run(command().args(["bench", "--url", "ws://127.0.0.1:1/ws"]));
    assert!(code == 1 && error.contains("\"operator-0\" cannot join: cannot connect"), "{error}");
    let remote = ["bench", "--remote", "--url", "http://127.0.0.1/"];
    let (code, _, error) = run(command().args(remote));
    assert!(code == 2 && error.contains("'http://127.0.0.1/' for --url"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bench_says_why_the_server_refuses_a_client() {
    let server = Chat::start(command().args(["--port", "0", "--max-connections-per-address", "3"]));
    let port = server.port().to_string();
    let load = ["--clients", "4", "--rooms", "1", "--rate", "1", "--for", "1s"];
    let (code, _, error) = run(command().args(["--port", &port, "bench"]).args(load));
    assert_eq!(code, 1);
    assert!(error.contains("of 4 clients joined: ") && !error.contains("4 of 4"), "{error}");
    // Behind its limit the server answers at once, or while it reads the request: with 503, or 429.
    assert!(error.contains(": over_capacity: ") && error.contains("--limits off"), "{error}");
}
