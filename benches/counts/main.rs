//! Instruction counts of the pieces of a message's path, compared with the agreed counts
//! (`counts.txt`): a guard that does not depend on how fast or how busy a machine is.
//!
//! Each piece runs in a process of its own under valgrind's callgrind, which counts the
//! instructions of user space and not those of the kernel. `--update` rewrites the table.

mod agreed;
mod callgrind;
#[path = "../crowd.rs"]
mod crowd;
mod pieces;

use std::process::ExitCode;

use agreed::{Agreed, Verdict};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [callgrind::PIECE, name] = *arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        pieces::run(name);
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--update") {
        update();
        return ExitCode::SUCCESS;
    }
    if check() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Counts all pieces and writes the counts as the agreed ones.
fn update() {
    let mut agreed = Agreed::default();
    for name in pieces::names() {
        let count = callgrind::count(name);
        println!("{name}: {count}");
        agreed.insert(name, count);
    }
    agreed.write();
}

/// Counts all pieces; returns whether each is within its agreed count.
fn check() -> bool {
    let agreed = Agreed::read();
    let mut passed = 0;
    let mut failed = 0;
    for name in pieces::names() {
        let count = callgrind::count(name);
        let verdict = agreed.judge(name, count);
        println!("{name}: {count} instructions{verdict}");
        match verdict {
            Verdict::Within { .. } | Verdict::FarBelow { .. } => passed += 1,
            Verdict::Above { .. } | Verdict::Unknown => failed += 1,
        }
    }
    if failed > 0 {
        println!(
            "If this is the price of something worth it, agree on it and say why in the commit:\n    \
             .ci/counts --update"
        );
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}
