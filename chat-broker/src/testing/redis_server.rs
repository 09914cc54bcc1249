//! A private `redis-server` for one test, or another server of its protocol.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use tokio::time::timeout;

use super::ports::free_port;
use super::resp;

/// How long a server may take to answer after its start.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// How long a server may take to end after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long a command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// How many ports are tried before giving up: another process may take one between its
/// choice and the server's bind.
const PORT_ATTEMPTS: u32 = 10;

/// The environment variable that names the program to run instead of `redis-server`.
const PROGRAM: &str = "CHAT_TEST_REDIS_SERVER";

const INSTALL_HINT: &str =
    "install it with `apt-get install redis-server` (Debian, Ubuntu) or `brew install redis`";

/// A `redis-server` process on a free port of 127.0.0.1 with a directory of its own.
/// Dropping it kills the process and deletes the directory.
///
/// The environment variable `CHAT_TEST_REDIS_SERVER` names another program that takes the arguments
/// of `redis-server`, such as `valkey-server`.
///
/// It stores nothing on disk, so a restart begins empty; pass `--appendonly yes` to keep the data.
///
/// ```no_run
/// use chat_broker::testing::RedisServer;
///
/// let mut server = RedisServer::start();
/// println!("redis at {}", server.url());
/// server.kill();
/// server.restart();
/// ```
///
/// Everything but [`command`](Self::command) blocks the calling thread for some
/// milliseconds.
///
/// # Panics
/// Every method panics when the process cannot be started, signalled or reached: this is
/// a tool for tests.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts a server.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments: `["--requirepass", "secret"]`.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        let directory = new_directory();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            if let Some(child) = spawn(port, &directory, &arguments) {
                return Self { child, port, directory, arguments };
            }
        }
        panic!("redis-server did not start, see {}", log_file(&directory).display());
    }

    /// Whether the program was built with TLS.
    #[must_use]
    pub fn has_tls() -> bool {
        // Without a certificate it ends at once, and says for which of the two reasons.
        let output = command().args(["--port", "0", "--tls-port", "1"]).output();
        let output = output.unwrap_or_else(|error| no_program(&error));
        String::from_utf8_lossy(&output.stdout).contains("tls-cert-file")
    }

    /// `redis://127.0.0.1:<port>`
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port of plain connections.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The working directory of the server.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Ends the process at once (SIGKILL). Does nothing if it has ended.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("wait for redis-server");
    }

    /// Lets the process end by itself (SIGTERM), and waits for that. Does nothing if it
    /// has ended.
    pub fn stop(&mut self) {
        if !self.is_running() {
            return;
        }
        self.signal("TERM");
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "redis-server ignores SIGTERM");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the process if it runs, and starts it again on the same port and directory.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.port, &self.directory, &self.arguments)
            .expect("redis-server did not start again on its port");
    }

    /// Freezes the process (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
        // The signal takes effect a moment later. Until then the process may answer.
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.is_executing() {
            assert!(Instant::now() < deadline, "redis-server ignores SIGSTOP");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a frozen process go on (SIGCONT).
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Sends one command and returns the reply as text: `server.command(&["CLIENT", "KILL",
    /// "TYPE", "pubsub"])`. An error begins with its code; of an array each element is a
    /// line, and nothing is an empty line.
    ///
    /// # Cancel safety
    /// A call that is dropped may have sent the command.
    pub async fn command(&self, arguments: &[&str]) -> String {
        let command = resp::command(self.port, arguments);
        let reply = timeout(COMMAND_DEADLINE, command).await.expect("redis-server does not answer");
        reply.unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for redis-server").is_none()
    }

    /// Whether the process is not stopped, where `/proc` has its state: the letter after its name, which is in
    /// parentheses.
    fn is_executing(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('T'))
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .expect("run `kill`");
        assert!(status.success(), "kill -{name}: {status}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn command() -> Command {
    Command::new(env::var_os(PROGRAM).unwrap_or_else(|| "redis-server".into()))
}

fn no_program(error: &io::Error) -> ! {
    panic!("{}: {error}: {INSTALL_HINT}", command().get_program().display());
}

/// Starts a server and waits until it answers; `None` if it ended first, as it does when
/// the port was taken.
fn spawn(port: u16, directory: &Path, arguments: &[String]) -> Option<Child> {
    let mut child = command()
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .arg("--dir")
        .arg(directory)
        .arg("--logfile")
        .arg(log_file(directory))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| no_program(&error));
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if child.try_wait().expect("wait for redis-server").is_some() {
            return None;
        }
        if answers(port, child.id()) {
            return Some(child);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("redis-server does not answer, see {}", log_file(directory).display());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether it is process `id` that answers on `port`, and has loaded its data. Asks in the
/// inline form of RESP; a server that wants a password counts as answering.
fn answers(port: u16, id: u32) -> bool {
    let ask = || -> io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"INFO server\r\nPING\r\nQUIT\r\n")?;
        let mut reply = String::new();
        match stream.read_to_string(&mut reply) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
            _ => Ok(reply),
        }
    };
    ask().is_ok_and(|reply| {
        let ready = reply.contains("+PONG") && reply.contains(&format!("process_id:{id}\r\n"));
        ready || reply.starts_with("-NOAUTH")
    })
}

fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = env::temp_dir().join(format!("chat-redis-{}-{number}", process::id()));
    fs::create_dir_all(&directory).expect("a directory for redis-server");
    directory
}

fn log_file(directory: &Path) -> PathBuf {
    directory.join("redis.log")
}
