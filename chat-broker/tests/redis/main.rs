//! The Redis broker keeps the promises of the trait, and more when Redis does not.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by a panic and says what it measured, in its helpers too"
)]

mod answers;
mod conformance;
mod damage;
mod ends;
mod epochs;
mod full;
mod healing;
mod history;
mod keys;
mod leases;
mod lost_records;
mod max_clients;
mod outages;
mod presence;
mod records;
mod refusals;
mod resend;
mod rights;
mod sharing;
mod stats;
mod support;
mod tls;
mod unmarked;
