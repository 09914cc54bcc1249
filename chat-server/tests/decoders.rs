//! Any bytes, wherever untrusted bytes are read: nothing panics, and what each entry of
//! `fuzz/entries.rs` promises holds. Without a nightly compiler, and with less patience than
//! `.ci/fuzz`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../../fuzz/entries.rs"]
#[allow(unreachable_pub, reason = "it is shared")]
mod entries;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Inputs that are made up for each entry, in each test.
const CASES: u32 = 2000;

fn corpus(entry: &str) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(entry);
    let files = fs::read_dir(&directory).unwrap_or_else(|_| panic!("no {}", directory.display()));
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_corpus_is_read_or_refused() {
    for (name, entry) in entries::ALL {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "no corpus for {name}");
        inputs.iter().for_each(|input| entry(input));
    }
}

/// An input of the corpus with some bytes changed, taken away or doubled.
fn spoiled(inputs: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6);
    (prop::sample::select(inputs), changes).prop_map(|(mut input, changes)| {
        for (place, byte, how) in changes {
            let place = place.index(input.len() + 1);
            match how {
                0 => input.insert(place, byte),
                1 => input.truncate(place),
                2 => input.extend_from_within(place..),
                _ => {
                    if let Some(changed) = input.get_mut(place) {
                        *changed ^= byte;
                    }
                }
            }
        }
        input
    })
}

#[test]
fn what_is_nearly_right_is_read_or_refused() {
    for (name, entry) in entries::ALL {
        let inputs = spoiled(corpus(name));
        let outcome = TestRunner::new(ProptestConfig::with_cases(CASES)).run(&inputs, |input| {
            entry(&input);
            Ok(())
        });
        outcome.unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}

#[test]
fn any_bytes_are_read_or_refused() {
    for (name, entry) in entries::ALL {
        let bytes = prop::collection::vec(any::<u8>(), 0..300);
        let outcome = TestRunner::new(ProptestConfig::with_cases(CASES)).run(&bytes, |input| {
            entry(&input);
            Ok(())
        });
        outcome.unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}
