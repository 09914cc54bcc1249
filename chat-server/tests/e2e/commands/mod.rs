//! The commands for operators: the real program beside a real server and a real Redis.

mod bench;
mod check;
mod health;
mod rooms;
mod send;
mod size;

use std::io::Read;
use std::process::{Child, Command};

/// Sends a signal to a command, and waits for its end: the exit code, and the rest of stdout if it was
/// not taken.
pub(super) fn end(child: &mut Child, signal: &str) -> (i32, String) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    let mut out = String::new();
    if let Some(stdout) = &mut child.stdout {
        stdout.read_to_string(&mut out).unwrap();
    }
    (child.wait().unwrap().code().expect("an exit code"), out)
}
