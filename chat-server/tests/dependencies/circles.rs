//! Files import each other in one direction, so that a reader can follow the imports to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::files;

/// The modules of a crate, each with those that it imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for package in ["chat-core", "chat-broker", "chat-transport", "chat-server"] {
        let imports = imports(&root.join(package).join("src"));
        assert!(imports.len() > 10, "{package}: {imports:?}");
        for module in imports.keys() {
            let reached = reached_from(&imports, module);
            let circle: Vec<_> = reached
                .iter()
                .filter(|other| reached_from(&imports, other).contains(module))
                .collect();
            assert!(circle.is_empty(), "{package}: {module} is in a circle with {circle:?}");
        }
    }
}

/// A module includes those that it declares, so it depends on them; that they name what is in it is
/// no dependency on another file.
fn imports(src: &Path) -> Imports {
    let files: BTreeMap<String, PathBuf> = files(src)
        .into_iter()
        .filter(|file| is_module(file))
        .map(|file| (module(src, &file), file))
        .collect();
    let names: BTreeSet<String> = files.keys().cloned().collect();
    let mut imports = Imports::new();
    for (module, file) in &files {
        let text = fs::read_to_string(file).unwrap();
        let named = paths(&text).filter_map(|path| resolve(&names, module, &path));
        let declared = names.iter().filter(|other| parent(other) == Some(module)).cloned();
        let others = named.chain(declared).filter(|other| !is_within(module, other)).collect();
        imports.insert(module.clone(), others);
    }
    imports
}

fn is_module(file: &Path) -> bool {
    !file.file_stem().unwrap().to_str().unwrap().ends_with("tests") && !file.ends_with("main.rs")
}

/// `a::b` of `src/a/b.rs` or `src/a/b/mod.rs`; nothing of `src/lib.rs`.
fn module(src: &Path, file: &Path) -> String {
    let path = file.strip_prefix(src).unwrap().with_extension("");
    let parts = path.iter().map(|part| part.to_str().unwrap());
    parts.filter(|part| !["mod", "lib"].contains(part)).collect::<Vec<_>>().join("::")
}

fn parent(module: &str) -> Option<&str> {
    if module.is_empty() { None } else { Some(module.rsplit_once("::").map_or("", |(at, _)| at)) }
}

/// Whether `module` is `other` or lies in it.
fn is_within(module: &str, other: &str) -> bool {
    other.is_empty() || module == other || module.starts_with(&format!("{other}::"))
}

/// The paths of a file's code that begin with `crate` or `super`, those of a list in braces each.
fn paths(text: &str) -> impl Iterator<Item = String> + '_ {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if !(before.is_alphanumeric() || [':', '_', '$'].contains(&before)) {
            expand("", &code[at..], &mut found);
        }
    }
    found.into_iter()
}

/// Adds the path at the beginning of `code`, after `prefix`. Returns what follows it.
fn expand<'a>(prefix: &str, code: &'a str, found: &mut Vec<String>) -> &'a str {
    let is_path = |char: char| char.is_alphanumeric() || char == '_' || char == ':';
    let code = code.trim_start();
    let (path, mut rest) = code.split_at(code.find(|char| !is_path(char)).unwrap_or(code.len()));
    let path = format!("{prefix}{path}");
    if !(path.ends_with("::") && rest.starts_with('{')) {
        found.push(path);
        return rest;
    }
    while !rest.is_empty() && !rest.starts_with('}') {
        rest = expand(&path, &rest[1..], found).trim_start();
        let end = rest.find([',', '}']).unwrap_or(rest.len());
        rest = &rest[end..];
    }
    rest.strip_prefix('}').unwrap_or(rest)
}

/// The module of the crate in which lies what a path names.
fn resolve(modules: &BTreeSet<String>, from: &str, path: &str) -> Option<String> {
    let mut parts = path.split("::").peekable();
    let mut here = from.to_owned();
    if parts.next_if_eq(&"crate").is_some() {
        here.clear();
    }
    while parts.next_if_eq(&"super").is_some() {
        here = parent(&here)?.to_owned();
    }
    for part in parts {
        let inner = if here.is_empty() { part.to_owned() } else { format!("{here}::{part}") };
        if !modules.contains(&inner) {
            break;
        }
        here = inner;
    }
    Some(here)
}

fn reached_from(imports: &Imports, module: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = imports[module].iter().map(String::as_str).collect();
    while let Some(module) = next.pop() {
        if reached.insert(module.to_owned()) {
            next.extend(imports[module].iter().map(String::as_str));
        }
    }
    reached.remove(module);
    reached
}
