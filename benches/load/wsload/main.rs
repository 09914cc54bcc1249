//! A load generator for room-based WebSocket servers: one thread, one read buffer, frames made
//! by hand, so that it costs less than what it measures. Prints one line of JSON.
//!
//! See `benches/load/README.md`.

mod args;
mod dialect;
mod floor;
mod load;
mod plan;
mod process;
mod run;
mod socket;
mod traffic;
mod wire;

// `chat-server bench` counts the same; it is in a package, which no file outside can be part of.
#[path = "../../../chat-server/src/commands/bench/histogram.rs"]
mod histogram;
#[path = "../../../chat-server/src/commands/bench/window.rs"]
mod window;

use std::io;

use clap::Parser;

use crate::args::Command;

fn main() -> io::Result<()> {
    match Command::parse() {
        Command::Run(args) => {
            let report = run::run(args)?;
            serde_json::to_writer(io::stdout(), &report)?;
            println!();
            Ok(())
        }
        Command::Floor { port, batch } => floor::serve(port, batch),
    }
}
