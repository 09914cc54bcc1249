//! The module on the vectors of chat-core, which describe what a client does in any language. Node
//! runs them, on a fake WebSocket and a fake clock: no browser and no server.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const RUNNER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/web/test/vectors.test.js");
const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../chat-core/tests/vectors");

#[test]
fn module_passes_all_vectors() {
    let node = Command::new("node")
        .args(["--test", "--test-reporter=tap", RUNNER])
        .output()
        .expect("node; install it with `apt-get install nodejs`");
    let report = String::from_utf8(node.stdout).unwrap();
    assert!(node.status.success(), "{report}");
    let passed: BTreeSet<&str> = report
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("ok ")?.split_once(" - "))
        .map(|(_, name)| name)
        .collect();
    for name in names() {
        assert!(passed.contains(&*name), "{name} was not run\n{report}");
    }
    for line in report.lines().filter(|line| line.starts_with("# ")) {
        println!("{line}");
    }
}

/// The names of all vectors, by the files that are there.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(VECTORS).unwrap().map(|file| file.unwrap().path());
    let is_of_vectors = |path: &Path| {
        path.extension().is_some_and(|extension| extension == "json")
            && !path.ends_with("setups.json")
    };
    let read = |path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let lists = files.filter(|path| is_of_vectors(path)).map(read);
    let names = |list: Value| -> Vec<String> {
        let vectors = list.as_array().unwrap();
        vectors.iter().map(|vector| vector["name"].as_str().unwrap().to_owned()).collect()
    };
    lists.flat_map(names).collect()
}
