//! The alarms and the dashboard of `deploy/`.

mod alertmanager;
mod conditions;
mod prometheus;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::{env, fs};

use chat_broker::testing::RedisServer;
use serde_json::Value;

use crate::support::{Chat, command};

const RULES: &str = include_str!("../../../../deploy/prometheus-rules.yml");
const ALERTMANAGER: &str = include_str!("../../../../deploy/alertmanager.yml");
const UNIT_TESTS: &str = include_str!("../../../../deploy/prometheus-rules-tests.yml");
const DASHBOARD: &str = include_str!("../../../../deploy/grafana.json");
const RUNBOOK: &str = include_str!("../../../../docs/runbook.md");
const OPERATING: &str = include_str!("../../../../docs/operating.md");

#[test]
fn unit_tests_of_the_alarms_succeed() {
    promtool(&["check", "rules", "prometheus-rules.yml"]);
    promtool(&["test", "rules", "prometheus-rules-tests.yml"]);
}

/// Runs it in `deploy/`.
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(deploy()).output();
    let output = output.expect("this test needs `promtool`: apt-get install prometheus");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{}", text.concat());
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

#[test]
fn each_alarm_fires_and_is_silent_in_a_unit_test() {
    for alarm in alarms() {
        let tests: Vec<_> = UNIT_TESTS
            .split("- alertname: ")
            .skip(1)
            .filter(|test| test.lines().next() == Some(alarm))
            .collect();
        let silent = tests.iter().filter(|test| test.contains("exp_alerts: []")).count();
        assert!(silent > 0 && tests.len() > silent, "{alarm}: {silent} of {}", tests.len());
    }
}

#[test]
fn alarms_are_those_of_the_table_and_of_the_runbook() {
    let section = OPERATING.split("\n### Alarms\n").nth(1).unwrap().split("\n#").next().unwrap();
    let rows: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(rows, alarms());
    let headings = RUNBOOK.lines().filter_map(|line| line.strip_prefix("### "));
    assert_eq!(headings.collect::<Vec<_>>(), alarms());
    for alarm in alarms() {
        let link = format!("docs/runbook.md#{}\n", alarm.to_ascii_lowercase());
        assert!(RULES.contains(&link), "{alarm}");
    }
}

#[test]
fn runbook_has_the_severity_and_what_users_notice() {
    let sections = RUNBOOK.split("\n### ").skip(1);
    for (section, alarm) in sections.zip(alarms()) {
        let section = section.split("\n## ").next().unwrap();
        let severity = severity(alarm);
        let urgency = if severity == "critical" { "page" } else { "ticket" };
        let line = format!("{alarm}\n\n* **Severity:** `{severity}`, a {urgency}.\n");
        assert!(section.starts_with(&line), "{line}");
        assert!(section.contains("\n* **Users"), "{alarm}");
    }
}

/// That of the rule.
fn severity(alarm: &str) -> &'static str {
    let (_, rule) = RULES.split_once(&format!("- alert: {alarm}\n")).expect("a rule");
    rule.split_once("severity: ").and_then(|(_, rest)| rest.lines().next()).unwrap()
}

/// A name that is no alarm would hold back nothing.
#[test]
fn alertmanager_names_alarms() {
    let words = ALERTMANAGER.split(|char: char| !char.is_ascii_alphabetic());
    let named: BTreeSet<_> = words.filter(|word| word.starts_with("Chat")).collect();
    assert!(named.len() > 5, "{named:?}");
    let known = alarms().into_iter().collect();
    assert!(named.is_subset(&known), "{:?}", named.difference(&known));
}

/// The names of all alarms, in their order.
fn alarms() -> Vec<&'static str> {
    RULES.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: ")).collect()
}

/// A metric that is renamed would leave an alarm or a plot without data.
#[tokio::test]
async fn metrics_of_alarms_and_dashboard_exist() {
    let redis = RedisServer::start();
    let mut command = command();
    command.env("API_KEY", "a key for backends").env("REDIS_URL", redis.url());
    let server = Chat::start(command.args(["--port", "0"]));
    server.until_ready().await;
    // Read every 10 s.
    server.until_metric("chat_redis_memory_used_bytes", |used| used > 0).await;
    let page = [page_of(&server).await, page_of(&with_keys_of_tokens()).await].concat();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = vec![RULES.to_owned()];
    collect_expressions(&dashboard, &mut expressions);
    let named: BTreeSet<_> = expressions.iter().flat_map(|text| metrics(text)).collect();
    assert!(named.len() > 35, "{named:?}");
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !is_scraped(&page, name) && !is_of_another_program(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?} in {page}");
}

async fn page_of(server: &Chat) -> String {
    server.http("GET", "/metrics").await.2
}

/// With a key that ends, and with a URL of keys, at which nothing answers.
fn with_keys_of_tokens() -> Chat {
    let file = env::temp_dir().join(format!("chat-keys-of-tokens-{}.toml", process::id()));
    let secret = "0123456789abcdef0123456789abcdef";
    let settings = format!("[[jwt_keys]]\nsecret = \"{secret}\"\nuntil = \"2100-01-01\"\n");
    fs::write(&file, settings).unwrap();
    let args = ["--port", "0", "--jwt-jwks-url", "http://127.0.0.1:1/", "--config"];
    let server = Chat::start(command().args(args).arg(&file));
    fs::remove_file(&file).unwrap();
    server
}

#[test]
fn each_panel_is_described_and_has_a_place_of_its_own() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let is_described = panel["description"].as_str().is_some_and(|text| !text.is_empty());
        assert!(panel["type"] == "row" || is_described, "{}", panel["title"]);
        ids.insert(panel["id"].as_u64().unwrap());
        places.insert(["x", "y"].map(|axis| panel["gridPos"][axis].as_u64().unwrap()));
    }
    assert_eq!((ids.len(), places.len()), (panels.len(), panels.len()));
}

fn collect_expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if ["expr", "query"].contains(&name.as_str()) => {
                        found.push(text.clone());
                    }
                    _ => collect_expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_expressions(item, found)),
        _ => {}
    }
}

/// The metrics of the server and of its process in an expression; of histograms the name without
/// `_bucket`.
fn metrics(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    let names = words.filter(|word| word.starts_with("chat_") || word.starts_with("process_"));
    names.map(|name| name.strip_suffix("_bucket").unwrap_or(name))
}

/// Whether the page has a value of it, or its type if it has no value yet.
fn is_scraped(page: &str, name: &str) -> bool {
    let families = [format!("# TYPE {name} "), format!("{name} "), format!("{name}{{")];
    page.lines().any(|line| families.iter().any(|family| line.starts_with(family)))
}

/// Whether the documentation says that it is of another program: of one that embeds the server, or of the backup.
fn is_of_another_program(name: &str) -> bool {
    let row = format!("| `{name}");
    let mut rows = OPERATING.lines().filter(|line| line.starts_with(&row));
    rows.any(|row| ["hooks |", "a backup |"].iter().any(|with| row.ends_with(with)))
}
