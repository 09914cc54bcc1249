//! What systemd receives of the program, with `Type=notify`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use chat_broker::testing::RedisServer;

use crate::support::{Chat, command};

/// A socket as that of systemd, removed with this.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("notify-{name}-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, path }
    }

    /// The next message.
    fn received(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that has the line, after all before it.
    fn until(&self, line: &str) -> String {
        loop {
            let message = self.received();
            if message.lines().any(|found| found == line) {
                return message;
            }
        }
    }

    fn assert_empty(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let error = self.socket.recv(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).unwrap();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn supervisor_learns_of_start_reload_and_stop() {
    let supervisor = Supervisor::new("states");
    let file = supervisor.path.with_extension("toml");
    fs::write(&file, "max-rooms = 10\n").unwrap();
    let mut redis = RedisServer::start();
    redis.kill();
    let mut server = Chat::start(
        command()
            .env("NOTIFY_SOCKET", &supervisor.path)
            .args(["--port", "0", "--redis-url", &redis.url(), "--config"])
            .arg(&file),
    );
    // It listens, and is not ready.
    assert!(supervisor.received().contains("STATUS=listening; not ready yet"));
    assert_eq!(server.http("GET", "/readyz").await.0, 503);
    supervisor.assert_empty();
    redis.restart();
    let ready = supervisor.received();
    assert!(ready.lines().eq(["READY=1", "STATUS=ready"]), "{ready}");

    redis.kill();
    let status = supervisor.received();
    assert!(status.starts_with("STATUS=not ready: Redis is unavailable: "), "{status}");
    redis.restart();
    assert_eq!(supervisor.until("STATUS=ready").trim_end(), "STATUS=ready");

    server.signal("HUP");
    let reloading = supervisor.received();
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(reloading.contains("RELOADING=1") && time.unwrap().parse::<u64>().unwrap() > 0);
    assert!(supervisor.until("READY=1").contains("STATUS=settings reloaded"));
    fs::write(&file, "max-rooms = 0\n").unwrap();
    server.signal("HUP");
    supervisor.until("RELOADING=1");
    let failed = supervisor.until("READY=1");
    assert!(failed.contains("STATUS=settings not reloaded: "), "{failed}");
    assert!(failed.contains("max-rooms"), "{failed}");

    server.signal("TERM");
    assert!(supervisor.until("STOPPING=1").contains("STATUS=SIGTERM: draining"));
    assert_eq!(server.exit().code(), Some(0));
    fs::remove_file(&file).unwrap();
}
