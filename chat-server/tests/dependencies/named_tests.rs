//! The catalogue of faults names the tests that show them: each of them exists under that name.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The column of the catalogue's tables that names tests: `| row | fault | what happens | test | … |`.
const TESTS: usize = 4;

#[test]
fn tests_that_the_docs_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let cells = page.lines().filter_map(|line| line.split('|').nth(TESTS));
    let named: BTreeSet<&str> = cells.flat_map(words).filter(|word| is_name(word)).collect();
    assert!(named.len() > 200, "{named:?}");

    let code = code(root);
    let known: BTreeSet<&str> = words(&code).collect();
    let missing: Vec<_> = named.iter().filter(|name| !is_known(&known, name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Of `faults/clock` a_clock_that_jumps or `clock::a_clock_that_jumps`: each part of it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !(char.is_alphanumeric() || char == '_'))
}

/// Variables such as `LONG_OUTAGES` are none.
fn is_name(word: &str) -> bool {
    word.contains('_') && word.chars().any(char::is_lowercase)
}

/// `module_` stands for all names that begin with it: `module_*`.
fn is_known(known: &BTreeSet<&str>, name: &str) -> bool {
    match name.ends_with('_') {
        true => known.range(name..).next().is_some_and(|first| first.starts_with(name)),
        false => known.contains(name),
    }
}

/// The code of the crates and the paths of its files, which name modules and targets.
fn code(root: &Path) -> String {
    let crates = ["chat-core", "chat-broker", "chat-transport", "chat-server"];
    let folders =
        crates.iter().flat_map(|name| ["src", "tests"].map(|part| root.join(name).join(part)));
    let files = folders.flat_map(|folder| super::files(&folder));
    files
        .map(|file| format!("{}\n{}", file.display(), fs::read_to_string(&file).unwrap()))
        .collect()
}
