//! A private balancer: a process of its own on free ports, with a directory and a certificate.

use std::fs::File;
use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use chat_broker::testing::free_port;

use crate::support::DEADLINE;

/// How often other ports are tried: another process may take one between its choice and the
/// balancer's bind.
const ATTEMPTS: u32 = 10;

/// A program that distributes clients over servers, and how it is run with the configuration that
/// the documentation shows.
pub(super) struct Program {
    pub(super) name: &'static str,
    /// The package of Debian.
    pub(super) package: &'static str,
    /// The text of the documentation.
    pub(super) documented: &'static str,
    /// What a private instance has instead of parts of that text.
    pub(super) replacements: fn(&Place) -> Vec<(&'static str, String)>,
    /// Runs it in the foreground.
    pub(super) run: fn(&Path) -> Command,
    /// Whether the process with this id accepts connections.
    pub(super) is_up: fn(&Path, u32) -> bool,
    /// Has the process with this id read its configuration again.
    pub(super) reload: fn(&Path, u32) -> Command,
    /// What adds a server on this port to the configuration of an instance.
    pub(super) third_server: fn(&Place, u16) -> Vec<(String, String)>,
    /// Whether a line of the access log is about a request that was answered with 5xx.
    pub(super) is_error: fn(&str) -> bool,
    /// The part of the text that passes everything on, and what passes on WebSockets alone.
    pub(super) websockets_alone: (&'static str, &'static str),
    /// The settings, before a number of seconds, after which silence ends a connection.
    pub(super) timeouts: &'static [&'static str],
}

/// Where an instance is, and the ports of its servers.
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) plain: u16,
    pub(super) tls: u16,
    pub(super) servers: [u16; 2],
    /// Of the balancer itself, each in front of one of the servers; the last of one that is added.
    pub(super) inner: [u16; 3],
}

/// A running instance. Dropping it ends the process and deletes the directory.
pub(super) struct Balancer {
    program: &'static Program,
    process: Child,
    place: Place,
}

impl Balancer {
    /// Starts one with the documented configuration, in front of servers on these ports.
    pub(super) fn start(program: &'static Program, servers: [u16; 2]) -> Self {
        Self::start_with(program, servers, str::to_owned)
    }

    /// As `start`, with a change to the configuration. A test that changes it later, by
    /// `reconfigure`, must not care which configuration answers: until a balancer has stopped its
    /// old workers, they accept connections beside the new ones.
    pub(super) fn start_with(
        program: &'static Program,
        servers: [u16; 2],
        change: impl Fn(&str) -> String,
    ) -> Self {
        let directory = new_directory();
        make_certificate(&directory);
        for _ in 0..ATTEMPTS {
            let [plain, tls, inner @ ..] = [(); 5].map(|()| free_port());
            let place = Place { directory: directory.clone(), plain, tls, servers, inner };
            fs::write(file(&directory), change(&configuration(program, &place))).unwrap();
            if let Some(process) = spawn(program, &directory) {
                return Self { program, process, place };
            }
        }
        panic!("{} did not start:\n{}", program.name, log(&directory));
    }

    /// The port without TLS.
    pub(super) fn port(&self) -> u16 {
        self.place.plain
    }

    /// The port in front of the first server, where the balancer has one.
    pub(super) fn inner_port(&self) -> u16 {
        self.place.inner[0]
    }

    pub(super) fn tls_port(&self) -> u16 {
        self.place.tls
    }

    pub(super) fn directory(&self) -> &Path {
        &self.place.directory
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.place.directory.join("cert.pem")
    }

    /// Changes the configuration and has the balancer load it, as an operator does.
    pub(super) fn reconfigure(&self, old: &str, new: &str) {
        self.replace(&[(old.to_owned(), new.to_owned())]);
    }

    /// Adds a server on this port, by a reload.
    pub(super) fn add_server(&self, port: u16) {
        self.replace(&(self.program.third_server)(&self.place, port));
    }

    fn replace(&self, changes: &[(String, String)]) {
        let file = file(&self.place.directory);
        let configuration = fs::read_to_string(&file).unwrap();
        let change = |text: String, (old, new): &(String, String)| replaced(&text, old, new);
        fs::write(&file, changes.iter().fold(configuration, change)).unwrap();
        self.reload();
    }

    pub(super) fn reload(&self) {
        let mut command = (self.program.reload)(&self.place.directory, self.process.id());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Waits until the log has this text.
    pub(super) async fn until_logged(&self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !log(&self.place.directory).contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in the log");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The lines of the access log whose status is an error of a server or of the balancer.
    pub(super) fn errors_answered(&self) -> Vec<String> {
        // Caddy creates the file with the first line.
        let log = fs::read_to_string(self.place.directory.join("access.log")).unwrap_or_default();
        log.lines().filter(|line| (self.program.is_error)(line)).map(str::to_owned).collect()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of {}:\n{}", self.program.name, log(&self.place.directory));
        }
        // Killed outright, it would leave its workers behind.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let deadline = Instant::now() + DEADLINE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.place.directory);
    }
}

/// The documented text with other ports and paths.
fn configuration(program: &Program, place: &Place) -> String {
    let replacements = (program.replacements)(place);
    replacements.iter().fold(program.documented.to_owned(), |text, (documented, here)| {
        replaced(&text, documented, here)
    })
}

pub(super) fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old:?} is not in the configuration:\n{text}");
    text.replace(old, new)
}

/// Starts it and waits until it accepts connections; `None` if it ended first, as it does when a
/// port was taken.
fn spawn(program: &Program, directory: &Path) -> Option<Child> {
    let output = |name| File::create(directory.join(name)).unwrap();
    let mut process = (program.run)(directory)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(output("stdout.log"))
        .stderr(output("stderr.log"))
        .spawn()
        .unwrap_or_else(|error| {
            let Program { name, package, .. } = program;
            panic!("{name}: {error}: install it with `apt-get install {package}` (Debian, Ubuntu)")
        });
    let deadline = Instant::now() + DEADLINE;
    while !(program.is_up)(directory, process.id()) {
        if process.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(Instant::now() < deadline, "{} does not start:\n{}", program.name, log(directory));
        thread::sleep(Duration::from_millis(5));
    }
    Some(process)
}

/// A command of a program that Debian may have where only root looks.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", env::var("PATH").unwrap_or_default() + ":/usr/sbin");
    command
}

/// `cert.pem`, `key.pem`, and both in `chat.pem`.
fn make_certificate(directory: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=chat.example"])
        .args(["-addext", "subjectAltName=DNS:chat.example"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .expect("this test needs `openssl`: apt-get install openssl");
    assert!(output.status.success(), "{output:?}");
    let [certificate, key] =
        ["cert.pem", "key.pem"].map(|name| fs::read_to_string(directory.join(name)).unwrap());
    fs::write(directory.join("chat.pem"), certificate + &key).unwrap();
}

/// What a line that listens on IPv6 is replaced by: on a machine without IPv6 it would be an error.
pub(super) fn on_ipv6(line: String) -> String {
    if has_ipv6() { line } else { String::new() }
}

pub(super) fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = env::temp_dir().join(format!("chat-balancer-{}-{number}", process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// The configuration of an instance.
pub(super) fn file(directory: &Path) -> PathBuf {
    directory.join("configuration")
}

fn log(directory: &Path) -> String {
    let files = ["error.log", "stderr.log"].map(|name| directory.join(name));
    files.map(|file| fs::read_to_string(file).unwrap_or_default()).concat()
}
