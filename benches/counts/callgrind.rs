//! Counting: the process that starts valgrind, and the piece that is counted in it.

use std::process::Command;

/// The argument before the name of a piece.
pub(crate) const PIECE: &str = "--piece";

/// Iterations that are counted, so that rare events, such as the growth of a buffer, are
/// included.
const TURNS: u64 = 64;

/// Instructions of one iteration of a piece.
///
/// # Panics
/// valgrind is missing, or the piece failed.
pub(crate) fn count(name: &str) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*counted_by_callgrind*")
        .arg(std::env::current_exe().expect("this program has a path"))
        .args([PIECE, name])
        .output()
        .expect("valgrind is installed (Debian: apt-get install valgrind)");
    let report = String::from_utf8_lossy(&output.stderr);
    let total = report.lines().find_map(|line| line.split_once("Collected : "));
    let total = total.and_then(|(_, total)| total.trim().parse::<u64>().ok()).unwrap_or(0);
    assert!(output.status.success() && total > 0, "{name} was not counted:\n{report}");
    total / TURNS
}

/// Counts `work`, on a value that `prepare` makes for each iteration. The first iteration is not
/// counted: it fills the caches.
pub(crate) fn turns<T>(mut prepare: impl FnMut() -> T, mut work: impl FnMut(T)) {
    work(prepare());
    for _ in 0..TURNS {
        let mut prepared = Some(prepare());
        counted_by_callgrind(&mut || {
            if let Some(prepared) = prepared.take() {
                work(prepared);
            }
        });
    }
}

/// Callgrind knows it by its name.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut()) {
    work();
}
