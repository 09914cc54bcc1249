//! A private Prometheus.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, process};

use chat_broker::testing::free_port;
use serde_json::{Value, json};

use super::RULES;
use crate::support::{DEADLINE, exchange};

/// The times of the rules, and what a test has instead. The others stay.
const SHORTER: [(&str, &str); 17] = [
    // Shorter than the hour of the same rule, as there.
    ("chat_opened_total[10m]", "chat_opened_total[4s]"),
    ("[5m]", "[20s]"),
    ("[10m]", "[20s]"),
    ("[5m:1m]", "[3s:1s]"),
    ("[1h:5m]", "[20s:1s]"),
    ("[2m]", "[4s]"),
    ("[4m]", "[6s]"),
    ("[7m]", "[25s]"),
    ("[75m:1m]", "[3s:1s]"),
    ("for: 3h", "for: 5s"),
    ("for: 15m", "for: 5s"),
    ("for: 5m", "for: 5s"),
    ("for: 2m", "for: 5s"),
    ("for: 1m", "for: 5s"),
    ("for: 30s", "for: 5s"),
    ("chat_key_age_seconds > 10000", "chat_key_age_seconds > 5"),
    // Of the timeout, which is the interval here.
    ("scrape_duration_seconds{job=~\"chat(-.+)?\"} > 1", "scrape_duration_seconds > 0.4"),
];

/// A running Prometheus with the rules of `deploy/`, which scrapes twice a second. Dropping it ends
/// the process and deletes its directory.
pub(super) struct Prometheus {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Prometheus {
    /// Starts one that scrapes the servers on these ports.
    pub(super) async fn start(servers: &[u16]) -> Self {
        let directory = env::temp_dir().join(format!("chat-prometheus-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let rules = SHORTER.iter().fold(RULES.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from:?} is not in the rules");
            text.replace(from, to)
        });
        fs::write(directory.join("rules.yml"), rules).unwrap();
        fs::write(directory.join("prometheus.yml"), configuration()).unwrap();
        let port = free_port();
        let process = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("log")).unwrap())
            .spawn()
            .expect("this test needs `prometheus`: apt-get install prometheus");
        let prometheus = Self { process, directory, port };
        prometheus.scrape(servers);
        let all = servers.len().to_string();
        prometheus.until("sum(up) or vector(0)", |value| value == all).await;
        prometheus
    }

    /// Scrapes the servers on these ports from now on.
    pub(super) fn scrape(&self, servers: &[u16]) {
        let targets: Vec<_> = servers.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let file = self.directory.join("servers.json");
        // Prometheus reads the file as soon as it changes: it must be whole.
        let next = self.directory.join("servers.next");
        fs::write(&next, json!([{ "targets": targets }]).to_string()).unwrap();
        fs::rename(next, file).unwrap();
    }

    /// A path in its directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Whether an alarm fires.
    pub(super) async fn fires(&self, alarm: &str) -> bool {
        let query = format!("ALERTS{{alertname=\"{alarm}\",alertstate=\"firing\"}}");
        !self.query(&query).await.is_empty()
    }

    /// The alarms that have fired since this moment.
    pub(super) async fn fired_since(&self, moment: Instant) -> Vec<String> {
        let seconds = moment.elapsed().as_secs();
        let alarms = format!("ALERTS{{alertstate=\"firing\"}}[{seconds}s]");
        let alarms = self.query(&format!("count by (alertname) (count_over_time({alarms}))")).await;
        alarms
            .iter()
            .map(|alarm| alarm["metric"]["alertname"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the single value of a query is as it should be.
    pub(super) async fn until(&self, query: &str, is_so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + 3 * DEADLINE;
        loop {
            let found = self.query(query).await;
            if found.first().is_some_and(|found| is_so(found["value"][1].as_str().unwrap())) {
                return;
            }
            assert!(Instant::now() < deadline, "{query}: {found:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The result of a query; nothing while Prometheus starts.
    async fn query(&self, query: &str) -> Vec<Value> {
        if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            return Vec::new();
        }
        let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        // In HTTP/1.0 no body is in chunks.
        let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\n\r\n");
        let (status, _, body) = exchange(self.port, &request).await;
        if status == 503 {
            return Vec::new();
        }
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn configuration() -> &'static str {
    "\
global:
  scrape_interval: 500ms
  evaluation_interval: 500ms
rule_files: [rules.yml]
scrape_configs:
  - job_name: chat
    file_sd_configs:
      - files: [servers.json]
"
}
