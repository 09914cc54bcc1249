//! The tests that the documentation names exist under that name: a renamed test would leave a fact
//! without the proof that it claims.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn tests_named_in_the_documentation_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut pages = files(&root.join("docs"), "md");
    pages.extend(["README.md", "ARCHITECTURE.md", "SECURITY.md"].map(|page| root.join(page)));
    let tests: Vec<_> = ["chat-core", "chat-broker", "chat-transport", "chat-server"]
        .iter()
        .flat_map(|package| [root.join(package).join("src"), root.join(package).join("tests")])
        .flat_map(|folder| files(&folder, "rs"))
        .flat_map(|file| tests(&file))
        .collect();
    let mut count = 0;
    let mut missing = Vec::new();
    for page in pages {
        for name in names(&fs::read_to_string(&page).unwrap()) {
            count += 1;
            if !tests.iter().any(|test| is_named(test, &name)) {
                missing.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(count > 150, "{count} names: does the documentation write them in another form now?");
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path, extension) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|other| other == extension))
        .collect()
}

/// Names in the column `test` of a table, in an item `* Tests: …` of a list, and in a paragraph from
/// `Tested by` on: words with `_` or `::`, such as `runtimes::module_*`.
fn names(page: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut column = None;
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let Some(header) = cells.iter().position(|cell| *cell == "test") {
            column = Some(header);
        } else if line.starts_with('|') {
            texts.extend(column.and_then(|column| cells.get(column)).copied());
        } else {
            column = None;
        }
    }
    let paragraphs = page.split("\n\n").filter_map(|text| text.split_once("Tested by"));
    texts.extend(paragraphs.map(|(_, names)| names));
    let items = page.split("\n* Test").skip(1).filter_map(|item| item.split_once(": "));
    texts.extend(items.map(|(_, names)| names.split("\n\n").next().unwrap()));
    let is_part = |char: char| char.is_alphanumeric() || "_:/*-.".contains(char);
    let words = texts.into_iter().flat_map(|text| text.split(move |char| !is_part(char)));
    let names = words.map(|word| word.trim_matches([':', '.', '/']).trim_end_matches(".rs"));
    // `LONG_OUTAGES` is a setting of a test.
    let names = names.filter(|name| !name.contains(char::is_uppercase));
    names.filter(|name| name.contains("::") || name.contains('_')).map(str::to_owned).collect()
}

/// The path of each test of a file, such as `[.., "chat-core", "src", "id", "tests", "rule_is_kept"]`.
/// A case of the conformance suite is a test of each broker, a scenario one of each balancer, and `case: Broker => …` one of
/// `broken_brokers`, whose macro makes it.
fn tests(file: &Path) -> Vec<Vec<String>> {
    let path = file.with_extension("");
    let mut path: Vec<_> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let lies_in = |folder: &str| path.iter().any(|part| part == folder);
    let is_suite = lies_in("conformance") || lies_in("balancers");
    let is_list = lies_in("broken_brokers");
    let depth = path.len();
    let mut is_test = false;
    let mut tests = Vec::new();
    for line in fs::read_to_string(file).unwrap().lines() {
        let code = line.trim_start();
        let name = |text: &str| {
            let end = text.find(|char: char| !(char.is_alphanumeric() || char == '_'));
            text[..end.unwrap_or(text.len())].to_owned()
        };
        if let Some((_, function)) = code.split_once("fn ") {
            if is_test || is_suite {
                tests.push([path.clone(), vec![name(function)]].concat());
            }
            is_test = false;
        } else if let Some(module) = line.strip_prefix("mod ").filter(|_| line.ends_with('{')) {
            path.truncate(depth);
            path.push(name(module));
        } else if code.starts_with("chat_broker::conformance_tests!") {
            tests.push(path.clone());
        } else if is_list && code.contains(" =>") {
            tests.push([path.clone(), vec![name(code)]].concat());
        }
        is_test |= code.starts_with("#[") && (code.contains("test]") || code.contains("::test("));
    }
    tests
}

/// Whether a name in the documentation means a test: its parts are those of the test's path, in their
/// order. A name without the last part means all tests of a module, and `*` any end.
fn is_named(test: &[String], name: &str) -> bool {
    let mut parts = test.iter();
    let mut wanted = name.split(['/', ':']).filter(|part| !part.is_empty());
    wanted.all(|want| match want.strip_suffix('*') {
        Some(beginning) => parts.any(|part| part.starts_with(beginning)),
        None => parts.any(|part| part == want),
    })
}
