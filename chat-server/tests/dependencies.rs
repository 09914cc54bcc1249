//! Which crate may know which: core knows none of ours, broker and transport know core and
//! not each other, the server knows all. And which file: the Redis backend is without circles.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
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
        dependencies[package].iter().filter(|name| name.starts_with("chat-")).cloned().collect()
    };
    assert_eq!(ours("chat-core"), Vec::<String>::new());
    assert_eq!(ours("chat-broker"), ["chat-core"]);
    assert_eq!(ours("chat-transport"), ["chat-core"]);
    assert_eq!(ours("chat-server"), ["chat-broker", "chat-core", "chat-transport"]);
    let core: Vec<_> = dependencies["chat-core"].iter().map(String::as_str).collect();
    assert_eq!(core, ["bytes", "serde", "serde_json", "thiserror"], "nothing that does I/O");
}

#[test]
fn no_further_package_at_the_top() {
    let packages: Vec<_> = dependencies().into_keys().collect();
    let expected =
        ["benches", "chat-broker", "chat-core", "chat-server", "chat-transport", "examples"];
    assert_eq!(packages, expected);
}

/// Each file can be read after those that it names.
#[test]
fn files_of_redis_backend_form_no_circle() {
    let mut sources = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../chat-broker/src/redis");
    read_modules(&root, "crate::redis", &mut sources);
    assert!(sources.len() > 30, "{}", sources.len());
    let mut left: BTreeMap<&str, BTreeSet<&str>> = sources
        .iter()
        .map(|(module, source)| {
            let paths = imports(module, source);
            let module_of = |path: &String| {
                let is_in = |module: &&String| {
                    let rest = path.strip_prefix(module.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                };
                sources.keys().filter(is_in).max_by_key(|module| module.len())
            };
            let named = paths.iter().filter_map(module_of).map(String::as_str);
            (module.as_str(), named.filter(|named| named != module).collect())
        })
        .collect();
    loop {
        let is_done = |named: &BTreeSet<&str>| !named.iter().any(|name| left.contains_key(name));
        let done: Vec<&str> =
            left.iter().filter(|(_, named)| is_done(named)).map(|(module, _)| *module).collect();
        if done.is_empty() {
            break;
        }
        left.retain(|module, _| !done.contains(module));
    }
    assert!(left.is_empty(), "circles among, or behind: {left:#?}");
}

/// The modules below a folder, with their sources without tests.
fn read_modules(folder: &Path, module: &str, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() {
            read_modules(&path, &format!("{module}::{name}"), into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let source = source.split("#[cfg(test)]").next().unwrap().to_owned();
            match name {
                "mod" => into.insert(module.to_owned(), source),
                _ if name.ends_with("_tests") => None,
                _ => into.insert(format!("{module}::{name}"), source),
            };
        }
    }
}

/// The paths that a module imports, from the crate on.
fn imports(module: &str, source: &str) -> Vec<String> {
    let (parent, _) = module.rsplit_once("::").unwrap();
    let uses = source.split("\nuse ").skip(1).map(|rest| rest.split(';').next().unwrap());
    let absolute = uses.map(|path| match path.split_once("::") {
        Some(("super", rest)) => format!("{parent}::{rest}"),
        Some(("crate", _)) => path.to_owned(),
        _ => format!("{module}::{path}"),
    });
    absolute.flat_map(|path| expand(&path)).collect()
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d`, `a::c::e`.
fn expand(path: &str) -> Vec<String> {
    let Some((prefix, rest)) = path.split_once('{') else { return vec![path.trim().to_owned()] };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for character in rest.trim_end().trim_end_matches('}').chars() {
        match character {
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(character),
        }
        depth += i32::from(character == '{') - i32::from(character == '}');
    }
    let prefix = prefix.trim();
    parts.iter().flat_map(|part| expand(part)).map(|part| format!("{prefix}{part}")).collect()
}
