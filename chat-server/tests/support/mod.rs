//! Processes of the program, Redis between them, and what tests do with both.

pub(crate) mod control_clients;
pub(crate) mod crowd;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod sockets;
pub(crate) mod verdict;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chat_broker::testing::{RedisServer, free_port};
use chat_transport::testing::WsClient;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::MutexGuard;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A running `chat-server`, killed when it is dropped.
pub(crate) struct Chat {
    child: Child,
    port: u16,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grew: Condvar,
}

impl Log {
    /// Also for a test that failed while it looked.
    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rates for tests that fill outboxes and queues: what a server of today's machines can bear.
pub(crate) const FAST: [&str; 9] = [
    "--rate=50000",
    "--rate-per-user=50000",
    "--byte-rate=500M",
    "--byte-rate-per-user=500M",
    "--kept-rate=500M",
    "--kept-rate-per-user=500M",
    "--answer-rate=500M",
    "--answer-rate-per-user=500M",
    "--join-rate=50000",
];

/// The program with a clean environment, on `TEST_SERVER_THREADS` threads: 2 by default.
pub(crate) fn command() -> Command {
    let threads = std::env::var("TEST_SERVER_THREADS").ok();
    command_on(threads.map_or(2, |threads| threads.parse().expect("a number of threads")))
}

/// The program with a clean environment, on so many threads.
pub(crate) fn command_on(threads: usize) -> Command {
    command_of(env!("CARGO_BIN_EXE_chat-server"), threads)
}

/// Another build of the program.
pub(crate) fn command_of(program: impl AsRef<OsStr>, threads: usize) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("CHAT_THREADS", threads.to_string());
    command
}

impl Chat {
    /// Alone, on a free port.
    pub(crate) fn alone() -> Self {
        Self::start(command().args(["--port", "0"]))
    }

    /// One of many, on a free port.
    pub(crate) fn on(redis: &RedisServer) -> Self {
        Self::start(command().env("PORT", "0").env("REDIS_URL", redis.url()))
    }

    /// So many with further arguments, ready to serve: on one thread, on two, on three, and so on,
    /// which must make no difference.
    pub(crate) async fn several<const N: usize>(redis: &RedisServer, args: &[&str]) -> [Self; N] {
        let start = |n| {
            let mut command = command_on(n % 3 + 1);
            let (port, redis) = (free_port().to_string(), redis.url());
            Self::start(command.args(["--port", &port, "--redis-url", &redis]).args(args))
        };
        let servers = std::array::from_fn(start);
        for server in &servers {
            server.until_ready().await;
        }
        servers
    }

    /// Two of many, ready to serve.
    pub(crate) async fn pair(redis: &RedisServer) -> (Self, Self) {
        Self::several::<2>(redis, &[]).await.into()
    }

    /// Without waiting for the line of the log that says that it listens.
    pub(crate) fn start_on(command: &mut Command, port: u16) -> Self {
        let mut child = command.spawn().expect("chat-server starts");
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().expect("stdout is piped");
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                writer.lines().push(line);
                writer.grew.notify_all();
            }
        });
        Self { child, port, log }
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        let mut chat = Self::start_on(command, 0);
        chat.port = chat.port_after("listening on http://127.0.0.1:");
        chat
    }

    /// The port of `--metrics-addr 127.0.0.1:0`.
    pub(crate) fn metrics_port(&self) -> u16 {
        self.port_after("metrics on http://127.0.0.1:")
    }

    /// The port in the first line of the log that holds `address`.
    fn port_after(&self, address: &str) -> u16 {
        let line = self.until_logged(address);
        let port = line.split(address).nth(1).unwrap();
        let port = port.split(|next: char| !next.is_ascii_digit()).next().unwrap();
        port.parse().expect("a port")
    }

    /// The address of a path, for a WebSocket.
    pub(crate) fn ws(&self, path: &str) -> String {
        format!("ws://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The id of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client without a subprotocol, at `/`.
    pub(crate) async fn client(&self) -> WsClient {
        WsClient::connect(&self.ws("/")).await
    }

    /// A client of the native protocol.
    pub(crate) async fn native(&self) -> WsClient {
        let protocol = [("Sec-WebSocket-Protocol", "chat.v1")];
        let client = WsClient::connect_with(&self.ws("/ws"), &protocol).await;
        assert_eq!(client.protocol(), Some("chat.v1"));
        client
    }

    /// Waits for a line that ends in, or holds, `text`, and returns it.
    pub(crate) fn until_logged(&self, text: &str) -> String {
        self.until_logged_times(text, 1)
    }

    /// Waits for the `times`th line that holds `text`, and returns it.
    pub(crate) fn until_logged_times(&self, text: &str, times: usize) -> String {
        let mut lines = self.log.lines();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut found = lines.iter().filter(|line| line.contains(text));
            if let Some(line) = found.nth(times - 1) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {text:?} in the log:\n{}", lines.join("\n"));
            lines = self.log.grew.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// The message texts of the log so far.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// The lines of the log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lines().clone()
    }

    pub(crate) async fn until_ready(&self) {
        self.until_status("/readyz", 200).await;
    }

    /// Asks until the answer has this status.
    pub(crate) async fn until_status(&self, path: &str, status: u16) {
        let deadline = Instant::now() + DEADLINE;
        while self.http("GET", path).await.0 != status {
            assert!(Instant::now() < deadline, "{path} never answered {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A request without a body: status, head and body of the answer.
    pub(crate) async fn http(&self, method: &str, path: &str) -> (u16, String, String) {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\n", self.port);
        self.raw(&format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n")).await
    }

    pub(crate) async fn raw(&self, request: &str) -> (u16, String, String) {
        exchange(self.port, request).await
    }

    /// A number of `/metrics`; 0 if it has a label that nothing was counted under yet.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, _, page) = self.http("GET", "/metrics").await;
        match value_of(&page, name) {
            None if name.contains('{') => 0,
            value => value.unwrap_or_else(|| {
                panic!(
                    "no {name} in
{page}"
                )
            }),
        }
    }

    /// Waits until that is as it should be.
    pub(crate) async fn until_metric(&self, name: &str, is_so: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.metric(name).await;
            if is_so(found) {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process.
    pub(crate) fn exit(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the server on port {}:", self.port);
            eprintln!("{}", self.log.lines().join("\n"));
        }
    }
}

/// The next frame of this type.
pub(crate) async fn next_of(client: &mut WsClient, kind: &str) -> Value {
    loop {
        let frame = client.recv_json().await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

/// Sends a frame, and gives the next one of this type.
pub(crate) async fn ask(client: &mut WsClient, answer: &str, frame: Value) -> Value {
    client.send_json(&frame).await;
    next_of(client, answer).await
}

/// Joins a room, and hears of it.
pub(crate) async fn join(client: &mut WsClient, room: &str) -> Value {
    let joined = ask(client, "joined", json!({"type": "join", "room": room})).await;
    assert_eq!(next_of(client, "presence").await["event"], "joined", "its own coming");
    joined
}

/// The lines of a page of metrics that begin with this, and whose values are not 0.
pub(crate) fn counted<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    page.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0")).collect()
}

/// What a page of metrics says of one.
pub(crate) fn value_of<N: FromStr>(page: &str, name: &str) -> Option<N> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Sends a request to a port of this machine: status, head and body of the answer.
pub(crate) async fn exchange(port: u16, request: &str) -> (u16, String, String) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, exchange).await.expect("an answer");
    let status = answer.split(' ').nth(1).expect("a status").parse().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Runs the program to its end: exit code, stdout and stderr.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let mut child = command.spawn().expect("chat-server starts");
    let status = wait(&mut child);
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (status.code().expect("an exit code"), out, err)
}

/// Prints a line that is shown also when the test succeeds.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Tests that fill the machine with clients run one after another: what each measures is then its
/// own, and no deadline passes because two crowds share two cores.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ONE_AT_A_TIME.lock().await
}

/// Whether tests judge how long something took: with `ASSERT_TIMES=1`, as `.ci/run --long` sets it.
/// On a machine that has other work, any server is slow.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("ASSERT_TIMES").is_some_and(|value| value != "0")
}

/// Asserts that something took less than `most`, if [`asserts_times`].
pub(crate) fn assert_within(what: &str, took: Duration, most: Duration) {
    assert!(!asserts_times() || took < most, "{what} took {took:?}, more than {most:?}");
}

/// Waits until the condition holds, for as long as a busy machine may take.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + 3 * DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("chat-server did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
