//! The hub over a broker in memory, healthy and not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod catch_up;
mod fan_out;
mod follow;
mod joining;
mod limits;
mod parts;
mod payloads;
mod presence;
mod publish;
mod records;
mod recovery;
#[path = "../support/roster_copy.rs"]
mod roster_copy;
mod rosters;
mod support;
