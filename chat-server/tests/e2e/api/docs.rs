//! docs/api.md: each example is run, and each answer is of the form that the page shows.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{KEY, server};
use crate::e2e::auth::SECRET;
use crate::support::{Chat, eventually};

const DOC: &str = include_str!("../../../../docs/api.md");

/// The blocks of code of the page: the language, and the code.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let fences = DOC.split("```").collect::<Vec<_>>();
    let blocks = fences.chunks_exact(2).map(|pair| pair[1].split_once('\n').unwrap());
    blocks.filter(|(language, _)| !language.is_empty()).collect()
}

async fn run(server: &Chat, program: &str, args: &[&str], code: &str) -> String {
    let mut command = Command::new(program);
    command.args(args).env("API", format!("http://127.0.0.1:{}/api", server.port()));
    command.env("KEY", KEY).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let code = code.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        use std::io::Write;

        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(code.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{program}: {out}{err}");
    out
}

/// Whether two values have the same members, of the same types, whatever the values.
fn is_like(value: &Value, shown: &Value) -> bool {
    match (value, shown) {
        (Value::Object(value), Value::Object(shown)) => {
            let has = |(name, shown): (&String, &Value)| {
                value.get(name).is_some_and(|value| is_like(value, shown))
            };
            value.len() == shown.len() && shown.iter().all(has)
        }
        (Value::Array(value), Value::Array(shown)) => {
            value.len() == shown.len() && value.iter().zip(shown).all(|(a, b)| is_like(a, b))
        }
        (value, shown) => std::mem::discriminant(value) == std::mem::discriminant(shown),
    }
}

#[tokio::test]
async fn examples_run_and_answer_as_the_page_says() {
    let server = server(&["--jwt-secret", SECRET, "--metrics-addr", "127.0.0.1:0"]);
    eventually("the server has announced itself, and where it serves operators", async || {
        super::get(&server, "/nodes").await["nodes"][0]["metrics_addr"].is_string()
    })
    .await;
    let (mut setup, mut answer, mut compared) = (String::new(), String::new(), 0);
    for (language, code) in blocks() {
        match language {
            "sh" => {
                // The first block has the variables of all. `curl` is silent, and fails if a call does;
                // its answers get a line each.
                let curl = "curl() { command curl -sS --fail-with-body -w '\\n' \"$@\"; }\n";
                answer = run(&server, "sh", &["-eu"], &format!("{setup}{curl}{code}")).await;
                if setup.is_empty() {
                    setup = code.split("\n\n").next().unwrap().to_owned() + "\n";
                }
            }
            "json" => {
                let lines: Vec<_> = answer.lines().filter(|line| !line.is_empty()).collect();
                let shown: Vec<_> = code.lines().collect();
                // The answers of several calls that answer the same are shown once.
                assert!(lines.len() >= shown.len(), "{answer}\n{code}");
                for (at, line) in lines.iter().enumerate() {
                    let parse = |text| serde_json::from_str::<Value>(text).unwrap();
                    let (line, shown) = (parse(line), parse(shown[at.min(shown.len() - 1)]));
                    assert!(is_like(&line, &shown), "{line}\nis not like\n{shown}");
                }
                compared += 1;
            }
            "python" => drop(run(&server, "python3", &["-"], code).await),
            "js" => drop(run(&server, "node", &["--input-type=module", "-"], code).await),
            "php" => drop(run(&server, "php", &[], code).await),
            other => panic!("{other}"),
        }
    }
    assert_eq!(compared, 24, "an answer of each call");
}

/// The table has every call, with its scope.
#[test]
fn page_lists_every_call() {
    let document: Value =
        serde_json::from_str(include_str!("../../../src/api/openapi.json")).unwrap();
    let rows: Vec<&str> = DOC.lines().filter(|line| line.starts_with("| `")).collect();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.strip_prefix("/api").unwrap();
            let last = path.rsplit('/').next().unwrap();
            let scope = operation["description"].as_str().unwrap().rsplit('`').nth(1);
            let is_row = |row: &&&str| {
                let names = row.contains(&format!("`{} {path}`", method.to_uppercase()))
                    || row.contains(&format!("`/{last}`"));
                names && scope.is_none_or(|scope| row.contains(&format!("| `{scope}` |")))
            };
            assert!(rows.iter().filter(is_row).count() > 0, "{method} {path}");
        }
    }
}
