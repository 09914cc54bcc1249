//! A private nginx.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use crate::support::DEADLINE;

/// What `docs/nginx.md` shows.
pub(super) const DOCUMENTED: &str = include_str!("../../../../docs/nginx/nginx.conf");

const INSTALL_HINT: &str = "install it with `apt-get install nginx-light` (Debian, Ubuntu)";

/// How often other ports are tried: another process may take one between its choice and
/// nginx' bind.
const ATTEMPTS: u32 = 10;

/// A running nginx on free ports, with a directory and a certificate of its own. Dropping it
/// ends the process and deletes the directory.
pub(super) struct Nginx {
    master: Child,
    directory: PathBuf,
    plain: u16,
    tls: u16,
}

impl Nginx {
    /// Starts one with the documented configuration, in front of servers on these ports.
    pub(super) fn start(servers: [u16; 2]) -> Self {
        Self::start_with(servers, str::to_owned)
    }

    /// As `start`, with a change to the configuration. A test that changes it later, by
    /// `reconfigure`, must not care which configuration answers: until nginx has told its
    /// old workers to quit, they accept connections beside the new ones.
    pub(super) fn start_with(servers: [u16; 2], change: impl Fn(&str) -> String) -> Self {
        let directory = new_directory();
        make_certificate(&directory);
        for _ in 0..ATTEMPTS {
            let [plain, tls] = free_ports();
            let text = change(&configuration(&directory, [plain, tls], servers));
            fs::write(file(&directory), text).unwrap();
            if let Some(master) = spawn(&directory) {
                return Self { master, directory, plain, tls };
            }
        }
        panic!("nginx did not start:\n{}", log(&directory));
    }

    /// The port without TLS.
    pub(super) fn port(&self) -> u16 {
        self.plain
    }

    pub(super) fn tls_port(&self) -> u16 {
        self.tls
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.directory.join("cert.pem")
    }

    /// Changes the configuration and has nginx load it, as an operator does.
    pub(super) fn reconfigure(&self, old: &str, new: &str) {
        let file = file(&self.directory);
        let configuration = fs::read_to_string(&file).unwrap();
        fs::write(&file, replaced(&configuration, old, new)).unwrap();
        self.reload();
    }

    pub(super) fn reload(&self) {
        let output = nginx(&self.directory).args(["-s", "reload"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The lines of the access log whose status is an error of a server or of nginx.
    pub(super) fn errors_answered(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("access.log")).unwrap();
        log.lines().filter(|line| line.contains("\" 5")).map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of nginx:\n{}", log(&self.directory));
        }
        // Killed outright, it would leave its workers behind.
        let _ = Command::new("kill").arg(self.master.id().to_string()).status();
        let deadline = Instant::now() + DEADLINE;
        while matches!(self.master.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.master.kill();
        let _ = self.master.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The documented text with other ports and paths.
fn configuration(directory: &Path, [plain, tls]: [u16; 2], servers: [u16; 2]) -> String {
    let at = directory.display();
    // Where a body too large for memory would go; the package's place needs root.
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {at}/{name};\n"))
        .concat();
    let replacements = [
        ("/run/nginx.pid", format!("{at}/nginx.pid")),
        ("/var/log/nginx/", format!("{at}/")),
        ("/etc/ssl/chat/", format!("{at}/")),
        ("http {\n", format!("http {{\n{temporary}")),
        ("listen 80;", format!("listen 127.0.0.1:{plain};")),
        ("listen 443 ssl;", format!("listen 127.0.0.1:{tls} ssl;")),
        ("127.0.0.1:8080 ", format!("127.0.0.1:{} ", servers[0])),
        ("127.0.0.1:8081 ", format!("127.0.0.1:{} ", servers[1])),
    ];
    replacements
        .iter()
        .fold(DOCUMENTED.to_owned(), |text, (documented, here)| replaced(&text, documented, here))
}

pub(super) fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old:?} is not in the configuration:\n{text}");
    text.replace(old, new)
}

/// Starts nginx and waits until it listens; `None` if it ended first, as it does when a port
/// was taken.
fn spawn(directory: &Path) -> Option<Child> {
    let mut master = nginx(directory)
        .args(["-g", "daemon off;"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("nginx: {error}: {INSTALL_HINT}"));
    let deadline = Instant::now() + DEADLINE;
    // It writes its id once its ports are open.
    let id = master.id().to_string();
    while fs::read_to_string(directory.join("nginx.pid")).unwrap_or_default().trim() != id {
        if master.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(Instant::now() < deadline, "nginx does not start:\n{}", log(directory));
        thread::sleep(Duration::from_millis(5));
    }
    Some(master)
}

fn nginx(directory: &Path) -> Command {
    // Debian has it where only root looks.
    let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let mut command = Command::new("nginx");
    command.env("PATH", path).arg("-c").arg(file(directory));
    command.arg("-e").arg(directory.join("error.log"));
    command
}

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
}

fn free_ports() -> [u16; 2] {
    let [a, b] = [0, 0].map(|any| TcpListener::bind((Ipv4Addr::LOCALHOST, any)).unwrap());
    [a, b].map(|listener| listener.local_addr().unwrap().port())
}

fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = env::temp_dir().join(format!("chat-nginx-{}-{number}", process::id()));
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn file(directory: &Path) -> PathBuf {
    directory.join("nginx.conf")
}

fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join("error.log")).unwrap_or_default()
}
