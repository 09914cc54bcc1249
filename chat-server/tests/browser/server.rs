//! The real program, for a browser to visit.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use chat_broker::testing::{RedisServer, free_port};

/// A running `chat-server`, killed when it is dropped.
pub(crate) struct Server {
    process: Child,
    port: u16,
    /// The port of `--metrics-addr`, if the arguments have one.
    operators: Option<u16>,
    arguments: Vec<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_on(redis: &RedisServer) -> Self {
        Self::start_with(&["--redis-url", &redis.url()])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let (process, port, operators) = spawn(free_port(), &arguments);
        Self { process, port, operators, arguments }
    }

    /// Ends the process without a word.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, on the same port.
    pub(crate) fn restart(&mut self) {
        (self.process, _, self.operators) = spawn(self.port, &self.arguments);
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address of a path, for a browser.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }

    /// The port of `--metrics-addr`.
    pub(crate) fn operators(&self) -> u16 {
        self.operators.expect("--metrics-addr")
    }

    /// The address of a path on `--metrics-addr`, for a browser.
    pub(crate) fn operators_url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.operators())
    }

    /// Sends a request with these header lines. Returns the status, the head in lower
    /// case, and the body.
    pub(crate) fn request(&self, line: &str, headers: &[&str]) -> (u16, String, String) {
        self.send(line, headers, "")
    }

    fn send(&self, line: &str, headers: &[&str], body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(stream, "{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    /// Posts a JSON body to the API, with its key.
    pub(crate) fn post(&self, path: &str, key: &str, body: &str) {
        let (key, length) =
            (format!("X-Api-Key: {key}"), format!("Content-Length: {}", body.len()));
        let headers = [&*key, "Host: localhost", "Content-Type: application/json", &*length];
        let (status, _, answer) = self.send(&format!("POST {path}"), &headers, body);
        assert_eq!(status, 200, "{answer}");
    }

    /// Waits until it has refused something with this code.
    pub(crate) fn until_refused(&self, code: &str) {
        self.until_metric(&format!("chat_rejected_total{{code=\"{code}\"}} "), |count| count > 0);
    }

    /// Waits until a metric is as it should be; `name` is all of its line before the value.
    pub(crate) fn until_metric(&self, name: &str, is_due: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (_, _, body) = self.request("GET /metrics", &["Host: localhost"]);
            let value = body.lines().find_map(|line| line.strip_prefix(name));
            let value = value.and_then(|value| value.trim().parse().ok());
            if value.is_some_and(&is_due) {
                return;
            }
            assert!(Instant::now() < deadline, "{name}: {value:?}");
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts the program and waits until it listens.
fn spawn(port: u16, arguments: &[String]) -> (Child, u16, Option<u16>) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_chat-server"))
        .env_clear()
        .args(["--port", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut operators = None;
    let port = loop {
        let line = log.next().expect("the program listens").unwrap();
        operators = operators.or_else(|| port_in(&line, "metrics on http://127.0.0.1:"));
        if let Some(port) = port_in(&line, "listening on http://127.0.0.1:") {
            break port;
        }
    };
    // Someone must read on, or the program would block.
    std::thread::spawn(move || log.for_each(drop));
    (process, port, operators)
}

/// The number that follows on `text` in a line of the log.
fn port_in(line: &str, text: &str) -> Option<u16> {
    let (_, rest) = line.split_once(text)?;
    rest.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok()
}
