//! What Alertmanager keeps back, by the rules of `deploy/alertmanager.yml`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::{env, process};

use chat_broker::testing::free_port;
use serde_json::{Value, json};

use super::{ALERTMANAGER, deploy, severity};
use crate::support::{eventually, exchange};

/// A private Alertmanager. Dropping it ends the process and deletes its directory.
struct Alertmanager {
    process: Child,
    directory: PathBuf,
    port: u16,
}

/// An alarm, and its labels other than the name, the job and the severity.
type Alarm = (&'static str, &'static [(&'static str, &'static str)]);

impl Alertmanager {
    async fn start(name: &str) -> Self {
        let directory = env::temp_dir().join(format!("chat-alerts-{name}-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("alertmanager.yml"), ALERTMANAGER).unwrap();
        let port = free_port();
        let process = Command::new("prometheus-alertmanager")
            .args(["--config.file=alertmanager.yml", "--storage.path=data"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("log")).unwrap())
            .spawn()
            .expect(
                "this test needs `prometheus-alertmanager`: apt-get install prometheus-alertmanager",
            );
        let alertmanager = Self { process, directory, port };
        eventually("Alertmanager to start", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        alertmanager
    }

    /// Has these alarms fire.
    async fn fire(&self, alarms: &[Alarm]) {
        let alarm = |(name, labels): &Alarm| {
            let mut all = json!({"alertname": name, "job": "chat", "severity": severity(name)});
            for (label, value) in *labels {
                all[label] = json!(value);
            }
            json!({ "labels": all })
        };
        let body = Value::from(alarms.iter().map(alarm).collect::<Vec<_>>()).to_string();
        let len = body.len();
        let head = "POST /api/v2/alerts HTTP/1.0\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {len}\r\n\r\n{body}");
        let (status, _, answer) = exchange(self.port, &request).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// The alarms of which it sends messages.
    async fn sends(&self) -> BTreeSet<String> {
        let request = "GET /api/v2/alerts?active=true&inhibited=false HTTP/1.0\r\n\r\n";
        let (_, _, answer) = exchange(self.port, request).await;
        let alarms: Value = serde_json::from_str(&answer).unwrap();
        let name = |alarm: &Value| alarm["labels"]["alertname"].as_str().unwrap().to_owned();
        alarms.as_array().unwrap().iter().map(name).collect()
    }

    /// Waits until it sends messages of these alarms alone, of those that fire.
    async fn until_sends(&self, expected: &[&str]) {
        let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
        let what = format!("messages of {expected:?}");
        eventually(&what, async || self.sends().await == expected).await;
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A right that the server does without is missing for good: it must not keep back a later outage.
#[tokio::test]
async fn missing_right_keeps_back_no_page() {
    let alertmanager = Alertmanager::start("right").await;
    let missing: Alarm = ("ChatRedisRightMissing", &[("instance", "a"), ("command", "INFO")]);
    alertmanager.fire(&[missing]).await;
    alertmanager.until_sends(&["ChatRedisRightMissing"]).await;
    let away = "ChatRedisUnavailable";
    // The last follows from the outage, and shows that it is judged.
    alertmanager.fire(&[missing, (away, &[]), ("ChatMessagesRefused", &[])]).await;
    alertmanager.until_sends(&["ChatRedisRightMissing", away]).await;

    let full = "ChatRedisFull";
    let alertmanager = Alertmanager::start("full").await;
    let refused: Alarm = ("ChatMessagesRefused", &[]);
    alertmanager.fire(&[missing, refused, ("ChatRedisUnreachable", &[("instance", "a")])]).await;
    alertmanager
        .until_sends(&["ChatRedisRightMissing", "ChatRedisUnreachable", "ChatMessagesRefused"])
        .await;
    alertmanager.fire(&[(full, &[])]).await;
    alertmanager.until_sends(&["ChatRedisRightMissing", "ChatRedisUnreachable", full]).await;
}

/// One frozen server pages once, and all of them as what they are together.
#[tokio::test]
async fn server_that_does_not_answer_pages_once() {
    let alertmanager = Alertmanager::start("frozen").await;
    let of = |name: &'static str| -> Alarm { (name, &[("instance", "a")]) };
    let frozen = [of("ChatServerUnresponsive"), of("ChatServerDown")];
    let other: Alarm = ("ChatServerDown", &[("instance", "b")]);
    alertmanager.fire(&frozen).await;
    alertmanager.until_sends(&["ChatServerUnresponsive"]).await;
    alertmanager.fire(&[other]).await;
    alertmanager.until_sends(&["ChatServerUnresponsive", "ChatServerDown"]).await;
    alertmanager.fire(&[("ChatDown", &[])]).await;
    alertmanager.until_sends(&["ChatDown"]).await;
}

/// Whom docs/runbook.md has wake up, and whom not.
#[test]
fn page_and_ticket_have_receivers() {
    for (severity, receiver) in [("critical", "on-call"), ("warning", "tickets")] {
        let label = format!("severity={severity}");
        let ask = ["config", "routes", "test", "--config.file=alertmanager.yml", &label];
        let output = Command::new("amtool").args(ask).current_dir(deploy()).output();
        let output =
            output.expect("this test needs `amtool`: apt-get install prometheus-alertmanager");
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), receiver);
    }
}

/// A warning that keeps back a page would hide it from who is on call.
#[test]
fn warning_keeps_back_no_page() {
    let (_, rules) = ALERTMANAGER.split_once("inhibit_rules:").unwrap();
    for rule in rules.split("- source_matchers:").skip(1) {
        let (sources, targets) = rule.split_once("target_matchers:").unwrap();
        let has_page = |text: &str| names(text).any(|name| severity(name) == "critical");
        let has_warning = |text: &str| names(text).any(|name| severity(name) == "warning");
        assert!(names(sources).count() > 0, "{rule}");
        assert!(!(has_warning(sources) && has_page(targets)), "{rule}");
    }
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|char: char| !char.is_ascii_alphabetic());
    words.filter(|word| word.starts_with("Chat"))
}
