//! Which crate may know which: core knows none of ours, broker and transport know core and
//! not each other, the server knows all. And what else holds for the files of the workspace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod circles;
mod named_tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Normal dependencies of every package of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
            let names = normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn the_dependency_rule() {
    let dependencies = dependencies();
    let ours = |package: &str| -> Vec<String> {
        dependencies[package].iter().filter(|name| name.starts_with("roomcast-")).cloned().collect()
    };
    assert_eq!(ours("roomcast-core"), Vec::<String>::new());
    assert_eq!(ours("roomcast-broker"), ["roomcast-core"]);
    assert_eq!(ours("roomcast-transport"), ["roomcast-core"]);
    assert_eq!(ours("roomcast-server"), ["roomcast-broker", "roomcast-core", "roomcast-transport"]);
    let core: Vec<_> = dependencies["roomcast-core"].iter().map(String::as_str).collect();
    assert_eq!(
        core,
        ["bytes", "parking_lot", "serde", "serde_json", "thiserror"],
        "nothing that does I/O"
    );
}

#[test]
fn no_further_package_at_the_top() {
    let packages: Vec<_> = dependencies().into_keys().collect();
    let expected = [
        "benches",
        "examples",
        "roomcast-broker",
        "roomcast-core",
        "roomcast-server",
        "roomcast-transport",
    ];
    assert_eq!(packages, expected);
}

/// All files of code in `folder` and below.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
