//! What `send` says while it waits, and when a signal ends it.

use std::future::pending;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr};
use std::time::Duration;

use async_trait::async_trait;
use chat_core::RoomId;
use chat_server::{Draft, HookError, Hooks, JoinAttempt, Server, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::end;
use crate::support::{DEADLINE, command, run};

/// No server listens there.
const NO_SERVER: &str = "ws://127.0.0.1:1/ws";

/// A running `send --json` that tries for a minute.
struct Send {
    child: Child,
    /// Of stderr.
    lines: Lines<BufReader<ChildStderr>>,
}

impl Send {
    fn start(url: &str) -> Self {
        let arguments = ["send", "general", "hello", "--json", "--timeout", "1m", "--url", url];
        let mut child = command().args(arguments).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for a line on stderr that begins so.
    fn until(&mut self, start: &str) {
        let found = self.lines.any(|line| line.unwrap().starts_with(start));
        assert!(found, "no line {start:?}");
    }

    /// Sends a signal, and waits for the end: the exit code, stdout, and the rest of stderr.
    fn end(mut self, signal: &str) -> (i32, String, Vec<String>) {
        let (code, out) = end(&mut self.child, signal);
        (code, out, self.lines.map_while(Result::ok).collect())
    }
}

/// Tells the test about each message, and never decides on it, nor on joins of the room "closed".
#[derive(Debug)]
struct Undecided(mpsc::UnboundedSender<()>);

#[async_trait]
impl Hooks for Undecided {
    async fn before_join(&self, join: &JoinAttempt<'_>) -> Result<(), HookError> {
        match join.room.as_str() {
            "closed" => pending().await,
            _ => Ok(()),
        }
    }

    async fn before_send(&self, _: &RoomId, _: &mut Draft) -> Result<(), HookError> {
        self.0.send(()).unwrap();
        pending().await
    }
}

/// The address of a server in this process, and what it received.
async fn serve_undecided() -> (String, mpsc::UnboundedReceiver<()>) {
    let (received, messages) = mpsc::unbounded_channel();
    let config = ServerConfig::default().hook_timeout(Duration::from_secs(3600));
    let server = Server::builder().config(config).hooks(Undecided(received)).start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    // Until the end of the test's runtime.
    tokio::spawn(async move { server.serve(vec![listener], pending()).await });
    (url, messages)
}

#[test]
fn interrupted_send_without_a_connection_says_that_nothing_was_sent() {
    let mut send = Send::start(NO_SERVER);
    send.until("chat-server: no connection: cannot connect to 127.0.0.1, port 1");
    let (code, out, lines) = send.end("INT");
    assert_eq!((code, &*out), (130, ""));
    assert_eq!(lines, ["chat-server: interrupted by SIGINT: not sent"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn interrupted_send_says_that_the_outcome_is_unknown() {
    let (url, mut messages) = serve_undecided().await;
    let mut send = Send::start(&url);
    timeout(DEADLINE, messages.recv()).await.expect("a message").unwrap();
    send.until("chat-server: the server has not confirmed the message yet");
    let (code, out, lines) = send.end("TERM");
    assert_eq!((code, &*out), (143, ""));
    let outcome = "it is unknown whether the message was sent";
    assert_eq!(lines, [format!("chat-server: interrupted by SIGTERM: {outcome}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn late_send_says_whether_a_server_had_the_message() {
    let (url, _messages) = serve_undecided().await;
    for (room, time, outcome) in [
        ("closed", "1s", "not sent"),
        ("general", "4s", "it is unknown whether the message was sent"),
    ] {
        let arguments = ["send", room, "hello", "--timeout", time, "--url", &url];
        let (code, _, error) = run(command().args(arguments));
        let late = format!("chat-server: {url}: {outcome}: no answer in time\n");
        assert!(code == 1 && error.ends_with(&late), "{error}");
    }
}

#[test]
fn send_says_once_why_there_is_no_connection() {
    let arguments = ["send", "general", "hello", "--timeout", "3500ms", "--url", NO_SERVER];
    let (code, _, error) = run(command().args(arguments));
    assert_eq!(code, 1);
    assert_eq!(
        error.matches("no connection: cannot connect to 127.0.0.1, port 1").count(),
        1,
        "{error}"
    );
    let last = error.lines().last().unwrap();
    assert!(last.contains("not sent: cannot connect to 127.0.0.1, port 1"), "{error}");
}
