//! Words that the project does not use stay out of its files. CONTRIBUTING.md has those to use instead.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Words of prose, in small and in capital letters.
const PHRASES: [&str; 3] = ["whoever", "anew", "for ever"];

/// Names in code that others have replaced, in exactly these letters.
const NAMES: [&str; 32] = [
    "Admission",
    "Breach",
    "ByTopic",
    "Bystanders",
    "EdgeQueue",
    "Edges",
    "Excess",
    "Fate",
    "Herd",
    "Journey",
    "Lane",
    "LaneTask",
    "Layer",
    "Newcomer",
    "Seat",
    "Sentence",
    "Sentenced",
    "Steadiness",
    "Told",
    "Wish",
    "befall",
    "begin_anew",
    "condemn",
    "furnish",
    "let_go",
    "lineage",
    "look_around",
    "pardon",
    "put_out_of",
    "talk_http",
    "turn_away",
    "vacate",
];

/// The files that list the words.
const EXEMPT: [&str; 2] = ["CONTRIBUTING.md", "chat-server/tests/dependencies/words.rs"];

#[test]
fn banned_words_are_absent() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    for file in tracked_files(root) {
        // What is not text is not read.
        if let Ok(text) = fs::read_to_string(root.join(&file)) {
            found.extend(banned(&text).map(|(line, word)| format!("{file}:{line}: {word}")));
        }
    }
    assert!(found.is_empty(), "{} banned words:\n{}", found.len(), found.join("\n"));
}

#[test]
fn parts_of_longer_words_are_no_hits() {
    let text = "A lease is renewed.\nfor everyone\nbegin Anew\nfor ever, whoever";
    let found: Vec<_> = banned(text).collect();
    assert_eq!(found, [(3, "anew"), (4, "whoever"), (4, "for ever")]);
}

fn tracked_files(root: &Path) -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let names = String::from_utf8(output.expect("git runs").stdout).unwrap();
    let files: Vec<_> = names
        .split_terminator('\0')
        .filter(|file| !EXEMPT.contains(file))
        .map(str::to_owned)
        .collect();
    assert!(files.len() > 100, "git lists the files of {}", root.display());
    files
}

/// The number of each line with a banned word, and the word.
fn banned(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines().enumerate().flat_map(|(before, line)| {
        let small = line.to_lowercase();
        let phrases = PHRASES.into_iter().filter(move |phrase| has_word(&small, phrase));
        let names = NAMES.into_iter().filter(move |name| has_word(line, name));
        phrases.chain(names).map(move |word| (before + 1, word))
    })
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part)
    })
}
